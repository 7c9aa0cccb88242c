"""The architecture page: who imports whom, read from the code by grimp, as a figure and as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import leuk_lib
from leuk_lib.book.api import ROOMS
from leuk_lib.book.diagram import Node, Size, ranks, svg
from leuk_lib.book.markdown import code, escape, table

PACKAGE = "leuk_lib"
SINGLE = {
    "stages": "The seven stages: their order, what reads what, their profiles.",
    "workflow": "Calls Snakemake on the notebooks.",
    "cli": "The command leuk.",
    "cli_data": "Its part leuk data.",
}


def room_of(module: str) -> str:
    """``leuk_lib.wpat.model`` -> ``wpat``; the package itself is no room."""
    return module.split(".")[1] if "." in module else ""


def imports() -> Counter[tuple[str, str]]:
    """``(importing room, imported room)`` -> number of modules' direct imports."""
    import grimp

    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    found: Counter[tuple[str, str]] = Counter()
    for module in graph.modules:
        for other in graph.find_modules_directly_imported_by(module):
            if (pair := (room_of(module), room_of(other)))[0] != pair[1] and all(pair):
                found[pair] += 1
    return found


def rooms() -> list[str]:
    """Folders with an ``__init__.py`` and single modules of the package, by name."""
    package = Path(leuk_lib.__file__).parent
    folders = [path.parent.name for path in package.glob("*/__init__.py")]
    return sorted([*folders, *(path.stem for path in package.glob("*.py") if not path.stem.startswith("_"))])


def nodes(found: Mapping[tuple[str, str], int], names: list[str]) -> list[Node]:
    """Rooms as boxes; an arrow leads from a room to those that import it."""
    return [Node(name, name, tuple(sorted(other for room, other in found if room == name))) for name in names]


def rooms_page() -> str:
    """The figure, a table of the rooms, and the table of all imports between them."""
    found, names = imports(), rooms()
    boxes = nodes(found, names)
    level = ranks(boxes)
    names = sorted(names, key=lambda name: (level[name], name))
    figure = svg(
        boxes,
        "The rooms of the library; an arrow leads from a room to those that import it.",
        size=Size((92, 36), (32, 14)),
    )
    told = [(code(name), escape(ROOMS.get(name) or SINGLE.get(name, ""))) for name in names]
    rows = [
        (code(name), *(str(found[name, other]) if found[name, other] else "" for other in names[:-1])) for name in names
    ]
    return "\n".join([
        f'<div class="leuk-diagram leuk-wide" tabindex="0" role="region" aria-label="Import graph of the rooms">{figure}</div>\n',
        table(("room", "what it holds"), told),
        "How many modules of a room (row) import one of another room (column):\n",
        table(("imports", *(code(name) for name in names[:-1])), rows, "l" + "r" * (len(names) - 1)),
    ])  # fmt: skip
