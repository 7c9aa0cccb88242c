"""Attribution: maps are shares, measures have their limits, integrated gradients find the pixels that the model uses."""

from unittest.mock import Mock

import numpy as np
import pytest
import torch

from leuk_lib.evaluation.attribution import (
    attention_maps,
    attribution_shares,
    border_colour,
    integrated_gradients,
    pointing_game,
    record_shares,
    summarise_shares,
    to_shares,
)
from leuk_lib.runs.errors import LeukError
from leuk_lib.statistics.intervals import clopper_pearson


class CornerModel(torch.nn.Module):
    """Logit 1 is the mean of the upper left quarter, logit 0 is constant."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, x, return_attention=False):
        corner = self.scale * x[:, :, :8, :8].mean(dim=(1, 2, 3))
        logits = torch.stack([0 * corner, corner], dim=1)
        if not return_attention:
            return logits
        maps = torch.zeros(len(x), 2, 16, 16)
        maps[:, 1, :8, :8] = 1.0
        maps[:, 0, 8:, 8:] = 1.0
        return logits, maps


def _images(n=3):
    images = torch.full((n, 3, 16, 16), 220, dtype=torch.uint8)
    images[:, :, 2:14, 2:14] = 90
    return images


def _masks(n=3):
    masks = torch.zeros(n, 16, 16, dtype=torch.uint8)
    masks[:, 2:14, 2:14] = 128
    masks[:, 5:9, 5:9] = 255
    return masks


def test_shares_sum_to_one_and_an_empty_map_is_uniform():
    maps = to_shares(torch.stack([torch.randn(4, 4), torch.zeros(4, 4)]))
    torch.testing.assert_close(maps.sum(dim=(1, 2)), torch.ones(2))
    torch.testing.assert_close(maps[1], torch.full((4, 4), 1 / 16))


def test_integrated_gradients_find_what_the_model_uses():
    maps = integrated_gradients(CornerModel(), _images(), torch.ones(3, dtype=torch.long), steps=4, batch=2)
    used = torch.zeros(16, 16, dtype=torch.bool)
    used[2:8, 2:8] = True  # the part of the corner that differs from the border
    torch.testing.assert_close((maps * used).sum(dim=(1, 2)), torch.ones(3))
    assert float(maps[:, ~used].abs().max()) == 0


def test_sensitivity_does_not_depend_on_the_image():
    """The corner's rim has the border's colour and adds nothing to the logit; the model is as sensitive to it."""
    maps = integrated_gradients(CornerModel(), _images(), torch.ones(3, dtype=torch.long), 4, 2, times_image=False)
    torch.testing.assert_close(maps[:, :8, :8], torch.full((3, 8, 8), 1 / 64))


def test_attention_maps_take_the_target_class():
    maps = attention_maps(CornerModel(), _images(), torch.tensor([1, 0, 1]), batch=2)
    assert float(maps[0, :8, :8].sum()) == pytest.approx(1)
    assert float(maps[1, 8:, 8:].sum()) == pytest.approx(1)


def test_border_colour():
    assert border_colour(_images()).tolist() == [[220, 220, 220]] * 3


def test_a_uniform_map_scores_the_area():
    table = attribution_shares(torch.full((3, 16, 16), 1 / 256), _masks())
    cell = table[table["region"] == "cell"]
    np.testing.assert_allclose(cell["share"], 144 / 256)
    np.testing.assert_allclose(cell["share"], cell["area"])
    np.testing.assert_allclose(cell["pointing"], 144 / 256)  # ties count by their share


def test_a_map_on_the_nucleus_scores_one():
    masks = _masks()
    table = attribution_shares(to_shares((masks == 255).float()), masks)
    assert table["share"].tolist() == pytest.approx([1] * 6) and table["pointing"].tolist() == pytest.approx([1] * 6)
    assert pointing_game(to_shares((masks == 255).float()), masks == 0).tolist() == [0, 0, 0]


def test_a_cell_without_a_nucleus_in_its_mask_has_no_nucleus_row():
    masks = _masks()
    masks[1][masks[1] == 255] = 128
    table = attribution_shares(torch.full((3, 16, 16), 1 / 256), masks)
    assert table.groupby("region").size().to_dict() == {"cell": 3, "nucleus": 2}


def test_missing_masks_are_an_error():
    with pytest.raises(LeukError, match="no masks"):
        attribution_shares(torch.ones(1, 4, 4), None)


def test_where_all_peaks_lie_on_the_cell_the_groups_are_the_sample():
    masks = _masks(6)
    on_cell = to_shares((masks > 0).float() + (masks == 255).float())
    table = attribution_shares(on_cell, masks)
    summary = summarise_shares({"any": table}, np.array(list("aabbcc")), seed=0, n_resamples=50)
    peaks = summary.set_index(["region", "measure"]).loc[("cell", "pointing")]
    assert peaks["value"] == 1 and (peaks["low"], peaks["high"]) == pytest.approx(clopper_pearson(3, 3))
    alone = summarise_shares({"any": table}, np.array(["a"] * 6), seed=0, n_resamples=50)
    assert alone["value"].notna().all() and alone[["low", "high"]].isna().all(axis=None)


def test_a_summary_without_intervals_is_recorded_without_them():
    stage = Mock()
    masks = _masks(2)
    table = attribution_shares(to_shares((masks > 0).float()), masks)
    summary = summarise_shares({"any": table}, np.array(["a", "a"]), seed=0, n_resamples=50)
    record_shares(stage, summary, "wpat")
    stage.record.assert_any_call("wpat_any_cell_pointing", 1.0, None, None, 2)


def test_summary_covers_methods_regions_and_measures():
    masks = _masks(6)
    tables = {
        "even": attribution_shares(torch.full((6, 16, 16), 1 / 256), masks),
        "nucleus": attribution_shares(to_shares((masks == 255).float()), masks),
    }
    summary = summarise_shares(tables, np.array(list("aabbcc")), seed=0, n_resamples=50)
    assert len(summary) == 2 * 2 * 2
    assert (summary["low"] <= summary["value"] + 1e-9).all() and (summary["value"] <= summary["high"] + 1e-9).all()
