"""Train one method on a few rendered cells, in a process of its own: ``train_one.py METHOD FOLDER [--processes 2 | --kill-at 9] [--settings JSON]``.

Prints ``step K`` after every optimiser step, and at the end ``losses ...`` and ``hash ...`` (SHA-256 of the weights);
before that, every process of a pretraining prints ``probe ...`` (SHA-256 of its probe's tables).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from leuk_lib.data.smear.cohort import smear_cells
from leuk_lib.runs.params import TrainParams
from leuk_lib.runs.tensors import digest
from leuk_lib.training import loop as loops
from leuk_lib.training.fabric import make_fabric

CLASSES = (0, 1)


def cells(size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N,3,size,size) uint8 and labels (N,) of two rendered classes."""
    rendered = smear_cells(cells=60, patients=3, size=size, seed=1)
    chosen = rendered.labels < len(CLASSES)
    return rendered.images[chosen], rendered.labels[chosen]


def train(method: str, folder: Path, fabric: Any) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    """The trained weights and the loop's history."""
    images, labels = cells()
    if method == "fcmae":
        from leuk_lib.fcmae.params import FcmaeParams
        from leuk_lib.fcmae.pretrain import pretrain
        from leuk_lib.fcmae.probe import Probe

        params, order = FcmaeParams(**SETTINGS["fcmae"]), torch.arange(len(images))
        val = order % 4 == 0
        probe = Probe(
            images, labels, order.numpy().astype(str), order[~val], order[val], steps=(0, 7, params.steps), k=3
        )
        fcmae = pretrain(images, params, folder, "id", fabric, monitor=probe)
        tables = probe.table().to_csv() + probe.gains().to_csv()  # as the chapter does in every process
        print("probe", hashlib.sha256(tables.encode()).hexdigest(), flush=True)
        return fcmae.encoder.state_dict(), fcmae.history
    if method == "gan":
        from leuk_lib.gan.params import AcdbGanParams
        from leuk_lib.gan.train import train_gan

        gan = train_gan(images, labels, len(CLASSES), AcdbGanParams(**SETTINGS["gan"]), folder, "id", fabric)
        return gan.generator.state_dict(), gan.history.to_dict("records")
    from leuk_lib.fcmae.encoder import build_encoder
    from leuk_lib.wpat.finetune import finetune
    from leuk_lib.wpat.params import WpatParams

    torch.manual_seed(0)
    encoder = build_encoder("zepto", stem_stride=1, drop_path=0.3)
    wpat = finetune(
        images,
        labels,
        images[::4],
        labels[::4],
        encoder,
        WpatParams(**SETTINGS["wpat"]),
        folder,
        "id",
        fabric,
        n_classes=2,
    )
    return wpat.model.state_dict(), wpat.history.to_dict("records")


COMMON: dict[str, Any] = {"accelerator": "cpu", "checkpoint_every": 3, "batch_size": 8}
# Two processes round differently, and Adam amplifies it, so the learning rates are small.
SETTINGS: dict[str, dict[str, Any]] = {
    "fcmae": {**COMMON, "stem_stride": 1, "decoder_dim": 32, "steps": 20, "contrast": 1.0},
    "gan": {
        **COMMON,
        "gan_size": 16,
        "width": 8,
        "max_width": 16,
        "steps": 16,
        "min_count": 2,
        "lr": 1e-4,
        "batch_size": 32,
    },
    "wpat": {
        **COMMON,
        "dim": 16,
        "heads": 2,
        "latents": 4,
        "depth": 1,
        "steps": 20,
        "drop_path": 0.3,
        "lr": 1e-5,
        "mixup": 0.4,
        "cutmix": 1.0,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("method", choices=["fcmae", "gan", "wpat"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--kill-at", type=int, help="step in which the process kills itself")
    parser.add_argument("--settings", type=json.loads, default={}, help="parameters other than SETTINGS, as JSON")
    options = parser.parse_args()
    SETTINGS[options.method] |= options.settings

    fabric = make_fabric(TrainParams(accelerator="cpu", devices=options.processes, threads=1))
    add_row = loops.TrainingLoop._add_row  # of each step, at once on the CPU

    def logged(self: loops.TrainingLoop, step: int, values: Mapping[str, float]) -> None:
        add_row(self, step, values)
        print("step", step, flush=True)
        if step == options.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    loops.TrainingLoop._add_row = logged  # type: ignore[method-assign]
    weights, history = train(options.method, options.folder, fabric)
    if fabric.global_rank == 0:
        # A term that is not computed at every step (a lazy penalty) is NaN, which equals nothing.
        print("losses", json.dumps([{key: value for key, value in row.items() if value == value} for row in history]))
        print("hash", digest(weights), flush=True)


if __name__ == "__main__":
    main()
