"""Chapter 4: reconstructions, the map, metrics, the cost of a step, and what the figures draw."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from fcmae.toys import cells, encoder, generator, small_params
from leuk_lib.chapters import fcmae as chapter
from leuk_lib.chapters.fcmae import DENSE, FORMS, VISIBLE, measure_seconds, peak_memory, step_costs, training_step
from leuk_lib.fcmae.autoencoder import MaskedAutoencoder
from leuk_lib.fcmae.params import FcmaeParams
from leuk_lib.fcmae.probe import GIVEN_START, Probe
from leuk_lib.fcmae.weights import ORIGIN, save_backbone
from leuk_lib.figures import fcmae as figures
from leuk_lib.runs.card import read_card, stale_reasons
from leuk_lib.runs.files import sha256_file
from leuk_lib.runs.stage import Stage


@pytest.fixture(scope="module")
def autoencoder():
    model = MaskedAutoencoder(encoder("zepto", 1), 16)
    model.init_decoder(generator())
    return model


def drawn(figure):
    """The axes of a figure that was laid out and drawn."""
    figure.draw_without_rendering()
    return figure.axes


def test_visible_patches_are_copied(autoencoder):
    images = cells(3)
    result = chapter.reconstruct(autoencoder, images, 0.5)
    visible = result.visible
    assert np.array_equal(result.reconstructed[visible], result.images[visible]) and visible.mean() == 0.5
    assert not np.array_equal(result.reconstructed[~visible], result.images[~visible])
    tensors = result.tensors()
    assert torch.equal(tensors["images"], images) and tensors["reconstructed"].dtype == torch.uint8


def test_error_is_drawn_in_hidden_pixels_only():
    images = np.full((2, 4, 4, 3), 0.5)
    visible = np.zeros((2, 4, 4), bool)
    visible[:, :2] = True
    axes = drawn(figures.reconstructions(images, visible, np.where(visible[..., None], images, 0.75), ["a", "b"]))
    original, masked, reconstructed, error = (ax.images[0].get_array() for ax in axes[:4])
    assert np.array_equal(original, images[0]) and (masked[2:] == figures.HIDDEN).all()
    assert (reconstructed[2:] == 0.75).all()
    assert np.ma.getmaskarray(np.ma.masked_invalid(error))[:2].all() and np.allclose(error[2:], 0.25)
    assert [ax.get_ylabel() for ax in axes[0:8:4]] == ["a", "b"]


@pytest.mark.parametrize("columns", [["stained", "field"], ["field", "contrast"], []])
def test_learning_curves_draw_each_loss_that_was_logged(columns):
    history = pd.DataFrame({"step": range(30), "loss": np.linspace(1, 0.5, 30), "lr": np.linspace(0, 1e-3, 30)})
    for factor, column in enumerate(columns, start=2):
        history[column] = history["loss"] * factor
    axes = drawn(figures.learning_curves(history))
    curves = [line.get_ydata() for ax in axes for line in ax.lines]
    for column in ["loss", "lr", *columns]:
        assert any(np.allclose(values, history[column]) for values in curves), column
    assert len(axes) == (3 if "contrast" in columns else 2)
    assert len(curves) == 1 + 2 * (1 + len(columns))  # the rate once; each loss with its running median


def probed(groups):
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
def test_metrics_with_and_without_intervals(groups):
    probe, stage = probed(groups), Recorder()
    chapter.record_metrics(stage, probe, [{"step": 0, "loss": 1.0, "lr": 0.1, "stained": 1.1}])
    probes = ("knn", "knn_whitened", "linear")
    features = ("pretrained", "random", "gain", "colour_histogram", "raw_pixel_pca")
    assert set(stage.numbers) == {f"{p}_{f}" for p in probes for f in features} | {"loss", "loss_stained"}
    assert stage.numbers["knn_gain"][0] == 0
    has_interval = len(set(groups)) > 1
    assert bool(stage.notes) != has_interval and (stage.numbers["knn_random"][1] is not None) == has_interval
    title = chapter.probes_title(probe.gains(), probe.start)
    assert len(drawn(figures.probe_over_time(probe.table(), title))) == 3


@pytest.mark.parametrize("steps", [0, 4])
def test_metrics_and_figures_of_given_weights(steps):
    images, labels = cells(30), torch.arange(30) % 3
    probe = Probe(
        images, labels, np.arange(30).astype(str), torch.arange(20), torch.arange(20, 30), (0, steps), k=3,
        start=GIVEN_START,
    )  # fmt: skip
    for step in {0, steps}:
        probe(step, encoder("zepto", 1, seed=step))
    probe.baselines(random=encoder("zepto", 1, seed=9))
    stage = Recorder()
    chapter.record_metrics(stage, probe, [])
    features = {"pretrained", "random", "gain", "colour_histogram", "raw_pixel_pca"}
    features |= {"given", "gain_over_given"} if steps else set()
    assert set(stage.numbers) == {f"{p}_{f}" for p in ("knn", "knn_whitened", "linear") for f in features}
    title = chapter.probes_title(probe.gains(), probe.start)
    assert title.startswith("Pretrained encoder against " + ("given weights" if steps else "random initialisation"))
    axes = drawn(figures.probe_over_time(probe.table(), title))
    labels = axes[0].get_legend_handles_labels()[1]
    assert {"given weights", "random initialisation", "FCMAE encoder, frozen"} <= set(labels)
    assert len(labels) == len(set(labels))


def test_without_steps_a_line_replaces_the_curve():
    axes = drawn(figures.learning_curves(pd.DataFrame({"step": [], "loss": [], "lr": []})))
    assert "No training" in axes[0].texts[0].get_text()


def test_given_weights_are_in_the_card_and_change_the_identity(results, tmp_path, capsys):
    def begin(**values):
        return Stage.begin("fcmae", FcmaeParams, {"run": "r", "steps": 0, **values})

    origin = {"name": "convnextv2_atto.fcmae", "source": "the hub", "licence": "CC BY-NC 4.0", "revision": "f00"}
    identities = []
    for seed in (0, 1):
        path = save_backbone(encoder("atto", 4, seed), tmp_path / "e.safetensors", {ORIGIN: origin})
        with begin(weights=str(path)) as stage:
            given = chapter.given_weights(stage)
            identities.append(stage.identity)
            stage.record("images", 1)
        card = read_card("r", "fcmae")
        assert card["inputs"]["files"] == {str(path): sha256_file(path)}
        assert "CC BY-NC 4.0" in card["notes"][0] and "from stride 4 to 2" in card["notes"][1]
        assert str(tmp_path) not in " ".join(card["notes"]) and "CC BY-NC 4.0" in capsys.readouterr().out
        assert given.params.variant == "atto" and given.encoder.stem_stride == 2
    assert identities[0] != identities[1]
    path.write_bytes(b"")
    assert any("changed" in reason for reason in stale_reasons(read_card("r", "fcmae")))


def test_one_cell_per_class_that_is_present():
    labels = torch.tensor([0, 0, 2, 2, 5])
    positions, names = chapter.one_per_class(labels, torch.tensor([1, 3, 4]), list("abcdef"))
    assert positions.tolist() == [1, 3, 4] and names == ["a", "c", "f"]
    assert len(chapter.one_per_class(labels, torch.arange(5), list("abcdef"), limit=2)[1]) == 2


@pytest.mark.parametrize("n", [1, 4, 20])
def test_map_of_few_cells(n):
    images = cells(n)
    points, axes = chapter.feature_map(encoder("zepto", 1), images)
    assert points.shape == (n, 2) and np.isfinite(points).all() and len(axes) == 2
    small = chapter.thumbnails(images, 8)
    assert small.shape == (n, 8, 8, 3) and small.dtype == np.uint8
    assert np.abs(small.mean((1, 2)) - images.float().mean((2, 3)).numpy()).max() < 1
    assert np.array_equal(chapter.thumbnails(images, 99), images.permute(0, 2, 3, 1).numpy())


def study_tables():
    rows = [
        {"arm": arm, "probe": probe, "step": step, "value": 0.5 + step / 1000, "low": 0.4, "high": 0.7, "n": 40}
        for arm in ("FCMAE", "FCMAE + contrast")
        for probe in ("k-NN", "linear")
        for step in (0, 50, 100)
    ]
    curve = pd.DataFrame(rows)
    ends = curve[curve["step"] == 100].rename(columns={"probe": "condition"}).drop(columns="step")
    baselines = ends[ends["arm"] == "FCMAE"]
    more = [baselines.assign(arm=name) for name in ("colour histogram", "random initialisation")]
    return curve, pd.concat([ends, *more], ignore_index=True)


def test_study_tables_become_curves_and_bands():
    table = figures.from_study(*study_tables())
    assert set(table["features"]) == {"FCMAE", "FCMAE + contrast", "colour histogram"}
    assert len(table) == 12 + 2 and (table.loc[table["features"] == "colour histogram", "step"] == 0).all()
    axes = drawn(figures.probe_over_time(table, "A title", "test cells"))
    assert [ax.get_title() for ax in axes] == ["k-NN (n = 40)", "linear (n = 40)"]
    for ax in axes:
        curves = [line.get_ydata() for line in ax.lines]
        assert sum(np.allclose(values, [0.5, 0.55, 0.6]) for values in curves if len(values) == 3) == 2
        assert any(np.allclose(values, 0.6) for values in curves if len(values) == 2)  # the colour histogram
        assert len(ax.patches) == 1  # its band


def test_the_title_counts_the_verdicts_against_the_start():
    gains = pd.DataFrame(
        {
            "baseline": ["random initialisation"] * 3 + ["colour histogram"] * 3,
            "verdict": ["better", "worse", "worse"] + ["better"] * 3,
        }
    )
    title = chapter.probes_title(gains, "random initialisation")
    assert (
        title
        == "Pretrained encoder against random initialisation, 3 probes: better in 1, worse in 2, inconclusive in 0"
    )


@pytest.mark.parametrize("starts", [2, 3])
def test_label_efficiency_has_one_curve_per_start(starts):
    values = {"random initialisation": 0.5, "FCMAE + contrast": 0.6, "published weights": 0.9}
    values = dict(list(values.items())[:starts])
    rows = [
        {"condition": share, "arm": arm, "value": value, "low": value - 0.1, "high": value + 0.1, "n": 40, "seeds": 3}
        for share in ("0.05", "0.25", "1")
        for arm, value in values.items()
    ]
    figure = figures.label_efficiency(pd.DataFrame(rows), "A title")
    axes = drawn(figure)[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["5 %", "25 %", "100 %"]
    assert [container.lines[0].get_ydata().tolist() for container in axes.containers] == [
        [v] * 3 for v in values.values()
    ]
    assert [container.get_label() for container in axes.containers] == list(values)
    assert len({container.lines[0].get_color() for container in axes.containers}) == starts
    assert figure.get_suptitle() == "A title"


def test_steps_are_timed_in_turns():
    calls = []
    seconds = measure_seconds({name: lambda name=name: calls.append(name) for name in "ab"}, repeats=2)
    assert calls == list("ababab") and all(len(v) == 2 for v in seconds.values())


def test_cost_table_has_all_forms():
    table = step_costs(small_params(), 16, batch=2, repeats=1)
    again = step_costs(small_params(), 16, batch=2, repeats=2)
    pd.testing.assert_series_equal(table["peak MiB"], again["peak MiB"], rtol=0.01)
    assert tuple(table["form"]) == FORMS and table["relative time"].iloc[0] == 1
    assert (table["peak MiB"] > 0).all()
    with pytest.raises(ValueError, match="none of"):
        training_step("blind", small_params(), 16, 2)


@pytest.mark.parametrize("timed_steps", [0, 1])
def test_without_timed_steps_nothing_is_timed(monkeypatch: pytest.MonkeyPatch, timed_steps: int):
    costs = pd.DataFrame({"form": FORMS, "relative time": [1.0, 2.0, 3.0], "peak MiB": [4.0, 8.0, 8.0]})
    monkeypatch.setattr(chapter, "step_costs", lambda *_, repeats: costs if repeats else pytest.fail("timed"))
    measured: dict[str, float] = {}
    stage = SimpleNamespace(
        params=small_params(timed_steps=timed_steps), measure=measured.__setitem__, table=lambda frame, caption: frame
    )
    shown = chapter.record_costs(stage, stage.params, 16)
    if timed_steps:
        assert measured == {"dense_over_visible": 2.0, "visible_over_dense_memory": 0.5} and len(shown) == len(FORMS)
    else:
        assert not measured and "timed_steps = 0" in repr(shown)


def test_peak_memory_is_what_is_allocated_at_one_time():
    calls = []

    def step():
        calls.append(1)
        first = torch.zeros(1000, 1000)
        second = first + 1
        del first
        return second * 2

    assert peak_memory(step) == pytest.approx(8e6 / 2**20, rel=0.01)
    assert peak_memory(step, warm_up=False) == pytest.approx(8e6 / 2**20, rel=0.01)
    assert len(calls) == 3


def test_visible_only_takes_at_most_two_thirds_of_the_dense_memory():
    params = FcmaeParams(variant="atto")
    visible, dense = (peak_memory(training_step(form, params, 96, 4)) for form in (VISIBLE, DENSE))
    assert visible <= 0.65 * dense
