"""The study of enhancement: its canary, its arms and its record."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from alhe.toys import cell
from leuk_lib.alhe.enhance import alhe
from leuk_lib.runs.errors import LeukError
from leuk_lib.studies import enhancement, record
from leuk_lib.studies.runner import run_study


def test_every_kind_of_job_runs(canary):
    whole, _ = canary("enhancement")
    rows, tables = whole.rows, whole.tables
    conditions = ["same", "stain 0.4", "light 0.5", "other source"]
    scores, differences = tables["scores"], tables["differences"]
    assert list(dict.fromkeys(scores["condition"])) == conditions
    assert len(scores) == 24 and len(differences) == 16
    given = scores.dropna(subset=["low", "high"])  # no interval where too few groups hold the rarer outcome
    assert scores["value"].between(0, 1).all() and len(given) and (given["low"] <= given["high"]).all()
    assert tables["sources"]["source"].tolist() == ["cells", "elsewhere"]
    # All arms of a seed are tested on the same cells; an external test set is tested whole.
    assert [row["cell"] for row in rows["none-1"]] == [row["cell"] for row in rows["alhe-1"]]
    assert rows["none-1"][0]["cell"] != rows["none-0"][0]["cell"]
    assert len(rows["none-1"][-1]["right"]) == tables["sources"]["cells"].iloc[-1]


def test_wrong_parameters_are_refused(tmp_path: Path, results: Path):
    for values, message in (
        ({"arms": ["none", "magic"]}, "unknown arm 'magic'"),
        ({"arms": ["ALHE", "CLAHE 2"]}, "compared with 'none'"),
        ({"seeds": [1]}, "seeds"),
    ):
        with pytest.raises(LeukError, match=message):
            run_study("enhancement", {"dataset": str(tmp_path), "seeds": [0, 1], **values})


def test_images_are_enhanced_as_the_arm_says():
    images = torch.from_numpy(np.stack([cell(40, 40, seed)[0] for seed in range(3)])).permute(0, 3, 1, 2)
    assert enhancement.enhance(images, "raw") is images
    seen = enhancement.enhance(images, "alhe").permute(0, 2, 3, 1).numpy().astype(int)
    expected = np.stack([alhe(np.ascontiguousarray(image)) for image in images.permute(0, 2, 3, 1).numpy()])
    assert np.abs(seen - expected).max() <= 1
    assert enhancement.enhance(images, "clahe").shape == images.shape


def test_the_committed_record_is_this_studys(root: Path):
    committed = record.load_record(root / record.record_file("enhancement", "pbc_barcelona_128"))
    assert committed.study == "enhancement" and len(committed.params["seeds"]) >= 5
    differences = committed.table("differences")
    assert set(differences["arm"]) == {arm for arm, base in enhancement.BASE.items() if arm != base}
    assert (differences["low"] <= differences["value"] + 1e-9).all() and committed.git["dirty"] is False
