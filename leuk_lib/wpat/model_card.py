"""MODEL_CARD.md: training data, performance and limits of a fine-tuned model (Mitchell et al. 2019)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from leuk_lib.data.splits import EXTERNAL
from leuk_lib.fcmae.encoder import EncoderSpec
from leuk_lib.fcmae.weights import origin_sentence
from leuk_lib.quoting import markdown
from leuk_lib.runs.files import atomic
from leuk_lib.wpat.predict import ModelCard

NAME = "MODEL_CARD.md"


@dataclass(frozen=True)
class Facts:
    """Facts of the run that the model file's card does not hold.

    Attributes:
        dataset: Name of the data set.
        kind: "rendered" or "micrographs".
        profile: Profile of the run.
        run: Name of the run.
        seed: Seed of the run.
        counts: Columns class, train, synthetic, val.
        scores: Rows split, metric, value, low, high, n, groups of this model.
        recalls: Columns class, n, groups, recall, low, high; absent columns are left out.
        parameters: Number of parameters.
        notes: Further limits, one sentence each.
        encoder_origin: Weights that the encoder's pretraining started from (``read_origin``); None for random ones.
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
    encoder_origin: Mapping[str, Any] | None = None


def text(card: ModelCard, facts: Facts) -> str:
    """Compose the card as Markdown."""
    rendered = facts.kind == "rendered"
    cells = "rendered cells (drawn procedurally; no micrographs)" if rendered else "micrographs"
    lines = [
        f"# Model card: WPAT on {markdown(facts.dataset)}", "",
        "> **Research software. Not a medical device. Not for diagnosis.**", "",
    ]  # fmt: skip
    if facts.profile == "smoke":
        lines += ["> **Smoke run: trained for seconds, to test the code. Not a result.**", ""]
    lines += [
        "## Model", "",
        f"- {architecture(card)}; {facts.parameters:,} parameters",
        *_origin(facts.encoder_origin),
        f"- classes, in output order: {', '.join(map(markdown, card.classes))}",
        f"- input: RGB, {card.image_size} x {card.image_size} px, one cell in the centre"
        + ("; **enhanced by ALHE** with " + _settings(card.alhe_settings) if card.enhanced else "; not enhanced"),
        f"- probabilities: softmax of the logits divided by {card.temperature:.3f} (temperature fitted on validation cells)",
        f"- run {facts.run}, profile {facts.profile}, seed {facts.seed}; `card.json` in the same folder has all settings",
        "", "## Data", "", f"Data set {markdown(facts.dataset)}: {cells}. Cells per class:", "",
        _markdown(pd.DataFrame(dict(facts.counts)).rename(columns={"val": "validation"})), "",
        "## Performance", "",
        "On the test part, which was opened once, and on the validation part, which is optimistic because the weights were "
        "selected on it; 95 % intervals over groups:", "",
        _markdown(_with_intervals(facts.scores, ["split", "metric"])), "",
        "Recall per class on the test part, with Korn and Graubard's 95 % interval over groups:", "",
        _markdown(_with_intervals(facts.recalls.rename(columns={"recall": "value"}), ["class"])), "",
        "## Limits", "",
    ]  # fmt: skip
    if rendered:
        lines.append(
            "- **It was never trained on a micrograph.** Its predictions on real cells are meaningless; it shows that the "
            "method and the code work."
        )
    else:
        external = facts.scores["split"].str.startswith(EXTERNAL).any()
        others = (
            "the external test sets in the table show how far others differ" if external else "others were not tested"
        )
        lines.append(f"- Its scores hold for this source, stain and microscope; {others}.")
    lines += [
        f"- It always predicts one of its {len(card.classes)} classes, even for a red cell or an empty field.",
        "- It sees one cell; a diagnosis needs the patient, the whole smear and more.",
        *(f"- {markdown(note)}" for note in facts.notes),
        "", "## Use", "", "```bash", "leuk predict cell.png --model model.safetensors",
        "leuk export model.safetensors --onnx model.onnx", "```", "", "```python",
        "from leuk_lib.wpat.export import deployed", "",
        'module = deployed("model.safetensors")  # (B,3,S,S) RGB in [0,1] -> logits, probabilities',
        "print(module.card.classes)", "```", "",
    ]  # fmt: skip
    return "\n".join(lines)


def write(card: ModelCard, facts: Facts, folder: Path) -> Path:
    """Write the card into ``folder``, atomically, and return its path."""
    path = Path(folder) / NAME
    with atomic(path) as temporary:
        Path(temporary).write_text(text(card, facts), encoding="utf-8")
    return path


def _origin(origin: Mapping[str, Any] | None) -> list[str]:
    if origin is None:
        return []
    return [
        f"- {origin_sentence(origin)}",
        f"- SHA-256 of the file of these weights: `{origin.get('sha256', '?')}`",
    ]


def architecture(card: ModelCard) -> str:
    """Say in words what the network is.

    Example:
        >>> from leuk_lib.fcmae.encoder import EncoderSpec
        >>> architecture(ModelCard(("a", "b"), "wpat", EncoderSpec("atto", 2), {}, 64, False, {}))
        'WPAT on a ConvNeXt V2 encoder (atto, stem stride 2)'
    """
    backbone = card.backbone
    if isinstance(backbone, EncoderSpec):
        network = f"a ConvNeXt V2 encoder ({backbone.variant}, stem stride {backbone.stem_stride})"
    else:
        network = f"timm's {backbone.architecture} (input of {backbone.side} px)"
    return {"wpat": f"WPAT on {network}", "linear": f"Linear head on {network}", "network": network}[card.kind]


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "its defaults"


def _with_intervals(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Columns: the keys, "% [95 % interval]", and n and groups where present."""

    def percent(row: Mapping[Any, Any]) -> str:
        if pd.isna(row["value"]):
            return "–"
        interval = f" [{100 * row['low']:.1f}, {100 * row['high']:.1f}]" if pd.notna(row.get("low")) else ""
        return f"{100 * row['value']:.1f}{interval}"

    out = table[keys].copy()
    if "metric" in out:
        out["metric"] = out["metric"].str.replace("_", " ")
    out["% [95 % interval]"] = [percent(row) for row in table.to_dict("records")]
    for name in ("n", "groups"):
        if name in table:
            out[name] = table[name].astype(int)
    return out


def _markdown(table: pd.DataFrame) -> str:
    head = "| " + " | ".join(str(name).replace("_", " ") for name in table.columns) + " |"
    rows = ["| " + " | ".join(_plain(v) for v in row) + " |" for row in table.itertuples(index=False)]
    return "\n".join([head, "|" + ":--|" * len(table.columns), *rows])


def _plain(value: Any) -> str:
    """Quote a cell; our own interval "90.1 [85.0, 94.2]" and "external test set" contain nothing that needs it."""
    return str(value) if re.fullmatch(r"[\d.,\[\] –-]*", str(value)) else markdown(value)
