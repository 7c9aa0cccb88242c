import io

import numpy as np
import pandas as pd
import pytest
import torch

from fcmae.toys import cells, encoder, generator, small_params
from leuk_lib.chapters import fcmae as pictures
from leuk_lib.fcmae.autoencoder import MaskedAutoencoder
from leuk_lib.fcmae.probe import Probe
from leuk_lib.fcmae.speed import DENSE, VISIBLE, ZEROED, compare, measure, peak_memory, training_step
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


@pytest.mark.parametrize("columns", [["stained", "field"], ["field", "contrast"], []])
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
    assert {
        "knn_pretrained",
        "knn_random",
        "knn_gain",
        "linear_gain",
        "knn_whitened_gain",
        "knn_colour_histogram",
        "loss",
    } <= set(stage.numbers)
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
    assert points.shape == (n, 2) and np.isfinite(points).all() and len(axes) == 2
    small = pictures.thumbnails(images, 8)
    assert small.shape == (n, 8, 8, 3) and small.dtype == np.uint8
    assert np.abs(small.mean((1, 2)) - images.float().mean((2, 3)).numpy()).max() < 1
    assert np.array_equal(pictures.thumbnails(images, 99), images.permute(0, 2, 3, 1).numpy())


def test_a_map_is_thinned_evenly_and_only_when_it_must_be():
    assert pictures.thinned(5, 10).tolist() == [0, 1, 2, 3, 4]
    assert pictures.thinned(101, 5).tolist() == [0, 25, 50, 75, 100]


def study_tables():
    rows = [
        {"arm": arm, "probe": probe, "step": step, "value": 0.5 + step / 1000, "low": 0.4, "high": 0.7, "n": 40}
        for arm in ("FCMAE", "FCMAE + contrast")
        for probe in ("k-NN", "linear")
        for step in (0, 50, 100)
    ]
    curve = pd.DataFrame(rows)
    ends = curve[curve["step"] == 100].rename(columns={"probe": "condition"}).drop(columns="step")
    rivals = ends[ends["arm"] == "FCMAE"]
    more = [rivals.assign(arm=name) for name in ("colour histogram", "random initialisation")]
    return curve, pd.concat([ends, *more], ignore_index=True)


def test_the_studys_tables_become_curves_and_bands():
    table = figures.from_study(*study_tables())
    assert set(table["features"]) == {"FCMAE", "FCMAE + contrast", "colour histogram"}
    assert len(table) == 12 + 2 and (table.loc[table["features"] == "colour histogram", "step"] == 0).all()
    drawn(figures.probe_over_time(table, "test cells"))


def test_label_efficiency_has_a_curve_a_start():
    rows = [
        {"condition": share, "arm": arm, "value": 0.5, "low": 0.4, "high": 0.6, "n": 40, "seeds": 3}
        for share in ("0.05", "0.25", "1")
        for arm in ("random initialisation", "FCMAE + contrast")
    ]
    figure = figures.label_efficiency(pd.DataFrame(rows))
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["5 %", "25 %", "100 %"]
    drawn(figure)


def test_speed_of_all_forms_is_measured_in_turns():
    calls = []
    seconds = measure({name: lambda name=name: calls.append(name) for name in "ab"}, repeats=2)
    assert calls == list("ababab") and all(len(v) == 2 for v in seconds.values())
    table = compare(small_params(), 16, batch=2, repeats=1)
    assert table["form"].tolist() == [VISIBLE, DENSE, ZEROED] and table["times the first"].iloc[0] == 1
    assert (table["peak MB"] > 0).all()
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
