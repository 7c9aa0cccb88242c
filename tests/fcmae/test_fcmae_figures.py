import io

import numpy as np
import pandas as pd
import pytest
import torch

from fcmae.toys import cells, encoder, generator, small_params
from leuk_lib.fcmae import pictures
from leuk_lib.fcmae.autoencoder import MaskedAutoencoder
from leuk_lib.fcmae.probe import Probe
from leuk_lib.fcmae.speed import DENSE, VISIBLE, ZEROED, compare, measure, peak_memory, ratios, training_step
from leuk_lib.figures import fcmae as figures


def drawn(figure):
    """The figure as an array: it draws without an error and is not blank."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=50)
    picture = np.asarray(Image.open(buffer).convert("L"))
    assert picture.std() > 5
    return picture


@pytest.fixture(scope="module")
def autoencoder():
    model = MaskedAutoencoder(encoder("zepto", 1), 16)
    model.init_decoder(generator())
    return model


def test_filled_in_keeps_what_was_visible(autoencoder):
    images = cells(3)
    filled = pictures.fill_in(autoencoder, images, 0.5)
    seen = filled.visible
    assert np.array_equal(filled.painted[seen], filled.images[seen]) and seen.mean() == 0.5
    tensors = filled.tensors()
    assert torch.equal(tensors["images"], images) and tensors["painted"].dtype == torch.uint8
    drawn(figures.reconstructions(filled.images, filled.visible, filled.painted, ["a", "b", "c"]))


@pytest.mark.parametrize("columns", [["stained", "field"], ["field"], []])
def test_learning_curves_with_and_without_each_kind_of_patch(columns):
    history = pd.DataFrame({"step": range(30), "loss": np.linspace(1, 0.5, 30), "lr": np.linspace(0, 1e-3, 30)})
    for column in columns:
        history[column] = history["loss"] * 1.1
    drawn(figures.learning_curves(history))


def looked_at(groups):
    images, labels = cells(30), torch.arange(30) % 3
    probe = Probe(images, labels, groups, torch.arange(20), torch.arange(20, 30), (0, 4), k=3)
    model = encoder("zepto", 1)
    probe(0, model)
    probe(4, model)
    probe.baselines()
    return probe


class Recorder:
    def __init__(self):
        self.numbers, self.notes = {}, []

    def record(self, key, value, low=None, high=None, n=None, unit=""):
        assert np.isfinite(value) and (low is None or np.isfinite([low, high]).all())
        self.numbers[key] = (value, low, high, n)

    def note(self, text):
        self.notes.append(text)


@pytest.mark.parametrize("groups", [np.arange(30).astype(str), np.zeros(30).astype(str)])
def test_probe_figure_and_numbers_with_and_without_intervals(groups):
    probe, stage = looked_at(groups), Recorder()
    pictures.record(stage, probe, [{"step": 0, "loss": 1.0, "lr": 0.1, "stained": 1.1}])
    assert {"knn_pretrained", "knn_random", "knn_gain", "linear_gain", "knn_colour_histogram", "loss"} <= set(
        stage.numbers
    )
    assert stage.numbers["knn_gain"][0] == 0
    alone = len(set(groups)) == 1
    assert bool(stage.notes) == alone and (stage.numbers["knn_random"][1] is None) == alone
    drawn(figures.probe_over_time(probe.table()))


def test_one_cell_of_each_class_that_there_is():
    labels = torch.tensor([0, 0, 2, 2, 5])
    positions, names = pictures.one_of_each(labels, torch.tensor([1, 3, 4]), list("abcdef"))
    assert positions.tolist() == [1, 3, 4] and names == ["a", "c", "f"]
    assert len(pictures.one_of_each(labels, torch.arange(5), list("abcdef"), most=2)[1]) == 2


@pytest.mark.parametrize("n", [1, 4, 20])
def test_map_of_few_cells(n):
    images = cells(n)
    points, axes = pictures.feature_map(encoder("zepto", 1), images)
    assert points.shape == (n, 2) and np.isfinite(points).all()
    labels = np.arange(n) % 9
    figure = figures.embedding_map(points, images.permute(0, 2, 3, 1).numpy(), labels, list("abcdefghi"), axes)
    drawn(figure)


def test_speed_of_all_forms_is_measured_in_turns():
    calls = []
    seconds = measure({name: lambda name=name: calls.append(name) for name in "ab"}, repeats=2)
    assert calls == list("ababab") and all(len(v) == 2 for v in seconds.values())
    table = ratios(compare(small_params(), 16, batch=2, repeats=1))
    assert table["form"].tolist() == [VISIBLE, DENSE, ZEROED] and table.iloc[0, 2] == 1
    with pytest.raises(ValueError, match="none of"):
        training_step("blind")


def test_peak_memory_is_what_is_held_at_one_time():
    def step():
        first = torch.zeros(1000, 1000)
        second = first + 1
        del first
        return second * 2

    assert peak_memory(step) == pytest.approx(8e6 / 2**20, rel=0.01)


def test_visible_only_takes_at_most_two_thirds_of_the_dense_forms_memory():
    sizes = {"variant": "atto", "size": 96, "batch": 4}
    visible, dense = (peak_memory(training_step(form, **sizes)) for form in (VISIBLE, DENSE))
    assert visible <= 0.65 * dense
