"""The study of pretraining: equal budgets, nested label shares, tables with known answers, every job in the canary."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from leuk_lib.studies.pretraining import CONTRAST, PIXELS, PUBLISHED, SCRATCH, Pretraining, PretrainingParams, labelled
from leuk_lib.studies.study import slug
from leuk_lib.wpat.finetune import predict_logits


def test_both_arms_see_as_many_masked_images_at_one_learning_rate():
    params = PretrainingParams(dataset="cells")
    contrast, pixels = (params.fcmae(arm, 0) for arm in (CONTRAST, PIXELS))
    assert contrast.contrast > 0 == pixels.contrast
    assert 2 * contrast.batch_size == pixels.batch_size == params.batch_size
    rates = [p.base_lr * p.batch_size / 256 for p in (contrast, pixels)]
    assert rates == pytest.approx([params.lr, params.lr])
    assert contrast.muon == pixels.muon and contrast.init == pixels.init


@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 99), st.floats(0.01, 1), st.floats(0.01, 1))
def test_shares_are_of_every_class_and_nested(classes, each, seed, one, other):
    labels = torch.arange(classes * each) % classes
    train = torch.arange(0, len(labels))
    less, more = (labelled(train, labels, share, seed).tolist() for share in sorted((one, other)))
    assert set(less) <= set(more) and len(set(less)) == len(less)
    counts = torch.bincount(labels[less], minlength=classes)
    assert (counts == max(1, round(min(one, other) * each))).all()
    assert labelled(train, labels, 1.0, seed).tolist() == train.tolist()


def test_learning_rates_that_no_choice_can_use_are_refused():
    for rates in ((0.0, 1e-3), (1e-3, 1e-3), (2.0,)):
        with pytest.raises(ValueError, match=r"learning rates .* must be different and in"):
            PretrainingParams(dataset="cells", rates=rates)


def test_shares_outside_their_range_are_refused():
    with pytest.raises(ValueError, match=r"label shares .* must be in \(0, 1\]"):
        PretrainingParams(dataset="cells", label_shares=(0.0, 1.0))


def row(arm: str, seed: int, condition: str, step: int, right: str) -> dict[str, object]:
    cells = [str(100 * seed + k) for k in range(len(right))]
    label = ",".join(str(k % 2) for k in range(len(right)))
    return {
        "arm": arm, "seed": seed, "condition": condition, "step": step, "right": right,
        "cell": ",".join(cells), "group": ",".join(cells), "label": label,
    }  # fmt: skip


def test_tables_hold_the_known_answers():
    params = PretrainingParams(
        dataset="cells", seeds=(0, 1), steps=10, label_shares=(1.0,), rates=(0.001, 0.002), resamples=200
    )
    study = Pretraining(params)
    rows: dict[str, list[dict[str, object]]] = {"cells": [{"source": "cells", "cells": 8}]}
    for seed in (0, 1):
        rows[f"pretrain-c-{seed}"] = [
            row(CONTRAST, seed, "linear", 0, "1010"), row(CONTRAST, seed, "linear", 10, "1111"),
            row("colour histogram", seed, "linear", 0, "1100"),
        ]  # fmt: skip
        rows[f"pretrain-p-{seed}"] = [row(PIXELS, seed, "linear", 0, "1010"), row(PIXELS, seed, "linear", 10, "0000")]
        rows[f"tune-{seed}"] = [row(SCRATCH, seed, "1", -1, "0110"), row(CONTRAST, seed, "1", -1, "1110")]
        rows[f"tune-{seed}"].append(row(PUBLISHED, seed, "1", -1, "1111"))
    losses = {SCRATCH: (0.3, 0.2), CONTRAST: (0.2, 0.3), PUBLISHED: (0.1, 0.1)}
    for job in study.waves()[2]:
        arm = next(arm for arm in losses if slug(arm) in job.removesuffix("-0.001").removesuffix("-0.002"))
        loss = losses[arm][job.endswith("-0.002")]
        rows[job] = [{"arm": arm, "condition": "1", "rate": float(job.rsplit("-", 1)[1]), "loss": loss}]
    tables = study.tables(rows)
    probes = tables["probes"].set_index("arm")["value"]
    assert probes.to_dict() == {CONTRAST: 1.0, "colour histogram": 0.5, PIXELS: 0.0, SCRATCH: 0.5}
    gains = tables["gains"].set_index(["arm", "against"])["value"]
    assert gains[CONTRAST, SCRATCH] == 0.5 and gains[CONTRAST, PIXELS] == 1.0 and gains[PIXELS, SCRATCH] == -0.5
    curve = tables["curve"].set_index(["arm", "step"])["value"]
    assert curve[CONTRAST, 0] == curve[PIXELS, 0] == 0.5 and curve[CONTRAST, 10] == 1.0
    label_gains = tables["label_gains"].set_index(["arm", "against"])["value"]
    assert label_gains.to_dict() == {(PUBLISHED, CONTRAST): 0.25, (PUBLISHED, SCRATCH): 0.5, (CONTRAST, SCRATCH): 0.25}
    assert tables["labels"]["n"].tolist() == [8, 8, 8]
    chosen = tables["rates"][tables["rates"]["chosen"]].set_index("arm")["rate"]
    assert chosen.to_dict() == {SCRATCH: 0.002, CONTRAST: 0.001, PUBLISHED: 0.001}  # of equals, the first


def test_every_kind_of_job_runs_and_the_outcome_has_all_arms(canary, tmp_path: Path):
    whole, folder = canary("pretraining")
    tables = whole.tables
    assert (folder / "pretrain-fcmae-contrast-0" / "encoder.safetensors").exists()
    assert set(tables["probes"]["arm"]) == {CONTRAST, PIXELS, SCRATCH, "colour histogram", "raw-pixel PCA"}
    assert set(tables["curve"]["step"]) == {0, 3}
    start = tables["curve"][tables["curve"]["step"] == 0].pivot(index="probe", columns="arm", values="value")
    assert (start[CONTRAST] == start[PIXELS]).all()  # the same weights before training
    assert set(tables["labels"]["arm"]) == {CONTRAST, SCRATCH, PUBLISHED} and len(tables["label_gains"]) == 3
    whole.study.run("cells", tmp_path, "canary")
    again = whole.study.run("pretrain-fcmae-0", tmp_path, "canary")
    assert [row["right"] for row in again] == [row["right"] for row in whole.rows["pretrain-fcmae-0"]]


def test_all_starts_have_the_same_cells_and_labels(canary):
    rows = canary("pretraining")[0].rows
    found = [rows[f"tune-{name}-0.5-0"][0] for name in ("random-initialisation", "fcmae-contrast", "published-weights")]
    assert [row["arm"] for row in found] == [SCRATCH, CONTRAST, PUBLISHED]
    assert len({row["loss"] for row in found}) == 3
    for name in ("cell", "label", "labelled"):
        assert len({row[name] for row in found}) == 1


def test_every_start_is_tried_with_every_rate_and_the_best_is_taken(canary, tmp_path: Path):
    whole, folder = canary("pretraining")
    rates = whole.tables["rates"]
    assert (rates.groupby("arm")["rate"].apply(list).map(tuple) == whole.study.params.rates).all() and len(rates) == 6
    for arm, trials in rates.groupby("arm"):
        assert trials["loss"].idxmin() == trials["chosen"].idxmax() and trials["chosen"].sum() == 1
        rate = trials.loc[trials["chosen"], "rate"].item()
        again = whole.study._finetune(arm, 0.5, 1, rate, folder, tmp_path / slug(arm), "canary")
        cells, found = whole.study._split(folder, 1), whole.rows[f"tune-{slug(arm)}-0.5-1"][0]
        logits = predict_logits(again.model, cells.images[cells.test], torch.device("cpu"))
        loss = float(cross_entropy(logits, cells.labels[cells.test]))
        assert loss == pytest.approx(found["loss"], rel=1e-5)  # rows keep six digits


def test_no_test_part_has_a_cell_that_chose_a_rate(canary):
    whole, folder = canary("pretraining")
    study = whole.study
    first = study._split(folder, study.params.seeds[0])
    chose = set(first.groups[first.val.tolist()])
    for seed in study.params.seeds:
        cells = study._split(folder, seed)
        assert len(cells.test) and not chose & set(cells.groups[cells.test.tolist()])
        assert len({*cells.train.tolist(), *cells.val.tolist(), *cells.test.tolist()}) == sum(
            len(part) for part in (cells.train, cells.val, cells.test)
        )
