"""Baselines: one interface, classes missing in training, what each baseline can and cannot see."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file, save_file

from leuk_lib.data.cellset import CellSet
from leuk_lib.evaluation import baselines
from leuk_lib.evaluation.baselines import (
    BASELINES,
    SMALL,
    Task,
    background_pixels,
    colour_histogram,
    expand_classes,
    fit_baselines,
    network,
    network_scorer,
    pooled_features,
    prediction_table,
    published_weights,
    record_scores,
    score_table,
    select,
)
from leuk_lib.runs.errors import LeukError
from leuk_lib.statistics.intervals import clopper_pearson
from leuk_lib.wpat.params import ComparisonParams


class Maps(torch.nn.Module):
    """An encoder of two feature maps."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Conv2d(3, 4, 4, 4), torch.nn.Conv2d(4, 6, 2, 2)

    def forward(self, x):
        first = self.first(x)
        return [first, self.second(first)]


def _cells(n, seed, site_of_label=False, size=24):
    """Cells whose class is the colour of the central disc or, with ``site_of_label``, of the background."""
    rng = np.random.default_rng(seed)
    labels = torch.arange(n) % 3
    images = torch.from_numpy(rng.integers(200, 230, (n, 3, size, size)))
    masks = torch.zeros(n, size, size, dtype=torch.uint8)
    masks[:, 6:18, 6:18] = 128
    masks[:, 9:15, 9:15] = 255
    painted = (masks == 0) if site_of_label else (masks > 0)
    images = images - 50 * (labels[:, None, None, None] * painted[:, None])
    return images.clamp(0, 255).to(torch.uint8), labels, masks


def _task(site_of_label=False, labels=None, masks=True, **kwargs):
    images, truth, mask = _cells(60, 0, site_of_label)
    val_images, val_truth, val_mask = _cells(18, 1, site_of_label)
    truth = truth if labels is None else labels(truth)
    return Task(
        images, truth, mask if masks else None, val_images, val_truth, val_mask if masks else None,
        n_classes=4, seed=0, **kwargs,
    )  # fmt: skip


@pytest.mark.parametrize("name", [*BASELINES, "resnet10t"])
@pytest.mark.parametrize("missing", ["one class", "all but one"])
def test_the_interface_holds_for_classes_missing_in_training(name, missing):
    task = _task(
        labels=(lambda y: y.clamp(max=1)) if missing == "one class" else torch.zeros_like,
        encoder=Maps(), fit=lambda model, label: model,
    )  # fmt: skip
    images, _, masks = _cells(7, 2)
    score = fit_baselines([name], task)[name]
    for mask in (masks, None):
        probs = score(images, mask)
        assert probs.shape == (7, 4) and probs.min() > 0
        np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-6)
    assert score(images[:0], None).shape[0] == 0


def test_majority_gives_the_class_frequencies():
    probs = fit_baselines(["majority"], _task())["majority"](_cells(2, 0)[0], None)
    np.testing.assert_allclose(probs, [[1 / 3, 1 / 3, 1 / 3, 0]] * 2, atol=1e-5)


def test_colour_sees_the_cell_and_background_sees_the_site():
    for site, able in ((False, "colour"), (True, "background")):
        scorers = fit_baselines(["colour", "background"], _task(site))
        images, labels, masks = _cells(30, 5, site)
        right = {n: float((s(images, masks).argmax(1) == labels.numpy()).mean()) for n, s in scorers.items()}
        assert right[able] == 1
        if able == "colour":
            assert right["background"] < 0.7  # the cell is hidden from it


def test_histograms_are_shares_of_pixels_in_any_order():
    images, _, masks = _cells(3, 0)
    features = colour_histogram(images)
    assert features.shape == (3, 112)
    np.testing.assert_allclose(features.sum(axis=1), 4)
    np.testing.assert_array_equal(features, colour_histogram(images.flip(-1)))
    background = colour_histogram(images, masks == 0)
    red = images[0, 0][masks[0] == 0].numpy()
    np.testing.assert_allclose(background[0, :16], np.histogram(red, bins=16, range=(0, 256))[0] / red.size)


def test_background_falls_back_to_the_ring():
    images, _, masks = _cells(3, 0)
    masks[1] = 0  # empty
    masks[2] = 128  # full
    background = background_pixels(images, masks)
    assert torch.equal(background[0], masks[0] == 0)
    ring = background_pixels(images, None)
    assert torch.equal(background[1], ring[1]) and torch.equal(background[2], ring[2])
    assert bool(ring[0, 0].all()) and not bool(ring[0, 12, 12])


def test_pooled_features_batched_equals_one_by_one():
    images, _, _ = _cells(5, 0)
    encoder = Maps().train()
    features = pooled_features(encoder, images, batch=2)
    assert features.shape == (5, 10) and encoder.training
    np.testing.assert_allclose(features[3], pooled_features(encoder, images[3:4])[0], atol=1e-6)


def test_expanded_probabilities_keep_their_ratios():
    probs = expand_classes(np.array([[0.25, 0.75]]), [0, 2], 3)
    assert probs.argmax() == 2 and probs[0, 1] == pytest.approx(1e-6, rel=1e-3)


