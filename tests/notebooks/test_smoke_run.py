"""The cards and files of the finished smoke run: no leakage, open formats, limited memory."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest
from safetensors import safe_open

from leuk_lib.data.fingerprint import fingerprint
from leuk_lib.runs.card import stage_state
from leuk_lib.stages import STAGES

pytestmark = pytest.mark.notebooks
RUN = "smear-smoke-s0"


def digest(paths: pd.Series) -> str:
    return hashlib.sha256("\n".join(sorted(paths)).encode()).hexdigest()


def test_every_stage_is_fresh(smoke_run: Path):
    assert {spec.name: stage_state(RUN, spec.name, fingerprint) for spec in STAGES} == {
        spec.name: ("fresh", []) for spec in STAGES
    }


def test_gan_gate_and_feature_network_read_the_training_part_only(smoke_run: Path):
    cells = pd.read_csv(smoke_run / "data" / "cells.csv")
    read = json.loads((smoke_run / "acdb_gan" / "read.json").read_text())
    assert read["sha256"] == digest(cells.loc[cells["split"] == "train", "path"])
    training = (cells["split"] == "train").sum()
    assert read["inner_train"]["cells"] + read["inner_held_out"]["cells"] == training
    card = json.loads((smoke_run / "acdb_gan" / "card.json").read_text())
    assert any(read["sha256"] in note for note in card["notes"])


def test_predictions_are_of_real_validation_and_test_cells_only(smoke_run: Path):
    cells = pd.read_csv(smoke_run / "data" / "cells.csv")
    predictions = pd.read_csv(smoke_run / "comparison" / "predictions.csv")
    for _, rows in predictions.groupby("model"):
        held_out = cells[cells["split"] != "train"]
        assert sorted(rows["index"]) == sorted(held_out.index)
        rows = rows.set_index("index").sort_index()
        assert (rows["split"] == held_out["split"]).all() and (rows["label"] == held_out["label"]).all()
    probabilities = predictions.filter(like="prob_")
    assert probabilities.sum(axis=1).sub(1).abs().max() < 1e-5 and probabilities.min().min() >= 0


OPEN = {".safetensors", ".csv", ".json", ".svg", ".pdf", ".png", ".md"}


def test_no_group_is_on_two_sides(smoke_run: Path):
    cells = pd.read_csv(smoke_run / "data" / "cells.csv")
    assert cells.groupby("group")["split"].nunique().max() == 1


def test_the_test_part_is_opened_once_by_each_stage_that_scores_models(smoke_run: Path):
    opened = {}
    for spec in STAGES:
        notes = json.loads((smoke_run / spec.name / "card.json").read_text())["notes"]
        opened[spec.name] = sum("test part opened" in note for note in notes)
    assert opened == {spec.name: int(spec.name in ("wpat", "comparison", "trust")) for spec in STAGES}


def test_outputs_are_open_formats_and_memory_stays_under_four_gigabytes(smoke_run: Path):
    for spec in STAGES:
        card = json.loads((smoke_run / spec.name / "card.json").read_text())
        assert {Path(name).suffix for name in card["outputs"]} <= OPEN
        assert card["peak_rss_mb"] < 4096
        for name in card["outputs"]:
            if name.endswith(".safetensors"):
                with safe_open(str(smoke_run / spec.name / name), framework="pt") as handle:
                    assert list(handle.keys())


def test_synthetic_cells_are_of_the_runs_size_and_classes(smoke_run: Path):
    with (
        safe_open(str(smoke_run / "acdb_gan" / "synthetic.safetensors"), framework="pt") as made,
        safe_open(str(smoke_run / "data" / "cells.safetensors"), framework="pt") as real,
    ):
        images, labels = made.get_tensor("images"), made.get_tensor("labels")
        assert images.shape[1:] == real.get_tensor("images").shape[1:] and len(images) == len(labels)
        assert set(labels.tolist()) <= set(real.get_tensor("labels").tolist())
    gate = pd.read_csv(smoke_run / "acdb_gan" / "gate.csv")
    assert len(labels) <= len(gate)
