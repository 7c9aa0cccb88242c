"""Cascading randomisation: it separates maps of the model from maps of the image, part by part."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from leuk_lib.evaluation.attribution import border_colour, border_contrast_map, to_shares
from leuk_lib.evaluation.sanity import cascading_randomisation, randomise, rank_correlation, readable_summary, summarise
from leuk_lib.runs.errors import LeukError


class Filters(torch.nn.Module):
    """A map that depends on the weights of ``lower``; ``upper`` only scales it."""

    def __init__(self):
        super().__init__()
        self.lower = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.upper = torch.nn.Linear(8, 2)

    def forward(self, x):
        return self.upper(self.lower(x).mean(dim=(2, 3)))


def _noise(n=6, seed=0):
    return torch.rand(n, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 99))
def test_rank_correlation_is_spearmans(seed):
    random = torch.Generator().manual_seed(seed)
    a, b = (torch.randint(0, 9, (3, 5, 4), generator=random).float() for _ in range(2))  # with many ties
    expected = [spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(rank_correlation(a, b), expected, atol=1e-12)


def test_rank_correlation_ignores_scale_and_a_flat_map_has_none():
    maps = _noise()[:, 0]
    np.testing.assert_allclose(rank_correlation(maps, maps.exp()), 1)
    np.testing.assert_allclose(rank_correlation(maps, -maps), -1)
    assert np.isnan(rank_correlation(maps, torch.ones_like(maps))).all()


def test_randomise_keeps_the_scale_and_changes_only_the_named_parameters():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(200, 200), torch.nn.Linear(200, 2), torch.nn.LayerNorm(2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert randomise(model, ["0."], seed=3) == 200 * 200 + 200
    after = model.state_dict()
    assert torch.equal(after["1.weight"], before["1.weight"])
    assert float(after["0.weight"].std() / before["0.weight"].std()) == pytest.approx(1, rel=0.02)
    correlation = torch.corrcoef(torch.stack([after["0.weight"].flatten(), before["0.weight"].flatten()]))[0, 1]
    assert abs(float(correlation)) < 0.02
    first = after["0.weight"].clone()
    randomise(model, ["0."], seed=3)
    assert not torch.equal(model.state_dict()["0.weight"], before["0.weight"])
    torch.testing.assert_close(model.state_dict()["0.weight"], first, rtol=0.05, atol=0.01)  # the same draw, rescaled
    randomise(model, ["2."], seed=3)
    assert torch.equal(model.state_dict()["2.weight"], before["2.weight"])  # all ones: no deviation to draw with


def test_a_prefix_that_fits_nothing_is_refused():
    with pytest.raises(LeukError, match=r"no parameter of Linear begins with 'encoder'"):
        randomise(torch.nn.Linear(2, 2), ["encoder"], 0)


def test_the_cascade_separates_model_from_image():
    torch.manual_seed(1)
    x = _noise(8)
    methods = {
        "the image": lambda model: to_shares(x.mean(dim=1)),
        "the lower layer": lambda model: to_shares(model.lower(x).detach()[:, 0]),
    }
    model = Filters()
    cells = cascading_randomisation(model, {"upper": ["upper"], "lower": ["lower"]}, methods, 0)
    assert len(cells) == 2 * 2 * 8
    table = summarise(cells, np.arange(8), 0, 100)
    value = table.set_index(["method", "randomised"])["value"]
    assert value["the image", "… and lower"] == pytest.approx(1)  # fails the check, as it should
    assert value["the lower layer", "upper"] == pytest.approx(1)  # the map does not depend on the random part
    assert abs(value["the lower layer", "… and lower"]) < 0.5
    assert (table["n"] == 8).all() and (table["low"] <= table["value"]).all()
    assert torch.equal(to_shares(model.lower(x).detach()[:, 0]), methods["the lower layer"](model))  # unchanged
    summary = readable_summary(table)
    image, model_map = summary["the map shows"]
    assert "mostly the image" in image and "model more than" in model_map
    assert summary.iloc[0, 1].startswith("1.00")


def test_constant_maps_are_an_error():
    with pytest.raises(LeukError, match="flat"):
        summarise(
            cascading_randomisation(Filters(), {"upper": ["upper"]}, {"flat": lambda m: torch.ones(3, 4, 4)}, 0),
            np.arange(3),
            0,
            10,
        )


def test_the_control_map_is_where_the_image_differs_from_its_border():
    images = torch.full((2, 3, 10, 10), 200, dtype=torch.uint8)
    images[:, :, 3:7, 3:7] = 80
    maps = border_contrast_map(images)
    assert border_colour(images).tolist() == [[200] * 3] * 2
    torch.testing.assert_close(maps[:, 3:7, 3:7].sum(dim=(1, 2)), torch.ones(2))


def test_one_group_has_no_interval_and_shows_nothing():
    cells = pd.DataFrame(
        {"method": "attention", "randomised": "head", "cell": np.arange(4), "value": [0.1, 0.2, 0.15, 0.1]}
    )
    table = summarise(cells, ["p"] * 4, seed=0)
    assert table["value"].iloc[0] == pytest.approx(0.1375) and table[["low", "high"]].isna().all(axis=None)
    assert readable_summary(table)["the map shows"].tolist() == ["undecided"]
    several = summarise(cells, list("pqrs"), seed=0).iloc[0]
    assert several["low"] < 0.1375 < several["high"]
