"""The enhancement study on a handful of toy cells, and its shifts."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from alhe.toys import cell
from leuk_lib.alhe.enhance import alhe
from leuk_lib.runs.errors import LeukError
from leuk_lib.studies import enhancement, record
from leuk_lib.studies.runner import run_study

SMALL = {
    "seeds": [0, 1], "arms": ["none", "CLAHE 2", "ALHE", "ALHE as augmentation"], "image_size": 32, "steps": 3,
    "batch_size": 8, "stain_shifts": [0.4], "light_shifts": [0.5], "resamples": 100, "other": "other",
}  # fmt: skip


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of toy cells: classes a, b, c of twelve, and another source with a and b."""
    root = tmp_path_factory.mktemp("data")
    for source, classes, count in (("cells", "abc", 12), ("other", "abx", 6)):
        for k, name in enumerate(classes):
            (root / source / name).mkdir(parents=True)
            for seed in range(count):
                image = cell(40, 40, 100 * k + seed + (1000 if source == "other" else 0))[0]
                image = np.clip(image.astype(int) - 25 * k, 0, 255).astype(np.uint8)
                cv2.imwrite(str(root / source / name / f"{seed}.png"), image)
    return root / "cells"


def test_whole_study(cells: Path, tmp_path: Path):
    """All jobs, here in one process: that they resume in processes of their own is the runner's test."""
    study = enhancement.Enhancement(enhancement.EnhancementParams(dataset=str(cells), **SMALL))
    rows = {job: study.run(job, tmp_path, "identity") for wave in study.waves() for job in wave}
    assert len(rows) == 1 + 2 * 4
    tables = study.tables(rows)
    conditions = ["same", "stain 0.4", "light 0.5", "other source"]
    scores, differences = tables["scores"], tables["differences"]
    assert list(dict.fromkeys(scores["condition"])) == conditions
    assert len(scores) == 16 and len(differences) == 12 and set(differences["against"]) == {"none"}
    assert scores["value"].between(0, 1).all() and (scores["low"] <= scores["high"]).all()
    assert tables["sources"]["source"].tolist() == ["cells", "other"]
    assert tables["sources"]["classes"].tolist() == [3, 2]
    # All arms of a seed are tested on the same cells; another source is tested whole.
    assert [row["cell"] for row in rows["none-1"]] == [row["cell"] for row in rows["alhe-1"]]
    assert rows["none-1"][0]["cell"] != rows["none-0"][0]["cell"]
    assert len(rows["none-1"][-1]["right"]) == 12
    # A job is a function of parameters and data.
    again = study.run("alhe-1", tmp_path / "again", "identity") if study.run("images", tmp_path / "again", "x") else []
    assert again == rows["alhe-1"]


def test_refused(cells: Path, results: Path):
    for values, said in (
        ({"arms": ["none", "magic"]}, "unknown arm 'magic'"),
        ({"arms": ["ALHE", "CLAHE 2"]}, "compared with 'none'"),
        ({"seeds": [1]}, "seeds"),
    ):
        with pytest.raises(LeukError, match=said):
            run_study("enhancement", {"dataset": str(cells), **SMALL, **values})


def test_arms_see_what_they_are_called():
    images = torch.from_numpy(np.stack([cell(40, 40, seed)[0] for seed in range(3)])).permute(0, 3, 1, 2)
    assert enhancement.enhance(images, "raw") is images
    seen = enhancement.enhance(images, "alhe").permute(0, 2, 3, 1).numpy().astype(int)
    expected = np.stack([alhe(np.ascontiguousarray(image)) for image in images.permute(0, 2, 3, 1).numpy()])
    assert np.abs(seen - expected).max() <= 1
    assert enhancement.enhance(images, "clahe").shape == images.shape


def test_the_committed_record_is_this_studys(root: Path):
    found = record.load_record(root / record.record_file("enhancement", "pbc_barcelona_128"))
    assert found.study == "enhancement" and len(found.params["seeds"]) >= 5
    differences = found.table("differences")
    assert set(differences["arm"]) == {arm for arm, base in enhancement.BASE.items() if arm != base}
    assert (differences["low"] <= differences["value"] + 1e-9).all() and found.git["dirty"] is False
