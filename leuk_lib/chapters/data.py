"""What the chapter shows of the cells: samples, counts, colours, the tables; arrays and frames for the figures.

Pictures and colours are taken from training and validation only: looking at the test part is also opening it.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import KDTree

from leuk_lib.data.cellset import CellSet
from leuk_lib.data.folder import INFERRED
from leuk_lib.data.smear.morphology import SURROUNDINGS, UNITS, mixture_rows, rows
from leuk_lib.data.splits import EXTERNAL, PARTS, split_groups
from leuk_lib.runs.seeds import derive, numpy_rng

Images = NDArray[np.uint8]
DEEP = 1.5  # optical density, summed over R, G, B


def sample(cells: CellSet, per_class: int = 8, seed: int = 0) -> tuple[Images, list[str], Images | None]:
    """Up to ``per_class`` training cells of each class, from as many groups as possible: images (M,S,S,3), their
    labels, and masks (M,S,S) or None."""
    chosen: list[int] = []
    train = cells.table[cells.table["split"] == "train"]
    for name in cells.classes:
        some = train[train["label"] == name]
        order = numpy_rng(seed, "sample", name).permutation(len(some))
        some = some.iloc[order]
        turn = some.groupby("group").cumcount()  # first one cell of every group, then second ones
        chosen += some.assign(turn=turn).sort_values("turn", kind="stable").index[:per_class].tolist()
    images = cells.images[chosen].permute(0, 2, 3, 1).numpy()
    masks = None if cells.masks is None else cells.masks[chosen].numpy()
    return images, [str(label) for label in cells.table.loc[chosen, "label"]], masks


def sample_groups(cells: CellSet, rows: int = 8, per_group: int = 8, seed: int = 0) -> tuple[Images, list[str]]:
    """Training cells of the groups with most cells, as many groups of each class as there is room for: images
    (M,S,S,3) and "class, group" of each. Empty where no group of several cells was told (found ones are no patients)."""
    train = cells.table[(cells.table["split"] == "train") & ~cells.table["group"].str.startswith(INFERRED)]
    sizes = train.groupby(["label", "group"], sort=True).size().rename("cells").reset_index()
    sizes = sizes[sizes["cells"] > 1].sort_values("cells", ascending=False, kind="stable")
    turn = sizes.groupby("label").cumcount()
    order = sizes.assign(turn=turn).sort_values(["turn", "cells"], ascending=[True, False], kind="stable").head(rows)
    chosen: list[int] = []
    names: list[str] = []
    for row in order.sort_values(["label", "turn"], kind="stable").itertuples():
        some = train.index[(train["label"] == row.label) & (train["group"] == row.group)].to_numpy()
        some = numpy_rng(seed, "group", row.label, row.group).permutation(some)[:per_group]
        chosen += some.tolist()
        names += [f"{row.label}, {row.group}"] * len(some)
    return cells.images[chosen].permute(0, 2, 3, 1).numpy(), names


def pairs(cells: CellSet, findings: pd.DataFrame, most: int = 6) -> tuple[Images, list[str]]:
    """The first ``most`` pairs of training or validation cells that show the same thing: images (2P,S,S,3), the two of a
    pair one after the other, and what was found of each pair (P)."""
    seen = cells.table[cells.table["split"].isin(["train", "val"])]
    place = dict(zip(seen.get("path", pd.Series(dtype=str)), seen.index, strict=True))
    both = [row for row in findings.itertuples() if row.path in place and row.other in place][:most]
    chosen = [place[path] for row in both for path in (row.other, row.path)]
    return cells.images[chosen].permute(0, 2, 3, 1).numpy(), [str(row.finding) for row in both]


def atlas_cells(
    cells: CellSet, measured: pd.DataFrame, most: int = 360, side: int = 48
) -> tuple[NDArray[np.float64], Images, pd.DataFrame, tuple[str, str]]:
    """What ``figures.atlas.atlas`` asks for, of up to ``most`` training and validation cells, as many of each class and
    of as many groups as possible: points (N,2), thumbnails (N,s,s,3), records, names of the axes.

    ``measured`` is ``measure_cells`` of the same cells. x: deeply stained share; y: nucleus/cell ratio, or without masks
    the nucleus' optical density in green light.
    """
    table = cells.table[cells.table["split"].isin(["train", "val"])].reset_index()
    turn = table.groupby(["label", "group"]).cumcount()
    place = table.assign(turn=turn).sort_values("turn", kind="stable").groupby("label").cumcount()
    rows = np.sort(table.index[place.sort_index() < max(1, most // len(cells.classes))].to_numpy()[:most])
    some, about = table.loc[rows], measured.loc[rows]
    images = cells.images[some["index"].tolist()].permute(0, 2, 3, 1).numpy()
    if cells.size > side:
        images = np.stack([cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) for image in images])
    up = "nucleus / cell" if "nucleus / cell" in measured else "nucleus OD green"
    columns = ["label", "path", "group", "split", "kind", "diameter", "width", "height"]
    records = some[[c for c in columns if c in some.columns]].reset_index(drop=True)
    records = records.rename(
        columns={"kind": "cell type", "diameter": "diameter, µm", "width": "width, px", "height": "height, px"}
    )
    records["deeply stained"], records[up] = about["deeply stained"].to_numpy(), about[up].to_numpy()
    names = {
        "nucleus / cell": "nucleus area / cell area (1)",
        "nucleus OD green": "optical density of the nucleus, green",
    }
    points = about[["deeply stained", up]].to_numpy(np.float64)
    return points, images, records, ("deeply stained share of the picture (1)", names[up])


def class_table(cells: CellSet) -> pd.DataFrame:
    """Class x part: cells and groups."""
    out = []
    for name in cells.classes:
        mine = cells.table[cells.table["label"] == name]
        row: dict[str, Any] = {"class": name, "cells": len(mine), "groups": mine["group"].nunique()}
        for part in PARTS:
            here = mine[mine["split"] == part]
            row |= {f"{part} cells": len(here), f"{part} groups": here["group"].nunique()}
        if cells.external:
            row["external cells"] = int(mine["split"].str.startswith(EXTERNAL).sum())
        out.append(row)
    return pd.DataFrame(out)


def group_table(cells: CellSet) -> pd.DataFrame:
    """One row a group and class, in the order of the classes: label, group, split, cells."""
    table = cells.table.groupby(["label", "group", "split"], sort=True).size().rename("cells").reset_index()
    return table.sort_values("label", key=lambda column: column.map(cells.classes.index), kind="stable")


def source_table(cells: CellSet) -> pd.DataFrame:
    """Where the pictures come from: rendered cells by type (limits and sources), micrographs by class folder."""
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
            "first file": by["path"].first().to_numpy(),
        }
    )


def _morphology() -> pd.DataFrame:
    """Cell types x quantities, "low–high [source]"; a star marks our numbers for what the source says in words."""
    table = pd.DataFrame(list(rows()))
    numbers = {name: i + 1 for i, name in enumerate(table["source"].unique())}
    star = table["basis"].map({"stated": "", "quality": "*", "ours": "**"})
    limits = [
        f"{low:g}" if low == high else f"{low:g}–{high:g}"
        for low, high in zip(table["low"], table["high"], strict=True)
    ]
    table["text"] = [
        f"{text}{mark} [{numbers[source]}]" for text, mark, source in zip(limits, star, table["source"], strict=True)
    ]
    table["column"] = [q if u == "1" else f"{q}, {u}" for q, u in zip(table["quantity"], table["unit"], strict=True)]
    order = [q if u == "1" else f"{q}, {u}" for q, u in UNITS.values()]
    wide = table.pivot(index="cell type", columns="column", values="text")
    wide = wide.reindex(index=table["cell type"].unique(), columns=[c for c in order if c in wide.columns])
    return wide.fillna("–").reset_index()


def reference_table(cells: CellSet) -> pd.DataFrame:
    """Rendered: the numbered sources and what each class is made of. Micrographs: how the cells were grouped."""
    if cells.kind == "rendered":
        table = pd.DataFrame(list(rows()))
        sources = [{"item": f"[{i + 1}]", "meaning": name} for i, name in enumerate(table["source"].unique())]
        marks = [{"item": "*", "meaning": "the source says it in words (such as: high); the numbers are ours"}]
        mixture = pd.DataFrame(list(mixture_rows()))
        kinds = [
            {"item": label, "meaning": ", ".join(f"{r['cell type']} {100 * r['mean share']:.0f} %" for _, r in some.iterrows())
             + f" (shares are ours, within {some['source'].iloc[0]})"}
            for label, some in mixture.groupby("class", sort=False)
        ]  # fmt: skip
        around = [
            {"item": name, "meaning": (f"{r.low:g}" if r.low == r.high else f"{r.low:g}–{r.high:g}")
             + ("*" if r.basis == "quality" else "") + f" ({r.source})"}
            for name, r in SURROUNDINGS.items()
        ]  # fmt: skip
        return pd.DataFrame(sources + marks + kinds + around)
    near = cells.table["group"].str.startswith(INFERRED)
    told = int((~near).sum())
    return pd.DataFrame(
        [
            {"item": "cells with a patient, slide or subject", "meaning": told},
            {"item": "cells grouped by near-duplicates only", "meaning": int(near.sum())},
            {"item": "groups of more than one cell", "meaning": int((cells.table["group"].value_counts() > 1).sum())},
        ]
    )


def findings_table(findings: pd.DataFrame, limit: int = 20) -> pd.DataFrame:
    """The check's findings, shortened; one row that says so if there are none."""
    if findings.empty:
        return pd.DataFrame(
            [{"finding": "nothing: every file was decoded and used", "files": 0, "severity": "–", "first": "–"}]
        )
    kinds = findings.assign(kind=findings["finding"].str.replace(r" (of|with) .*", r" \1 another file", regex=True))
    by = kinds.groupby(["severity", "kind", "advice"], sort=True)
    table = by["path"].agg(files="size", first="first").reset_index().rename(columns={"kind": "finding"})
    return table.head(limit)[["finding", "files", "severity", "first", "advice"]]