def test_unknown_baselines_are_named():
    with pytest.raises(LeukError, match="did you mean 'majority'"):
        fit_baselines(["colour", "majorty"], _task())
    with pytest.raises(LeukError, match="04_fcmae"):
        fit_baselines(["linear_probe"], _task())


def test_a_network_depends_on_the_seed_and_the_number_of_classes():
    built = []

    def fit(model, label):
        built.append((label, model.num_classes, float(next(model.parameters()).detach().sum())))
        return model

    for seed in (0, 0, 1):
        torch.manual_seed(99)
        task = _task(fit=fit)
        fit_baselines(["resnet10t"], Task(**{**vars(task), "seed": seed}))
    assert built[0] == built[1] != built[2] and built[0][:2] == ("resnet10t", 4)


def test_tables_hold_every_model_split_and_cell():
    images, labels, masks = _cells(24, 0)
    classes = ("a", "b", "c", "absent")
    table = pd.DataFrame(
        {"label": [classes[k] for k in labels], "group": [f"p{i // 4}" for i in range(24)], "split": "test"}
    )
    cells = CellSet(images, masks, labels, classes, table, "micrographs")
    truth = torch.nn.functional.one_hot(labels, 4).numpy().astype(float)
    scorers = {"perfect": lambda x, m: truth[: len(x)], "majority": fit_baselines(["majority"], _task())["majority"]}
    parts = {"val": torch.arange(9), "test": torch.arange(15)}
    predictions = prediction_table(scorers, images, cells, parts)
    assert list(predictions.columns[:5]) == ["model", "index", "group", "split", "label"]
    assert len(predictions) == 2 * 24 and "prob_absent" in predictions
    part = select(predictions, "perfect", "test")
    assert len(part) == 15 and bool(part.correct.all()) and part.classes == classes
    scores = score_table(predictions, seed=0, n_resamples=50)
    assert len(scores) == 2 * 2 * 2
    row = scores.set_index(["model", "split", "metric"]).loc[("perfect", "test", "accuracy")]
    assert row["value"] == row["high"] == 1 and row["n"] == 15 and row["groups"] == 4
    assert row["low"] == pytest.approx(clopper_pearson(*2 * [225 / 57])[0])  # four correct patients are no certainty
    recorded = {}
    stage = SimpleNamespace(record=lambda key, *values: recorded.update({key: values}))
    record_scores(stage, scores)
    assert recorded["perfect_test_accuracy"] == (1, row["low"], 1, 15) and len(recorded) == 8
    assert (scores["low"] <= scores["value"]).all() and (scores["value"] <= scores["high"]).all()
    # One patient says nothing about others: no interval, in the table or in the metrics.
    alone = score_table(predictions.assign(group="p1"), seed=0, n_resamples=50)
    assert alone[["low", "high"]].isna().all(axis=None)
    record_scores(stage, alone)
    assert recorded["perfect_test_accuracy"] == (1, None, None, 15)


def test_network_scorer_is_a_softmax_in_batches():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(3, 2)

        def forward(self, x):
            return self.fc(x.mean(dim=(2, 3)))

    images, _, _ = _cells(5, 0)
    net = Net()
    np.testing.assert_allclose(network_scorer(net, batch=2)(images, None), network_scorer(net)(images, None), atol=1e-6)


def _profile_networks(root):
    profiles = [
        yaml.safe_load((root / "notebooks" / "profiles" / f"{name}.yml").read_text())
        for name in ("laptop", "gpu", "paper")
    ]
    names = [name for profile in profiles for name in profile["stages"].get("comparison", {}).get("baselines", [])]
    return sorted({*names, *ComparisonParams().baselines, *SMALL} - set(BASELINES))


def test_the_profiles_have_the_networks_of_the_protocol(root):
    families = ("resnet50", "resnet50_gn", "efficientnet_b0", "swin_tiny", "convnext_tiny")
    names = _profile_networks(root)
    assert [family for family in families if not any(name.startswith(family) for name in names)] == []


@pytest.mark.parametrize("size", [64, 224])
def test_each_network_is_built_for_the_image_size(root, size):
    for name in _profile_networks(root):
        with torch.device("meta"):  # shapes without arithmetic
            kept = []
            task = Task(
                torch.zeros(2, 3, size, size), torch.zeros(2, dtype=torch.long), None, torch.zeros(0, 3, size, size),
                torch.zeros(0, dtype=torch.long), None, 5, 0, fit=lambda model, label, kept=kept: kept.append(model) or model,
            )  # fmt: skip
            network(name, task)
            assert kept[0].eval()(torch.zeros(2, 3, size, size)).shape == (2, 5), name


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("weights") / "published one.safetensors"
    save_file(
        {k: v.contiguous() for k, v in timm.create_model("resnet10t", num_classes=7).state_dict().items()}, str(path)
    )
    return path


