"""Splits: no group in two parts, proportions kept, independent of the order of the cells."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from damage import TIMES, fuzz_json
from data.toys import folder
from leuk_lib.cli.main import main
from leuk_lib.data.splits import (
    PARTS,
    assert_disjoint,
    folds_record,
    k_folds,
    parts_of_groups,
    read_split,
    repeated_splits,
    split_groups,
    split_record,
    unsplittable,
)
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import write_json

cells = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12)), min_size=1, max_size=120)


@given(cells, st.integers(0, 5))
@settings(max_examples=80, deadline=None)
def test_groups_are_disjoint_and_order_does_not_matter(rows, seed):
    labels, groups = np.array(rows).T
    parts = split_groups(labels, groups, seed=seed)
    assert parts.shape == labels.shape and set(parts.tolist()) <= {0, 1, 2}
    assert_disjoint(parts, groups)
    order = np.random.default_rng(0).permutation(len(labels))
    assert (split_groups(labels[order], groups[order], seed=seed) == parts[order]).all()


def test_proportions_without_groups_are_exact_to_a_cell():
    labels = np.repeat([0, 1, 2], [1000, 90, 33])
    parts = split_groups(labels, np.arange(len(labels)))
    for k in range(3):
        share = np.bincount(parts[labels == k], minlength=3)
        assert np.abs(share - np.array([0.7, 0.1, 0.2]) * (labels == k).sum()).max() <= 1.5


def test_proportions_with_patients():
    rng = np.random.default_rng(3)
    labels, groups = [], []
    for k, patients in enumerate((20, 16, 12)):
        for p in range(patients):
            n = int(rng.integers(20, 60))
            labels += [k] * n
            groups += [f"{k}-{p}"] * n
    labels = np.array(labels)
    parts = split_groups(labels, groups, seed=1)
    for k in range(3):
        share = np.bincount(parts[labels == k], minlength=3) / (labels == k).sum()
        assert np.abs(share - [0.7, 0.1, 0.2]).max() < 0.08


def test_every_splittable_class_is_in_every_part_even_with_three_groups():
    labels = np.repeat([0, 1], [300, 30])
    groups = np.concatenate([np.repeat(np.arange(10), 30), np.repeat([100, 101, 102], 10)])
    parts = split_groups(labels, groups)
    assert all(set(parts[labels == k].tolist()) == {0, 1, 2} for k in (0, 1))


def test_single_image_class_goes_to_train():
    labels = np.array(["basophil"] + ["other"] * 60)
    parts = split_groups(labels, np.arange(61))
    assert parts[0] == 0
    assert unsplittable(labels, np.arange(61)) == ["basophil"]


def test_cells_added_to_one_class_do_not_move_the_others():
    labels, groups = np.repeat([0, 1], 60), np.arange(120) // 5
    before = split_groups(labels, groups)
    more = split_groups(np.append(labels, [1] * 30), np.append(groups, 1000 + np.arange(30) // 3))
    assert (more[:60] == before[:60]).all()


@given(cells, cells, st.integers(0, 5))
@settings(max_examples=80, deadline=None)
def test_what_shares_no_group_with_a_changed_class_stays_exactly(rows, added, seed):
    """As ``split_groups`` promises, other classes and groups may be added, removed or changed in any way."""
    labels, groups = np.array(rows).T
    more_labels, more_groups = np.array(added).T
    alone = split_groups(labels, groups, seed=seed)
    both = split_groups(
        np.concatenate([labels, 10 + more_labels]), np.concatenate([groups, 100 + more_groups]), seed=seed
    )
    assert (both[: len(labels)] == alone).all()


@given(cells, cells, st.integers(0, 5))
@settings(max_examples=80, deadline=None)
def test_groups_of_an_earlier_split_never_move_whatever_is_added(rows, added, seed):
    labels, groups = np.array(rows).T
    before = split_groups(labels, groups, seed=seed)
    earlier = {str(g): int(p) for g, p in zip(groups, before, strict=True)}
    more_labels, more_groups = np.array(added).T
    after = split_groups(
        np.concatenate([labels, more_labels]), np.concatenate([groups, more_groups]), seed=seed + 1, fixed=earlier
    )
    assert (after[: len(labels)] == before).all()
    assert_disjoint(after, np.concatenate([groups, more_groups]))


def test_new_groups_go_to_the_parts_that_lack_most():
    labels, groups = np.zeros(40, int), np.arange(40) // 2
    earlier = {str(g): 0 for g in range(10)}
    parts = split_groups(labels, groups, fixed=earlier)
    share = np.bincount(parts, minlength=3) / 40
    assert np.abs(share - [0.7, 0.1, 0.2]).max() <= 0.06
    with pytest.raises(LeukError, match="fixed part"):
        split_groups(labels, groups, (0.8, 0.2), fixed={"0": 2})


def test_proportions_of_every_class_under_mixed_groups():
    """Stratification where each patient has cells of all classes, as with cell types."""
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(40), rng.integers(20, 60, 40))
    labels = rng.choice(4, len(groups), p=[0.6, 0.25, 0.1, 0.05])
    parts = split_groups(labels, groups, seed=3)
    assert_disjoint(parts, groups)
    for k in range(4):
        share = np.bincount(parts[labels == k], minlength=3) / (labels == k).sum()
        assert np.abs(share - [0.7, 0.1, 0.2]).max() < 0.08


@given(cells, st.integers(2, 5), st.integers(0, 3))
@settings(max_examples=80, deadline=None)
def test_folds_are_grouped_complete_and_stratified(rows, k, seed):
    labels, groups = np.array(rows).T
    few = np.isin(labels.astype(str), unsplittable(labels, groups, k))
    if len(np.unique(groups)) < k or np.isin(groups, groups[few]).all():
        with pytest.raises(LeukError, match="folds"):
            k_folds(labels, groups, k, seed)
        return
    folds = k_folds(labels, groups, k, seed, repeats=2)
    assert folds.shape == (2, len(labels)) and set(folds.ravel().tolist()) <= {-1, *range(k)}
    for row in folds:
        assert_disjoint(row, groups)
        assert ((row == -1) == np.isin(groups, groups[few])).all()
    assert (k_folds(labels, groups, k, seed, repeats=1)[0] == folds[0]).all()


def test_folds_are_even_and_hold_every_class():
    labels = np.repeat([0, 1, 2], [400, 120, 60])
    groups = np.concatenate([np.repeat(np.arange(40), 10), 100 + np.arange(120) // 6, 200 + np.arange(60) // 6])
    (folds,) = k_folds(labels, groups, 5)
    table = np.array([np.bincount(folds[labels == k], minlength=5) for k in range(3)])
    assert (table == [[80] * 5, [24] * 5, [12] * 5]).all()


def test_repeated_splits_are_different_splits_and_do_not_depend_on_their_number():
    labels, groups = np.repeat([0, 1], 200), np.arange(400) // 10
    splits = repeated_splits(labels, groups, 3)
    assert splits.shape == (3, 400) and (splits[:2] == repeated_splits(labels, groups, 2)).all()
    assert all((splits[i] != splits[j]).any() for i, j in ((0, 1), (0, 2), (1, 2)))
    for row in splits:
        assert_disjoint(row, groups)


def test_records_round_trip_and_detect_a_change(tmp_path):
    labels, groups = np.repeat([0, 1], 60), (np.arange(120) // 5).astype(str)
    parts = split_groups(labels, groups)
    file = write_json(
        tmp_path / "splits.json", split_record(parts, groups, (0.7, 0.1, 0.2), 0) | {"grouped_by": "patient"}
    )
    assert (split_groups(labels, groups, seed=9, fixed=parts_of_groups(read_split(file))) == parts).all()
    file.write_text(file.read_text().replace('"0"', '"00"'))
    with pytest.raises(LeukError, match="does not fit its hash"):
        read_split(file)
    file.write_text("[]")
    with pytest.raises(LeukError, match="not a split of stage data"):
        read_split(file)
    record = folds_record(k_folds(labels, groups, 4, repeats=2), groups, 0)
    assert len(record["repeats"]) == 2 and set(record["repeats"][0]) == set(groups) and len(record["sha256"]) == 64


def test_the_command_writes_folds(tmp_path, capsys):
    root = folder(tmp_path / "cells", each=8)
    out = tmp_path / "folds.json"
    assert main(["data", "split", str(root), "--folds", "4", "--repeats", "2", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    assert record["kind"] == "4-fold" and len(record["repeats"]) == 2 and record["sha256"] in capsys.readouterr().out
    assert main(["data", "split", str(root), "--folds", "99", "--out", str(out)]) == 1


def test_seed_decides():
    labels, groups = np.repeat([0, 1], 200), np.arange(400) // 10
    assert (split_groups(labels, groups, seed=0) == split_groups(labels, groups, seed=0)).all()
    assert (split_groups(labels, groups, seed=0) != split_groups(labels, groups, seed=1)).any()


def test_two_parts_serve_inner_splits():
    labels, groups = np.repeat([0, 1], 100), np.arange(200) // 10
    parts = split_groups(labels, groups, fractions=(0.8, 0.2))
    assert abs((parts == 0).mean() - 0.8) < 0.06


@pytest.mark.parametrize(
    ("labels", "groups", "fractions"),
    [
        ([], [], (0.7, 0.1, 0.2)),
        ([0], [0, 1], (0.7, 0.1, 0.2)),
        ([0, 1], [0, 1], (0.7, 0.1, 0.1)),
        ([0], [0], (1.0, 0.0)),
    ],
)
def test_bad_input_is_one_line(labels, groups, fractions):
    with pytest.raises(LeukError, match="split"):
        split_groups(labels, groups, fractions)


@pytest.mark.parametrize("groups", [["a", None, None, "b"], [1, 2, np.nan, np.nan], [None, "a", "b", np.nan]])
def test_cells_without_a_group_or_label_are_refused(groups):
    """They would all be cells of one patient called "nan"."""
    labels = ["x", "x", "y", "y"]
    for split in (split_groups, unsplittable, lambda labels, groups: k_folds(labels, groups, 2)):
        with pytest.raises(LeukError, match="2 of 4 cells have no group"):
            split(labels, groups)
    for check in (assert_disjoint, lambda parts, groups: split_record(parts, groups, (0.5, 0.5), 0)):
        with pytest.raises(LeukError, match="2 of 4 cells have no group"):
            check([0, 1, 0, 1], groups)
    with pytest.raises(LeukError, match="2 of 4 cells have no label"):
        split_groups(groups, labels)


def test_a_leak_is_named_and_the_record_has_a_hash():
    with pytest.raises(LeukError, match="'b'"):
        assert_disjoint([0, 0, 1], ["a", "b", "b"])
    record = split_record(np.array([0, 1, 2]), ["a", "b", "c"], (0.7, 0.1, 0.2), 0)
    assert record["groups"] == {"train": ["a"], "val": ["b"], "test": ["c"]}
    assert set(record["cells"]) == set(PARTS) and len(str(record["sha256"])) == 64


@pytest.fixture
def split_file(tmp_path):
    labels, groups = np.repeat([0, 1], 60), (np.arange(120) // 5).astype(str)
    record = split_record(split_groups(labels, groups), groups, (0.7, 0.1, 0.2), 0) | {"grouped_by": "patient"}
    return write_json(tmp_path / "splits.json", record)


@pytest.mark.parametrize("times", TIMES)
def test_mutated_splits_are_one_line_and_never_another_split(split_file, times):
    whole = parts_of_groups(read_split(split_file))

    def read():
        assert parts_of_groups(read_split(split_file)) == whole

    fuzz_json(split_file, read, times)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"groups": {"train": ["a"], "val": ["b"]}}, "groups must be given for train, val, test"),
        ({"groups": {"train": ["a"], "val": ["a"], "test": []}}, "group a is in two parts"),
        ({"groups": {"train": [1], "val": [], "test": []}}, "groups.train.0"),
        ({"fractions": [1]}, "fractions"),
        ({"split": "random"}, "split"),
        ({"seed": "0"}, "seed"),
    ],
)
def test_what_is_wrong_in_a_split_is_named(split_file, change, why):
    write_json(split_file, json.loads(split_file.read_text()) | change)
    with pytest.raises(LeukError, match=f"splits.json: not a split of stage data .*{why}.*; restore the original"):
        read_split(split_file)
