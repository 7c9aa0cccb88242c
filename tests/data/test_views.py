"""What the chapter shows: frames are complete, the test part stays closed, figures draw for any set."""

import numpy as np
import pandas as pd
import pytest
import torch

from leuk_lib.data import views
from leuk_lib.data.loading import from_arrays
from leuk_lib.data.smear.cohort import smear_cells
from leuk_lib.figures import data as figures


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
        figures.leak(views.leak_probe(cells, repeats=2)),
    ]
    for number, figure in enumerate(drawn):
        figure.savefig(tmp_path / f"{number}.png", dpi=40)
        assert all(ax.get_xlabel() or not ax.xaxis.get_ticklabels() for ax in figure.axes[-1:])


def test_morphology_table_names_its_sources(rendered):
    table = views.source_table(rendered)
    assert table["cell type"].is_unique and "[" in table["cell diameter, µm"][0]
    references = views.reference_table(rendered)
    assert references["item"].str.startswith("[1]").any() and set(rendered.classes) <= set(references["item"])
