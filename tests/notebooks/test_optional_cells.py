"""Cells of the chapters that show something only for some data sets: executed here without a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest

from chapters.test_agreement import SECOND, cells, predictions
from chapters.test_results import FakeStage
from leuk_lib.chapters import agreement
from leuk_lib.chapters import results as chapter
from leuk_lib.evaluation.params import ResultsParams
from leuk_lib.figures import results as draw
from leuk_lib.runs import display


class ShowingStage(FakeStage):
    """Also keeps what is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[str] = []

    def table(self, frame: pd.DataFrame, caption: str = "") -> display.Html:
        self.shown.append(caption)
        return display.table(frame, caption)

    def show(self, name: str, figure: Any) -> display.Picture:
        self.shown.append(name)
        return display.render(figure)


def run_cells(root: Path, notebook: str, ids: list[str], namespace: dict[str, Any]) -> None:
    """Execute cells by their ids, in order."""
    content = nbformat.read(root / "notebooks" / f"{notebook}.ipynb", as_version=4)
    source = {cell["id"]: cell.source for cell in content.cells if cell.cell_type == "code"}
    for name in ids:
        exec(source[name], namespace)


@pytest.mark.parametrize("label2", [None, SECOND])
def test_chapter_1_shows_agreement_only_with_second_labels(root: Path, label2: list[str] | None):
    stage = ShowingStage()
    stage.params = ResultsParams()  # type: ignore[attr-defined]
    run_cells(
        root, "01_data", ["second-2", "second-3"], {"agreement": agreement, "data": cells(label2), "stage": stage}
    )
    assert bool(stage.shown) == bool(stage.numbers) == (label2 is not None)
    assert label2 is None or "Cohen's kappa is 0.40" in stage.shown[0]


@pytest.mark.parametrize("present", [False, True])
def test_chapter_9_shows_readers_and_other_sources_only_where_they_are(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str], present: bool
):
    data = cells(SECOND if present else None, split="test")
    if present:
        data.table["split"] = np.where(np.arange(50) % 5 == 0, "external:TestB", "test")
    data.save(tmp_path)
    parts: dict[str, Any] = {}
    for split in sorted(set(data.parts.tolist())):
        inside = np.flatnonzero(data.parts == split)
        part = predictions(data, data.table["label"].tolist())
        parts[split] = type(part)(part.labels[inside], part.probs[inside], part.groups[inside], part.classes)
    stage, params = ShowingStage(), ResultsParams(n_resamples=200)
    run_cells(
        root, "09_results", ["readers-2", "readers-3", "readers-4", "readers-5", "external-2"],
        {"agreement": agreement, "chapter": chapter, "draw": draw, "CellSet": type(data), "folders": {"data": tmp_path},
         "test": {"wpat": parts["test"]}, "predictions": {"wpat": parts}, "params": params, "stage": stage},
    )  # fmt: skip
    said = capsys.readouterr().out
    if not present:
        assert (stage.shown, stage.numbers, said) == ([], {}, "")
        return
    assert len(stage.shown) == 4 and "agreement" in stage.shown
    assert "kappa_label_wpat" in stage.numbers and "Against label2" in said
