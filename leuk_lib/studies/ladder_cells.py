"""The ladder study's cells: its own, those of foreign sources and small sets, and each repetition's parts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from leuk_lib.alhe.torch_alhe import enhance_cells
from leuk_lib.data.catalog import load_dataset
from leuk_lib.data.splits import split_groups
from leuk_lib.runs.files import atomic, read_json, write_json
from leuk_lib.studies.external import foreign_cells
from leuk_lib.studies.small_sets import small_cells
from leuk_lib.studies.study import Row

FRACTIONS = (0.7, 0.1, 0.2)  # training, validation, test
TRAINING, VALIDATION, TEST, NOWHERE = range(4)


def gather(
    dataset: str,
    image_size: int,
    per_class: int,
    workers: int,
    others: Sequence[str],
    small: Sequence[str],
    folder: Path,
) -> list[Row]:
    """Read and enhance all cells, once, into ``folder``; others, small: folders beside the data set's.

    Returns a row a source: cells, groups, what they are grouped by, classes.
    """
    data = load_dataset(dataset, size=image_size, workers=workers, per_class=per_class)
    raw = torch.from_numpy(np.ascontiguousarray(data.images.transpose(0, 3, 1, 2)))
    kept = {"raw": raw, "enhanced": enhance_cells(raw), "labels": torch.from_numpy(data.labels)}
    groups = pd.factorize(data.table["group"])[0].tolist()
    about: dict[str, Any] = {"classes": data.classes, "groups": groups, "others": {}, "small": {}}
    rows: list[Row] = [{
        "source": data.name, "cells": len(raw), "groups": len(set(groups)), "grouped by": data.grouped_by,
        "tested classes": len(data.classes), "classes": ",".join(data.classes),
    }]  # fmt: skip
    for name in others:
        other = foreign_cells(Path(dataset).parent / name, data.classes, image_size, workers)
        kept |= {f"{name} images": other.images, f"{name} labels": other.labels}
        about["others"][name] = other.groups
        rows.append({
            "source": name, "cells": len(other.labels), "groups": len(set(other.groups)), "grouped by": "file",
            "tested classes": len(other.labels.unique()), "classes": "",
        })  # fmt: skip
    for name in small:
        kept[f"{name} images"], names, patients = small_cells(Path(dataset).parent / name, image_size, workers)
        about["small"][name] = names, patients
    with atomic(folder / "cells.safetensors") as temporary:
        save_file({name: tensor.contiguous() for name, tensor in kept.items()}, temporary)
    write_json(folder / "about.json", about)
    return rows


@dataclass(frozen=True)
class Material:
    """Raw and enhanced images (N,3,S,S) uint8, labels (N,), groups (N,), and the positions of the three parts.

    others, small: name of a foreign source, of a small set -> its images, labels and groups.
    """

    raw: Tensor
    enhanced: Tensor
    labels: Tensor
    groups: NDArray[Any]
    classes: tuple[str, ...]
    train: Tensor
    val: Tensor
    test: Tensor
    others: dict[str, tuple[Tensor, Tensor, list[str]]]
    small: dict[str, tuple[Tensor, list[str], list[str]]]

    @classmethod
    def read(cls, folder: Path, seed: int, tuned: Collection[int]) -> Material:
        """What :func:`gather` left in ``folder``, split as repetition ``seed`` splits it.

        What the repetitions ``tuned`` validate on is in no test part.
        """
        kept, about = load_file(folder / "cells.safetensors"), read_json(folder / "about.json")
        labels, groups = kept["labels"].numpy(), np.array(about["groups"])
        part = split_groups(labels, groups, FRACTIONS, seed)
        for other in set(tuned) - {seed}:
            part[(part == TEST) & (split_groups(labels, groups, FRACTIONS, other) == VALIDATION)] = NOWHERE
        train, val, test = (torch.from_numpy(np.flatnonzero(part == k)) for k in (TRAINING, VALIDATION, TEST))
        others = {
            name: (kept[f"{name} images"], kept[f"{name} labels"], found) for name, found in about["others"].items()
        }
        small = {name: (kept[f"{name} images"], *found) for name, found in about["small"].items()}
        return cls(
            kept["raw"], kept["enhanced"], kept["labels"], groups, tuple(about["classes"]), train, val, test, others, small
        )  # fmt: skip
