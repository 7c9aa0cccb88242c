"""A run's models under shifts: the same cells for all, nothing changed at strength 0, enhancement after the shift."""

from __future__ import annotations

import numpy as np
import torch

from alhe.toys import cell
from leuk_lib.chapters.wpat_shifts import shift_table
from leuk_lib.evaluation.robustness import STRENGTHS


def test_every_model_sees_the_same_shifted_and_then_enhanced_cells():
    images = torch.from_numpy(np.stack([cell(32, 32, seed)[0] for seed in range(6)])).permute(0, 3, 1, 2).contiguous()
    labels, groups = torch.tensor([0, 1, 0, 1, 0, 1]), np.array(list("aabbcc"))
    seen: dict[str, list[torch.Tensor]] = {"right": [], "wrong": []}

    def scorer(name: str, answers: torch.Tensor):
        def score(shown: torch.Tensor, masks: object) -> np.ndarray:
            seen[name].append(shown)
            return np.eye(2)[answers.numpy()]

        return score

    scorers = {"right": scorer("right", labels), "wrong": scorer("wrong", 1 - labels)}
    table = shift_table(scorers, images, labels, groups, lambda shifted: 255 - shifted, seed=0, n_resamples=100)
    assert len(table) == 2 * (1 + sum(map(len, STRENGTHS.values())))
    by_model = table.groupby("model")["value"].agg(["min", "max"])
    assert by_model.loc["right"].tolist() == [1, 1] and by_model.loc["wrong"].tolist() == [0, 0]
    assert (table["n"] == 6).all() and (table["groups"] == 3).all()
    assert all(torch.equal(one, other) for one, other in zip(seen["right"], seen["wrong"], strict=True))
    assert torch.equal(seen["right"][0], 255 - images)
    again = shift_table(scorers, images, labels, groups, lambda shifted: 255 - shifted, seed=0, n_resamples=100)
    assert again.equals(table)


def test_one_group_has_no_interval():
    images, labels = torch.full((2, 3, 32, 32), 200, dtype=torch.uint8), torch.tensor([0, 1])
    table = shift_table(
        {"m": lambda shown, masks: np.eye(2)}, images, labels, np.array(["a", "a"]), lambda x: x, 0, n_resamples=50
    )
    assert table["low"].isna().all() and (table["value"] == 1).all()
