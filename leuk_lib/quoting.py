"""Quote names of folders, files, classes and groups: one function per language that they are written into."""

from __future__ import annotations

import html as html_module
import json
import re
import shlex
import unicodedata
from collections.abc import Callable
from typing import Any

# What Markdown, MyST and tables read anywhere, and what they read at the start of a line; a backslash makes it text.
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|$~^]|&(?=#?\w+;))")
_LINE_START = re.compile(r"^(?=[-+:%=])|^(\d+)(?=[.)](?:\s|$))")
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


def one_line(text: Any) -> str:
    r"""Put text on one line.

    >>> one_line("a\n b")
    'a b'
    """
    return " ".join(str(text).split())


def html(text: Any) -> str:
    """Quote for HTML, as text and within an attribute.

    >>> html("<b a='x'>")
    '&lt;b a=&#x27;x&#x27;&gt;'
    """
    return html_module.escape(str(text), quote=True)


def script(value: Any) -> str:
    r"""Write a value as JSON that can stand in a ``<script>``.

    >>> print(script("</script>"))
    "\u003c/script\u003e"
    """
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def markdown(text: Any) -> str:
    r"""Quote for MyST Markdown, on one line.

    >>> print(markdown("a_b | c"))
    a\_b \| c
    >>> print(markdown("- ![x](y)"))
    \- !\[x\](y)
    """
    return _LINE_START.sub(lambda m: f"{m[1]}\\" if m[1] else "\\", _MARKDOWN.sub(r"\\\1", one_line(text)))


def code(text: Any) -> str:
    r"""Quote as an inline literal of Markdown that is safe in a table cell.

    >>> print(code("a|b"), code("x``<img>``y"))
    `a\|b` ``` x``<img>``y ```
    """
    plain = one_line(text).replace("|", "\\|")
    if not plain:
        return ""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", plain)), default=0))
    pad = " " if len(fence) > 1 else ""
    return f"{fence}{pad}{plain}{pad}{fence}"


def cell(value: Any) -> Any:
    """Quote for a cell of a table that people open in a spreadsheet, which would compute a text that begins with "=".

    >>> cell("=1+1"), cell(-1), cell("AML")
    ("'=1+1", -1, 'AML')
    """
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def from_cell(value: Any) -> Any:
    """Return what was quoted by :func:`cell`.

    >>> from_cell("'=1+1"), from_cell("'AML"), from_cell(cell("'=1"))
    ('=1+1', "'AML", "'=1")
    """
    return value[1:] if isinstance(value, str) and value.startswith("'") and _FORMULA.match(value) else value


def cells(frame: Any, quote: Callable[[Any], Any] = cell) -> Any:
    """Quote the texts and the column names of a data frame for a spreadsheet; ``from_cell`` undoes it."""
    out = frame.rename(columns=quote)
    for k, dtype in enumerate(frame.dtypes):
        if dtype.kind not in "biufc":  # numbers keep the form in which they are written
            out.isetitem(k, frame.iloc[:, k].map(quote))
    return out


def terminal(text: Any) -> str:
    r"""Quote for a terminal: control codes, line breaks and marks that reverse the text become visible; a text of one line.

    >>> print(terminal("a\x1b[2Jb\nVerdict: clean"))
    a\x1b[2Jb\nVerdict: clean
    """
    return "".join(
        character if character == " " or not _is_hidden(character) else ascii(character)[1:-1]
        for character in str(text)
    )


def terminal_json(value: Any) -> str:
    r"""Write a value as JSON of several lines for a terminal, which shows no control codes; the JSON means the same.

    >>> print(terminal_json(["a\x9b2J"]))
    [
     "a\u009b2J"
    ]
    """
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return "".join(json.dumps(c)[1:-1] if c != "\n" and _is_hidden(c) else c for c in text)


def terminal_table(frame: Any) -> Any:
    """Quote the texts and the column names of a data frame for a terminal."""
    return frame.map(lambda value: terminal(value) if isinstance(value, str) else value).rename(columns=terminal)


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def shell(text: Any) -> str:
    """Quote for a shell command that a person copies.

    >>> shell("my cells")
    "'my cells'"
    """
    return shlex.quote(str(text))


def papermill_path(path: Any) -> str:
    """Quote a path for papermill, which replaces names in braces by parameters.

    >>> papermill_path("results/{run}")
    'results/{{run}}'
    """
    return str(path).replace("{", "{{").replace("}", "}}")
