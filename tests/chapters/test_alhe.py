"""What the chapter asks for: samples, cases, trade-off, cost; and its figures are drawn from them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from leuk_lib.alhe import baselines as peers
from leuk_lib.alhe import quality
from leuk_lib.alhe.params import AlheParams
from leuk_lib.chapters import alhe as study
from leuk_lib.data.loading import CellSet
from leuk_lib.data.smear.cohort import smear_cells
from leuk_lib.figures import alhe as figures
from leuk_lib.runs.display import render

PARAMS = AlheParams(batch=16, measured=12, shown=2)


@pytest.fixture(scope="module")
def cells() -> CellSet:
    return smear_cells(120, patients=3, size=32, seed=0)


def test_sample_is_training_cells_with_the_classes_in_turn(cells):
    sample = study.draw_sample(cells, 8, seed=0)
    train = {image.tobytes() for image in study.to_arrays(cells.images[cells.indices("train")])}
    assert all(image.tobytes() in train for image in sample.images)
    counts = [sample.labels.count(name) for name in set(cells.table["label"][cells.parts == "train"])]
    assert max(counts) - min(counts) <= 1
    assert sample.images.shape == (8, 32, 32, 3) and sample.masks is not None and sample.masks.shape == (8, 32, 32)
    again = study.draw_sample(cells, 8, seed=0)
    np.testing.assert_array_equal(sample.images, again.images)


def test_every_cell_is_enhanced_in_its_place(cells):
    enhanced, milliseconds = study.enhance_all(cells, PARAMS)
    assert enhanced.shape == cells.images.shape and enhanced.dtype == torch.uint8 and milliseconds > 0
    one = study.enhance_all(replace(cells, images=cells.images.flip(0)), PARAMS)[0]
    assert torch.equal(one.flip(0), enhanced)
    assert 0.9 < study.changed_share(cells.images, enhanced) <= 1
    pairs = study.pairs_by_class(cells, enhanced, 2, seed=0)
    assert set(pairs) == set(cells.table["label"][cells.parts == "train"])
    assert max(len(row) for row in pairs.values()) == 2


@pytest.mark.parametrize("masked", [True, False])
def test_the_chapters_tables_and_figures(cells, masked):
    cells = cells if masked else replace(cells, masks=None)
    sample = study.draw_sample(cells, 10, seed=0)
    image, enhanced, maps = study.show_case(sample, PARAMS)
    tile = study.busiest_tile(maps, PARAMS)
    assert (tile.slopes <= tile.kappa + 1e-6).all() and tile.slopes.sum() == pytest.approx(256)
    table = quality.compare(sample.images, sample.masks, peers.methods(PARAMS), sample.labels, sample.groups)
    summary = quality.summarise(table, 0)
    traded = study.trade_off(sample, PARAMS, 0)
    assert len(traded) == 3 * len(study.STRENGTHS)
    still = traded[traded["kappa_max"] == 1]
    assert np.allclose(still["y"], 1)  # kappa_max 1 is the input
    labels = study.axes_of(sample)
    costs = study.cost(image, 32, PARAMS, rounds=1)
    drawn = [
        figures.one_tile(
            image, (maps.rows.borders, maps.columns.borders), tile.box, tile.raw, tile.slopes, tile.floor, tile.kappa,
            tile.shift, tile.plain_shift,
        ),
        figures.maps(image, maps.kappa, maps.gain, maps.shift, enhanced),
        figures.side_by_side(study.by_method(sample, PARAMS)),
        figures.trade_off(traded, tuple(labels.values()), PARAMS.kappa_max, (1.25, 1.0) if masked else None),
        figures.entropy_misleads(summary, list(labels)[1], "judge"),
        figures.cost(costs, 32),
    ]  # fmt: skip
    for figure in drawn:
        assert isinstance(figure, Figure) and len(render(figure).data) > 2000

    kept: dict[str, float] = {}

    class Stage:
        def record(self, key: str, value: float, low: float, high: float, n: int) -> None:
            assert low <= value + 1e-9 and value <= high + 1e-9 and n > 0
            kept[key] = value

    study.record_quality(Stage(), summary)
    assert {"ssim_alhe", "ssim_input", "ssim_clahe_2"} <= set(kept)
    assert ("cnr_cytoplasm_alhe" in kept) == masked
