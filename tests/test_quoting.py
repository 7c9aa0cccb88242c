"""Whatever a name holds, each language reads it back as that text and nothing else."""

from __future__ import annotations

import csv
import io
import json
import shlex
import unicodedata
from html.parser import HTMLParser

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from leuk_lib import quoting
from leuk_lib.runs.errors import LeukError

NAMES = [
    "<b onclick=alert(1)>", "x``<img src=x onerror=alert(1)>``y", "`a`", "a|b", "$x$", "{x}", "{{run}}", "[a](javascript:x)", "![i](u)",
    "&lt;img&gt;", "*b*", "_i_", "# h", "- l", "1. l", "+ l", "% c", "~s~", "^u^", "\\", "a\\|b", "=1+1", "@x", "-1", "{math}`x`", ":: x",
    "</script><script>alert(1)", "a\"b'c", "\u202eevil", "\x1b[2J", "```", "==", "--", ">q", "http://x.y",
]  # fmt: skip
names = st.sampled_from(NAMES) | st.text(alphabet="`|\\*_{}[]<>#$~^&!%=@+-.:;'\" a1", max_size=12)


class Text(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.text, self.tags, self.attributes = "", [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def parsed(markup):
    parser = Text()
    parser.feed(markup)
    parser.close()
    return parser


@given(names)
def test_html_is_text_and_one_attribute(name):
    page = parsed(f'<p title="{quoting.html(name)}">{quoting.html(name)}</p>')
    assert page.tags == ["p"] and page.text == name and page.attributes == [("title", name)]


@given(names)
def test_markdown_is_text_in_a_paragraph_and_in_a_table(name):
    name = quoting.one_line(name)
    reader = MarkdownIt("commonmark").enable("table").enable("strikethrough")
    page = parsed(reader.render(f"{quoting.markdown(name)}\n"))
    assert set(page.tags) <= {"p"} and page.text.strip() == name
    page = parsed(reader.render(f"| a | b |\n|:--|:--|\n| {quoting.markdown(name)} | z |\n"))
    assert set(page.tags) == {"table", "thead", "tbody", "tr", "th", "td"} and page.tags.count("td") == 2
    assert page.text.split("b", 1)[1].split() == [*name.split(), "z"]


@given(names)
def test_a_code_span_is_one_literal(name):
    name = quoting.one_line(name)
    if not name:
        assert quoting.code(name) == ""
        return
    page = parsed(MarkdownIt("commonmark").enable("table").render(f"| a |\n|:--|\n| {quoting.code(name)} |\n"))
    assert (
        page.tags.count("code") == 1
        and page.tags.count("td") == 1
        and not {"img", "a", "em", "strong"} & set(page.tags)
    )
    assert "".join(page.text.split()) == "a" + "".join(name.split())


@given(names)
def test_script_json_holds_no_markup(name):
    text = quoting.script([name])
    assert json.loads(text) == [name] and not set("<>&\u2028") & set(text)


@given(st.text(max_size=20))
def test_a_terminal_shows_one_line_without_control_codes(name):
    shown = quoting.terminal(name)
    assert len(shown.splitlines()) <= 1
    for text in (shown, str(LeukError(f"class {name!r} and {name}"))):
        assert not {unicodedata.category(character) for character in text} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


@given(names | st.text(max_size=20))
def test_json_in_a_terminal_shows_no_control_codes_and_means_the_same(name):
    text = quoting.terminal_json({name: [name]})
    assert json.loads(text) == {name: [name]}
    assert not {unicodedata.category(c) for c in text.replace("\n", "")} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


@pytest.mark.parametrize("name", ["a\nVerdict: clean", "\x1b[31m", "\u202egnp.exe", "\x9b1m", "a\u2028b"])
def test_what_could_forge_a_line_becomes_visible(name):
    assert "\\" in quoting.terminal(name)


@given(names)
def test_a_spreadsheet_computes_nothing(name):
    stream = io.StringIO()
    csv.writer(stream).writerow([quoting.cell(name)])
    (row,) = csv.reader(io.StringIO(stream.getvalue()))
    assert not row[0].startswith(("=", "+", "-", "@"))
    assert quoting.from_cell(row[0]) == name


@given(st.lists(names.filter(bool), min_size=2, max_size=4, unique=True))
def test_a_table_of_any_names_is_read_back_and_a_spreadsheet_computes_none_of_it(given_names):
    frame = pd.DataFrame({name: [*given_names, ""] for name in given_names} | {"number": -1.5})
    text = quoting.cells(frame).to_csv(index=False)
    values = [value for row in csv.reader(io.StringIO(text)) for value in row if value != "-1.5"]
    assert not any(value.startswith(("=", "+", "-", "@")) for value in values)
    back = pd.read_csv(io.StringIO(text), dtype=dict.fromkeys(given_names, str), keep_default_na=False)
    pd.testing.assert_frame_equal(quoting.cells(back, quoting.from_cell), frame, check_dtype=False)


@given(names)
def test_a_shell_reads_one_word(name):
    assert shlex.split(quoting.shell(name)) == [name]


@given(names)
def test_papermill_replaces_nothing(name):
    from papermill.parameterize import parameterize_path

    assert parameterize_path(quoting.papermill_path(name), {"x": 1, "run": 2}) == name


def test_figures_draw_dollar_signs_as_text():
    from leuk_lib.figures.style import new_figure
    from leuk_lib.runs.display import render

    drawn = []
    for name in ("$x_1^2$", "$\\frac{$"):  # the second is no formula that could be parsed
        figure, axes = new_figure(3, 2)
        axes.bar([0], [1], label=name)
        axes.set_xticks([0], labels=[name])
        axes.set_title(name)
        axes.legend()
        drawn.append(render(figure).data)
    assert drawn[0] != drawn[1]
    figure, axes = new_figure(3, 2)
    axes.plot([1, 1000], [1, 1000])
    axes.set_xscale("log")
    assert render(figure).data


def test_a_line_about_a_name_of_thousands_of_characters_keeps_cause_and_remedy():
    line = str(LeukError(f"cells.csv: label {'x' * 9999!r} is unknown; rename it"))
    assert line.startswith("cells.csv: label 'xxx") and line.endswith("xxx' is unknown; rename it") and len(line) < 2010
    assert str(LeukError("x" * 2000)) == "x" * 2000