def measure_cells(cells: CellSet) -> pd.DataFrame:
    """Per training or validation cell: label, group, and what can be measured without a model.

    Colour of the clear glass (95th percentile of R, G, B); the deeply stained share of the picture (optical density
    over the glass, summed over the channels, above 1.5: nuclei and dense granules, hardly ever red cells) and its median
    optical density in red light (azure) and in green light (eosin); with masks the nucleus/cell area ratio.
    """
    seen = cells.table["split"].isin(["train", "val"]).to_numpy()
    out = cells.table.loc[seen, ["label", "group"]].reset_index(drop=True)
    glass, deep, stain, ratio = [], [], [], []
    for at in _chunks(np.flatnonzero(seen)):
        images = cells.images[at].permute(0, 2, 3, 1).numpy()
        clear = np.percentile(images.reshape(len(images), -1, 3), 95, axis=1)
        light = np.maximum(images, 1).astype(np.float32) / np.maximum(clear, 1).astype(np.float32)[:, None, None]
        glass.append(clear)
        density = -np.log(np.minimum(light, 1))
        inside = density.sum(axis=3) > DEEP
        deep.append(inside.mean(axis=(1, 2)))
        stain.append(
            [np.median(od[one], axis=0)[:2] if one.any() else (0, 0) for od, one in zip(density, inside, strict=True)]
        )
        if cells.masks is not None:
            masks = cells.masks[at].numpy()
            ratio.append((masks == 255).sum(axis=(1, 2)) / np.maximum((masks > 0).sum(axis=(1, 2)), 1))
    out[["glass red", "glass green", "glass blue"]] = np.concatenate(glass)
    out["deeply stained"] = np.concatenate(deep)
    out[["nucleus OD red", "nucleus OD green"]] = np.concatenate([np.array(s, np.float64) for s in stain])
    if ratio:
        out["nucleus / cell"] = np.concatenate(ratio)
    return out


