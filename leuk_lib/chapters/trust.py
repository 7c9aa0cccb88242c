"""Chapter 8: trained models read from their files, scores under shifts, cells to show with their maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leuk_lib.chapters.comparison import baseline_task, networks_of
from leuk_lib.chapters.one_cell import find_cell
from leuk_lib.chapters.wpat import Inputs, model_file
from leuk_lib.data.cellset import CellSet
from leuk_lib.evaluation.attribution import attention_maps
from leuk_lib.evaluation.baselines import Scorer, fit_baselines, network_scorer
from leuk_lib.evaluation.calibration import apply_temperature
from leuk_lib.evaluation.robustness import SHIFTS, STRENGTHS
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.records import CardParams, read_record
from leuk_lib.runs.seeds import torch_generator
from leuk_lib.runs.stage import Stage
from leuk_lib.runs.tables import numbers, read_table
from leuk_lib.statistics.intervals import korn_graubard
from leuk_lib.wpat.model import WPAT
from leuk_lib.wpat.params import WpatParams
from leuk_lib.wpat.predict import load_model, read_card

if TYPE_CHECKING:
    from leuk_lib.training.fabric import Fabric

NO_SHIFT = "none"  # kind of the rows without a shift
ADVICE = "run notebooks/06_comparison.ipynb again"

# ---- models of earlier stages ------------------------------------------------------------------------------------------


def open_network(file: Path, device: torch.device) -> nn.Module:
    """Load a trained network, frozen and laid out in memory as after training, so that its maps are the same to the bit.

    Raises:
        LeukError: If the file is missing, damaged, or not a trained classifier.
    """
    model, _ = load_model(file, device)
    return model.to(memory_format=torch.channels_last).requires_grad_(False)


def open_wpat(folder: Path, device: torch.device) -> WPAT:
    """Load the WPAT that stage ``wpat`` trained.

    Raises:
        LeukError: If the file is missing, damaged, or of another network.
    """
    model = open_network(folder / model_file("wpat"), device)
    if not isinstance(model, WPAT):
        raise LeukError(f"{folder / model_file('wpat')}: is no WPAT; run notebooks/05_wpat.ipynb again")
    return model


def read_scores(folder: Path) -> pd.DataFrame:
    """Read the scores that stage ``comparison`` wrote: model, split, metric, value.

    Raises:
        LeukError: If the file is missing or damaged.
    """
    path = folder / "scores.csv"
    table = read_table(path, ("model", "split", "metric", "value"), ADVICE)
    table["value"] = numbers(table, "value", path, ADVICE)
    return table[["model", "split", "metric", "value"]]


def best_baseline(scores: pd.DataFrame) -> str | None:
    """Model of the highest validation accuracy besides WPAT in a score table (model, split, metric, value), if any."""
    rows = scores[(scores["split"] == "val") & (scores["metric"] == "accuracy") & (scores["model"] != "wpat")]
    return str(rows.sort_values("value", kind="stable")["model"].iloc[-1]) if len(rows) else None


def open_scorer(stage: Stage[Any], name: str, params: WpatParams, inputs: Inputs, fabric: Fabric) -> Scorer:
    """Open a model of this run by its name in tables.

    A trained network is read from its file. A read-out of fixed features (colours, a frozen network) has no file and is
    fitted again, which takes seconds and gives the same.

    Raises:
        LeukError: If there is no such model, or if its file is damaged.
    """
    comparison = stage.input("comparison")
    for folder in (stage.input("wpat"), comparison):
        if (file := folder / model_file(name)).is_file():
            return network_scorer(open_network(file, fabric.device))
    card = read_record(comparison / "card.json", CardParams, "a run card", ADVICE)
    network = networks_of(card["params"].get("baselines", ())).get(name)
    if network is None:
        raise LeukError(f"{comparison}: holds no model {name!r}; {ADVICE}")
    trained: dict[str, nn.Module] = {}
    return fit_baselines([network], baseline_task(stage, params, inputs, fabric, trained))[name]


# ---- cells to show -----------------------------------------------------------------------------------------------------


def gallery_cells(
    labels: NDArray[np.int64], probs: NDArray[Any], classes: tuple[str, ...], shown: int
) -> dict[str, pd.DataFrame]:
    """Up to ``shown`` correctly and ``shown`` wrongly classified cells, the most confident first.

    Correct cells take turns by class.

    Args:
        labels: True classes (n,).
        probs: Predicted probabilities (n, K).
        classes: Names of the classes.
        shown: Largest number of cells.

    Returns:
        Tables "right" and "wrong" with columns position, label, predicted, probability.
    """
    predicted = probs.argmax(axis=1)
    table = pd.DataFrame(
        {
            "position": np.arange(len(labels)), "label": [classes[k] for k in labels],
            "predicted": [classes[k] for k in predicted], "probability": probs.max(axis=1),
        }
    )  # fmt: skip
    table = table.sort_values("probability", ascending=False, kind="stable")
    right = table[table["label"] == table["predicted"]]
    turn = right.groupby("label").cumcount()
    right = right.assign(turn=turn).sort_values(["turn", "label"], kind="stable").drop(columns="turn")
    wrong = table[table["label"] != table["predicted"]]
    return {"right": right.head(shown), "wrong": wrong.head(shown)}


# ---- distribution shifts -------------------------------------------------------------------------------------------------


def shift_table(
    scorers: Mapping[str, Scorer],
    images: Tensor,
    labels: Tensor,
    groups: NDArray[np.str_],
    enhance: Callable[[Tensor], Tensor],
    seed: int,
) -> pd.DataFrame:
    """Accuracy of models on shifted cells. All models see the same shifted cells.

    Args:
        scorers: Model -> function from images to probabilities.
        images: Raw images (n, 3, S, S), uint8.
        labels: Their classes (n,).
        groups: Their groups (n,).
        enhance: Applied to the shifted images before all models.
        seed: Seed of the shifts.

    Returns:
        One row per model, kind and strength of shift: model, kind, strength, value (accuracy), low, high
        (`korn_graubard`, 95 %; NaN for a single group), n, groups. Strength 0 appears once, as kind "none".
    """
    conditions = [(NO_SHIFT, 0.0), *((kind, strength) for kind in SHIFTS for strength in STRENGTHS[kind])]
    rows = []
    for kind, strength in conditions:
        shifted = images if kind == NO_SHIFT else SHIFTS[kind](images, strength, torch_generator(seed, "shift", kind))
        enhanced = enhance(shifted)
        for name, score in scorers.items():
            correct = (score(enhanced, None).argmax(axis=1) == labels.numpy()).astype(np.float64)
            low, high, _ = korn_graubard(correct, groups)
            row = {"model": name, "kind": kind, "strength": strength, "value": float(correct.mean()), "low": low}
            rows.append(row | {"high": high, "n": len(labels), "groups": len(np.unique(groups))})
    return pd.DataFrame(rows)


def one_cell(
    model: WPAT, cells: CellSet, enhance: Callable[[Tensor], Tensor], stage: Stage[Any], kind: str = "stain"
) -> dict[str, Any] | None:
    """The same cell as it is and under the strongest shift of a kind: calibrated probabilities and attention.

    Args:
        model: The WPAT of this run.
        cells: The cells with raw images.
        enhance: Applied to both images before the model.
        stage: The stage, which reads the temperature from stage ``wpat`` and seeds the shift.
        kind: Kind of shift.

    Returns:
        Arguments of ``figures.trust.one_cell``; None for a data set without test cells.
    """
    cell = find_cell(cells, stage)
    if cell is None:
        return None
    raw, strength = cells.images[cell.position : cell.position + 1], max(STRENGTHS[kind])
    generator = torch_generator(stage.params.seed, "one cell", kind)
    images = enhance(torch.cat([raw, SHIFTS[kind](raw, strength, generator)]))
    temperature = read_card(stage.input("wpat") / model_file("wpat")).temperature
    probs = apply_temperature(network_scorer(model)(images, None), temperature)
    maps = attention_maps(model, images, probs.argmax(axis=1))
    return {
        "images": images.permute(0, 2, 3, 1).numpy(), "maps": maps.numpy(), "probs": probs, "classes": cells.classes,
        "truth": cell.label, "shift": f"{kind} shift of {strength:g}",
    }  # fmt: skip
