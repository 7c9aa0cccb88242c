"""The ladder study: fair models, tables with known answers, and every kind of job run once, small."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from leuk_lib.data.smear.cohort import smear_cells
from leuk_lib.evaluation.robustness import STRENGTHS, UNITS
from leuk_lib.figures import ladder as draw
from leuk_lib.studies import ladder_tables, ladder_words
from leuk_lib.studies import record as records
from leuk_lib.studies.ladder import FULL, STEPS, Ladder, LadderParams

SMALL = {
    "dataset": "cells", "seeds": (0, 1), "image_size": 32, "stem_stride": 1, "pretrain_steps": 2, "pretrain_batch": 8,
    "steps": 2, "batch_size": 4, "networks": {"test_resnet": 3e-3}, "shifted": (FULL, "colour"), "shifted_cells": 8,
    "resamples": 200,
}  # fmt: skip


def test_the_models_differ_in_their_learning_rate_alone():
    params = LadderParams(**SMALL)
    ours, theirs = params.wpat(0, params.lr), params.wpat(0, params.networks["test_resnet"])
    assert ours.model_copy(update={"lr": theirs.lr}) == theirs
    assert [name for name in STEPS if STEPS[name].wpat][-1] == FULL


def packed(arm: str, seed: int, condition: str, labels: list[int], right: list[int], sure: float = 0.9):
    labels_ = torch.tensor(labels)
    answers = [label if hit else 1 - label for label, hit in zip(labels, right, strict=True)]
    probs = np.full((len(labels), 2), 1 - sure)
    probs[np.arange(len(labels)), answers] = sure
    cells = [f"{100 * seed + k}" for k in range(len(labels))]
    return {"arm": arm, "seed": seed} | ladder_tables.pack(condition, probs, labels_, cells, cells)


def test_probabilities_survive_a_row():
    probs = np.random.default_rng(0).dirichlet(np.ones(3), 7)
    row = ladder_tables.pack("test", probs, torch.arange(7) % 3, list("abcdefg"), list("abcdefg"))
    back = ladder_tables.unpack(row, ("x", "y", "z"))
    np.testing.assert_allclose(back.probs, probs, atol=1e-4)
    assert back.labels.tolist() == [0, 1, 2, 0, 1, 2, 0] and back.groups.tolist() == list("abcdefg")


def test_tables_hold_the_known_answers():
    labels = [0, 1, 0, 1]
    hits = {"a": [1, 1, 0, 0], "b": [1, 1, 1, 0], "c": [1, 1, 1, 1], "weak": [0, 0, 1, 0], "fair": [1, 1, 0, 0]}
    rows = []
    for seed in (0, 1):
        for arm, right in hits.items():
            # The strongest rival is the one that validates best, whatever it does on the test part.
            sure = 0.95 if arm == "weak" else 0.6
            rows.append(packed(arm, seed, "val", labels, [1, 1, 1, 1], sure))
            rows.append(packed(arm, seed, "test", labels, right))
            rows.append({"arm": arm, "seed": seed, "condition": "training", "cpu seconds": 1.0})
    found = ladder_tables.tables(rows, ["a", "b", "c"], "c", ["weak", "fair"], ("x", "y"), 0.3, 200, 0)
    value = found["scores"].set_index("arm")["value"]
    assert value.to_dict() == {"a": 0.5, "b": 0.75, "c": 1.0, "weak": 0.25, "fair": 0.5}
    steps = found["steps"].set_index(["arm", "against"])["value"]
    assert steps.to_dict() == {("b", "a"): 0.25, ("c", "b"): 0.25}
    assert found["rivals"].set_index("against")["value"].to_dict() == {"weak": 0.75, "fair": 0.5}
    assert found["best_rival"]["arm"].tolist() == ["weak"]
    trust = found["calibration"]
    assert (trust["n"] == 8).all() and (trust["low"] <= trust["high"]).all()
    one = trust[trust["arm"] == "b"].set_index(["measure", "moment"])["value"]
    assert one["nll", "change"] == pytest.approx(one["nll", "after"] - one["nll", "before"])
    assert one["nll", "before"] == pytest.approx(-0.75 * np.log(0.9) - 0.25 * np.log(0.1))
    curve = found["abstention"]
    assert set(curve["arm"]) == {"c", "weak"} and (curve[curve["arm"] == "c"]["accuracy"] == 1).all()
    assert "shifts" not in found and len(found["training"]) == 10


@pytest.fixture(scope="module")
def found() -> records.StudyRecord:
    """A made-up outcome: the full model beats one rival, loses to another, and blur harms it."""
    rng = np.random.default_rng(0)
    ladder, rivals = list(STEPS), ["weak", "strong"]
    rates = dict(zip([*ladder, *rivals], (0.5, 0.8, 0.8, 0.8, 0.4, 1.0), strict=True))
    rows = []
    for seed in (0, 1):
        labels = [k % 2 for k in range(60)]
        conditions = ["val", "test", "shift none 0", "other elsewhere"]
        conditions += [f"shift {kind} {strength:g}" for kind in STRENGTHS for strength in STRENGTHS[kind]]
        for arm, rate in rates.items():
            rows.append({"arm": arm, "seed": seed, "condition": "training", "cpu seconds": 1.0})
            for condition in conditions:
                lowered = 0.0 if condition == "shift blur 4" and arm == FULL else rate
                right = np.arange(60) < round(60 * lowered)
                rows.append(packed(arm, seed, condition, labels, rng.permutation(right).astype(int).tolist(), 0.9))
    for arm, right in ((FULL, "110110"), ("strong", "111111")):
        cells = {"cell": "0,1,2,3,4,5", "group": "p,p,q,q,r,s", "label": "x,x,y,y,x,y", "right": right}
        rows += [{"arm": arm, "seed": seed, "condition": "small ours", **cells} for seed in (0, 1)]
    tables = ladder_tables.tables(rows, ladder, FULL, rivals, ("x", "y"), 0.3, 200, 0)
    tables["sources"] = pd.DataFrame({"source": ["elsewhere"], "cells": [60], "tested classes": [2]})
    nothing = {"commit": None, "dirty": False}
    plain = {name: records.to_table(table) for name, table in tables.items()}
    return records.StudyRecord("ladder", "t", "cells", "c", {}, "i", 1.0, "cpu", nothing, {}, {}, plain)


def test_words_say_what_the_numbers_say(found):
    assert "+ FCMAE over backbone: +30.0 [" in ladder_words.steps_in_words(found)
    assert "points: helps." in ladder_words.steps_in_words(found).splitlines()[0]
    assert "cannot be told apart from nothing" in ladder_words.steps_in_words(found).splitlines()[2]
    standing = ladder_words.standing_in_words(found)
    assert "ahead of weak; behind strong" in standing and "the goal of 95 % is missed" in standing
    assert "The rival that validates best is strong, with 100.0" in standing
    robust = ladder_words.robustness_in_words(found)
    assert "Against strong, of 30 shifts: ahead under 0, behind under 30" in robust
    assert f"{FULL}, change from none (80.0 %)" in robust and "blur -80" in robust
    assert "strong: temperature" in ladder_words.trust_in_words(found)
    assert "had been among those" in ladder_words.apart_in_words(found)


def test_tables_and_metrics_are_made_of_the_record(found):
    wide = ladder_words.foreign_table(found)
    assert (
        wide["source"].tolist() == ["elsewhere"]
        and wide["cells"].tolist() == [60]
        and wide["strong"][0].startswith("100.0")
    )
    small = ladder_words.small_table(found)
    assert small[["set", "cells", "patients"]].to_numpy().tolist() == [["ours", 6, 4]]
    assert small[FULL][0].startswith("66.7 [") and small["strong"][0].startswith("100.0 [")
    readable = ladder_words.readable(found.table("rivals"))
    assert readable["comparison"].tolist() == [f"{FULL} over weak", f"{FULL} over strong"]
    kept: dict[str, float] = {}

    class Stage:
        def record(
            self, key: str, value: float, low: float | None = None, high: float | None = None, n: int | None = None
        ) -> None:
            assert key == "ladder_shifts_lead" or (n == 120 and low <= value <= high)
            kept[key] = value

    ladder_words.record_ladder(Stage(), found)
    assert kept["ladder_alhe"] == pytest.approx(0.8) and kept["ladder_alhe_minus_strong"] == pytest.approx(-0.2)
    assert len(kept) == 6 + 3 + 2 + 1


def test_figures_are_drawn_with_named_axes(found):
    drawn = [
        draw.standing(found.table("scores"), list(STEPS), FULL),
        draw.gains({"steps": found.table("steps"), "rivals": found.table("rivals")}),
        draw.robustness(ladder_words.curves(found), UNITS, FULL, "balanced accuracy"),
        draw.calibration(found.table("calibration"), FULL),
    ]
    for figure in drawn:
        figure.canvas.draw()
        assert all(ax.get_xlabel() for ax in figure.axes)


@pytest.fixture
def small(tmp_path: Path) -> Ladder:
    """The study on sixty rendered cells in class folders, and the same cells as a foreign source."""
    rendered = smear_cells(cells=60, patients=3, size=32, seed=1)
    manifest = ["path,label,group"]
    for source in ("cells", "elsewhere", "patients"):
        for k, (image, label) in enumerate(zip(rendered.images, rendered.labels.tolist(), strict=True)):
            target = tmp_path / source / rendered.classes[label] / f"{k}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(target), np.ascontiguousarray(image.permute(1, 2, 0).numpy()[..., ::-1]))
            if source == "patients":
                manifest.append(f"{target.parent.name}/{target.name},{target.parent.name},p{k % 5}")
    (tmp_path / "patients" / "manifest.csv").write_text("\n".join(manifest))
    values = SMALL | {"dataset": str(tmp_path / "cells"), "others": ("elsewhere",), "small": ("patients",)}
    return Ladder(LadderParams(**values))


def test_cells_on_which_settings_were_chosen_are_in_no_test_part(small: Ladder, tmp_path: Path):
    folder = tmp_path / "study"
    small.run("cells", folder, "id")
    apart = [small._material(folder, seed) for seed in (0, 1, 2)]
    mixed = [
        Ladder(small.params.model_copy(update={"tuned": ()}))._material(folder, seed) for seed in (0, 1, 2)
    ]  # fmt: skip
    chosen = set(apart[0].val.tolist()) | set(apart[1].val.tolist())
    assert any(chosen & set(part.test.tolist()) for part in mixed)
    for ours, theirs in zip(apart, mixed, strict=True):
        assert ours.train.equal(theirs.train) and ours.val.equal(theirs.val)
        assert set(ours.test.tolist()) == set(theirs.test.tolist()) - chosen


def test_every_kind_of_job_runs_and_the_outcome_has_all_models(small: Ladder, tmp_path: Path):
    folder = tmp_path / "study"
    rows = {job: small.run(job, folder, "id") for wave in small.waves() for job in wave}
    tables = small.tables(rows)
    assert set(tables["scores"]["arm"]) == set(small.params.arms)
    assert len(tables["steps"]) == len(STEPS) - 1 and len(tables["rivals"]) == 5
    assert len(tables["shifts"]) == 2 * 31 and set(tables["shifts_gaps"]["arm"]) == {FULL}
    assert set(tables["foreign"]["condition"]) == {"other elsewhere"}
    assert set(tables["small"]["arm"]) == {*STEPS, "colour", "test_resnet"} and (tables["small"]["groups"] == 5).all()
    assert set(tables["small_gaps"]["arm"]) == {FULL}
    assert (tables["training"].set_index("arm")["parameters"].loc[list(STEPS)] > 0).all()
    assert small.run("majority-0", folder, "id")[1:] == rows["majority-0"][1:]
    found = records.StudyRecord(
        "ladder", "t", "cells", "c", small.params.model_dump(), "i", 1.0, "cpu", {}, {}, {},
        {"pretraining": records.to_table(tables["pretraining"])},
    )  # fmt: skip
    fewest, most = tables["pretraining"]["test"].min(), tables["pretraining"]["test"].max()
    assert f"repetitions 0, 1; these cells are in no test part, which has {fewest} to {most} cells" in (
        ladder_words.apart_in_words(found)
    )


def test_the_committed_record_is_this_studys(root: Path):
    found = records.load_record(root / records.record_file("ladder", "pbc_barcelona_128"))
    scores = found.table("scores")
    assert found.study == "ladder" and set(STEPS) <= set(scores["arm"])
    assert (scores["seeds"] == len(found.params["seeds"])).all() and scores["value"].between(0, 1).all()
    assert set(found.table("rivals")["against"]) == {*found.params["probes"], *found.params["networks"]}
    assert ladder_words.standing_in_words(found).count("\n") == 2


def test_the_lead_under_shifts_counts_sure_wins_less_sure_losses_against_the_hardest_rival():
    def gap(rival: str, low: float, high: float, condition: str = "shift blur 1") -> dict:
        return {"condition": condition, "arm": "ours", "against": rival, "value": (low + high) / 2, "low": low, "high": high}  # fmt: skip

    rows = [gap("a", 0.1, 0.2), gap("a", 0.1, 0.2), gap("a", -0.1, 0.1), gap("a", -0.2, -0.1)]
    rows += [gap("b", -0.2, -0.1), gap("b", 0.1, 0.2), gap("b", -0.1, 0.1), gap("b", -0.2, -0.1)]
    rows += [gap("b", -0.3, -0.2, "shift none 0")]  # no shift

    class Record:
        def table(self, name: str) -> pd.DataFrame:
            return {"shifts_gaps": pd.DataFrame(rows)}[name]

    assert ladder_words.shifts_lead(Record()) == (-0.25, None, None, 4)
