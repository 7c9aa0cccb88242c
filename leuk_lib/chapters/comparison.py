"""Chapter 6: the baselines of a run, trained like WPAT, and the predictions of all its models."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import nn

from leuk_lib.chapters.wpat import Inputs, training_of
from leuk_lib.evaluation.baselines import Task, display_name
from leuk_lib.evaluation.predictions import read_prediction_table
from leuk_lib.fcmae.weights import load_backbone
from leuk_lib.runs.params import SeveralTrainings, check
from leuk_lib.runs.records import CardParams, read_record
from leuk_lib.runs.stage import Stage
from leuk_lib.training import tuning
from leuk_lib.wpat.params import WpatParams

if TYPE_CHECKING:
    from leuk_lib.training.fabric import Fabric

ADVICE = "run notebooks/05_wpat.ipynb again"


def params_of_wpat(stage: Stage[Any]) -> WpatParams:
    """Read the parameters by which the run's WPAT was trained; the baselines get the same, without synthetic cells.

    Seed, device and precision are those of the running stage.

    Raises:
        LeukError: If stage ``wpat`` has not finished, or if its card does not fit.
    """
    card = stage.input("wpat") / "card.json"
    given = read_record(card, CardParams, "a run card", ADVICE)["params"]
    own = {name: value for name, value in stage.params.model_dump().items() if name in SeveralTrainings.model_fields}
    return check(f"{card}: stage wpat", WpatParams, {**given, **own, "synthetic": False})


def baseline_task(
    stage: Stage[Any], params: WpatParams, inputs: Inputs, fabric: Fabric, trained: dict[str, nn.Module]
) -> Task:
    """What the baselines are trained on, and how: the real training cells, with the parameters of WPAT.

    Trained networks are added to ``trained`` by name, those of LoRA merged into plain ones.
    """
    cells = inputs.cells

    def fit(model: nn.Module, label: str) -> nn.Module:
        tuned, of = tuning.trained_share(model)
        if tuned < of:
            stage.note(f"{label}: {tuned:,} of {of:,} parameters are trained ({tuned / of:.1%}), the others are frozen")
        trained[label] = tuning.merged(training_of(stage, params, inputs, model, label)(fabric).model)
        return trained[label]

    def begin(model: nn.Module, label: str) -> None:
        training_of(stage, params, inputs, model, label).begin(fabric)

    return Task(
        images=cells.images[inputs.train],
        labels=cells.labels[inputs.train],
        masks=None if cells.masks is None else cells.masks[inputs.train],
        val_images=cells.images[inputs.val],
        val_labels=cells.labels[inputs.val],
        val_masks=None if cells.masks is None else cells.masks[inputs.val],
        n_classes=inputs.n_classes,
        seed=params.seed,
        encoder=load_backbone(inputs.encoder_path).to(fabric.device),
        fit=fit,
        begin=begin,
    )


def networks_of(baselines: Iterable[str]) -> dict[str, str]:
    """Name of a baseline in tables and figures -> its name in the parameters.

    Example:
        >>> networks_of(["colour", "resnet18@/home/me/r18.safetensors"])
        {'colour': 'colour', 'resnet18@r18.safetensors': 'resnet18@/home/me/r18.safetensors'}
    """
    return {display_name(name): name for name in baselines}


def with_predictions_of_wpat(folder: Path, baselines: pd.DataFrame) -> pd.DataFrame:
    """Put the predictions that stage ``wpat`` wrote before those of the baselines.

    Args:
        folder: Folder of stage ``wpat``.
        baselines: `prediction_table` of the baselines; may be empty.

    Raises:
        LeukError: If the file is missing or damaged.
    """
    return pd.concat([read_prediction_table(folder / "predictions.csv", ADVICE), baselines], ignore_index=True)
