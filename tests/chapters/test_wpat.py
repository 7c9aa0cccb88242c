"""Chapter 5: inputs, training through the stage, tensors and attention that are drawn, scores under shifts."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from alhe.toys import cell
from damage import survives
from leuk_lib.chapters.wpat import (
    attention_views,
    available,
    baseline_task,
    best_baseline,
    gallery_cells,
    load_inputs,
    open_test_parts,
    parameter_counts,
    read_synthetic,
    save_models,
    shift_table,
    tensor_table,
    train_wpat,
    wpat_names,
)
from leuk_lib.data.cellset import CellSet, from_arrays
from leuk_lib.evaluation import sanity
from leuk_lib.evaluation.baselines import fit_baselines, network_scorer, prediction_table
from leuk_lib.evaluation.robustness import STRENGTHS
from leuk_lib.fcmae.encoder import build_encoder
from leuk_lib.fcmae.weights import ORIGIN, load_backbone, save_backbone
from leuk_lib.figures import wpat as figures
from leuk_lib.runs.errors import LeukError
from leuk_lib.training import pretrained
from leuk_lib.training.fabric import make_fabric
from leuk_lib.training.pretrained import create
from leuk_lib.wpat.cost import cost_table
from leuk_lib.wpat.model import WPAT
from leuk_lib.wpat.predict import load_model
from wpat.toys import TINY, blobs

CLASSES = ("a", "b", "c", "only in train")


class FakeStage:
    """What the chapter uses of a stage, in a folder."""

    def __init__(self, root, params):
        self.root, self.params, self.identity, self.notes = root, params, "id", []
        self.checkpoints = self.folder = root / "checkpoints"
        self.saved = []

    def input(self, upstream):
        return self.root / upstream

    def note(self, text):
        self.notes.append(text)

    def save_file(self, path):
        self.saved.append(path.name)

    notice = note


@pytest.fixture
def tiny():
    return TINY


@pytest.fixture
def stage(tiny, tmp_path):
    for name in ("data", "alhe", "acdb_gan", "fcmae"):
        (tmp_path / name).mkdir()
    images, labels, masks = blobs(40)
    labels[0] = 3
    table = pd.DataFrame({"label": [CLASSES[k] for k in labels], "group": [str(i) for i in range(40)]})
    table["split"] = ["train"] * 24 + ["val"] * 8 + ["test"] * 8
    CellSet(images, masks, labels, CLASSES, table, "micrographs").save(tmp_path / "data")
    save_file({"images": 255 - images}, tmp_path / "alhe" / "images.safetensors")
    alhe_params = {"clip_limit": 2.0, "tiles": 4, "seed": 0, "batch": 256}
    (tmp_path / "alhe" / "card.json").write_text(json.dumps({"params": alhe_params}))
    write_synthetic(tmp_path, images[:5], labels[1:6])
    torch.manual_seed(0)
    save_backbone(build_encoder("zepto", 4), tmp_path / "fcmae" / "encoder.safetensors")
    return FakeStage(tmp_path, tiny)


def write_synthetic(root, images, labels):
    save_file(
        {"images": images.contiguous(), "labels": labels.contiguous()}, root / "acdb_gan" / "synthetic.safetensors"
    )


def test_inputs_are_enhanced_and_synthetic_cells_or_raw_ones(stage):
    inputs = load_inputs(stage, ["clip_limit", "tiles"])
    raw, _, _ = blobs(40)
    assert torch.equal(inputs.cells.images, 255 - raw)
    assert inputs.alhe_settings == {"clip_limit": 2.0, "tiles": 4}
    assert len(inputs.synthetic_labels) == 5
    counts = pd.DataFrame(inputs.counts()).set_index("class")
    assert counts["train"].sum() == 24 and counts["val"].sum() == 8 and counts.loc["only in train", "val"] == 0

    stage.params = stage.params.model_copy(update={"images": "raw", "synthetic": False})
    plain = load_inputs(stage, ["clip_limit"])
    assert torch.equal(plain.cells.images, raw) and plain.alhe_settings is None and len(plain.synthetic_labels) == 0


def test_the_licence_of_the_encoders_start_is_noted(stage):
    assert load_inputs(stage, []).encoder_origin is None and len(stage.notes) == 1
    origin = {"name": "convnextv2_atto.fcmae", "source": "the hub", "licence": "CC BY-NC 4.0", "sha256": "ab" * 32}
    save_backbone(build_encoder("zepto", 4), stage.root / "fcmae" / "encoder.safetensors", {ORIGIN: origin})
    assert load_inputs(stage, []).encoder_origin == origin and "CC BY-NC 4.0" in stage.notes[-1]


@pytest.mark.parametrize("harm", ["no file", "size", "label", "below", "keys", "floats", "count"])
def test_synthetic_cells_that_do_not_fit_name_the_notebook_to_run(stage, harm):
    images, labels, _ = blobs(4)
    if harm == "no file":
        (stage.root / "acdb_gan" / "synthetic.safetensors").unlink()
    elif harm == "size":
        write_synthetic(stage.root, images[..., :16, :16], labels)
    elif harm == "label":
        write_synthetic(stage.root, images, labels + 4)
    elif harm == "below":
        write_synthetic(stage.root, images, labels - 4)
    elif harm == "keys":
        save_file({"images": images}, stage.root / "acdb_gan" / "synthetic.safetensors")
    elif harm == "floats":
        write_synthetic(stage.root, images.float(), labels)
    else:
        write_synthetic(stage.root, images, labels[:2])
    with pytest.raises(LeukError, match="03_acdb_gan"):
        load_inputs(stage, [])


def test_damaged_synthetic_cells_are_one_line(stage):
    cells = CellSet.open(stage.root / "data")
    survives(lambda path: read_synthetic(path.parent, cells), stage.root / "acdb_gan" / "synthetic.safetensors")


def test_training_through_the_stage_counts_all_classes(stage):
    stage.params = stage.params.model_copy(update={"steps": 3, "evaluations": 1})
    inputs = load_inputs(stage, [])
    fabric = make_fabric(stage.params)
    tuned = train_wpat(stage, inputs, fabric)
    assert tuned.val_logits.shape == (8, 4) and isinstance(tuned.model, WPAT)
    assert (stage.checkpoints / "WPAT" / "state.safetensors").is_file()
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 4))
    trained = {}
    task = baseline_task(stage, inputs, fabric, trained)
    assert torch.equal(task.labels, inputs.cells.labels[inputs.train])  # no synthetic cells
    assert task.fit(network, "net")(torch.zeros(1, 3, 32, 32)).shape == (1, 4) and list(trained) == ["net"]


def test_every_trained_network_becomes_a_model_file(stage, tmp_path):
    timm_file = tmp_path / "r.safetensors"
    save_file({k: v.contiguous() for k, v in create("test_resnet", None, 7, 32).state_dict().items()}, str(timm_file))
    name = f"test_resnet@{timm_file}"
    stage.params = stage.params.model_copy(
        update={
            "steps": 2,
            "evaluations": 1,
            "backbones": ("fcmae", name),
            "baselines": ("colour", "test_resnet", name),
        }
    )
    inputs, fabric = load_inputs(stage, []), make_fabric(stage.params)
    trained = {n: train_wpat(stage, inputs, fabric, b).model for n, b in wpat_names(stage.params.backbones).items()}
    assert list(trained) == ["wpat", "wpat on test_resnet@r.safetensors"]
    scorers = {n: network_scorer(model) for n, model in trained.items()}
    scorers |= fit_baselines(stage.params.baselines, baseline_task(stage, inputs, fabric, trained))
    predictions = prediction_table(scorers, inputs.cells.images, inputs.cells, {"val": inputs.val})
    files = save_models(stage, inputs, trained, predictions).set_index("model")
    assert list(files.index) == [*list(scorers)[:2], "test_resnet", "test_resnet@r.safetensors"]
    for model, row in files.iterrows():
        network, card = load_model(stage.folder / row["file"])
        images = inputs.cells.images[inputs.val]
        expected = scorers[model](images, None)
        np.testing.assert_allclose(network_scorer(network)(images, None), expected, atol=1e-6)
        assert card.temperature == row["temperature"] and ("weights under" in card.use) == ("@" in str(model))
    assert files["file"]["wpat"] == "model.safetensors"


@pytest.mark.parametrize("kind", ["lora", "last"])
def test_a_tuned_vision_transformer_becomes_a_plain_model_file(stage, tmp_path, kind):
    if kind == "lora":
        pytest.importorskip("peft", reason="the package peft is not installed")
    file = tmp_path / "v.safetensors"
    save_file({k: v.contiguous() for k, v in create("test_vit", None, 7, 160).state_dict().items()}, str(file))
    name = f"{kind}:test_vit@{file}"
    stage.params = stage.params.model_copy(update={"steps": 2, "evaluations": 1, "muon": 5.0, "baselines": (name,)})
    inputs, fabric, trained = load_inputs(stage, []), make_fabric(stage.params), {}
    scorers = fit_baselines((name,), baseline_task(stage, inputs, fabric, trained))
    (shown,) = trained
    assert shown == f"{kind}:test_vit@v.safetensors" and not hasattr(trained[shown], "merge_and_unload")
    assert any("parameters are trained" in note for note in stage.notes)
    predictions = prediction_table(scorers, inputs.cells.images, inputs.cells, {"val": inputs.val})
    (row,) = save_models(stage, inputs, trained, predictions).to_dict("records")
    network, card = load_model(stage.folder / row["file"])
    images = inputs.cells.images[inputs.val]
    np.testing.assert_allclose(network_scorer(network)(images, None), scorers[shown](images, None), atol=1e-6)
    assert card.kind == "network" and "weights under" in card.use


def test_networks_whose_package_is_missing_are_left_out_with_a_line(stage, monkeypatch):
    monkeypatch.setattr(pretrained, "missing_package", lambda name: "some-package" if "lite0" in name else "")
    names = ["fcmae", "efficientnet_lite0@pretrained", "knn:efficientnet_lite0@pretrained"]
    assert available(names, stage) == ["fcmae"]
    assert len(stage.notes) == 2 and all("some-package" in note for note in stage.notes)


@pytest.mark.parametrize(("size", "stem"), [(32, 2), (48, 2), (64, 4)])
def test_the_drawn_tensors_are_those_of_a_forward_pass(tiny, tmp_path, size, stem):
    encoder = build_encoder("zepto", stem)
    path = tmp_path / "encoder.safetensors"
    save_backbone(encoder, path)
    drawn = tensor_table(load_backbone(path), tiny, size, 5).set_index("name")[["height", "width", "channels"]]
    model = WPAT(encoder, 5, tiny).eval()
    with torch.no_grad():
        features = encoder(torch.zeros(1, 3, size, size))
        tokens, regions, layout = model.window_tokens(features[-model.levels :])
        latents = model.forward_features(torch.zeros(1, 3, size, size)).latents
        logits = model(torch.zeros(1, 3, size, size))
    assert drawn.loc["image"].tolist() == [size, size, 3]
    for stride, feature in zip(encoder.strides, features, strict=True):
        assert drawn.loc[f"stride {stride}"].tolist() == [*feature.shape[2:], feature.shape[1]]
    levels = zip(encoder.strides[-model.levels :], layout.valid.split(layout.counts), strict=True)
    for stride, valid in levels:
        height, width, channels = drawn.loc[f"tokens {stride}"]
        assert height * width == int(valid.sum()) and channels == tokens.shape[-1]
    assert drawn.loc["regions"].tolist() == [regions.shape[1], 1, regions.shape[2]]
    assert drawn.loc["latents"].tolist() == [latents.shape[1], 1, latents.shape[2]]
    assert drawn.loc["queries"].tolist() == [*model.queries.shape[:1], 1, model.queries.shape[1]]
    assert drawn.loc["pooled"].prod() == model.linear_head.linear.in_features
    assert drawn.loc["logits"].tolist() == [logits.shape[1], 1, 1]
    assert "pooled" not in set(
        tensor_table(load_backbone(path), tiny.model_copy(update={"linear_head": False}), size, 5)["name"]
    )


def test_attention_views_are_shares_of_the_image_and_the_latents_differ(tiny):
    torch.manual_seed(0)
    model = WPAT(build_encoder("zepto", 4), 4, tiny).eval()
    views = attention_views(model, blobs(1)[0][0], shown=3)
    assert views.strides == (16, 32) and views.latents.shape == (3, 32, 32)
    np.testing.assert_allclose([views.region.sum(), *views.latents.sum(axis=(1, 2))], 1, atol=1e-4)
    assert len(np.unique(views.latents.reshape(3, -1), axis=0)) == 3
    assert parameter_counts(model)["parameters"].sum() == sum(p.numel() for p in model.parameters())


def test_gallery_shows_the_most_confident_cells_and_takes_turns_by_class():
    labels = np.array([0, 0, 1, 2, 1, 2])
    probs = np.full((6, 4), 0.05)
    for row, (predicted, probability) in enumerate([(0, 0.9), (0, 0.8), (1, 0.7), (2, 0.6), (0, 0.6), (1, 0.8)]):
        probs[row, predicted] = probability
    shown = gallery_cells(labels, probs, CLASSES, 3)
    assert shown["right"]["position"].tolist() == [0, 2, 3]
    assert shown["wrong"]["position"].tolist() == [5, 4] and shown["wrong"]["predicted"].tolist() == ["b", "a"]


def test_the_sanity_check_records_the_fully_randomised_model():
    rows = [("image alone", "class queries", 0.9, 0.8, 1.0, 7), ("image alone", "… and encoder", 0.2, 0.1, 0.3, 7)]
    recorded = {}
    stage = SimpleNamespace(record=lambda key, value, low, high, n: recorded.update({key: (value, low, high, n)}))
    sanity.record(stage, pd.DataFrame(rows, columns=sanity.COLUMNS))
    assert recorded == {"sanity_image_alone": (0.2, 0.1, 0.3, 7)}


def test_each_external_set_is_opened_separately_and_noted():
    notes = []
    card = SimpleNamespace(note=notes.append)
    table = pd.DataFrame(
        {"label": ["a"] * 5, "group": list("vwxyz"), "split": ["train", "test", "external:B", "test", "val"]}
    )
    cells = from_arrays(np.zeros((5, 16, 16, 3), np.uint8), [0] * 5, ("a", "b"), table, "micrographs")
    parts = open_test_parts(cells, card)
    assert {name: index.tolist() for name, index in parts.items()} == {"test": [1, 3], "external:B": [2]}
    assert ["test part" in notes[0], "external test set B" in notes[1]] == [True, True]
    cells.table["split"] = cells.table["split"].replace("external:B", "train")
    assert list(open_test_parts(cells, card)) == ["test"]


def test_the_best_baseline_is_chosen_on_validation_cells():
    rows = [("wpat", "val", 0.9), ("a", "val", 0.5), ("b", "val", 0.6), ("a", "test", 0.8), ("b", "test", 0.1)]
    scores = pd.DataFrame(rows, columns=["model", "split", "value"]).assign(metric="accuracy")
    assert best_baseline(scores) == "b"


def test_all_models_get_the_same_shifted_and_then_enhanced_cells():
    images = torch.from_numpy(np.stack([cell(32, 32, seed)[0] for seed in range(6)])).permute(0, 3, 1, 2).contiguous()
    labels, groups = torch.tensor([0, 1, 0, 1, 0, 1]), np.array(list("aabbcc"))
    received = {"right": [], "wrong": []}

    def scorer(name, predicted):
        def score(images, masks):
            received[name].append(images)
            return np.eye(2)[predicted.numpy()]

        return score

    scorers = {"right": scorer("right", labels), "wrong": scorer("wrong", 1 - labels)}
    table = shift_table(scorers, images, labels, groups, lambda shifted: 255 - shifted, seed=0)
    assert len(table) == 2 * (1 + sum(map(len, STRENGTHS.values())))
    by_model = table.groupby("model")["value"].agg(["min", "max"])
    assert by_model.loc["right"].tolist() == [1, 1] and by_model.loc["wrong"].tolist() == [0, 0]
    assert (table["n"] == 6).all() and (table["groups"] == 3).all()
    assert all(torch.equal(a, b) for a, b in zip(received["right"], received["wrong"], strict=True))
    assert torch.equal(received["right"][0], 255 - images)  # strength 0: enhanced, not shifted
    again = shift_table(scorers, images, labels, groups, lambda shifted: 255 - shifted, seed=0)
    assert again.equals(table)


def test_a_single_group_has_no_interval():
    images, labels = torch.full((2, 3, 32, 32), 200, dtype=torch.uint8), torch.tensor([0, 1])
    scorers = {"m": lambda images, masks: np.eye(2)}
    table = shift_table(scorers, images, labels, np.array(["a", "a"]), lambda x: x, 0)
    assert table["low"].isna().all() and (table["value"] == 1).all()


def test_figures_show_what_they_are_given(tiny, tmp_path):
    save_backbone(build_encoder("zepto", 4), tmp_path / "encoder.safetensors")
    tensors = tensor_table(load_backbone(tmp_path / "encoder.safetensors"), tiny, 32, 4)
    architecture = figures.architecture(tensors)
    assert [text.get_text().split("\n")[0] for text in architecture.axes[0].texts] == tensors["name"].tolist()

    model = WPAT(build_encoder("zepto", 4), 4, tiny).eval()
    images, labels, masks = blobs(9)
    views = attention_views(model, images[0], shown=3)
    curve = pd.DataFrame({"step": [1, 2], "val_loss": [1.0, 0.9], "val_accuracy": [0.5, 0.6], "val_recall": [0.5, 0.6]})
    history = pd.DataFrame({"step": [0, 1], "loss": [1.1, 1.0]})
    score = {"metric": "balanced_accuracy", "value": 0.5, "low": 0.4, "high": 0.6}
    scores = pd.DataFrame([{"model": m, "split": s, **score} for m in ("wpat", "majority") for s in ("val", "test")])
    comparison = figures.comparison(scores)
    assert [label.get_text() for label in comparison.axes[0].get_yticklabels()] == ["wpat", "majority"]

    probs = np.eye(4)[np.array([0, 1, 2, 0, 1, 2, 0, 1, 1])] * 0.6 + 0.1
    cells = gallery_cells(labels.numpy(), probs, CLASSES, 4)
    maps, pictures = {"attention": masks.float().numpy()}, images.permute(0, 2, 3, 1).numpy()
    empty = figures.gallery({"wrong": cells["wrong"].iloc[:0]}, pictures, maps, 4)
    assert "none" in empty.axes[0].texts[0].get_text()
    no_masks = pd.DataFrame(columns=["method", "region", "measure", "value", "low", "high", "area", "n"])
    assert "no masks" in figures.shares(no_masks).axes[0].texts[0].get_text()
    rows = [(m, r, v, v - 0.1, v + 0.1) for m in ("attention", "image alone") for r, v in (("head", 0.9), ("all", 0.2))]
    sanity_figure = figures.sanity(pd.DataFrame(rows, columns=["method", "randomised", "value", "low", "high"]))
    np.testing.assert_allclose(sanity_figure.axes[0].containers[0].lines[0].get_ydata(), [1, 0.9, 0.2])
    cost = cost_table(model, (64, 128))
    assert np.isfinite(cost.to_numpy(dtype=float)).all()
    drawn = [
        architecture,
        figures.windows(views.image, views.strides, tiny.window, views.region, views.latents),
        figures.curves(history, curve, 2),
        comparison,
        figures.gallery(cells, pictures, maps, 4),
        figures.cost(cost),
        sanity_figure,
    ]
    for figure in drawn:
        figure.canvas.draw()
