"""The split: groups never cross, proportions hold, nothing depends on order or luck."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leuk_lib.data.splits import PARTS, assert_disjoint, split_groups, split_record, unsplittable
from leuk_lib.runs.errors import LeukError

cells = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 12)), min_size=1, max_size=120)


@given(cells, st.integers(0, 5))
@settings(max_examples=80, deadline=None)
def test_groups_are_disjoint_and_order_has_no_say(rows, seed):
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


def test_cells_added_to_one_class_leave_the_others_where_they_are():
    labels, groups = np.repeat([0, 1], 60), np.arange(120) // 5
    before = split_groups(labels, groups)
    more = split_groups(np.append(labels, [1] * 30), np.append(groups, 1000 + np.arange(30) // 3))
    assert (more[:60] == before[:60]).all()


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


def test_the_guard_names_the_leak_and_the_record_has_a_hash():
    with pytest.raises(LeukError, match="'b'"):
        assert_disjoint([0, 0, 1], ["a", "b", "b"])
    record = split_record(np.array([0, 1, 2]), ["a", "b", "c"], (0.7, 0.1, 0.2), 0)
    assert record["groups"] == {"train": ["a"], "val": ["b"], "test": ["c"]}
    assert set(record["cells"]) == set(PARTS) and len(str(record["sha256"])) == 64
