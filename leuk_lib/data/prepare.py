"""The work of stage ``data``: load or render the cells, split them by groups, write them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from leuk_lib.data.cellset import CellSet, from_arrays
from leuk_lib.data.findings import Finding
from leuk_lib.data.fingerprint import fingerprint, named_sources
from leuk_lib.data.loading import load_dataset
from leuk_lib.data.params import DataParams
from leuk_lib.data.published import (
    chosen_split,
    cross_check,
    one_person_classes,
    published_parts,
    summary,
    without_test_groups,
)
from leuk_lib.data.second_labels import spelled_as_classes
from leuk_lib.data.splits import EXTERNAL, PARTS, parts_of_groups, read_split, split_groups, split_record, unsplittable
from leuk_lib.runs import paths
from leuk_lib.runs.files import sha256_file
from leuk_lib.runs.stage import Stage


@dataclass(frozen=True)
class PreparedCells:
    """The result of stage ``data``.

    Attributes:
        cells: The cells as written.
        findings: Findings about the files (``findings.Finding``).
        split: The content of ``splits.json``.
        notes: The notes in the run card.
        grouped_by: Where the groups come from.
        understood: How the data were read: levels of folders, parts, groups, counts, what was ignored.
    """

    cells: CellSet
    findings: pd.DataFrame = field(repr=False)
    split: dict[str, Any] = field(repr=False)
    notes: tuple[str, ...]
    grouped_by: str
    understood: tuple[str, ...] = ()


def prepare_cells(params: DataParams, stage: Stage) -> PreparedCells:
    """Write ``cells.safetensors``, ``cells.csv``, ``splits.json`` (with hash) and ``findings.csv`` to the stage's folder.

    The split in ``params.keep_split`` becomes an input of the stage. A class with fewer than three groups stays in
    training, with a note.

    Args:
        params: Parameters of the stage.
        stage: The stage that records inputs, outputs and notes.

    Raises:
        LeukError: For unusable data, as ``load_dataset`` does.
    """
    stage.use_dataset(fingerprint(params.dataset))
    for file in named_sources(params.dataset, params.reader, params.reader_options):
        stage.use_file(str(file))
    data = load_dataset(
        params.dataset,
        size=params.image_size,
        seed=params.seed,
        workers=params.threads,
        cells=params.cells,
        patients=params.patients,
        patient_effect=params.patient_effect,
        per_class=params.per_class,
        class_map=params.class_map,
        layout=params.layout,
        reader=params.reader,
        reader_options=params.reader_options,
        pattern=params.pattern,
        um_per_px=params.um_per_px,
        field_um=params.field_um,
    )
    table, found, label_notes = spelled_as_classes(data.table, data.classes)
    data = replace(data, table=table).with_findings(found, label_notes)
    kind, why = chosen_split(params)
    own = (data.table["external"] == "").to_numpy()
    data = data.with_findings(cross_check(data.table[own], data.findings))
    single: list[Finding] = []
    if kind == "published":
        data = without_test_groups(data)
        single = one_person_classes(data.table[data.table["external"] == ""])
        data = data.with_findings(single)
    own = (data.table["external"] == "").to_numpy()
    groups = data.table["group"].to_numpy(dtype=str)
    labels = data.table["label"].to_numpy(dtype=str)
    kept_file = _kept_split(params, stage)
    earlier = parts_of_groups(read_split(kept_file)) if kept_file else None
    if kind == "published":
        parts = published_parts(data.table[own], params.fractions, params.seed)
    else:
        parts = split_groups(labels[own], groups[own], params.fractions, params.seed, earlier)
    notes = list(data.notes)
    counts = summary(data.table[own])
    if kind == "published":
        notes.append(f"split: published, {why} ({counts}); split: grouped splits by groups instead")
    elif counts:
        notes.append(f"published parts ({counts}) are not used; split: published keeps them")
    if kept_file and earlier is not None:
        own_groups = set(groups[own].tolist())
        kept = f"{len(own_groups & earlier.keys())} of {len(own_groups)} groups keep the parts of an earlier split"
        notes.append(f"{kept} ({kept_file.name}, sha256 {sha256_file(kept_file)[:16]}…)")
    notes += [f"{found.path} {found.finding}; {found.advice}" for found in single]
    for name in unsplittable(labels[own], groups[own]) if kind == "grouped" else ():
        notes.append(
            f"class {name}: {int((labels[own] == name).sum())} cell(s) in fewer than 3 groups cannot be split: "
            "all stay in training and the class is never tested"
        )
    split = (EXTERNAL + data.table["external"]).to_numpy(dtype=object)
    split[own] = np.array(PARTS)[parts]
    table = data.table.drop(columns="external").assign(split=split)
    if not (table["part"] != "").any():
        table = table.drop(columns="part")
    first = ["path", "label", "group", "split"]
    table = table[first + [c for c in table.columns if c not in first]]
    cells = from_arrays(data.images, data.labels, data.classes, table, data.kind, data.masks, data.name)
    for path in cells.save(stage.folder):
        stage.save_file(path)
    record = split_record(split, groups, params.fractions, params.seed)
    record["grouped_by"] = data.grouped_by
    if kind == "published":
        record["split"] = kind
    stage.save_json("splits", record)
    stage.save_table("findings", data.findings)
    for note in notes:
        stage.note(note)
    cells = CellSet.open(stage.folder)
    return PreparedCells(cells, data.findings, record, tuple(notes), data.grouped_by, data.understood)


def _kept_split(params: DataParams, stage: Stage) -> Path | None:
    """Return the split to keep and record it as an input, unless it is the output that this stage is about to replace."""
    if not params.keep_split:
        return None
    own = stage.folder / "splits.json"
    if (paths.project_root() / params.keep_split).resolve() == own.resolve():
        return own
    return stage.use_file(params.keep_split)
