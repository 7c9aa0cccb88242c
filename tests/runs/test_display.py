"""Output of a stage: the library's source as Markdown and as text, and tables."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import markdown_it
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from myst_nb.ext.glue import extract_glue_data_cell
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_output

from leuk_lib.alhe import lut
from leuk_lib.fcmae import encoder
from leuk_lib.gan import losses
from leuk_lib.runs import display


def is_part_of(excerpt: list[str], file: Iterator[str]) -> bool:
    """Whether the lines of an excerpt stand in a file in this order."""
    return all(any(line == other for other in file) for line in excerpt)


@pytest.mark.parametrize(
    ("module", "objects"),
    [
        (lut, (lut.redistribute,)),
        (losses, (losses.relativistic_logits, losses.penalty)),
        (encoder, (encoder.Block.forward_visible,)),
        (losses, (losses.generator_loss,)),
    ],
)
def test_source_is_the_file_without_docstrings(module: ModuleType, objects: tuple[Any, ...]) -> None:
    shown = display.source(*objects)
    for code, item in zip(shown.code.split("\n\n\n"), objects, strict=True):
        lines = code.split("\n")
        assert lines[0].startswith(f"def {item.__name__}(")
        assert '"""' not in code and not lines[-1].isspace()
        indent = "    " if "." in item.__qualname__ else ""
        assert is_part_of([f"{indent}{line}" for line in lines if line], iter(inspect.getsource(module).split("\n")))
        # Nothing but the docstring is gone: without docstrings both compile to the same code.
        scope = dict(vars(module))
        exec("from __future__ import annotations\n" + code, scope)
        assert scope[item.__name__].__code__.co_names == item.__code__.co_names
        assert scope[item.__name__].__code__.co_varnames == item.__code__.co_varnames


def test_source_is_a_block_of_python_in_markdown_and_names_its_file() -> None:
    shown = display.source(encoder.Block.pointwise)
    tokens = markdown_it.MarkdownIt().parse(shown._repr_markdown_())
    (fence,) = [token for token in tokens if token.type == "fence"]
    assert fence.info == "python" and fence.content.rstrip("\n") == shown.code
    assert "`leuk_lib/fcmae/encoder.py`, `Block.pointwise`" in shown._repr_markdown_()
    assert shown.code in repr(shown) and "```" not in repr(shown)


def test_a_class_keeps_the_docstrings_of_its_methods_out_of_reach() -> None:
    """Only the docstring of the definition itself is cut, so that an excerpt never has holes of its own."""
    code = display.source(encoder.EncoderSpec).code
    assert code.startswith("@dataclass(frozen=True)\nclass EncoderSpec:\n") and "variant: str" in code
    assert "Attributes:" not in code


def test_long_names_in_tables_may_break_and_stay_the_same_text():
    names = ["efficientnet_lite0@pretrained", "a/b_<i>", "_", "end_"]
    markup = display.table(pd.DataFrame({"p_mcnemar_holm": names})).markup
    soup = BeautifulSoup(markup, "html.parser")
    assert [cell.get_text() for cell in soup.find_all(["th", "td"])] == ["p_mcnemar_holm", *names]
    assert [len(cell.find_all("wbr")) for cell in soup.find_all(["th", "td"])] == [2, 2, 2, 0, 0]


def test_an_interval_stays_in_one_line_and_beside_its_number():
    frame = pd.DataFrame({"model": ["a", "b", "c"], "accuracy": [0.5, 1.0, float("nan")]})
    frame = frame.assign(low=[0.41, float("nan"), float("nan")], high=[0.59, float("nan"), float("nan")], n=[9, 9, 0])
    cells = BeautifulSoup(display.table(frame).markup, "html.parser").find_all(["th", "td"])
    assert [cell.get_text() for cell in cells] == [
        "model", "accuracy [interval]", "n", "a", "0.500 [0.410,\xa00.590]", "9", "b", "1.000", "9", "c", "–", "0"
    ]  # fmt: skip
    assert "low" in display.table(frame).text
    large = display.table(pd.DataFrame({"value": [12.0], "low": [1.23456], "high": [30.0]})).markup
    assert "12 [1.235,\xa030]" in large
    for names in (["low", "high"], ["value", "low", "n"]):
        kept = BeautifulSoup(display.table(pd.DataFrame([[1.0] * len(names)], columns=names)).markup, "html.parser")
        assert [head.get_text() for head in kept.find_all("th")] == names


@pytest.mark.parametrize("value", [0.1, 1e-12, -3, 10**20])
def test_a_glued_number_is_what_the_book_reads_and_is_not_shown(value: float, monkeypatch: pytest.MonkeyPatch):
    shown: list[NotebookNode] = []

    def display_in_cell(data: dict[str, str], raw: bool, metadata: dict[str, Any]) -> None:
        assert raw
        shown.append(new_output("display_data", data, metadata=metadata))

    monkeypatch.setattr("IPython.display.display", display_in_cell)
    display.glue("stage.key", value)
    cell = new_code_cell(outputs=shown)
    ((key, output),) = extract_glue_data_cell(cell)
    assert key == "stage.key" and output["data"] == {"text/plain": repr(value)}
    assert cell.outputs == []


def test_sentences_are_a_paragraph_per_line_and_quoted():
    said = display.folded(display.sentences("a < b\nand more"), "in words")
    page = BeautifulSoup(said.markup, "html.parser")
    assert [p.get_text() for p in page.find_all("p")] == ["a < b", "and more"] and repr(said) == "a < b\nand more"


def test_a_single_wide_row_becomes_two_columns():
    frame = pd.DataFrame(
        [{"stage": "alhe", "seconds": 8.5, "memory": 790, "device": "cpu", "low": 1, "profile": "smoke"}]
    )
    rows = BeautifulSoup(display.table(frame).markup, "html.parser").find_all("tr")
    text = [[cell.get_text() for cell in row.find_all(["th", "td"])] for row in rows]
    assert text[:3] == [["item", "value"], ["stage", "alhe"], ["seconds", "8.5"]] and len(text) == 7
    narrow = BeautifulSoup(display.table(frame.iloc[:, :4]).markup, "html.parser").find_all("th")
    assert [cell.get_text() for cell in narrow] == ["stage", "seconds", "memory", "device"]


def test_many_intervals_of_few_rows_become_columns():
    methods = [f"m{k}" for k in range(6)]
    frame = pd.DataFrame(
        [["a", *["0.5 [0.4, 0.6]"] * 6], ["b", *["0.1 [0.0, 0.2]"] * 6]], columns=["test set", *methods]
    )
    rows = BeautifulSoup(display.table(frame).markup, "html.parser").find_all("tr")
    text = [[cell.get_text().replace("\xa0", " ") for cell in row.find_all(["th", "td"])] for row in rows]
    assert text[0] == ["method", "a", "b"] and text[6] == ["m5", "0.5 [0.4, 0.6]", "0.1 [0.0, 0.2]"]
    for kept in (frame.iloc[:, :6], pd.concat([frame] * 3), pd.DataFrame(columns=frame.columns), pd.DataFrame()):
        head = BeautifulSoup(display.table(kept).markup, "html.parser").find_all("th")
        assert [cell.get_text() for cell in head] == list(kept.columns)
