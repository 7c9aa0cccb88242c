"""Grouped, stratified splits: no patient, slide or near-duplicate group on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import read_json, sha256_json
from leuk_lib.runs.seeds import derive

PARTS = ("train", "val", "test")
FOREIGN = "foreign:"  # begins the part of a cell in a foreign test set, as in "foreign:TestB"
ALWAYS_TRAINED = -1  # fold of the cells whose class has too few groups to be tested in every fold


def split_groups(
    labels: ArrayLike,
    groups: ArrayLike,
    fractions: Sequence[float] = (0.7, 0.1, 0.2),
    seed: int = 0,
    fixed: Mapping[str, int] | None = None,
) -> NDArray[np.int64]:
    """Part number (0, 1, …) of every cell; cells of one group share a part, classes keep their proportions.

    ``labels`` and ``groups`` are (N,); ``fractions`` sum to 1. The groups of a class are taken largest first
    (ties in an order hashed from the seed and the group's name) and each goes where it brings the class counts
    nearest to their targets. A class present in fewer groups than there are parts stays wholly in part 0
    (``unsplittable`` names it); every other class is in every part, unless groups of several classes make that
    impossible.

    What is promised when cells are added: classes that share no group with a changed class, directly or through
    others, keep their split exactly. Within a changed class groups may move, since its targets moved; to keep them,
    give the earlier split as ``fixed`` (group -> part, see ``read_record``): its groups stay where they are, whatever
    is added, and only new groups are dealt, to where most is missing.

    Raises ``LeukError`` for unequal lengths, no cells, fractions that do not sum to 1, or a fixed part beyond them.
    """
    label_of, group_of = np.asarray(labels), np.asarray(groups).astype(str)
    target = np.asarray(fractions, dtype=np.float64)
    if label_of.ndim != 1 or label_of.shape != group_of.shape or label_of.size == 0:
        raise LeukError(f"split: {label_of.shape} labels and {group_of.shape} groups; one of each for every cell")
    if target.ndim != 1 or (target <= 0).any() or abs(target.sum() - 1) > 1e-6:
        raise LeukError(f"split: fractions {tuple(fractions)} must be positive and sum to 1")

    counts, names, group_index = _class_counts(label_of, group_of)
    share = counts / counts.sum(axis=0)  # (G, K): a group's share of each class
    order = _order(counts, names, seed)
    part = np.array([(fixed or {}).get(str(name), -1) for name in names], dtype=np.int64)
    if part.max(initial=-1) >= len(target) or part.min(initial=0) < -1:
        raise LeukError(f"split: a fixed part is not among the {len(target)} parts of the fractions {tuple(fractions)}")
    kept = part >= 0
    part[~kept & share[:, _too_few(counts, len(target))].any(axis=1)] = 0
    held = np.stack([share[part == p].sum(axis=0) for p in range(len(target))])  # (P, K)

    for group in order[part[order] < 0]:
        mine = counts[group] > 0
        gain = share[group, mine]
        # Only the term of the chosen part changes: (held + gain - target)^2 - (held - target)^2.
        cost = (gain * (gain + 2 * (held[:, mine] - target[:, None]))).sum(axis=1)
        part[group] = int(np.argmin(cost))
        held[part[group]] += share[group]
    return _fill_empty(part, counts, order, len(target), kept)[group_index]


def _class_counts(
    labels: NDArray[np.generic], groups: NDArray[np.str_]
) -> tuple[NDArray[np.int64], NDArray[np.str_], NDArray[np.int64]]:
    """Cells per group and class (G, K), the groups' names (G,), and each cell's group number (N,)."""
    names, group_index = np.unique(groups, return_inverse=True)
    classes, class_index = np.unique(labels, return_inverse=True)
    counts = np.zeros((len(names), len(classes)), dtype=np.int64)
    np.add.at(counts, (group_index, class_index), 1)
    return counts, names, group_index


def _order(counts: NDArray[np.int64], names: NDArray[np.str_], seed: int) -> NDArray[np.int64]:
    """Largest groups first; ties by a hash of seed and name, so that the order of the table has no say."""
    salt = str(derive(seed, "split")).encode()
    tie = [hashlib.sha256(salt + name.encode()).digest() for name in names]
    return np.array(sorted(range(len(names)), key=lambda g: (-int(counts[g].sum()), tie[g])), dtype=np.int64)


def _too_few(counts: NDArray[np.int64], parts: int) -> NDArray[np.bool_]:
    few: NDArray[np.bool_] = np.asarray((counts > 0).sum(axis=0) < parts)
    return few


def _fill_empty(
    part: NDArray[np.int64], counts: NDArray[np.int64], order: NDArray[np.int64], parts: int, kept: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Give a part that lacks a splittable class its smallest spare group of that class."""
    part = part.copy()
    splittable = np.flatnonzero(~_too_few(counts, parts))
    frozen: NDArray[np.bool_] = kept | np.any(counts[:, _too_few(counts, parts)] > 0, axis=1)
    for k in splittable[np.argsort(counts[:, splittable].sum(axis=0), kind="stable")]:
        for wanting in range(parts):
            if ((part == wanting) & (counts[:, k] > 0)).any():
                continue
            for group in order[::-1]:
                if counts[group, k] == 0 or frozen[group]:
                    continue
                others = (part == part[group]) & (np.arange(len(part)) != group)
                needed = np.intersect1d(np.flatnonzero(counts[group]), splittable)
                if bool((counts[np.ix_(others, needed)] > 0).any(axis=0).all()):
                    part[group] = wanting
                    break
    return part


def unsplittable(labels: ArrayLike, groups: ArrayLike, parts: int = 3) -> list[str]:
    """Names of the classes present in fewer groups than parts: they stay in training."""
    label_of = np.asarray(labels)
    counts, _, _ = _class_counts(label_of, np.asarray(groups).astype(str))
    return [str(name) for name in np.unique(label_of)[_too_few(counts, parts)]]


def repeated_splits(
    labels: ArrayLike, groups: ArrayLike, repeats: int, fractions: Sequence[float] = (0.7, 0.1, 0.2), seed: int = 0
) -> NDArray[np.int64]:
    """``repeats`` independent splits, (R,N): ``split_groups`` with a seed derived for each. Repeat r does not depend on R."""
    return np.stack([split_groups(labels, groups, fractions, derive(seed, "repeat", r)) for r in range(repeats)])


def k_folds(labels: ArrayLike, groups: ArrayLike, k: int = 5, seed: int = 0, repeats: int = 1) -> NDArray[np.int64]:
    """Fold (0 … k-1) of every cell in each repeat, (R,N): grouped and stratified as ``split_groups``.

    Fold f is tested by a model that was trained on the other folds and on the cells of fold -1: those of classes in
    fewer than ``k`` groups, which could not be tested in every fold, and whatever shares a group with them.
    Raises ``LeukError`` for k under 2 or above the number of groups.
    """
    label_of, group_of = np.asarray(labels), np.asarray(groups).astype(str)
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
    """The leak guard: raise ``LeukError`` naming the first group that is in more than one part."""
    part_of, group_of = np.asarray(parts), np.asarray(groups).astype(str)
    pairs = np.unique(np.stack([group_of, part_of.astype(str)], axis=1), axis=0)
    names, number = np.unique(pairs[:, 0], return_counts=True)
    if (number > 1).any():
        raise LeukError(f"split leaks: group {names[number > 1][0]!r} is in more than one part")


def split_record(parts: ArrayLike, groups: ArrayLike, fractions: Sequence[float], seed: int) -> dict[str, Any]:
    """What ``splits.json`` holds: group names per part, seed, fractions, and the hash of all of these.

    ``parts`` (N,) are part numbers, or names (train, val, test, foreign:…).
    """
    assert_disjoint(parts, groups)
    part_of, group_of = np.asarray(parts), np.asarray(groups).astype(str)
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
    """JSON of repeated splits or folds (R,N): for each repeat the number of every group, and the hash of it all."""
    group_of = np.asarray(groups).astype(str)
    repeats = []
    for row in folds:
        assert_disjoint(row, group_of)
        repeats.append(dict(sorted(zip(group_of.tolist(), row.tolist(), strict=True))))
    return _hashed({"kind": kind, "seed": seed, "repeats": repeats})


def _hashed(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "sha256": sha256_json(record)}


def read_record(path: Path) -> dict[str, int]:
    """Group -> part number of a ``splits.json``, for ``split_groups(fixed=…)``; foreign test sets are not in it.

    Raises ``LeukError`` if the file is missing, no split, or its content does not fit its hash.
    """
    record = read_json(path)
    if not isinstance(record, dict) or not {"groups", "sha256"} <= set(record):
        raise LeukError(f"{path}: is not a split as stage data writes it (splits.json)")
    known = {name: record.get(name) for name in ("seed", "fractions", "groups", "cells")}
    if sha256_json(known) != record["sha256"]:
        raise LeukError(f"{path}: its content does not fit its hash; it was edited or damaged, restore the original")
    return {group: number for number, part in enumerate(PARTS) for group in record["groups"][part]}
