"""Which code a stage depends on: its notebook, and every module of the library that the notebook reaches."""

from __future__ import annotations

import ast
import functools
import hashlib
import io
import json
import tokenize
from pathlib import Path

from leuk_lib.runs.paths import stage_notebooks

PACKAGE = "leuk_lib"
UNSTATED = (tokenize.COMMENT, tokenize.NL)  # NL ends a blank line, never one inside a string
# Code that draws or tells: a change re-runs the notebook, but never trains anything again.
PRESENTATION = (f"{PACKAGE}.figures", f"{PACKAGE}.runs.display")


def notebook_source(notebook: Path) -> str:
    """The code cells of a notebook, one after another, without magics."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    lines = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code").splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))


def notebook_hash(notebook: Path) -> str:
    """SHA-256 of the cells' sources, kinds and metadata; outputs and execution counts do not count."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    kept = [(cell["cell_type"], "".join(cell["source"]), cell.get("metadata", {})) for cell in cells]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


@functools.lru_cache(maxsize=1)
def _graph():
    import grimp

    return grimp.build_graph(PACKAGE, cache_dir=None)


def imported_modules(source: str) -> set[str]:
    """Modules of the library that Python ``source`` imports anywhere (also inside functions)."""
    modules = _graph().modules
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found & modules


def module_closure(modules: set[str]) -> set[str]:
    """``modules`` and every module of the library that they reach by imports, with the parent packages."""
    reached = set(modules)
    for module in modules:
        reached |= _graph().find_upstream_modules(module)
    parents = {name.rsplit(".", depth)[0] for name in reached for depth in range(1, name.count(".") + 1)}
    return reached | parents


def module_file(module: str) -> Path:
    """Source file of a module of the library."""
    base = Path(__file__).resolve().parents[1].parent / Path(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def statements(source: str) -> str:
    """Python ``source`` without comments, blank lines and strings that stand alone, as docstrings do.

    Cut out of the text, not printed from the syntax tree, so that every version of Python gives the same.
    """
    lines = source.removesuffix("\n").split("\n")
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    cuts = [token for token in tokens if token.type in UNSTATED]
    telling = [token for token in tokens if token.type not in UNSTATED]
    for before, token, after in zip([None, *telling], telling, telling[1:], strict=False):
        starts = before is None or before.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
        if token.type == tokenize.STRING and starts and after.type == tokenize.NEWLINE:
            cuts.append(token)
    rows = set()
    for token in sorted(cuts, key=lambda token: token.start, reverse=True):
        (first, left), (last, right) = token.start, token.end
        for row in range(first - 1, last):
            end = lines[row][right:] if row == last - 1 else ""
            lines[row] = ((lines[row][:left] if row == first - 1 else "") + end).rstrip()
            rows.add(row)
    return "\n".join(line for row, line in enumerate(lines) if line or row not in rows)


def code_hashes(stage: str) -> dict[str, str]:
    """Module -> SHA-256 for every module that the stage's notebook reaches; the whole library if it has no notebook."""
    notebook = stage_notebooks().get(stage)
    return hashes_of(imported_modules(notebook_source(notebook)) if notebook else all_modules())


def all_modules() -> set[str]:
    """Every module of the library."""
    return set(_graph().modules)


def hashes_of(modules: set[str]) -> dict[str, str]:
    """Module -> SHA-256 of what it states, for ``modules`` and every module of the library that they reach.

    Comments and docstrings do not count: a better explanation trains nothing again.
    """
    return {module: source_hash(module_file(module)) for module in sorted(module_closure(modules))}


def source_hash(path: Path) -> str:
    """SHA-256 of a Python file's :func:`statements`."""
    return hashlib.sha256(statements(path.read_text(encoding="utf-8")).encode()).hexdigest()


def is_presentation(module: str) -> bool:
    """True for modules whose change cannot change a result."""
    return any(module == name or module.startswith(f"{name}.") for name in PRESENTATION)