def test_published_weights_are_where_training_starts(weights_file):
    given = []
    task = _task(encoder=Maps(), fit=lambda model, label: given.append((model, label)) or model)
    scorers = fit_baselines(["resnet10t", f"resnet10t@{weights_file}"], task)
    assert list(scorers) == ["resnet10t", "resnet10t@published one.safetensors"]  # no folder in tables and figures
    (random, _), (started, label) = given
    state = load_file(str(weights_file))
    assert label == "resnet10t@published one.safetensors"
    assert torch.equal(started.state_dict()["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])
    assert not torch.equal(random.state_dict()["layer1.0.conv1.weight"], state["layer1.0.conv1.weight"])
    assert published_weights(["colour", f"knn:resnet10t@{weights_file}"]).popitem()[1].name == "resnet10t"


@pytest.mark.parametrize("read_out", ["knn", "linear"])
@pytest.mark.parametrize("missing", [False, True])
def test_frozen_networks_are_read_out(weights_file, read_out, missing):
    """Classes that differ in colour are distinguished by features that nobody trained; batches do not matter."""
    task = _task(encoder=Maps(), labels=(lambda y: y.clamp(max=1)) if missing else None)
    name = f"{read_out}:resnet10t@{weights_file}"
    scorer = fit_baselines([name], task)[f"{read_out}:resnet10t@published one.safetensors"]
    images, labels, masks = _cells(30, 7)
    probs = scorer(images, masks)
    assert probs.shape == (30, 4)
    np.testing.assert_allclose(probs.sum(axis=1), 1)
    assert (probs > 0).all()
    np.testing.assert_allclose(probs[:1], scorer(images[:1], masks[:1]), rtol=1e-4)
    if not missing:
        assert (probs.argmax(axis=1) == labels.numpy()).mean() > 0.9
    assert scorer(images[:0], masks[:0]).shape == (0, 4)


def test_read_outs_need_weights(weights_file):
    with pytest.raises(LeukError, match="knn:resnet10t@pretrained"):
        fit_baselines(["knn:resnet10t"], _task())
    with pytest.raises(LeukError, match="no such file"):
        fit_baselines(["colour", "linear:resnet10t@missing.pth"], _task())
    with pytest.raises(LeukError, match="one name"):
        copy = weights_file.parent / "copy" / weights_file.name
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(weights_file.read_bytes())
        fit_baselines([f"resnet10t@{weights_file}", f"resnet10t@{copy}"], _task(fit=lambda model, label: model))


@pytest.mark.parametrize("kind", ["lora", "last"])
def test_a_vision_transformer_of_which_few_weights_are_trained(kind, tmp_path):
    if kind == "lora":
        pytest.importorskip("peft", reason="the package peft is not installed")
    torch.manual_seed(5)
    state = timm.create_model("test_vit", num_classes=7).state_dict()
    save_file({k: v.contiguous() for k, v in state.items()}, str(tmp_path / "v.safetensors"))
    name = f"{kind}:test_vit@{tmp_path / 'v.safetensors'}"
    given = []
    task = _task(fit=lambda model, label: given.append((model, label)) or model)
    scorer = fit_baselines([name], task)[f"{kind}:test_vit@v.safetensors"]
    model, label = given[0]
    assert label == f"{kind}:test_vit@v.safetensors" and published_weights([name])[name].name == "test_vit"
    frozen_weights = [weight for weight in model.parameters() if not weight.requires_grad]
    assert any(torch.equal(weight, state["blocks.0.mlp.fc1.weight"]) for weight in frozen_weights)
    images, _, masks = _cells(4, 7)
    assert scorer(images, masks).shape == (4, 4)


def test_names_of_few_trained_weights_are_checked_first(weights_file):
    with pytest.raises(LeukError, match="last:test_vit@pretrained"):
        fit_baselines(["last:test_vit"], _task())
    with pytest.raises(LeukError, match=r"last:resnet10t@.*has no attention blocks"):
        fit_baselines([f"last:resnet10t@{weights_file}"], _task())


def test_metric_keys_are_words():
    recorded = []
    row = {"split": "test", "metric": "accuracy", "value": 0.5, "low": 0.4, "high": 0.6, "n": 9}
    stage = SimpleNamespace(record=lambda key, *values: recorded.append(key))
    record_scores(stage, pd.DataFrame([{"model": "knn:dinobloom_s@pretrained", **row}, {"model": "resnet10t", **row}]))
    assert recorded == ["knn_dinobloom_s_pretrained_test_accuracy", "resnet10t_test_accuracy"]


def test_histograms_do_not_depend_on_the_images_at_a_time(monkeypatch):
    """They took 3.3 MB of memory per image of 224 px, for all images at once."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (7, 3, 20, 20), dtype=torch.uint8, generator=generator)
    region = torch.rand(7, 20, 20, generator=generator) > 0.5
    whole = baselines.colour_histogram(images), baselines.colour_histogram(images, region)
    monkeypatch.setattr(baselines, "HISTOGRAM_PIXELS", 2 * 20 * 20)
    np.testing.assert_array_equal(baselines.colour_histogram(images), whole[0])
    np.testing.assert_array_equal(baselines.colour_histogram(images, region), whole[1])
    assert baselines.colour_histogram(images[:0]).shape == (0, 112)
