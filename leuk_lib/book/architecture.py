"""The architecture page: which package imports which, read from the code by grimp, as a figure and as tables."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import leuk_lib
from leuk_lib.book.diagram import Node, Size, ranks, svg
from leuk_lib.book.markdown import table
from leuk_lib.quoting import code

LIBRARY = Path(leuk_lib.__file__).parent


def packages() -> dict[str, str]:
    """Name -> first line of the docstring, of every package and single module directly below ``leuk_lib``."""
    sources = {path.parent.name: path for path in LIBRARY.glob("*/__init__.py")}
    sources |= {path.stem: path for path in LIBRARY.glob("*.py") if path.stem != "__init__"}
    docstrings = {
        name: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) for name, path in sources.items()
    }
    return {name: (docstrings[name] or "").partition("\n")[0] for name in sorted(sources)}


def imports() -> Counter[tuple[str, str]]:
    """``(importing package, imported package)`` -> number of direct imports between their modules."""
    import grimp

    graph = grimp.build_graph(LIBRARY.name, cache_dir=None)
    pairs: Counter[tuple[str, str]] = Counter()
    for module in graph.modules - {LIBRARY.name}:
        for other in graph.find_modules_directly_imported_by(module) - {LIBRARY.name}:
            importer, imported = module.split(".")[1], other.split(".")[1]
            pairs[importer, imported] += importer != imported
    return +pairs


def nodes(pairs: Mapping[tuple[str, str], int], names: list[str]) -> list[Node]:
    """Packages as boxes. An arrow leads from a package to each package that imports it."""
    return [Node(name, name, tuple(sorted(other for importer, other in pairs if importer == name))) for name in names]


def architecture_page() -> str:
    """The import graph, a table of the packages, and a table that counts the imports between them."""
    pairs, summaries = imports(), packages()
    boxes = nodes(pairs, list(summaries))
    rank = ranks(boxes)
    names = sorted(summaries, key=lambda name: (rank[name], name))
    figure = svg(
        boxes,
        "The packages of the library. An arrow leads from a package to those that import it.",
        size=Size((92, 36), (32, 14)),
    )
    counts = [
        (code(name), *(str(pairs[name, other]) if pairs[name, other] else "" for other in names[:-1])) for name in names
    ]
    return "\n".join([
        '<div class="leuk-diagram leuk-wide" tabindex="0" role="region" aria-label="Import graph of the packages">'
        f"{figure}</div>\n",
        table(("package", "content"), [(code(name), summaries[name].replace("|", "\\|")) for name in names]),
        "Number of imports from the modules of a package (row) to those of another (column):\n",
        '<div class="leuk-matrix"></div>\n',
        table(("imports", *(code(name) for name in names[:-1])), counts, "l" + "r" * (len(names) - 1)),
    ])  # fmt: skip
