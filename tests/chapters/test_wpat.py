"""Chapter 5: inputs, training through the stage, model files, tensors and attention that are drawn."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from chapters.toys import write_synthetic
from damage import survives
from leuk_lib.chapters.wpat import (
    attention_views,
    available,
    load_inputs,
    open_test_parts,
    parameter_counts,
    read_synthetic,
    tensor_table,
    train_wpat,
    use_weights,
)
from leuk_lib.data.cellset import CellSet, from_arrays
from leuk_lib.fcmae.encoder import build_encoder
from leuk_lib.fcmae.weights import ORIGIN, load_backbone, save_backbone
from leuk_lib.figures import wpat as figures
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import sha256_file
from leuk_lib.training import pretrained
from leuk_lib.training.fabric import make_fabric
from leuk_lib.wpat.cost import cost_table
from leuk_lib.wpat.model import WPAT
from wpat.toys import TINY, blobs


def test_inputs_are_enhanced_and_synthetic_cells_or_raw_ones(stage):
    inputs = load_inputs(stage, stage.params, ["clip_limit", "tiles"])
    raw, _, _ = blobs(40)
    assert torch.equal(inputs.cells.images, 255 - raw)
    assert inputs.alhe_settings == {"clip_limit": 2.0, "tiles": 4}
    assert len(inputs.synthetic_labels) == 5
    counts = pd.DataFrame(inputs.counts()).set_index("class")
    assert counts["train"].sum() == 24 and counts["val"].sum() == 8 and counts.loc["only in train", "val"] == 0

    stage.params = stage.params.model_copy(update={"images": "raw", "synthetic": False})
    plain = load_inputs(stage, stage.params, ["clip_limit"])
    assert torch.equal(plain.cells.images, raw) and plain.alhe_settings is None and len(plain.synthetic_labels) == 0


def test_the_licence_of_the_encoders_start_is_noted(stage):
    assert load_inputs(stage, stage.params, []).encoder_origin is None and len(stage.notes) == 1
    origin = {"name": "convnextv2_atto.fcmae", "source": "the hub", "licence": "CC BY-NC 4.0", "sha256": "ab" * 32}
    save_backbone(build_encoder("zepto", 4), stage.root / "fcmae" / "encoder.safetensors", {ORIGIN: origin})
    assert load_inputs(stage, stage.params, []).encoder_origin == origin and "CC BY-NC 4.0" in stage.notes[-1]


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
        load_inputs(stage, stage.params, [])


def test_damaged_synthetic_cells_are_one_line(stage):
    cells = CellSet.open(stage.root / "data")
    survives(lambda path: read_synthetic(path.parent, cells), stage.root / "acdb_gan" / "synthetic.safetensors")


def test_training_through_the_stage_counts_all_classes(stage):
    stage.params = stage.params.model_copy(update={"steps": 3, "evaluations": 1})
    inputs = load_inputs(stage, stage.params, [])
    fabric = make_fabric(stage.params)
    tuned = train_wpat(stage, inputs, fabric)["wpat"]
    assert tuned.val_logits.shape == (8, 4) and isinstance(tuned.model, WPAT)
    assert (stage.checkpoints / "WPAT" / "state.safetensors").is_file()


def test_networks_whose_package_is_missing_are_left_out_with_a_line(stage, monkeypatch):
    monkeypatch.setattr(pretrained, "missing_package", lambda name: "some-package" if "lite0" in name else "")
    names = ["fcmae", "efficientnet_lite0@pretrained", "knn:efficientnet_lite0@pretrained"]
    assert available(names, stage) == ["fcmae"]
    assert len(stage.notes) == 2 and all("some-package" in note for note in stage.notes)


def test_weights_are_named_and_their_files_decide_the_identity(stage, tmp_path):
    """A file that was exchanged under its name must not continue from the checkpoints of the first."""
    file = tmp_path / "r.safetensors"
    file.write_bytes(b"one")
    cells = load_inputs(stage, stage.params, []).cells
    use_weights(stage, ["fcmae", "colour", f"knn:convnextv2_atto.fcmae@{file}", "resnet18"], cells)
    assert stage.files == [str(file)] and "CC BY-NC 4.0" in stage.notes[-1]
    assert sha256_file(file)[:12] in stage.notes[-1]
    use_weights(stage, [f"dinobloom_s@{file}"], replace(cells, name="bccd"))
    assert "bccd among them: its figures there are too good" in stage.notes[-1]


def test_at_least_one_network_must_be_left(stage, monkeypatch):
    monkeypatch.setattr(pretrained, "_package_folder", lambda package: None)
    with pytest.raises(LeukError, match="none of efficientnet_lite0@pretrained is left"):
        available(["efficientnet_lite0@pretrained"], stage)


@pytest.mark.parametrize(("size", "stem"), [(32, 2), (48, 2), (64, 4)])
def test_the_drawn_tensors_are_those_of_a_forward_pass(tmp_path, size, stem):
    encoder = build_encoder("zepto", stem)
    path = tmp_path / "encoder.safetensors"
    save_backbone(encoder, path)
    drawn = tensor_table(load_backbone(path), TINY, size, 5).set_index("name")[["height", "width", "channels"]]
    model = WPAT(encoder, 5, TINY).eval()
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
        tensor_table(load_backbone(path), TINY.model_copy(update={"linear_head": False}), size, 5)["name"]
    )


def test_attention_views_are_shares_of_the_image_and_the_latents_differ():
    torch.manual_seed(0)
    model = WPAT(build_encoder("zepto", 4), 4, TINY).eval()
    views = attention_views(model, blobs(1)[0][0], shown=3)
    assert views.strides == (16, 32) and views.latents.shape == (3, 32, 32)
    np.testing.assert_allclose([views.region.sum(), *views.latents.sum(axis=(1, 2))], 1, atol=1e-4)
    assert len(np.unique(views.latents.reshape(3, -1), axis=0)) == 3
    assert parameter_counts(model)["parameters"].sum() == sum(p.numel() for p in model.parameters())


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


def test_figures_show_what_they_are_given(tmp_path):
    save_backbone(build_encoder("zepto", 4), tmp_path / "encoder.safetensors")
    tensors = tensor_table(load_backbone(tmp_path / "encoder.safetensors"), TINY, 32, 4)
    architecture = figures.architecture(tensors)
    assert [text.get_text().split("\n")[0] for text in architecture.axes[0].texts] == tensors["name"].tolist()

    model = WPAT(build_encoder("zepto", 4), 4, TINY).eval()
    views = attention_views(model, blobs(1)[0][0], shown=3)
    curve = pd.DataFrame({"step": [1, 2], "val_loss": [1.0, 0.9], "val_accuracy": [0.5, 0.6], "val_recall": [0.5, 0.6]})
    history = pd.DataFrame({"step": [0, 1], "loss": [1.1, 1.0]})
    cost = cost_table(model, (64, 128))
    assert np.isfinite(cost.to_numpy(dtype=float)).all()
    drawn = [
        architecture,
        figures.windows(views.image, views.strides, TINY.window, views.region, views.latents),
        figures.curves(history, curve, 2),
        figures.cost(cost),
    ]
    for figure in drawn:
        figure.canvas.draw()
