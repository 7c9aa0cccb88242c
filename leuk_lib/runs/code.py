"""The code that a stage depends on: its notebook and every module of the library that the notebook reaches."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import re
from pathlib import Path

from leuk_lib.runs.notebooks import RESTORE, read_notebook
from leuk_lib.runs.paths import stage_notebooks

PACKAGE = "leuk_lib"
PREFIXES = ("", "r", "b", "u", "f", "rb", "br", "rf", "fr")  # of strings
# A string may hold quotes and signs that mean nothing there; the end of a line after a backslash ends no statement.
PARTS = re.compile(
    r'''
    (?P<string> """ (?: [^"\\]++ | \\. | "(?!"") )*+ """ | '{3} (?: [^'\\]++ | \\. | '(?!'{2}) )*+ '{3}
      | " (?: [^"\\]++ | \\. )*+ " | ' (?: [^'\\]++ | \\. )*+ ' )
    | (?P<comment> [#] [^\n]* ) | (?P<opens> [(\[{] ) | (?P<closes> [)\]}] ) | (?P<end> \n )
    | (?P<other> (?: [^"'#()\[\]{}\n\\]++ | \\. )++ )
    ''',
    re.DOTALL | re.VERBOSE,
)
# Code that draws or prints. A change runs the notebook again but repeats no training.
PRESENTATION = (f"{PACKAGE}.figures", f"{PACKAGE}.runs.display")


def code_cells(notebook: Path) -> list[str]:
    """Return the sources of a notebook's code cells, in order."""
    cells = read_notebook(notebook, RESTORE)["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def tagged_cells(notebook: Path, tag: str) -> int:
    """Return the number of a notebook's cells that have ``tag``."""
    cells = read_notebook(notebook, RESTORE)["cells"]
    return sum(tag in cell.get("metadata", {}).get("tags", []) for cell in cells)


def notebook_source(notebook: Path) -> str:
    """Return the code of a notebook without magics."""
    lines = "\n".join(code_cells(notebook)).splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))


def notebook_hash(notebook: Path) -> str:
    """Return the SHA-256 of the cells' sources, kinds and metadata, without what an execution adds."""
    cells = read_notebook(notebook, RESTORE)["cells"]
    kept = [
        (
            cell["cell_type"],
            "".join(cell["source"]),
            {key: value for key, value in cell.get("metadata", {}).items() if key != "execution"},
        )
        for cell in cells
    ]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


@functools.lru_cache(maxsize=1)
def _graph():
    import grimp

    return grimp.build_graph(PACKAGE, cache_dir=None)


def imported_modules(source: str) -> set[str]:
    """Return the modules of the library that Python ``source`` imports anywhere, also inside functions."""
    modules = _graph().modules
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names & modules


def module_closure(modules: set[str]) -> set[str]:
    """Return ``modules``, every module of the library that they reach by imports, and the parent packages."""
    reached = set(modules)
    for module in modules:
        reached |= _graph().find_upstream_modules(module)
    parents = {name.rsplit(".", depth)[0] for name in reached for depth in range(1, name.count(".") + 1)}
    return reached | parents


def module_file(module: str) -> Path:
    """Return the source file of a module of the library."""
    base = Path(__file__).resolve().parents[1].parent / Path(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


@functools.cache  # stages share most modules
def statements(source: str) -> str:
    """Return Python ``source`` without comments, blank lines, and strings that are statements, such as docstrings.

    They are cut out of the text, so that every version of Python gives the same result; printing the syntax tree
    would not. Python's own tokenizer takes seven times as long, and each start of a stage reads the whole library.
    """
    kept: list[str] = []
    line, depth, words, strings = "", 0, False, 0  # the line so far; the last two: of the statement that it belongs to
    for part in PARTS.finditer(source.removesuffix("\n") + "\n"):
        kind, text = part.lastgroup, part.group()
        if kind == "end":
            if line.strip() and (words or strings != 1):
                kept.append(line.rstrip())
            line = ""
            if not depth:
                words, strings = False, 0
        elif kind != "comment":
            line += text
            depth += (kind == "opens") - (kind == "closes")
            strings += kind == "string"
            words |= kind in ("opens", "closes") or (kind == "other" and text.strip().lower() not in PREFIXES)
    return "\n".join(kept)


def code_hashes(stage: str) -> dict[str, str]:
    """Return ``{module: SHA-256}`` of every module that the stage's notebook reaches, or of all without a notebook."""
    notebook = stage_notebooks().get(stage)
    return hashes_of(imported_modules(notebook_source(notebook)) if notebook else all_modules())


def all_modules() -> set[str]:
    """Return the names of all modules of the library."""
    return set(_graph().modules)


def hashes_of(modules: set[str]) -> dict[str, str]:
    """Return ``{module: SHA-256}`` of ``modules`` and every module of the library that they reach.

    Comments and docstrings do not count, so that better explanations repeat no training.
    """
    return {module: source_hash(module_file(module)) for module in sorted(module_closure(modules))}


def source_hash(path: Path) -> str:
    """Return the SHA-256 of a Python file's :func:`statements`."""
    return hashlib.sha256(statements(path.read_text(encoding="utf-8")).encode()).hexdigest()


def is_presentation(module: str) -> bool:
    """Return whether a module only draws or prints, so that its change cannot change a result."""
    return any(module == name or module.startswith(f"{name}.") for name in PRESENTATION)
