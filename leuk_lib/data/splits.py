"""Grouped, stratified splits and folds: the cells of a patient, slide or near-duplicate group share one part."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import sha256_json
from leuk_lib.runs.records import Record, read_record
from leuk_lib.runs.seeds import derive
from leuk_lib.runs.tables import check_complete, names_of

PARTS = ("train", "val", "test")
EXTERNAL = "external:"  # prefix of the part of cells in an external test set, as in "external:TestB"
ALWAYS_TRAINED = -1  # fold of the cells whose class has too few groups to be tested in every fold


def split_groups(
    labels: ArrayLike,
    groups: ArrayLike,
    fractions: Sequence[float] = (0.7, 0.1, 0.2),
    seed: int = 0,
    fixed: Mapping[str, int] | None = None,
) -> NDArray[np.int64]:
    """Assign the cells to parts by groups, with the classes' proportions in each part.

    The groups are taken largest first, with ties in an order hashed from the seed and the group's name. Each goes to
    the part where it brings the class counts nearest to their targets. A class in fewer groups than there are parts
    stays in part 0 (``unsplittable`` lists it). Every other class is in every part, unless groups of several classes
    make that impossible.

    When cells are added, classes that share no group with a changed class, directly or through other classes, keep
    their split exactly. Groups within a changed class may move. To keep them, give the earlier split as ``fixed``:
    then only new groups are assigned, to the parts that lack most.

    Args:
        labels: (N,) classes.
        groups: (N,) groups.
        fractions: Size of each part; positive, sum 1.
        seed: Breaks ties between groups of one size.
        fixed: Group -> part of an earlier split (:func:`parts_of_groups`).

    Returns:
        (N,) part of each cell, from 0.

    Raises:
        LeukError: For unequal lengths, no cells, cells without a label or group, fractions that do not sum to 1, and a
            fixed part beyond them.

    Example:
        >>> split_groups(["AML"] * 4 + ["ALL"] * 4, ["p1", "p1", "p2", "p2", "p3", "p3", "p4", "p4"], (0.5, 0.5))
        array([0, 0, 1, 1, 1, 1, 0, 0])
    """
    label_of, group_of = np.asarray(labels), names_of(groups)
    target = np.asarray(fractions, dtype=np.float64)
    check_complete(labels, "label")
    if label_of.ndim != 1 or label_of.shape != group_of.shape or label_of.size == 0:
        raise LeukError(f"split: {label_of.shape} labels and {group_of.shape} groups; each cell needs one of both")
    if target.ndim != 1 or not (target > 0).all() or not abs(target.sum() - 1) <= 1e-6:
        raise LeukError(f"split: fractions {tuple(fractions)} must be positive and sum to 1")

    counts, names, group_index = _class_counts(label_of, group_of)
    share = counts / counts.sum(axis=0)  # (G, K): fraction of each class in a group
    order = _order(counts, names, seed)
    part = np.array([(fixed or {}).get(str(name), -1) for name in names], dtype=np.int64)
    if part.max(initial=-1) >= len(target) or part.min(initial=0) < -1:
        raise LeukError(f"split: a fixed part is not among the {len(target)} parts of the fractions {tuple(fractions)}")
    kept = part >= 0
    part[~kept & share[:, _too_few(counts, len(target))].any(axis=1)] = 0
    filled = np.stack([share[part == p].sum(axis=0) for p in range(len(target))])  # (P, K)

    for group in order[part[order] < 0]:
        present = counts[group] > 0
        gain = share[group, present]
        # Only the term of the chosen part changes: (filled + gain - target)^2 - (filled - target)^2.
        cost = (gain * (gain + 2 * (filled[:, present] - target[:, None]))).sum(axis=1)
        part[group] = int(np.argmin(cost))
        filled[part[group]] += share[group]
    return _fill_empty(part, counts, order, len(target), kept)[group_index]


def _class_counts(
    labels: NDArray[np.generic], groups: NDArray[np.str_]
) -> tuple[NDArray[np.int64], NDArray[np.str_], NDArray[np.int64]]:
    """Count cells per group and class: counts (G,K), the groups' names (G,), the group number of each cell (N,)."""
    names, group_index = np.unique(groups, return_inverse=True)
    classes, class_index = np.unique(labels, return_inverse=True)
    counts = np.zeros((len(names), len(classes)), dtype=np.int64)
    np.add.at(counts, (group_index, class_index), 1)
    return counts, names, group_index


