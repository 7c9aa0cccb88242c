"""What the chapter shows: frames are complete, the test part stays closed, figures draw for any set."""

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from leuk_lib.chapters import data as views
from leuk_lib.data.findings import Finding, as_table
from leuk_lib.data.cellset import from_arrays
from leuk_lib.data.smear.cohort import smear_cells
from leuk_lib.figures import data as figures
from leuk_lib.figures.widgets import atlas


@pytest.fixture(scope="module")
def rendered():
    return smear_cells(240, 6, 32)


@pytest.fixture(scope="module")
def folder_like():
    """Eight classes, one of a single cell, no masks, groups of one."""
    rng = np.random.default_rng(0)
    labels = [k for k in range(1, 8) for _ in range(12)] + [0]
    table = pd.DataFrame(
        {
            "path": [f"c{k}/{i}.png" for i, k in enumerate(labels)],
            "label": [f"c{k}" for k in labels],
            "group": [f"near:{i}" for i in range(len(labels))],
            "split": [("train", "train", "val", "test")[i % 4] for i in range(len(labels))],
            "width": 40,
            "height": 40,
        }
    )
    images = rng.integers(0, 256, (len(labels), 16, 16, 3), dtype=np.uint8)
    return from_arrays(images, labels, [f"c{k}" for k in range(8)], table, "micrographs")


@pytest.fixture(params=["rendered", "folder_like"])
def cells(request):
    return request.getfixturevalue(request.param)


def test_samples_are_training_cells_of_different_groups(rendered):
    images, labels, masks = views.sample(rendered, 4)
    assert images.shape == (16, 32, 32, 3) and masks.shape == (16, 32, 32)
    assert labels == [name for name in rendered.classes for _ in range(4)]
    train = rendered.images[rendered.indices("train")].permute(0, 2, 3, 1)
    assert all((train == torch.from_numpy(image)).flatten(1).all(dim=1).any() for image in images)


def test_tables_add_up(cells):
    table = views.class_table(cells)
    assert table["class"].tolist() == list(cells.classes) and table["cells"].sum() == len(cells)
    assert (table[["train cells", "val cells", "test cells"]].sum(axis=1) == table["cells"]).all()
    assert views.group_table(cells)["cells"].sum() == len(cells)
    assert len(views.source_table(cells)) and len(views.reference_table(cells))
    assert "nothing" in views.findings_table(pd.DataFrame())["finding"][0]


def test_measuring_never_reads_the_test_part(cells):
    seen = (cells.table["split"] != "test").to_numpy()
    before = views.measure_cells(cells), views.leak_probe(cells, repeats=2)
    assert len(before[0]) == seen.sum()
    hidden = torch.from_numpy(np.flatnonzero(~seen))
    other = cells.images.clone()
    other[hidden] = 0
    object_ = type(cells)(other, cells.masks, cells.labels, cells.classes, cells.table, cells.kind)
    assert views.measure_cells(object_).equals(before[0])
    assert views.leak_probe(object_, repeats=2).equals(before[1])


def test_the_leak_shows_where_patients_differ():
    cells = smear_cells(400, 6, 32, seed=1, patient_effect=1.5)
    mean = views.leak_probe(cells, repeats=4).groupby("split")["balanced accuracy"].mean()
    assert mean["random"] > mean["grouped"] + 0.2


def test_every_figure_draws_for_every_set(cells, tmp_path):
    images, labels, masks = views.sample(cells, 3)
    measured = views.measure_cells(cells)
    drawn = [
        figures.contact_sheet(images, labels, cells.classes, 3),
        figures.mask_overlay(images, masks, labels),
        figures.class_balance(views.class_table(cells)),
        figures.split_map(views.group_table(cells)),
        figures.glass_colours(measured),
        figures.sizes(measured),
        figures.stains(measured),
        figures.group_sheet(*views.sample_groups(cells, 5, 4)),
        figures.pair_sheet(*views.pairs(cells, views_findings(cells))),
        figures.pair_sheet(*views.pairs(cells, as_table([]))),
        figures.leak(views.leak_probe(cells, repeats=2)),
    ]
    for number, figure in enumerate(drawn):
        figure.savefig(tmp_path / f"{number}.png", dpi=40)
        assert all(ax.get_xlabel() or not ax.xaxis.get_ticklabels() for ax in figure.axes[-1:])


def views_findings(cells):
    """One pair of training cells, one that the test part holds, one whose file was left out."""
    train = cells.table.index[cells.table["split"] == "train"]
    test = cells.table.index[cells.table["split"] == "test"]
    path = cells.table["path"]
    pairs = [(path[train[0]], path[train[1]]), (path[train[2]], path[test[0]]), (path[train[3]], "gone.png")]
    return as_table([Finding(two, f"overlaps {one} by 40 %", "warning", "look", one) for one, two in pairs])


def test_pairs_never_show_the_test_part(cells):
    images, found = views.pairs(cells, views_findings(cells))
    assert len(images) == 2 and len(found) == 1


def test_rows_by_patient_are_training_cells_of_one_patient(rendered):
    images, names = views.sample_groups(rendered, rows=6, per_group=5)
    assert len(images) == len(names) and 5 <= len(set(names)) <= 6
    assert len({name.split(", ")[0] for name in names}) == 4, "every class is shown"
    train = set(rendered.table.loc[rendered.table["split"] == "train", "group"])
    assert {name.split(", ")[1] for name in names} <= train


def test_the_atlas_is_balanced_closed_and_light(cells):
    measured = views.measure_cells(cells)
    points, pictures, records, axes = views.atlas_cells(cells, measured, most=80, side=16)
    assert len(points) == len(pictures) == len(records) <= 80 and all(axes) and np.isfinite(points).all()
    assert "test" not in set(records["split"]) and pictures.shape[1] == 16
    seen = cells.table[cells.table["split"] != "test"]["label"].value_counts()
    shown_of = records["label"].value_counts().to_dict()
    assert shown_of == seen.clip(upper=80 // len(cells.classes)).to_dict()
    shown = atlas(points, pictures, records, axes=axes, classes=cells.classes)
    assert len(shown.markup) < 300_000
    # Every picture is that of its own record.
    place = {path: i for i, path in enumerate(cells.table["path"])}
    for row in (0, len(records) - 1):
        whole = cells.images[place[records["path"][row]]].permute(1, 2, 0).numpy()
        assert np.array_equal(pictures[row], cv2.resize(whole, (16, 16), interpolation=cv2.INTER_AREA))


def test_morphology_table_names_its_sources(rendered):
    table = views.source_table(rendered)
    assert table["cell type"].is_unique and "[" in table["cell diameter, µm"][0]
    references = views.reference_table(rendered)
    assert references["item"].str.startswith("[1]").any() and set(rendered.classes) <= set(references["item"])