def _chunks(positions: NDArray[np.int64], most: int = 256) -> list[NDArray[np.int64]]:
    """Pieces of ``positions``: pictures at 224 pixels do not fit into memory all at once as floats."""
    return [positions[i : i + most] for i in range(0, len(positions), most)]


def leak_probe(cells: CellSet, repeats: int = 10, neighbours: int = 5, seed: int = 0) -> pd.DataFrame:
    """How far the frame alone tells the class, with groups kept apart and with cells dealt at random.

    A k-nearest-neighbour vote sees only mean and deviation of each colour in the picture's outermost ring (an eighth
    of its side), where the cell rarely reaches. ``repeats`` splits (80/20) of training + validation; one row each:
    split ("grouped", "random"), repeat, balanced accuracy, number of classes tested. What "random" gains over
    "grouped" is the leak.
    """
    seen = np.flatnonzero(cells.table["split"].isin(["train", "val"]).to_numpy())
    width = max(1, cells.size // 8)
    ring = np.ones((cells.size, cells.size), bool)
    ring[width:-width, width:-width] = False
    parts = []
    for at in _chunks(seen):
        pixels = cells.images[at].permute(0, 2, 3, 1).numpy()[:, ring].astype(np.float32)
        parts.append(np.concatenate([pixels.mean(axis=1), pixels.std(axis=1)], axis=1))
    features = np.concatenate(parts)
    features = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-6)
    labels, groups = cells.labels[seen].numpy(), cells.groups[seen]
    out = []
    for repeat in range(repeats):
        for kind, by in (("grouped", groups), ("random", np.arange(len(seen)).astype(str))):
            test = split_groups(labels, by, (0.8, 0.2), derive(seed, "leak", repeat) % 2**31) == 1
            if not test.any():
                continue
            score = _vote(features, labels, test, neighbours)
            tested = len(np.unique(labels[test]))
            out.append({"split": kind, "repeat": repeat, "balanced accuracy": score, "classes": tested})
    return pd.DataFrame(out, columns=["split", "repeat", "balanced accuracy", "classes"])


def _vote(features: NDArray[Any], labels: NDArray[np.int64], test: NDArray[np.bool_], neighbours: int) -> float:
    """Mean recall over the tested classes of a k-nearest-neighbour vote, classes weighted by their rarity."""
    train, known = features[~test], labels[~test]
    weight = 1 / np.maximum(np.bincount(known, minlength=labels.max() + 1), 1)
    nearest = KDTree(train).query(features[test], k=list(range(1, min(neighbours, len(train)) + 1)))[1]
    votes = np.zeros((int(test.sum()), len(weight)))
    for column in nearest.T:
        votes[np.arange(len(votes)), known[column]] += weight[known[column]]
    right = votes.argmax(axis=1) == labels[test]
    return float(np.mean([right[labels[test] == k].mean() for k in np.unique(labels[test])]))