def _order(counts: NDArray[np.int64], names: NDArray[np.str_], seed: int) -> NDArray[np.int64]:
    """Order groups by size, largest first; ties by a hash of seed and name, not by their order in the table."""
    salt = str(derive(seed, "split")).encode()
    tie = [hashlib.sha256(salt + name.encode()).digest() for name in names]
    return np.array(sorted(range(len(names)), key=lambda g: (-int(counts[g].sum()), tie[g])), dtype=np.int64)


def _too_few(counts: NDArray[np.int64], parts: int) -> NDArray[np.bool_]:
    """Find the classes in fewer groups than parts, (K,)."""
    return np.asarray((counts > 0).sum(axis=0) < parts)


def _fill_empty(
    part: NDArray[np.int64], counts: NDArray[np.int64], order: NDArray[np.int64], parts: int, kept: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Give a part that lacks a splittable class its smallest spare group of that class."""
    part = part.copy()
    splittable = np.flatnonzero(~_too_few(counts, parts))
    frozen: NDArray[np.bool_] = kept | np.any(counts[:, _too_few(counts, parts)] > 0, axis=1)
    for k in splittable[np.argsort(counts[:, splittable].sum(axis=0), kind="stable")]:
        for empty in range(parts):
            if ((part == empty) & (counts[:, k] > 0)).any():
                continue
            for group in order[::-1]:
                if counts[group, k] == 0 or frozen[group]:
                    continue
                others = (part == part[group]) & (np.arange(len(part)) != group)
                needed = np.intersect1d(np.flatnonzero(counts[group]), splittable)
                if bool((counts[np.ix_(others, needed)] > 0).any(axis=0).all()):
                    part[group] = empty
                    break
    return part


def unsplittable(labels: ArrayLike, groups: ArrayLike, parts: int = 3) -> list[str]:
    """List the classes in fewer groups than parts, which stay in training."""
    label_of = np.asarray(labels)
    counts, _, _ = _class_counts(label_of, names_of(groups))
    return [str(name) for name in np.unique(label_of)[_too_few(counts, parts)]]


def repeated_splits(
    labels: ArrayLike, groups: ArrayLike, repeats: int, fractions: Sequence[float] = (0.7, 0.1, 0.2), seed: int = 0
) -> NDArray[np.int64]:
    """Draw independent splits with ``split_groups`` and a derived seed for each.

    Returns:
        (R,N) parts for R = ``repeats``. Row r does not depend on R.
    """
    return np.stack([split_groups(labels, groups, fractions, derive(seed, "repeat", r)) for r in range(repeats)])


def k_folds(labels: ArrayLike, groups: ArrayLike, k: int = 5, seed: int = 0, repeats: int = 1) -> NDArray[np.int64]:
    """Draw k folds by groups, stratified as in ``split_groups``.

    Fold f is tested by a model trained on the other folds and on fold -1. Fold -1 holds the classes with fewer than
    ``k`` groups, which could not be tested in every fold, and whatever shares a group with them.

    Returns:
        (R,N) fold of each cell, from 0 to k - 1, or -1; R = ``repeats``.

    Raises:
        LeukError: For k below 2 or above the number of groups, and if no class has ``k`` groups.
    """
    label_of, group_of = np.asarray(labels), names_of(groups)
    if not 2 <= k <= len(np.unique(group_of)):
        raise LeukError(f"folds: k = {k} must be from 2 to the number of groups, {len(np.unique(group_of))}")
    few = np.isin(label_of.astype(str), unsplittable(label_of, group_of, k))
    untested = np.isin(group_of, np.unique(group_of[few]))
    out = np.full((repeats, len(label_of)), ALWAYS_TRAINED, dtype=np.int64)
    if untested.all():
        raise LeukError(f"folds: no class has cells in {k} groups; choose a smaller k")
    for r in range(repeats):
        out[r, ~untested] = split_groups(
            label_of[~untested], group_of[~untested], np.full(k, 1 / k).tolist(), derive(seed, "fold", r)
        )
    return out


def assert_disjoint(parts: ArrayLike, groups: ArrayLike) -> None:
    """Check that no group is in two parts.

    Raises:
        LeukError: With the first group that is in more than one part.
    """
    part_of, group_of = np.asarray(parts), names_of(groups)
    pairs = np.unique(np.stack([group_of, part_of.astype(str)], axis=1), axis=0)
    names, number = np.unique(pairs[:, 0], return_counts=True)
    if (number > 1).any():
        raise LeukError(f"split leaks: group {names[number > 1][0]!r} is in more than one part")


def split_record(parts: ArrayLike, groups: ArrayLike, fractions: Sequence[float], seed: int) -> dict[str, Any]:
    """Return the content of ``splits.json``: group names and cell counts per part, seed, fractions, and their hash.

    Args:
        parts: (N,) part numbers or names (train, val, test, external:…).
        groups: (N,) groups.
        fractions: Fractions of the split.
        seed: Seed of the split.

    Raises:
        LeukError: If a group is in two parts.
    """
    assert_disjoint(parts, groups)
    part_of, group_of = np.asarray(parts), names_of(groups)
    if part_of.dtype.kind in "iu":
        part_of = np.array(PARTS)[part_of]
    part_of = part_of.astype(str)
    names = [*PARTS, *sorted(set(part_of.tolist()) - set(PARTS))]
    return _hashed(
        {
            "seed": seed,
            "fractions": list(fractions),
            "groups": {name: sorted(set(group_of[part_of == name].tolist())) for name in names},
            "cells": {name: int((part_of == name).sum()) for name in names},
        }
    )


def folds_record(folds: NDArray[np.int64], groups: ArrayLike, seed: int, kind: str = "k-fold") -> dict[str, Any]:
    """Return repeated splits or folds as JSON: the part of each group per repeat, and the hash of it all.

    Args:
        folds: (R,N) folds or parts.
        groups: (N,) groups.
        seed: Seed of the folds.
        kind: Description, such as "5-fold".
    """
    group_of = names_of(groups)
    repeats = []
    for row in folds:
        assert_disjoint(row, group_of)
        repeats.append(dict(sorted(zip(group_of.tolist(), row.tolist(), strict=True))))
    return _hashed({"kind": kind, "seed": seed, "repeats": repeats})


def _hashed(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "sha256": sha256_json(record)}


class SplitFile(Record):
    """``splits.json`` of stage ``data``: the groups and the number of cells of each part, and the hash of them."""

    seed: int
    fractions: list[Annotated[float, Field(ge=0, le=1)]] = Field(min_length=3, max_length=3)
    groups: dict[str, list[str]]
    cells: dict[str, Annotated[int, Field(ge=0)]]
    sha256: str
    grouped_by: str = ""
    split: Literal["grouped", "published"] = "grouped"

    @model_validator(mode="after")
    def _parts_are_disjoint(self) -> SplitFile:
        if not set(PARTS) <= set(self.groups):
            raise ValueError(f"groups must be given for {', '.join(PARTS)}")
        counts = Counter(group for part in self.groups.values() for group in part)
        if twice := [group for group, count in counts.items() if count > 1]:
            raise ValueError(f"group {twice[0][:100]} is in two parts")
        return self


def read_split(path: Path) -> dict[str, Any]:
    """Read a ``splits.json``.

    Raises:
        LeukError: If the file is missing, is no split, or does not fit its hash.
    """
    record = read_record(path, SplitFile, "a split of stage data", "restore the original")
    content = {name: record[name] for name in ("seed", "fractions", "groups", "cells")}
    if sha256_json(content) != record["sha256"]:
        raise LeukError(
            f"{path}: its content does not fit its hash; it was edited or damaged, restore the original", exit_code=2
        )
    return record


def parts_of_groups(split: Mapping[str, Any]) -> dict[str, int]:
    """Return the part of each group of a split (:func:`read_split`), without external test sets."""
    return {group: number for number, part in enumerate(PARTS) for group in split["groups"][part]}
