"""The split that a data set was published with: whether it is used, what it lacks, and which groups are in several parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from leuk_lib.data.catalog import KNOWN_SETS
from leuk_lib.data.findings import Finding, is_across_parts
from leuk_lib.data.params import DataParams
from leuk_lib.data.splits import split_groups
from leuk_lib.runs.errors import LeukError

if TYPE_CHECKING:
    import pandas as pd

    from leuk_lib.data.loading import Dataset

Split = Literal["grouped", "published"]
BASE = {"train": 0, "validation": 1, "test": 2}  # published part, without its letter -> position in splits.PARTS


def chosen_split(params: DataParams) -> tuple[Split, str]:
    """Return the split of a run, and why: the parameter, or the default of the data set."""
    if params.split != "auto":
        return params.split, "parameter split"
    known = KNOWN_SETS.get(params.dataset)
    if known is None or known.split == "grouped" or params.keep_split:
        return "grouped", "the default"
    return "published", f"the default of {known.name}"


def announce(params: DataParams, parts: Mapping[str, int]) -> list[str]:
    """Return a line on the split of a run, before anything is read.

    Args:
        params: Parameters of stage ``data``.
        parts: Published part -> number of files.

    Raises:
        LeukError: If the published split is asked for and there is no train or test part.
    """
    split, why = chosen_split(params)
    counts = ", ".join(f"{part} {n}" for part, n in sorted(parts.items())) or "none"
    if split == "published":
        present = set(base_parts(parts))
        for name in ("train", "test"):
            if BASE[name] not in present:
                raise LeukError(
                    f"split published: {params.dataset} has no {name} part (published parts: {counts}); use --split grouped",
                    exit_code=2,
                )
    return [f"  split: {split}, {why} (published parts: {counts})"] if parts else []


def base_parts(parts: Iterable[str]) -> NDArray[np.int64]:
    """Return 0 for train, 1 for validation, 2 for test (of any letter), -1 for folds and cells without a part.

    Example:
        >>> base_parts(["train", "test a", "fold0", ""]).tolist()
        [0, 2, -1, -1]
    """
    return np.array([BASE.get(part.split(" ")[0], -1) for part in parts], dtype=np.int64)


def cross_check(table: pd.DataFrame, findings: pd.DataFrame) -> list[Finding]:
    """Find cells, patients and slides on both sides of a published split, and classes that a part lacks.

    Args:
        table: One row per usable cell: label, group, part.
        findings: Findings about the files, with the copies that were left out.
    """
    out = []
    inside = table[table["part"] != ""]
    classes = inside.groupby("part")["label"].agg(lambda names: ", ".join(sorted(set(names))))
    if classes.nunique() > 1:
        what = "published parts differ in their classes: " + "; ".join(
            f"{part} has {names}" for part, names in classes.items()
        )
        out.append(Finding(".", what, "warning", "a class that a part lacks cannot be trained on or tested there"))
    parts = inside.groupby("group")["part"].nunique()
    advice = "figures on it would be too good; --split grouped (split by groups) keeps them together"
    if shared := int((parts > 1).sum()):
        cells = int(inside["group"].isin(parts.index[parts > 1]).sum())
        what = f"{shared} groups ({cells} cells) are on both sides of the published split"
        out.append(Finding(".", what, "warning", advice))
    if copies := int(findings["finding"].map(is_across_parts).sum()):
        what = f"{copies} copies of cells are on both sides of the published split"
        out.append(Finding(".", what, "warning", advice))
    return out


def one_person_classes(table: pd.DataFrame) -> list[Finding]:
    """Find classes whose cells in the published test part come from one patient or slide.

    Args:
        table: One row per usable cell: label, group, part.
    """
    test = table[base_parts(table["part"]) == BASE["test"]]
    groups = test.groupby("label")["group"].nunique()
    advice = "effects of disease and person cannot be distinguished: no claim about new patients"
    return [
        Finding(f"{name}/", f"class of one patient or slide in the test part: {int((test['label'] == name).sum())} cells",
                "warning", advice)
        for name in groups.index[groups == 1]
    ]  # fmt: skip


def summary(table: pd.DataFrame) -> str:
    """Return the numbers of cells per published part, "" without any: "test 20, train 70"."""
    counts = table.loc[table["part"] != "", "part"].value_counts().sort_index()
    return ", ".join(f"{part} {n}" for part, n in counts.items())


def published_parts(table: pd.DataFrame, fractions: tuple[float, float, float], seed: int) -> NDArray[np.int64]:
    """Return the published part of each cell, (N,) from 0; validation is taken from training where none was published.

    Args:
        table: One row per cell: label, group, part.
        fractions: Of train, validation and test; decide the size of a validation part that was not published.
        seed: Seed of that part.

    Raises:
        LeukError: If cells have no published part, if folds were published, or if train or test is missing.
    """
    names = table["part"].to_numpy(dtype=str)
    base = base_parts(names)
    if (base < 0).any():
        strange = table.loc[base < 0].iloc[0]
        state = f"in {strange['part']}" if strange["part"] else "without a part"
        raise LeukError(
            f"split published: {int((base < 0).sum())} of {len(base)} cells have no train, validation or test part "
            f"({strange['path']} is {state}); use split: grouped",
            exit_code=2,
        )
    missing = [name for name in ("train", "test") if not (base == BASE[name]).any()]
    if missing:
        raise LeukError(f"split published: there is no {missing[0]} part; use split: grouped", exit_code=2)
    if not (base == 1).any():
        train = base == 0
        share = fractions[1] / (fractions[0] + fractions[1])
        labels, groups = (table.loc[train, column].to_numpy(dtype=str) for column in ("label", "group"))
        base[train] = split_groups(labels, groups, (1 - share, share), seed)
    return base


def on_both_sides(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Return the cells (N,) to leave out: of training if their group is in validation or test, of validation if in test.

    Args:
        table: One row per cell: group, part.
    """
    base = base_parts(table["part"])
    groups = table["group"]
    shared = groups.isin(set(groups[base == 2])).to_numpy() & (base != 2)
    validation = (base == 1) & ~shared
    return shared | (groups.isin(set(groups[validation])).to_numpy() & (base != 1) & (base != 2))


def without_test_groups(data: Dataset) -> Dataset:
    """Leave out the training cells whose group (patient, slide, near-duplicate) is in the published test part too.

    The test part stays as published. A finding and a note count what was left out, per part.
    """
    table = data.table
    shared = on_both_sides(table)
    if not shared.any():
        return data
    groups = int(table.loc[shared, "group"].nunique())
    counts = ", ".join(f"{part} {n}" for part, n in table.loc[shared, "part"].value_counts().sort_index().items())
    what = f"{groups} groups are on both sides of the published split: {int(shared.sum())} cells left out ({counts})"
    advice = "training on them would leak into the test; split: grouped keeps all cells and gives an honest split"
    keep = ~shared
    kept = replace(
        data,
        images=data.images[keep],
        masks=None if data.masks is None else data.masks[keep],
        table=table[keep].reset_index(drop=True),
    )
    return kept.with_findings([Finding(".", what, "error", advice)], [what])
