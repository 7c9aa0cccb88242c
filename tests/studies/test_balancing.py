"""The study of balancing: a tail that is cut in training only, tables with known answers, and every job run once, small."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from leuk_lib.data.smear.cohort import smear_cells
from leuk_lib.runs.errors import LeukError
from leuk_lib.studies import balancing, record
from leuk_lib.studies.balancing import ARMS, F1, FILLED, GATED, NOTHING, TAIL, Balancing, BalancingParams, long_tailed
from leuk_lib.studies.paired import Score
from leuk_lib.studies.study import slug

SMALL = {
    "dataset": "cells", "seeds": (0, 1), "tail": ("CLL",), "tail_share": 0.5, "image_size": 16, "gan_steps": 2, "gan_batch": 4,
    "feature_steps": 2, "judge_steps": 2, "min_count": 4, "max_candidates": 16, "steps": 2, "batch_size": 8, "resamples": 200,
}  # fmt: skip


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
    study = Balancing(BalancingParams(**SMALL | {"tail": ("b",)}))
    said = dict.fromkeys(ARMS, "aaaa") | {GATED: "aabb", FILLED: "aaab"}
    rows: dict[str, list[dict[str, object]]] = {"cells": [{"source": "cells", "cells": 4}]}
    for seed in (0, 1):
        rows[f"gan-{seed}"] = [{"seed": seed, "key": "own", "accepted": 0.8}, {"seed": seed, "class": "b", "quota": 3}]
        rows |= {f"{slug(arm)}-{seed}": [row(arm, seed, predicted)] for arm, predicted in said.items()}
    tables = study.tables(rows)
    scores = tables["scores"].set_index(["condition", "arm"])["value"]
    assert scores[TAIL, NOTHING] == 0 and scores[TAIL, FILLED] == 0.5 and scores[TAIL, GATED] == 1
    # Nothing: a has precision 1/2 and recall 1, b has none. Filled: F1 of a 4/5, of b 2/3.
    assert scores[F1, NOTHING] == pytest.approx(1 / 3) and scores[F1, GATED] == 1
    assert scores[F1, FILLED] == pytest.approx((4 / 5 + 2 / 3) / 2)
    differences = tables["differences"].set_index(["condition", "arm"])
    assert differences.loc[(TAIL, GATED), "value"] == 1 and set(differences["against"]) == {NOTHING}
    rivals = tables["rivals"].set_index(["condition", "arm", "against"])["value"]
    assert rivals[TAIL, balancing.FILLED_GATED, FILLED] == -0.5 and rivals[TAIL, GATED, balancing.UNGATED] == 1
    assert tables["delivery"]["quota"].tolist() == [3, 3] and tables["controls"]["accepted"].tolist() == [0.8, 0.8]


def test_macro_f1_is_sklearns() -> None:
    from sklearn.metrics import f1_score, recall_score

    rng = np.random.default_rng(0)
    truth, said = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    hits, sizes, claimed = (
        np.bincount(part, minlength=4).astype(float) for part in (truth[truth == said], truth, said)
    )
    names = np.array(list("abcd"))
    assert Score("F1").of(hits, sizes, claimed, names) == pytest.approx(f1_score(truth, said, average="macro"))
    tail = recall_score(truth, said, labels=[1, 3], average="macro")
    assert Score("recall", ("b", "d")).of(hits, sizes, claimed, names) == pytest.approx(tail)


@pytest.fixture
def small(tmp_path: Path) -> Balancing:
    """The study on some rendered cells in class folders."""
    rendered = smear_cells(cells=160, patients=3, size=16, seed=1)
    for k, (image, label) in enumerate(zip(rendered.images, rendered.labels.tolist(), strict=True)):
        target = tmp_path / "cells" / rendered.classes[label] / f"{k}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), np.ascontiguousarray(image.permute(1, 2, 0).numpy()[..., ::-1]))
    return Balancing(BalancingParams(**SMALL | {"dataset": str(tmp_path / "cells")}))


def test_every_kind_of_job_runs_and_gan_and_gate_see_the_kept_training_cells_only(
    small: Balancing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, seen = tmp_path / "study", []
    opened = balancing.chapter.Chapter.open
    monkeypatch.setattr(
        balancing.chapter.Chapter, "open", lambda cells, params: seen.append(cells) or opened(cells, params)
    )
    rows = {job: small.run(job, folder, "id") for wave in small.waves() for job in wave}
    for seed, cells in enumerate(seen):
        whole, parts = small._material(folder, seed)
        kept = set(whole.table["path"].iloc[parts["train"].numpy()])
        assert set(cells.table["path"]) == kept and torch.equal(cells.images, whole.images[parts["train"]])
        others = whole.table["path"].iloc[torch.cat([parts["val"], parts["test"]]).numpy()]
        assert not kept & set(others)
        made = load_file(folder / f"gan-{seed}" / "synthetic.safetensors")
        assert len(made["filled"]) == len(made["filled labels"]) > 0
        assert len(made["filled gated"]) <= len(made["filled"])
    assert len(seen) == 2
    tables = small.tables(rows)
    assert set(tables["scores"]["arm"]) == set(ARMS) and set(tables["scores"]["condition"]) == {TAIL, F1}
    assert len(tables["differences"]) == 2 * (len(ARMS) - 1) and len(tables["rivals"]) == 16
    assert small.run(f"{slug(NOTHING)}-0", folder, "other") == rows[f"{slug(NOTHING)}-0"]


def test_a_tail_that_is_not_there_is_said(small: Balancing, tmp_path: Path) -> None:
    other = Balancing(small.params.model_copy(update={"tail": ("basophil",)}))
    with pytest.raises(LeukError, match="no class 'basophil'; it has"):
        other.run("cells", tmp_path / "study", "id")


def test_the_committed_record_is_this_studys(root: Path) -> None:
    found = record.load_record(root / record.record_file("balancing", "pbc_barcelona_128"))
    assert found.study == "balancing" and len(found.params["seeds"]) >= 5 and found.git["dirty"] is False
    differences = found.table("differences")
    assert set(differences["arm"]) == set(ARMS) - {NOTHING} and set(differences["condition"]) == {TAIL, F1}
    assert (differences["low"] <= differences["value"] + 1e-9).all()
    delivery = found.table("delivery")
    tail = delivery["class"].isin(found.params["tail"])
    assert (10 * delivery.loc[tail, "real"] == delivery["real"].max()).all()  # a tenth, in training
    known = found.table("controls").groupby("key")["accepted"].mean()
    assert known[["exact", "noise", "mirrored", "shifted", "jpeg", "uniform", "blank"]].max() <= 0.01
