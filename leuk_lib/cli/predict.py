"""``leuk predict``: predict the images that a person names; write a table, CSV, JSON and a page with attention maps."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from leuk_lib import quoting
from leuk_lib.alhe.params import EnhanceParams
from leuk_lib.alhe.torch_alhe import enhance_cells
from leuk_lib.data.image_lists import Unusable, find_images
from leuk_lib.fcmae.weights import origin_sentence
from leuk_lib.runs import progress
from leuk_lib.runs.display import RESEARCH_USE
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import atomic, keep_inputs, write_text
from leuk_lib.runs.parallel import available_cores
from leuk_lib.runs.params import check
from leuk_lib.runs.paths import user_path
from leuk_lib.wpat.contact_sheet import contact_sheet
from leuk_lib.wpat.model_card import NAME
from leuk_lib.wpat.predict import ADVICE, Enhance, LoadedModel, ModelCard, Predicted, as_table, predict_batches


@dataclass(frozen=True)
class Predictions:
    """The outcome of a command.

    Attributes:
        table: One row per image: file, probabilities, predicted.
        unusable: What gave no image.
        model: The model file.
        card: Its card.
        shown: The first batches, with attention maps; empty without a contact sheet.
    """

    table: pd.DataFrame
    unusable: list[Unusable]
    model: Path
    card: ModelCard
    shown: list[Predicted]

    @property
    def exit_code(self) -> int:
        """0 if every image was predicted, 1 if some were, 2 if none was."""
        return 0 if not self.unusable else 1 if len(self.table) else 2


def predict_images(
    names: Sequence[str],
    model: Path,
    device: str = "auto",
    batch: int = 0,
    shown: int = 0,
    outputs: Sequence[Path | None] = (),
) -> Predictions:
    """Predict images, enhanced by ALHE if the model was trained on enhanced cells.

    Args:
        names: Files, folders, patterns, tables (``image_lists.find_images``).
        model: A model file.
        device: As for ``predict.chosen_device``.
        batch: Images at a time; 0: by their size.
        shown: Images to keep for a contact sheet.
        outputs: Files that are written afterwards.

    Raises:
        LeukError: For an unusable model, table or device, and for an output that is read (``files.keep_inputs``).
    """
    files, unusable = find_images(names)
    keep_inputs(outputs, [model, *files, *(path for path in map(user_path, names) if not path.is_dir())])
    loaded = LoadedModel.open(model, device)
    card = loaded.card
    enhance = enhancement(card, model)
    tables = []
    kept: list[Predicted] = []
    batches = predict_batches(files, loaded, enhance, batch=batch, attention=shown, workers=available_cores())
    with progress.counted("images", len(files), "image") as update:
        for part in batches:
            tables.append(as_table(part, card.classes))
            unusable += part.unusable
            if sum(len(earlier.files) for earlier in kept) < shown:
                kept.append(part)
            update(len(part.files) + len(part.unusable))
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    return Predictions(table, unusable, model, card, kept)


def enhancement(card: ModelCard, model: Path) -> Enhance | None:
    """Return ALHE with the settings of a card, None for a model that was trained on raw images.

    Raises:
        LeukError: For settings that ALHE does not have, with exit code 2.
    """
    if not card.enhanced:
        return None
    current = EnhanceParams.RENAMED  # a model's card may have a setting's earlier name
    values = {current.get(name, name): value for name, value in card.alhe_settings.items()}
    try:
        settings = check(f"model {model}: its card's settings of ALHE", EnhanceParams, values)
    except LeukError as error:
        raise LeukError(f"{error}; {ADVICE}", exit_code=2) from error
    return functools.partial(enhance_cells, params=settings)


def write_csv(predictions: Predictions, path: Path) -> None:
    """Write one row per image, also for those that cannot be used (column ``problem``); each states the intended use."""
    bad = pd.DataFrame(predictions.unusable, columns=["file", "problem"])
    table = pd.concat([predictions.table.assign(problem=""), bad], ignore_index=True)
    table["predicted"] = table["predicted"].fillna("") if "predicted" in table else ""
    columns = [column for column in table.columns if column not in ("predicted", "problem")]
    table = table[[*columns, "predicted", "problem"]].assign(use=predictions.card.use)
    with atomic(path) as temporary:
        quoting.cells(table).to_csv(temporary, index=False)


def as_json(predictions: Predictions) -> str:
    """Return all predictions, the files that cannot be used, and the intended use, as JSON."""
    return quoting.terminal_json(
        {
            "model": str(predictions.model),
            "use": predictions.card.use,
            "research_use": RESEARCH_USE,
            "predictions": predictions.table.to_dict(orient="records"),
            "unusable": [item._asdict() for item in predictions.unusable],
        }
    )


def report(predictions: Predictions, csv: Path | None = None, sheet: Path | None = None, json_: bool = False) -> None:
    """Write the requested files, and print the predictions: as JSON, as counts if a file lists them, or as a table."""
    if csv:
        write_csv(predictions, csv)
    if sheet:
        write_text(sheet, contact_sheet(predictions.shown, predictions.card, predictions.model, predictions.unusable, len(predictions.table)))  # fmt: skip
    for file, reason in predictions.unusable:
        print(f"leuk: {quoting.terminal(file)}: {quoting.terminal(reason)}", file=sys.stderr)
    if json_:
        print(as_json(predictions))
        return
    table = predictions.table
    if (csv or sheet) and len(table):
        counts = table["predicted"].value_counts()
        print(f"{len(table)} images: {', '.join(f'{quoting.terminal(name)} {n}' for name, n in counts.items())}")
    elif len(table):
        print(quoting.terminal_table(table).to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    if predictions.unusable:
        print(f"{len(predictions.unusable)} could not be used; they are listed above the predictions")
    for written in (csv, sheet):
        if written:
            print(quoting.terminal(written))
    about = next((name for name in (NAME, "card.json") if (predictions.model.parent / name).is_file()), "")
    where = f"; {about} beside it says on which cells it was trained" if about else ""
    print(f"model: {quoting.terminal(predictions.model)}{where}")
    if predictions.card.origin:
        print(quoting.terminal(origin_sentence(predictions.card.origin)))
    print(RESEARCH_USE)
