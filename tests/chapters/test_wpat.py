"""What the stage trains on: the cells, synthetic ones with them; and what the chapter draws."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from damage import survives
from leuk_lib.chapters.wpat import gather, network_trainer, read_synthetic, train_wpat
from leuk_lib.chapters.wpat_pictures import cells_to_show, parameter_counts, seen_by, spread_out, tensor_table
from leuk_lib.data.loading import CellSet
from leuk_lib.fcmae.encoder import build_encoder
from leuk_lib.fcmae.weights import save_backbone
from leuk_lib.figures import wpat as figures
from leuk_lib.runs.errors import LeukError
from leuk_lib.training.fabric import make_fabric
from leuk_lib.wpat.model import WPAT
from wpat.toys import blobs

CLASSES = ("a", "b", "c", "only in train")


class FakeStage:
    """The part of a stage that the room needs, in a folder."""

    def __init__(self, root, params):
        self.root, self.params, self.identity, self.notes = root, params, "id", []
        self.checkpoints = root / "checkpoints"

    def input(self, upstream):
        return self.root / upstream

    def note(self, text):
        self.notes.append(text)


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
    used = {"kappa_max": 2.0, "tiles": 4, "seed": 0, "batch": 256}
    (tmp_path / "alhe" / "card.json").write_text(json.dumps({"params": used}))
    write_synthetic(tmp_path, images[:5], labels[1:6])
    torch.manual_seed(0)
    save_backbone(build_encoder("zepto", 4), tmp_path / "fcmae" / "encoder.safetensors")
    return FakeStage(tmp_path, tiny)


def write_synthetic(root, images, labels):
    save_file(
        {"images": images.contiguous(), "labels": labels.contiguous()}, root / "acdb_gan" / "synthetic.safetensors"
    )


def test_gather_reads_enhanced_and_synthetic_cells(stage):
    material = gather(stage, ["kappa_max", "tiles"])
    raw, _, _ = blobs(40)
    assert torch.equal(material.cells.images, 255 - raw)
    assert material.alhe_settings == {"kappa_max": 2.0, "tiles": 4}
    assert len(material.extra_labels) == 5
    counts = pd.DataFrame(material.counts()).set_index("class")
    assert counts["train"].sum() == 24 and counts["val"].sum() == 8 and counts.loc["only in train", "val"] == 0

    stage.params = stage.params.model_copy(update={"images": "raw", "synthetic": False})
    plain = gather(stage, ["kappa_max"])
    assert torch.equal(plain.cells.images, raw) and plain.alhe_settings is None and len(plain.extra_labels) == 0


@pytest.mark.parametrize("harm", ["no file", "size", "label", "below", "keys", "floats", "count"])
def test_synthetic_cells_that_do_not_fit_are_named(stage, harm):
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
        gather(stage, [])


def test_damaged_synthetic_cells_are_one_line(stage):
    cells = CellSet.open(stage.root / "data")
    survives(lambda path: read_synthetic(path.parent, cells), stage.root / "acdb_gan" / "synthetic.safetensors")


def test_training_through_the_stage_counts_all_classes(stage):
    stage.params = stage.params.model_copy(update={"steps": 3, "evaluations": 1})
    material = gather(stage, [])
    fabric = make_fabric(stage.params)
    tuned = train_wpat(stage, material, fabric)
    assert tuned.val_logits.shape == (8, 4) and isinstance(tuned.model, WPAT)
    assert (stage.checkpoints / "WPAT" / "state.pt").is_file()
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 4))
    assert network_trainer(stage, material, fabric)(net, "net")(torch.zeros(1, 3, 32, 32)).shape == (1, 4)


def test_pictures_and_figures_of_a_tiny_model(stage, tiny):
    path = stage.root / "fcmae" / "encoder.safetensors"
    tensors = tensor_table(path, tiny, 32, 4)
    assert tensors.iloc[0].tolist() == ["image", "image", 32, 32, 3]
    assert tensors.set_index("name").loc["logits", "height"] == 4
    model = WPAT(build_encoder("zepto", 4), 4, tiny).eval()
    images, labels, masks = blobs(9)
    seen = seen_by(model, images[0], shown=3)
    assert (
        seen.strides == (16, 32)
        and seen.latents.shape == (3, 32, 32)
        and seen.region.sum() == pytest.approx(1, abs=1e-4)
    )
    assert parameter_counts(model)["parameters"].sum() == sum(p.numel() for p in model.parameters())

    probs = np.eye(4)[np.array([0, 1, 2, 0, 1, 2, 0, 1, 1])] * 0.6 + 0.1
    shown = cells_to_show(labels.numpy(), probs, CLASSES, 4)
    assert shown["right"]["label"].tolist()[:3] == ["a", "b", "c"] and shown["wrong"]["position"].tolist() == [8]
    curve = pd.DataFrame({"step": [1, 2], "val_loss": [1.0, 0.9], "val_accuracy": [0.5, 0.6], "val_recall": [0.5, 0.6]})
    history = pd.DataFrame({"step": [0, 1], "loss": [1.1, 1.0]})
    score = {"metric": "balanced_accuracy", "value": 0.5, "low": 0.4, "high": 0.6}
    scores = pd.DataFrame([{"model": m, "split": s, **score} for m in ("wpat", "majority") for s in ("val", "test")])
    maps = {"attention": masks.float().numpy()}
    summary = pd.DataFrame(columns=["method", "region", "measure", "value", "low", "high", "area", "n"])
    drawn = [
        figures.architecture(tensors),
        figures.windows(seen.image, seen.strides, tiny.window, seen.region, seen.latents),
        figures.curves(history, curve, 2),
        figures.comparison(scores),
        figures.confusion(np.diag([3, 0, 2, 1]), CLASSES),
        figures.gallery(shown, images.permute(0, 2, 3, 1).numpy(), maps, 4),
        figures.gallery({"wrong": shown["wrong"].iloc[:0]}, images.permute(0, 2, 3, 1).numpy(), maps, 4),
        figures.shares(summary),
    ]
    for figure in drawn:
        figure.canvas.draw()


def test_spread_out_positions():
    assert spread_out(10, 4).tolist() == [0, 3, 6, 9]
    assert spread_out(3, 10).tolist() == [0, 1, 2]
    assert spread_out(0, 5).tolist() == []
