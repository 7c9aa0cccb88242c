"""The study of balancing: a tail thinned in training only, tables with known answers, and every job in the canary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from leuk_lib.data.cellset import CellSet
from leuk_lib.runs.errors import LeukError
from leuk_lib.studies import balancing, record
from leuk_lib.studies.balancing import ARMS, F1, FILLED, GATED, NOTHING, TAIL, Balancing, BalancingParams, long_tailed
from leuk_lib.studies.paired import Score
from leuk_lib.studies.study import slug


@given(st.integers(1, 30), st.floats(0.01, 1), st.integers(0, 99))
def test_only_the_tail_is_cut_and_smaller_tails_are_parts_of_larger(each: int, share: float, seed: int) -> None:
    labels = np.arange(4 * each) % 4
    train = np.flatnonzero(np.arange(len(labels)) % 5 != 0)  # the rest is validation and test
    kept = long_tailed(train, labels, [1, 3], share, seed)
    assert set(kept) <= set(train) and len(set(kept)) == len(kept) and (np.diff(kept) > 0).all()
    counts, before = (np.bincount(labels[part], minlength=4) for part in (kept, train))
    for label in range(4):
        assert counts[label] == (
            max(1, round(share * before[label])) if label in (1, 3) and before[label] else before[label]
        )
    more = long_tailed(train, labels, [1, 3], min(1.0, 2 * share), seed)
    assert set(kept) <= set(more)


def row(arm: str, seed: int, predicted: str) -> dict[str, object]:
    cells = ",".join(str(10 * seed + k) for k in range(4))
    return {
        "arm": arm, "seed": seed, "condition": "test", "cell": cells, "group": cells, "label": "a,a,b,b",
        "predicted": ",".join(predicted),
    }  # fmt: skip


def test_tables_hold_the_known_answers() -> None:
    study = Balancing(BalancingParams(dataset="cells", seeds=(0, 1), tail=("b",), resamples=200))
    predictions = dict.fromkeys(ARMS, "aaaa") | {GATED: "aabb", FILLED: "aaab"}
    rows: dict[str, list[dict[str, object]]] = {"cells": [{"source": "cells", "cells": 4}]}
    for seed in (0, 1):
        rows[f"gan-{seed}"] = [{"seed": seed, "key": "own", "accepted": 0.8}, {"seed": seed, "class": "b", "quota": 3}]
        rows |= {f"{slug(arm)}-{seed}": [row(arm, seed, predicted)] for arm, predicted in predictions.items()}
    tables = study.tables(rows)
    scores = tables["scores"].set_index(["condition", "arm"])["value"]
    assert scores[TAIL, NOTHING] == 0 and scores[TAIL, FILLED] == 0.5 and scores[TAIL, GATED] == 1
    # Nothing: a has precision 1/2 and recall 1, b has none. Filled: F1 of a 4/5, of b 2/3.
    assert scores[F1, NOTHING] == pytest.approx(1 / 3) and scores[F1, GATED] == 1
    assert scores[F1, FILLED] == pytest.approx((4 / 5 + 2 / 3) / 2)
    differences = tables["differences"].set_index(["condition", "arm"])
    assert differences.loc[(TAIL, GATED), "value"] == 1 and set(differences["against"]) == {NOTHING}
    baselines = tables["baselines"].set_index(["condition", "arm", "against"])["value"]
    assert baselines[TAIL, balancing.FILLED_GATED, FILLED] == -0.5 and baselines[TAIL, GATED, balancing.UNGATED] == 1
    assert tables["delivery"]["quota"].tolist() == [3, 3] and tables["controls"]["accepted"].tolist() == [0.8, 0.8]


def test_macro_f1_is_sklearns() -> None:
    from sklearn.metrics import f1_score, recall_score

    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    hits, sizes, claimed = (
        np.bincount(part, minlength=4).astype(float) for part in (truth[truth == predicted], truth, predicted)
    )
    names = np.array(list("abcd"))
    assert Score("F1").of(hits, sizes, claimed, names) == pytest.approx(f1_score(truth, predicted, average="macro"))
    tail = recall_score(truth, predicted, labels=[1, 3], average="macro")
    assert Score("recall", ("b", "d")).of(hits, sizes, claimed, names) == pytest.approx(tail)


def test_every_kind_of_job_runs_and_gan_and_gate_see_the_kept_training_cells_only(
    canary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, folder = canary("balancing")
    study, tables = whole.study, whole.tables
    assert set(tables["scores"]["arm"]) == set(ARMS) and set(tables["scores"]["condition"]) == {TAIL, F1}
    assert len(tables["differences"]) == 2 * (len(ARMS) - 1) and len(tables["baselines"]) == 16
    made = load_file(folder / "gan-0" / "synthetic.safetensors")
    assert len(made["filled"]) == len(made["filled labels"]) > 0
    assert len(made["filled gated"]) <= len(made["filled"])
    seen: list[CellSet] = []

    def stop(cells: CellSet, params: object) -> None:
        seen.append(cells)
        raise InterruptedError

    monkeypatch.setattr(balancing.AcdbGan, "from_cells", stop)
    with pytest.raises(InterruptedError):
        study.run("gan-0", folder, "another")
    cells, parts = study._split(folder, 0)
    assert torch.equal(seen[0].images, cells.images[parts["train"]])
    kept = set(cells.table["path"].iloc[parts["train"].numpy()])
    assert set(seen[0].table["path"]) == kept
    assert not kept & set(cells.table["path"].iloc[torch.cat([parts["val"], parts["test"]]).numpy()])


def test_an_unknown_tail_class_is_refused(canary, tmp_path: Path) -> None:
    params = canary("balancing")[0].study.params
    with pytest.raises(LeukError, match="no class 'basophil'; it has"):
        Balancing(params.model_copy(update={"tail": ("basophil",)})).run("cells", tmp_path / "study", "id")


def test_the_committed_record_is_this_studys(root: Path) -> None:
    committed = record.load_record(root / record.record_file("balancing", "pbc_barcelona_128"))
    assert committed.study == "balancing" and len(committed.params["seeds"]) >= 5 and committed.git["dirty"] is False
    differences = committed.table("differences")
    assert set(differences["arm"]) == set(ARMS) - {NOTHING} and set(differences["condition"]) == {TAIL, F1}
    assert (differences["low"] <= differences["value"] + 1e-9).all()
    delivery = committed.table("delivery")
    tail = delivery["class"].isin(committed.params["tail"])
    assert (10 * delivery.loc[tail, "real"] == delivery["real"].max()).all()  # a tenth, in training
    known = committed.table("controls").groupby("key")["accepted"].mean()
    assert known[["exact", "noise", "mirrored", "shifted", "jpeg", "uniform", "blank"]].max() <= 0.01
