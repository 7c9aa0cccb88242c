"""MODEL_CARD.md: what a person must know before using a fine-tuned model, from the run's own facts (Mitchell et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from leuk_lib.runs.files import atomic
from leuk_lib.wpat.predict import ModelCard

NAME = "MODEL_CARD.md"


@dataclass(frozen=True)
class Facts:
    """What the run knows of the model beside its card.

    counts: columns class, train, synthetic, val; test: test cells; scores: rows split, metric, value, low, high, n,
    groups of this model; recalls: columns class, n, groups, recall, low, high (what is missing is left out).
    """

    dataset: str
    kind: str
    profile: str
    run: str
    seed: int
    counts: Mapping[str, Sequence[Any]]
    scores: pd.DataFrame
    recalls: pd.DataFrame
    parameters: int
    notes: tuple[str, ...] = ()


def text(card: ModelCard, facts: Facts) -> str:
    """The card as Markdown; the same facts give the same text."""
    rendered = facts.kind == "rendered"
    cells = "rendered cells (drawn by a procedure; no micrographs)" if rendered else "micrographs"
    lines = [
        f"# Model card: WPAT on {facts.dataset}", "",
        "> **Research software. Not a medical device; nothing here may be used for a diagnosis.**", "",
    ]  # fmt: skip
    if facts.profile == "smoke":
        lines += ["> **Smoke run: trained for seconds to test the code. Not a result.**", ""]
    lines += [
        "## The model", "",
        f"- WPAT on a ConvNeXt V2 encoder ({card.variant}, stem stride {card.stem_stride}); {facts.parameters:,} parameters",
        f"- classes, in the order of the outputs: {', '.join(card.classes)}",
        f"- input: RGB, {card.image_size} x {card.image_size} px, one cell in the middle"
        + ("; **enhanced by ALHE** with " + _settings(card.alhe_settings) if card.enhanced else "; not enhanced"),
        f"- probabilities: softmax of the logits divided by {card.temperature:.3f} (temperature fitted on validation cells)",
        f"- run {facts.run}, profile {facts.profile}, seed {facts.seed}; everything else is in `card.json` beside this file",
        "", "## Data", "", f"Data set {facts.dataset}: {cells}. Cells by class:", "",
        _markdown(pd.DataFrame(dict(facts.counts)).rename(columns={"val": "validation"})), "",
        "## How well it does", "",
        "On the test part, opened once, and on the validation part that chose the weights (which flatters it); 95 % "
        "intervals over resampled groups:", "",
        _markdown(_with_intervals(facts.scores, ["split", "metric"])), "",
        "Recall of each class on the test part, with Wilson's interval over groups:", "",
        _markdown(_with_intervals(facts.recalls.rename(columns={"recall": "value"}), ["class"])), "",
        "## Limits", "",
    ]  # fmt: skip
    if rendered:
        lines.append(
            "- **It has never seen a micrograph.** On real cells its answers mean nothing; it shows that the method and "
            "the code work."
        )
    else:
        lines.append("- Its figures hold for this source, stain and microscope; others were not tried here.")
    lines += [
        f"- It always answers one of its {len(card.classes)} classes, for a red cell or an empty field, too.",
        "- It sees one cell; a diagnosis needs the patient, the film and more.",
        *(f"- {note}" for note in facts.notes),
        "", "## Use", "", "```bash", "leuk predict cell.png --model model.safetensors",
        "leuk export model.safetensors --onnx model.onnx", "```", "", "```python",
        "from leuk_lib.wpat.export import deployed", "",
        'module = deployed("model.safetensors")  # (B,3,S,S) RGB in [0,1] -> logits, probabilities',
        "print(module.card.classes)", "```", "",
    ]  # fmt: skip
    return "\n".join(lines)


def write(card: ModelCard, facts: Facts, folder: Path) -> Path:
    """Write the card into ``folder``, atomically; returns its path."""
    path = Path(folder) / NAME
    with atomic(path) as temporary:
        Path(temporary).write_text(text(card, facts), encoding="utf-8")
    return path


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "its defaults"


def _with_intervals(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Keys, "% [low, high]", n (and groups where known)."""

    def said(row: Mapping[Any, Any]) -> str:
        if pd.isna(row["value"]):
            return "–"
        interval = f" [{100 * row['low']:.1f}, {100 * row['high']:.1f}]" if pd.notna(row.get("low")) else ""
        return f"{100 * row['value']:.1f}{interval}"

    out = table[keys].copy()
    out["% [95 % interval]"] = [said(row) for row in table.to_dict("records")]
    for name in ("n", "groups"):
        if name in table:
            out[name] = table[name].astype(int)
    return out


def _markdown(table: pd.DataFrame) -> str:
    head = "| " + " | ".join(str(name).replace("_", " ") for name in table.columns) + " |"
    rows = ["| " + " | ".join(str(v).replace("_", " ") for v in row) + " |" for row in table.itertuples(index=False)]
    return "\n".join([head, "|" + ":--|" * len(table.columns), *rows])
