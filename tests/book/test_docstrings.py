"""Docstrings are well-formed reStructuredText, which Sphinx needs for the API reference."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
from docutils.core import publish_doctree
from docutils.nodes import literal
from docutils.parsers.rst import roles
from sphinx.ext.napoleon import Config, GoogleDocstring

import leuk_lib

LIBRARY = Path(leuk_lib.__file__).parent
MODULES = sorted(LIBRARY.rglob("*.py"))
CONFIG = Config(napoleon_use_ivar=True)  # as in _config.yml
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(LIBRARY).as_posix())
def test_docstrings_of_a_module(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for role in ("class", "func", "meth", "mod", "attr", "data", "exc", "obj"):
        roles.register_generic_role(role, literal)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        name = getattr(node, "name", "module")
        if isinstance(node, DOCUMENTED) and not name.startswith("_") and (docstring := ast.get_docstring(node)):
            text = str(GoogleDocstring(docstring, CONFIG, what="function", name=name))
            publish_doctree(inspect.cleandoc(text), settings_overrides={"report_level": 2, "halt_level": 6})
            assert capsys.readouterr().err == "", name
