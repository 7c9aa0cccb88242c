"""A stage in a folder, with the files of the stages before it."""

import json
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import save_file

from leuk_lib.data.cellset import CellSet
from leuk_lib.fcmae.encoder import build_encoder
from leuk_lib.fcmae.weights import save_backbone
from wpat.toys import blobs

CLASSES = ("a", "b", "c", "only in train")


class FakeStage:
    """What the chapter uses of a stage, in a folder."""

    def __init__(self, root, params):
        self.root, self.params, self.identity, self.notes = root, params, "id", []
        self.checkpoints = self.folder = root / "checkpoints"
        self.saved, self.files, self.name = [], [], "toy"

    def input(self, upstream):
        return self.root / upstream

    def note(self, text):
        self.notes.append(text)

    def save_file(self, path):
        self.saved.append(path.name)

    def use_file(self, name):
        self.files.append(name)

    notice = note


def write_synthetic(root, images, labels):
    save_file(
        {"images": images.contiguous(), "labels": labels.contiguous()}, root / "acdb_gan" / "synthetic.safetensors"
    )


def write_inputs(root: Path) -> None:
    """Write what the stages ``data``, ``alhe``, ``acdb_gan`` and ``fcmae`` would have written."""
    for name in ("data", "alhe", "acdb_gan", "fcmae"):
        (root / name).mkdir()
    images, labels, masks = blobs(40)
    labels[0] = 3
    table = pd.DataFrame({"label": [CLASSES[k] for k in labels], "group": [str(i) for i in range(40)]})
    table["split"] = ["train"] * 24 + ["val"] * 8 + ["test"] * 8
    CellSet(images, masks, labels, CLASSES, table, "micrographs").save(root / "data")
    save_file({"images": 255 - images}, root / "alhe" / "images.safetensors")
    alhe_params = {"clip_limit": 2.0, "tiles": 4, "seed": 0, "batch": 256}
    (root / "alhe" / "card.json").write_text(json.dumps({"params": alhe_params}))
    write_synthetic(root, images[:5], labels[1:6])
    torch.manual_seed(0)
    save_backbone(build_encoder("zepto", 4), root / "fcmae" / "encoder.safetensors")
