"""Hashes of code: statements count, comments and docstrings do not."""

import ast
from pathlib import Path

import pytest

from leuk_lib.runs import code

SOURCE = '''"""Module, "quoted"."""

import os  # why


class Cell:
    """Ein Blutkörperchen."""  # Größe

    size = 3

    def area(self, scale: float = 1.0) -> float:
        """Area.

        Over several lines.
        """
        text = """kept # all of it

        with its blank line"""
        return scale * (
            # between
            self.size ** 2  # square
        ) + len(text)
'''


def test_comments_and_docstrings_are_removed():
    stated = code.statements(SOURCE)
    for removed in ("Module", "why", "Blutkörperchen", "Größe", "Area", "several", "between", "square"):
        assert removed not in stated
    for kept in ('"""kept # all of it\n\n        with its blank line"""', "import os", "size = 3"):
        assert kept in stated
    assert code.statements(stated) == stated


@pytest.mark.parametrize(
    ("source", "stated"),
    [
        ('r"""Raw \\d."""\nx = 1', "x = 1"),
        ("'It is a \"#\".'\nx = 1", "x = 1"),
        ("'''It's \"\"\" one.'''  # text", ""),
        ('"a" "b"', '"a" "b"'),
        ('f("a")  # "b"', 'f("a")'),
        ('x = (\n    "a"  # (\n\n    "b"\n)', 'x = (\n    "a"\n    "b"\n)'),
        ('x = 1 + \\\n    "a" # why\n', 'x = 1 + \\\n    "a"'),
        ('x = """\n\n# kept\n"""', 'x = """\n\n# kept\n"""'),
    ],
)
def test_strings_comments_and_brackets_are_told_apart(source: str, stated: str):
    assert code.statements(source) == stated


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ("# square", "# of its side", False),
        ("Over several lines.", "Über mehrere Zeilen.\n\n        Even more.", False),
        ("\n\n\nclass", "\n\nclass", False),
        ("kept # all", "kept # most", True),
        ("it\n\n", "it\n", True),
        ("** 2", "** 3", True),
        ("scale: float = 1.0", "scale: float = 2.0", True),
        ("import os", "import os.path", True),
    ],
)
def test_the_hash_changes_with_statements_only(tmp_path: Path, old: str, new: str, counts: bool):
    file = tmp_path / "cell.py"
    file.write_text(SOURCE, encoding="utf-8")
    before = code.source_hash(file)
    changed = SOURCE.replace(old, new)
    assert changed != SOURCE
    file.write_text(changed, encoding="utf-8")
    assert (code.source_hash(file) != before) == counts


def _bare(tree: ast.Module) -> str:
    """The syntax tree as text without docstrings."""
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


@pytest.mark.parametrize("module", sorted(code.all_modules()))
def test_no_statement_of_the_library_is_lost(module: str):
    source = code.module_file(module).read_text(encoding="utf-8")
    stated = code.statements(source)
    try:
        tree = ast.parse(stated)
    except IndentationError:  # a body that was a docstring and nothing else
        pytest.skip("a body that is only a docstring")
    assert _bare(tree) == _bare(ast.parse(source))
