"""Samples, tables and measurements of chapter 1.

Images and colours come from the training and validation parts only; of the test part, one cell is shown (`one_cell`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import KDTree

from leuk_lib.chapters.one_cell import find_cell
from leuk_lib.data.cellset import CellSet
from leuk_lib.data.folder import INFERRED
from leuk_lib.data.prepare import PreparedCells
from leuk_lib.data.smear.cohort import render
from leuk_lib.data.smear.individual import draw_patient
from leuk_lib.data.smear.morphology import CELL_TYPES, MIXTURES, QUANTITIES, SURROUNDINGS, morphology_rows
from leuk_lib.data.splits import EXTERNAL, PARTS, split_groups
from leuk_lib.runs.recorder import Notes
from leuk_lib.runs.seeds import derive, numpy_rng

Images = NDArray[np.uint8]
OPEN_PARTS = ["train", "val"]
STAINED = 1.5  # optical density (natural logarithm), summed over R, G, B


def sample_classes(cells: CellSet, per_class: int = 8, seed: int = 0) -> tuple[Images, list[str], Images | None]:
    """Draw up to ``per_class`` training cells per class, from as many groups as possible.

    Returns:
        Images (M, S, S, 3), the label of each, and masks (M, S, S) or None.
    """
    chosen: list[int] = []
    train = cells.table[cells.table["split"] == "train"]
    for name in cells.classes:
        members = train[train["label"] == name]
        members = members.iloc[numpy_rng(seed, "sample", name).permutation(len(members))]
        rank = members.groupby("group").cumcount()  # first one cell of every group, then a second one
        chosen += members.assign(rank=rank).sort_values("rank", kind="stable").index[:per_class].tolist()
    masks = None if cells.masks is None else cells.masks[chosen].numpy()
    return _images(cells, chosen), [str(label) for label in cells.table.loc[chosen, "label"]], masks


def sample_groups(cells: CellSet, rows: int = 8, per_group: int = 8, seed: int = 0) -> tuple[Images, list[str]]:
    """Draw training cells of the ``rows`` largest groups, evenly over the classes.

    Groups that were inferred from near-duplicates are left out, since they are not patients.

    Returns:
        Images (M, S, S, 3) and "class, group" of each; empty where no known group has several cells.
    """
    train = cells.table[(cells.table["split"] == "train") & ~cells.table["group"].str.startswith(INFERRED)]
    sizes = train.groupby(["label", "group"], sort=True).size().rename("cells").reset_index()
    sizes = sizes[sizes["cells"] > 1].sort_values("cells", ascending=False, kind="stable")
    rank = sizes.groupby("label").cumcount()
    order = sizes.assign(rank=rank).sort_values(["rank", "cells"], ascending=[True, False], kind="stable").head(rows)
    chosen: list[int] = []
    names: list[str] = []
    for row in order.sort_values(["label", "rank"], kind="stable").itertuples():
        members = train.index[(train["label"] == row.label) & (train["group"] == row.group)].to_numpy()
        members = numpy_rng(seed, "group", row.label, row.group).permutation(members)[:per_group]
        chosen += members.tolist()
        names += [f"{row.label}, {row.group}"] * len(members)
    return _images(cells, chosen), names


def duplicate_pairs(cells: CellSet, findings: pd.DataFrame, limit: int = 6) -> tuple[Images, list[str]]:
    """Return the first pairs of training or validation cells that show the same thing.

    Returns:
        Images (2P, S, S, 3), the two of a pair one after the other, and the finding of each of the P pairs.
    """
    open_part = cells.table[cells.table["split"].isin(OPEN_PARTS)]
    index = dict(zip(open_part.get("path", pd.Series(dtype=str)), open_part.index, strict=True))
    pairs = [row for row in findings.itertuples() if row.path in index and row.other in index][:limit]
    chosen = [index[path] for row in pairs for path in (row.other, row.path)]
    return _images(cells, chosen), [str(row.finding) for row in pairs]


def atlas_cells(
    cells: CellSet, measured: pd.DataFrame, limit: int = 360, side: int = 48
) -> tuple[NDArray[np.float64], Images, pd.DataFrame, tuple[str, str]]:
    """Choose training and validation cells for ``figures.widgets.atlas``, evenly over classes and groups.

    Args:
        cells: the data set.
        measured: ``measure_cells(cells)``.
        limit: largest number of cells N.
        side: largest side of a thumbnail, pixels.

    Returns:
        Points (N, 2): stained share, and nucleus/cell ratio or, without masks, the nucleus's optical density in green
        light; thumbnails (N, s, s, 3); records; names of the axes.
    """
    table = cells.table[cells.table["split"].isin(OPEN_PARTS)].reset_index()
    rank = table.groupby(["label", "group"]).cumcount()
    place = table.assign(rank=rank).sort_values("rank", kind="stable").groupby("label").cumcount()
    rows = np.sort(table.index[place.sort_index() < max(1, limit // len(cells.classes))].to_numpy()[:limit])
    chosen, measures = table.loc[rows], measured.loc[rows]
    images = _images(cells, chosen["index"].tolist())
    if cells.size > side:
        images = np.stack([cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) for image in images])
    vertical = "nucleus / cell" if "nucleus / cell" in measured else "nucleus OD green"
    columns = ["label", "path", "group", "split", "kind", "diameter", "width", "height"]
    records = chosen[[c for c in columns if c in chosen.columns]].reset_index(drop=True)
    records = records.rename(
        columns={"kind": "cell type", "diameter": "diameter, µm", "width": "width, px", "height": "height, px"}
    )
    records["stained share"], records[vertical] = measures["stained share"].to_numpy(), measures[vertical].to_numpy()
    names = {
        "nucleus / cell": "nucleus area / cell area (1)",
        "nucleus OD green": "optical density of the nucleus, green",
    }
    points = measures[["stained share", vertical]].to_numpy(np.float64)
    return points, images, records, ("deeply stained share of the image (1)", names[vertical])


def _images(cells: CellSet, index: list[int] | NDArray[np.int64]) -> Images:
    return cells.images[index].permute(0, 2, 3, 1).numpy()


def class_table(cells: CellSet) -> pd.DataFrame:
    """Count cells and groups per class and part."""
    out = []
    for name in cells.classes:
        members = cells.table[cells.table["label"] == name]
        row: dict[str, Any] = {"class": name, "cells": len(members), "groups": members["group"].nunique()}
        for part in PARTS:
            in_part = members[members["split"] == part]
            row |= {f"{part} cells": len(in_part), f"{part} groups": in_part["group"].nunique()}
        if cells.external:
            row["external cells"] = int(members["split"].str.startswith(EXTERNAL).sum())
        out.append(row)
    return pd.DataFrame(out)


def group_table(cells: CellSet) -> pd.DataFrame:
    """Return one row per class and group, in the order of the classes: label, group, split, cells."""
    table = cells.table.groupby(["label", "group", "split"], sort=True).size().rename("cells").reset_index()
    return table.sort_values("label", key=lambda column: column.map(cells.classes.index), kind="stable")


def source_table(cells: CellSet) -> pd.DataFrame:
    """Describe the source of the images: limits per cell type if rendered, otherwise numbers and sizes per class."""
    if cells.kind == "rendered":
        return _morphology()
    table = cells.table
    by = table.groupby("label", sort=True)
    return pd.DataFrame(
        {
            "class": list(by.groups),
            "cells": by.size().to_numpy(),
            "groups": by["group"].nunique().to_numpy(),
            "width, px": [f"{g['width'].min()}–{g['width'].max()}" for _, g in by],
            "height, px": [f"{g['height'].min()}–{g['height'].max()}" for _, g in by],
            **({"µm per pixel": [_range(g["um_per_px"]) for _, g in by]} if "um_per_px" in table else {}),
            "first file": by["path"].first().to_numpy(),
        }
    )


def _range(values: pd.Series) -> str:
    """Describe the known values of a column: "0.05–0.1", and how many are unknown."""
    known = pd.to_numeric(values).replace(0, np.nan).dropna()
    if known.empty:
        return "unknown"
    low, high = known.min(), known.max()
    text = f"{low:.3g}" if low == high else f"{low:.3g}–{high:.3g}"
    return text + (f", unknown for {len(values) - len(known)}" if len(known) < len(values) else "")


# Quantities that a reader can see in a picture of the cell, as the picture names them.
SHOWN = {
    QUANTITIES["diameter"]: "cell diameter, µm", QUANTITIES["nc_ratio"]: "nucleus / cell area",
    QUANTITIES["clumping"]: "chromatin contrast", QUANTITIES["nucleoli"]: "nucleoli",
    QUANTITIES["basophilia"]: "cytoplasm, azure OD", QUANTITIES["azurophil"]: "azurophilic granules",
    QUANTITIES["specific"]: "specific granules",
}  # fmt: skip


def cell_type_pictures(size: int = 96) -> dict[str, NDArray[np.uint8]]:
    """Render one cell of each type on a slide of average stain, always the same, whatever the cells of the run.

    Returns:
        Cell type -> RGB (size, size, 3).
    """
    pictures = {}
    for number, kind in enumerate(CELL_TYPES):
        label = max(MIXTURES, key=lambda name: MIXTURES[name][0].get(kind, 0.0))
        only = tuple(float(name == kind) for name in MIXTURES[label][0])
        pictures[kind] = render(0, number, replace(draw_patient(0, label, 0, effect=0.0), mixture=only), size).image
    return pictures


def _morphology() -> pd.DataFrame:
    """Quantities of each cell type, as "low–high [source]"; a star marks numbers of ours for words of the source."""
    table = pd.DataFrame(list(morphology_rows()))
    numbers = {name: i for i, name in enumerate(table["source"].unique(), 1)}
    table["limits"] = [f"{row.quantity}: {_limits(row)} [{numbers[row.source]}]" for row in table.itertuples()]
    return table.groupby("cell type", sort=False)["limits"].agg("; ".join).reset_index()


def _limits(limits: Any) -> str:
    low, high = limits.low, limits.high
    return (f"{low:g}" if low == high else f"{low:g}–{high:g}") + "*" * (limits.basis == "described")


def reference_table(cells: CellSet) -> pd.DataFrame:
    """Explain ``source_table``: sources and mixtures of rendered classes, or how many cells of a folder have groups."""
    if cells.kind == "rendered":
        sources = list(dict.fromkeys(str(row["source"]) for row in morphology_rows()))
        items: dict[str, str | int] = {f"[{i}]": name for i, name in enumerate(sources, 1)}
        items["*"] = "the source describes the quantity in words (such as: high); the numbers are ours"
        for label, (shares, source) in MIXTURES.items():
            text = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())
            items[label] = f"{text} (shares are ours, within {source})"
        items |= {name: f"{_limits(limits)} ({limits.source})" for name, limits in SURROUNDINGS.items()}
    else:
        inferred = cells.table["group"].str.startswith(INFERRED)
        items = {
            "cells with a patient, slide or subject": int((~inferred).sum()),
            "cells grouped by near-duplicates only": int(inferred.sum()),
            "groups of more than one cell": int((cells.table["group"].value_counts() > 1).sum()),
        }
    return pd.DataFrame(list(items.items()), columns=["item", "meaning"])


def understood_table(prepared: PreparedCells) -> pd.DataFrame:
    """Say how the data were read: levels of folders or reader, parts, groups, counts, what was ignored; and the split.

    Where the converted cells lie on this machine is left out: it says nothing about the data.
    """
    lines = [line for line in prepared.understood if not line.startswith("converted once into")]
    parts = prepared.cells.table["split"].value_counts()
    lines.append("split: " + ", ".join(f"{part} {n}" for part, n in sorted(parts.items())))
    rows = [line.partition(": ") for line in lines]
    return pd.DataFrame([(what, how) if how else ("", what) for what, _, how in rows], columns=["item", "read as"])


def findings_table(findings: pd.DataFrame, limit: int = 20) -> pd.DataFrame:
    """Summarise the findings of the check, one row per kind; one row that says so if there are none."""
    if findings.empty:
        return pd.DataFrame(
            [{"finding": "nothing: every file was decoded and used", "files": 0, "severity": "–", "first": "–"}]
        )
    kinds = findings.assign(kind=findings["finding"].str.replace(r" (of|with) .*", r" \1 another file", regex=True))
    groups = kinds.groupby(["severity", "kind", "advice"], sort=True)["path"]
    table = groups.agg(files="size", first="first").reset_index().rename(columns={"kind": "finding"})
    return table.head(limit)[["finding", "files", "severity", "first", "advice"]]


def measure_cells(cells: CellSet) -> pd.DataFrame:
    """Measure size and stain of training and validation cells without a model.

    Returns:
        One row per cell: label; group; colour of the clear glass (95th percentile of R, G, B, 0 to 255); stained share
        of the image (optical density over the glass, natural logarithm, summed over the channels, above 1.5: nuclei and
        dense granules, rarely red cells); median optical density of the stained pixels in red (azure) and green (eosin)
        light; and, with masks, nucleus area / cell area.
    """
    is_open = cells.table["split"].isin(OPEN_PARTS).to_numpy()
    out = cells.table.loc[is_open, ["label", "group"]].reset_index(drop=True)
    glass, share, stain, ratio = [], [], [], []
    for index in _chunks(np.flatnonzero(is_open)):
        images = _images(cells, index)
        clear = np.percentile(images.reshape(len(images), -1, 3), 95, axis=1)
        light = np.maximum(images, 1).astype(np.float32) / np.maximum(clear, 1).astype(np.float32)[:, None, None]
        glass.append(clear)
        density = -np.log(np.minimum(light, 1))
        stained = density.sum(axis=3) > STAINED
        share.append(stained.mean(axis=(1, 2)))
        stain.append(
            [np.median(d[mask], axis=0)[:2] if mask.any() else (0, 0) for d, mask in zip(density, stained, strict=True)]
        )
        if cells.masks is not None:
            masks = cells.masks[index].numpy()
            ratio.append((masks == 255).sum(axis=(1, 2)) / np.maximum((masks > 0).sum(axis=(1, 2)), 1))
    out[["glass red", "glass green", "glass blue"]] = np.concatenate(glass)
    out["stained share"] = np.concatenate(share)
    out[["nucleus OD red", "nucleus OD green"]] = np.concatenate([np.array(s, np.float64) for s in stain])
    if ratio:
        out["nucleus / cell"] = np.concatenate(ratio)
    return out


def between_groups(measured: pd.DataFrame, column: str = "nucleus OD red") -> float:
    """Estimate the share of a measurement's variance within a class that lies between groups.

    This is the intraclass correlation of a one-way analysis of variance, over groups of several cells, from 0 to 1; NaN
    where no class has two such groups.
    """
    sizes = measured.groupby(["label", "group"])[column].transform("size")
    part = measured[sizes > 1]
    by_group = part.groupby(["label", "group"])[column]
    n, groups, classes = len(part), by_group.ngroups, part["label"].nunique()
    if groups <= classes:
        return float("nan")
    means, centre = by_group.transform("mean"), part.groupby("label")[column].transform("mean")
    between = float(((means - centre) ** 2).sum()) / (groups - classes)
    within = float(((part[column] - means) ** 2).sum()) / (n - groups)
    total = between + (n / groups - 1) * within
    return max(0.0, (between - within) / total) if total > 0 else float("nan")


def _chunks(index: NDArray[np.int64], size: int = 256) -> list[NDArray[np.int64]]:
    """Cut ``index`` into pieces: all images at once, as floats, may exceed the memory."""
    return [index[i : i + size] for i in range(0, len(index), size)]


def leak_probe(cells: CellSet, repeats: int = 10, neighbours: int = 5, seed: int = 0) -> pd.DataFrame:
    """Classify cells by the frame of the image alone, under a grouped and under a random split.

    A k-nearest-neighbour classifier sees only mean and standard deviation of each colour in the outermost eighth of the
    image, where there is hardly any cell. What the random split gains over the grouped one is leakage.

    Args:
        cells: the data set; only training and validation cells are used.
        repeats: number of random 80/20 splits of each kind.
        neighbours: number of neighbours k.
        seed: seed of the splits.

    Returns:
        One row per split: split ("grouped" or "random"), repeat, balanced accuracy, number of classes tested.
    """
    is_open = np.flatnonzero(cells.table["split"].isin(OPEN_PARTS).to_numpy())
    width = max(1, cells.size // 8)
    frame = np.ones((cells.size, cells.size), bool)
    frame[width:-width, width:-width] = False
    parts = []
    for index in _chunks(is_open):
        pixels = _images(cells, index)[:, frame].astype(np.float32)
        parts.append(np.concatenate([pixels.mean(axis=1), pixels.std(axis=1)], axis=1))
    features = np.concatenate(parts)
    features = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-6)
    labels, groups = cells.labels[is_open].numpy(), cells.groups[is_open]
    out = []
    for repeat in range(repeats):
        for kind, units in (("grouped", groups), ("random", np.arange(len(is_open)).astype(str))):
            test = split_groups(labels, units, (0.8, 0.2), derive(seed, "leak", repeat) % 2**31) == 1
            if not test.any():
                continue
            score = _nearest_neighbour_accuracy(features, labels, test, neighbours)
            tested = len(np.unique(labels[test]))
            out.append({"split": kind, "repeat": repeat, "balanced accuracy": score, "classes": tested})
    return pd.DataFrame(out, columns=["split", "repeat", "balanced accuracy", "classes"])


def _nearest_neighbour_accuracy(
    features: NDArray[Any], labels: NDArray[np.int64], test: NDArray[np.bool_], neighbours: int
) -> float:
    """Mean recall over the tested classes; a neighbour's vote counts inversely to the size of its class."""
    train, train_labels = features[~test], labels[~test]
    weight = 1 / np.maximum(np.bincount(train_labels, minlength=labels.max() + 1), 1)
    nearest = KDTree(train).query(features[test], k=list(range(1, min(neighbours, len(train)) + 1)))[1]
    votes = np.zeros((int(test.sum()), len(weight)))
    for column in nearest.T:
        votes[np.arange(len(votes)), train_labels[column]] += weight[train_labels[column]]
    correct = votes.argmax(axis=1) == labels[test]
    return float(np.mean([correct[labels[test] == k].mean() for k in np.unique(labels[test])]))


def one_cell(cells: CellSet, stage: Notes) -> dict[str, Any] | None:
    """The cell that later chapters show again: arguments of ``figures.data.one_cell``; None if there is none."""
    cell = find_cell(cells, stage)
    if cell is None:
        return None
    row = cells.table.iloc[cell.position]
    known = {"class": cell.label, "near-duplicates" if cell.group.startswith(INFERRED) else "group": cell.group}
    if cell.path:
        known["file" if cells.kind == "micrographs" else "number"] = cell.path
    if cells.kind == "rendered" and "kind" in row:
        known["cell type"] = str(row["kind"])
    if cell.mask is not None and (cell.mask > 0).any():
        known["nucleus / cell area"] = f"{(cell.mask == 255).sum() / (cell.mask > 0).sum():.2f}"
    return {"image": _images(cells, [cell.position])[0], "mask": cell.mask, "known": known}
