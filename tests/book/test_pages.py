"""Generated pages: Markdown from cards, metrics and parameter models."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from book import toys as fake
from leuk_lib.book import architecture, pages
from leuk_lib.book.chapters import clean
from leuk_lib.book.markdown import duration, number, table
from leuk_lib.quoting import code
from leuk_lib.quoting import markdown as escape

STAGES = (fake.spec("data"), fake.spec("wpat", ("data",)))
CARD = {
    "stage": "data", "run": "r", "profile": "smoke", "dataset": "smear", "state": "finished",
    "params": {"dataset": "/home/somebody/cells", "steps": 3}, "identity": "abc", "started": "2026-01-01T10:00:00+0000",
    "seconds": 62.0, "peak_rss_mb": 900.5, "peak_gpu_mb": 0.0, "device": "CPU | two", "git": {"commit": "f" * 40, "dirty": True},
    "versions": {"python": "3.11"}, "inputs": {"data": {"a.csv": "1" * 64}, "files": {"/home/somebody/split.json": "3" * 64}}, "outputs": {"b.csv": "2" * 64},
    "notes": ["test part *opened*"], "error": None,
}  # fmt: skip


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LEUK_ROOT", str(tmp_path))
    return fake.make_project(tmp_path, STAGES)


def cells(row: str) -> list[str]:
    """Cells of a table row, a backslash keeping its bar."""
    return [cell.strip() for cell in row.replace("\\|", "\0").strip().strip("|").split("|")]


@given(st.text())
def test_any_text_stays_in_its_cell(text: str) -> None:
    rows = table(("a", "b"), [(escape(text), code(text))]).strip("\n").split("\n")
    assert len(rows) == 3
    assert len(cells(rows[-1])) == 2


@given(st.floats(0, 1e6))
def test_duration_is_close_to_the_seconds(seconds: float) -> None:
    words = duration(seconds).split()
    units = {"s": 1, "min": 60, "h": 3600}
    parsed = sum(float(value) * units[unit] for value, unit in zip(words[::2], words[1::2], strict=True))
    assert abs(parsed - seconds) <= (61 if seconds >= 3600 else 1)


def test_numbers() -> None:
    assert number(0.912345) == "0.9123"
    assert number(12345) == "12,345"
    assert number(None) == number(math.nan) == "–"
    assert number(True) == "yes"


def test_run_card_tells_everything_and_hides_folders() -> None:
    text = pages.run_cards(STAGES, {"data": CARD})
    for part in (
        "## Title of data",
        "1 min 02 s",
        "ffffffffff",
        "uncommitted",
        "`…/cells`",
        "1111",
        "files/split.json",
        "2222",
        "\\*opened\\*",
    ):
        assert part in text
    assert "/home" not in text
    assert "Title of wpat" not in text


def test_cost_table_sums_time_and_takes_the_largest_memory() -> None:
    text = pages.cost_table(STAGES, {"data": CARD, "wpat": {**CARD, "seconds": 60.0, "peak_rss_mb": 2000.0}})
    assert "**2 min 02 s**" in text
    assert "2000 MB peak" in text
    assert "smoke" in text
    assert "[Title of wpat](../chapters/02_wpat.ipynb)" in text


def test_status_table_names_the_reasons() -> None:
    text = pages.status_table(STAGES, {"data": ("fresh", []), "wpat": ("stale", ["its input data changed"])})
    assert "its input data changed" in text
    assert "fresh: " in text


def test_parameters_name_default_range_and_meaning() -> None:
    text = pages.parameters(STAGES)
    rows = {cells(row)[0]: cells(row) for row in text.splitlines() if row.startswith("| `")}
    assert rows["`steps`"][1:3] == ["`3`", "≥ 1, ≤ 100"]
    assert rows["`rate`"][2] == "> 0"
    assert rows["`profile`"][2] == "`smoke` `laptop` `gpu` `paper`"
    assert "optimiser steps" in rows["`steps`"][3]


def test_shared_parameters_are_listed_once() -> None:
    assert pages.parameters(STAGES).count("| `seed` |") == 1


def test_seeds_table_gives_mean_and_sample_deviation() -> None:
    runs = {f"r-s{i}": {"accuracy": {"value": v, "low": 0, "high": 1}} for i, v in enumerate((0.8, 0.9, 1.0))}
    row = cells(pages.seeds_table(runs, ["accuracy", "absent"]).splitlines()[-1])
    assert row == ["accuracy", "0.8", "0.9", "1", "0.9", "0.1"]


def test_seeds_table_of_one_run_has_no_spread() -> None:
    assert cells(pages.seeds_table({"r": {"k": {"value": 1.0}}}, ["k"]).splitlines()[-1])[-1] == "–"
    assert "No finished run" in pages.seeds_table({}, ["k"])


def test_headline_keys_are_those_with_intervals() -> None:
    metrics = {"n": {"value": 3}, "accuracy": {"value": 0.9, "low": 0.8, "high": 1.0}}
    assert pages.headline_keys(metrics) == ["accuracy"]
    assert pages.headline_keys({"n": {"value": 3}}) == ["n"]


def test_the_api_reference_lists_every_package(root: Path) -> None:
    listed = re.findall(r"^   leuk_lib\.(\S+)$", (root / "book" / "use" / "api.md").read_text(), re.MULTILINE)
    assert set(listed) - {"data.smear"} == set(architecture.packages())


def test_chapters_lose_noise_and_keep_what_the_book_uses() -> None:
    notebook = fake.notebook("data", executed=True, metrics={"accuracy": 0.9})
    notebook["metadata"]["papermill"] = {"duration": 3}
    notebook["cells"].insert(
        0, {"cell_type": "markdown", "source": "An error", "metadata": {"tags": ["papermill-error-cell-tag"]}}
    )
    path = {
        "output_type": "execute_result",
        "data": {"text/plain": "PosixPath('/home/somebody/read.json')"},
        "metadata": {},
    }
    notebook["cells"][-1]["outputs"].append(path)
    before = str(notebook)
    shown = clean(notebook)
    assert "/home/somebody" not in str(shown)
    assert str(notebook) == before
    assert "papermill" not in shown["metadata"] and len(shown["cells"]) == len(notebook["cells"]) - 1
    figure, numbers = shown["cells"][2], shown["cells"][4]
    assert figure["metadata"]["mystnb"]["image"]["alt"]
    assert [output["output_type"] for output in figure["outputs"]] == ["stream", "display_data"]
    assert figure["outputs"][0]["text"] == "100%\nend\n"
    assert numbers["outputs"][0]["metadata"]["scrapbook"]["name"] == "data.accuracy"
    assert "hide-input" in shown["cells"][1]["metadata"]["tags"]


def test_code_folds_under_what_it_does_unless_it_shows_a_method() -> None:
    def code(source: str, **metadata: Any) -> dict[str, Any]:
        return {"cell_type": "code", "source": source, "metadata": metadata, "outputs": []}

    cells = [
        code("# Draw the loss\nstage.show('loss', figure)", mystnb={"image": {"alt": "curves"}}, tags=["hide-input"]),
        code("x = 1 + 1", tags=["method"]),
        code("stage.show('loss', figure)"),
        code("steps = 2", tags=["injected-parameters"]),
    ]
    shown = clean({"cells": cells, "metadata": {}})["cells"]
    prompts = [cell["metadata"].get("mystnb", {}).get("code_prompt_show") for cell in shown]
    assert prompts == ["Code: draw the loss", None, "Code: draw a figure", "Code: the parameters of this run"]
    assert [cell["metadata"]["tags"] for cell in shown] == [
        ["hide-input"], ["method"], ["hide-input"], ["injected-parameters", "hide-input"],
    ]  # fmt: skip
    assert shown[0]["metadata"]["mystnb"]["image"] == {"alt": "curves"} and "mystnb" not in shown[1]["metadata"]


def test_a_link_to_a_notebook_becomes_a_link_to_its_page() -> None:
    from leuk_lib.runs.display import Link
    from leuk_lib.runs.display import table as shown_table

    markup = shown_table(pd.DataFrame({"made in": [Link("Chapter <3>", "03_acdb_gan.ipynb#gate")]})).markup
    assert '<a href="03_acdb_gan.ipynb#gate">Chapter &lt;3&gt;</a>' in markup
    output = {"output_type": "display_data", "data": {"text/html": markup}, "metadata": {}}
    cell = {"cell_type": "code", "source": "", "metadata": {}, "outputs": [output], "execution_count": 1}
    kept = clean({"cells": [cell], "metadata": {}})["cells"][0]["outputs"][0]["data"]["text/html"]
    assert '<a href="03_acdb_gan.html#gate">' in kept


def test_the_landing_page_counts_the_answers_and_shows_real_cells_first(root: Path) -> None:
    found = pd.DataFrame(
        {"question": ["Does it help?", "Is it | better?", "On drawings?"], "cells": ["real", "real", "rendered"],
         "points": ["+1.0", "+3.0, -2.0", "+9.0"], "answer": ["better", "1 of 2 better, 1 of 2 worse", "inflated"],
         "agree": [True, False, True],
         "target": ["02_alhe.ipynb", "05_wpat.ipynb", "07_leakage.ipynb"]}
    )  # fmt: skip
    said = pages.answers_summary(found)
    assert said.startswith(
        "**On real cells**, photographed from healthy donors, 2 questions were studied: better in 1, depends on the "
        "comparison in 1. "
        "Does it help? *Better* (+1.0 points). "
    )
    text = pages.answers_table(found)
    assert "| [Does it help?](chapters/02_alhe.ipynb) | better | +1.0 |" in text and "it \\| better" in text
    shown, rest = text.rsplit("|\n", 1)
    assert "drawings" not in shown and rest.startswith("\nOn rendered cells, ") and "*Inflated* (+9.0 points)" in rest
    assert "drawn by a program" in pages.whose_cells(True, "smear") and "`mine`" in pages.whose_cells(False, "mine")
    page = (root / "book" / "index.md").read_text(encoding="utf-8")
    parts = ("generated/summary.md", "generated/answers.md", "generated/headline.md", "## What cannot be known here")
    order = [page.index(part) for part in parts]
    assert order == sorted(order) and page.index("{include}") + len("{include} ") == order[0]


def test_the_summary_says_real_then_this_run_then_what_is_not_known() -> None:
    found = pd.DataFrame(
        {"question": ["Does it help?"], "cells": ["real"], "points": ["-1.0"], "answer": ["worse"], "agree": [True]}
    )
    margin = {"value": -0.1, "low": -0.2, "high": -0.05}
    results = {"accuracy": {"value": 0.8}, "margin": margin, "ahead_of_colour": margin}
    lines = pages.summary(
        found, results, {"cannot_be_tested_here": {"value": 5}}, {"rendered": True}, ("r", "c")
    ).splitlines()
    assert [line.split("**")[1] for line in lines] == ["On real cells", "This run", "Not known"]
    assert "rendered cells" in lines[1] and "`colour`" in lines[1] and lines[1].endswith("the baseline is better.")
    assert "`c::claims.cannot_be_tested_here:.0f` of its claims" in lines[2]
    assert len(pages.summary(None, {}, {}, {"rendered": False, "dataset": "mine"}, ("r", "c")).splitlines()) == 1


def test_headline_leaves_out_what_a_run_lacks() -> None:
    results = {"accuracy": {"value": 0.9, "low": 0.8, "high": 1.0, "n": 40}, "macro_f1": {"value": 0.9}}
    text = pages.headline(results, {"reproduced": {"value": 2}}, "c/r.ipynb", "c/c.ipynb")
    assert "{glue:text}`c/r.ipynb::results.accuracy:.3f`" in text
    assert (
        "{glue:text}`c/r.ipynb::results.accuracy.low:.3f` to {glue:text}`c/r.ipynb::results.accuracy.high:.3f`" in text
    )
    assert "results.macro_f1.low" not in text and "margin" not in text
    assert "{glue:text}`c/c.ipynb::claims.reproduced:.0f` reproduced" in text and "not reproduced" not in text
