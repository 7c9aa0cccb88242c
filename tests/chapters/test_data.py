"""Chapter 1: tables add up, the test part stays closed, figures show their data for any data set."""

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from leuk_lib.chapters import data as chapter
from leuk_lib.data.cellset import from_arrays
from leuk_lib.data.findings import Finding, as_table
from leuk_lib.data.prepare import PreparedCells
from leuk_lib.data.smear.cohort import smear_cells
from leuk_lib.figures import data as figures
from leuk_lib.figures.widgets import atlas


@pytest.fixture(scope="module")
def rendered():
    return smear_cells(240, 6, 32)


@pytest.fixture(scope="module")
def folder_like():
    """Micrographs of eight classes, one of a single cell; no masks; groups of one cell."""
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
    images, labels, masks = chapter.sample_classes(rendered, 4)
    assert images.shape == (16, 32, 32, 3) and masks.shape == (16, 32, 32)
    assert labels == [name for name in rendered.classes for _ in range(4)]
    train = rendered.images[rendered.indices("train")].permute(0, 2, 3, 1)
    assert all((train == torch.from_numpy(image)).flatten(1).all(dim=1).any() for image in images)


def test_tables_add_up(cells):
    table = chapter.class_table(cells)
    assert table["class"].tolist() == list(cells.classes) and table["cells"].sum() == len(cells)
    assert (table[["train cells", "val cells", "test cells"]].sum(axis=1) == table["cells"]).all()
    assert chapter.group_table(cells)["cells"].sum() == len(cells)
    assert len(chapter.source_table(cells)) and len(chapter.reference_table(cells))
    assert "nothing" in chapter.findings_table(pd.DataFrame())["finding"][0]


def test_measurements_do_not_depend_on_the_test_part(cells):
    is_open = (cells.table["split"] != "test").to_numpy()
    before = chapter.measure_cells(cells), chapter.leak_probe(cells, repeats=2)
    assert len(before[0]) == is_open.sum()
    images = cells.images.clone()
    images[torch.from_numpy(np.flatnonzero(~is_open))] = 0
    changed = type(cells)(images, cells.masks, cells.labels, cells.classes, cells.table, cells.kind)
    assert chapter.measure_cells(changed).equals(before[0])
    assert chapter.leak_probe(changed, repeats=2).equals(before[1])


def test_measurements_of_a_known_image():
    """A dark square that covers a quarter of grey glass, with a mask twice its area."""
    image, mask = np.full((1, 16, 16, 3), 200, np.uint8), np.zeros((1, 16, 16), np.uint8)
    image[:, 4:12, 4:12] = (20, 50, 100)
    mask[:, :8], mask[:, :4] = 128, 255
    table = pd.DataFrame({"path": ["a"], "label": ["A"], "group": ["g"], "split": ["train"]})
    measured = chapter.measure_cells(from_arrays(image, [0], ["A"], table, "rendered", mask, "toy")).iloc[0]
    assert measured["stained share"] == 0.25 and measured["nucleus / cell"] == 0.5
    assert [measured[f"glass {c}"] for c in ("red", "green", "blue")] == [200, 200, 200]
    assert measured["nucleus OD red"] == pytest.approx(np.log(10)) and measured["nucleus OD green"] == pytest.approx(
        np.log(4)
    )


def test_a_random_split_leaks_where_patients_differ():
    cells = smear_cells(400, 6, 32, seed=1, patient_effect=1.5)
    mean = chapter.leak_probe(cells, repeats=4).groupby("split")["balanced accuracy"].mean()
    assert mean["random"] > mean["grouped"] + 0.2


def test_every_figure_draws_for_every_set(cells, tmp_path):
    images, labels, masks = chapter.sample_classes(cells, 3)
    measured = chapter.measure_cells(cells)
    drawn = {
        "contact": figures.contact_sheet(images, labels, cells.classes, 3),
        "masks": figures.mask_overlay(images, masks, labels),
        "balance": figures.class_balance(chapter.class_table(cells), chapter.group_table(cells)),
        "sizes": figures.sizes(measured),
        "stains": figures.stains(measured, chapter.between_groups(measured)),
        "groups": figures.group_sheet(*chapter.sample_groups(cells, 5, 4)),
        "pairs": figures.pair_sheet(*chapter.duplicate_pairs(cells, example_findings(cells))),
        "leak": figures.leak(chapter.leak_probe(cells, repeats=2)),
    }
    for name, figure in drawn.items():
        figure.savefig(tmp_path / f"{name}.png", dpi=40)
    for name in ("balance", "sizes", "stains", "leak"):
        assert all(ax.get_xlabel() for ax in drawn[name].axes), name


def test_figures_show_their_data(rendered):
    images, labels, _ = chapter.sample_classes(rendered, 3)
    sheet = figures.contact_sheet(images, labels, rendered.classes, 3)
    shown = [ax.images[0].get_array() for ax in sheet.axes if ax.images]
    assert all(np.array_equal(a, b) for a, b in zip(shown, images, strict=True))
    table = chapter.class_table(rendered)
    groups = chapter.group_table(rendered)
    (balance,) = figures.class_balance(table, groups).axes
    widths = [bar.get_width() for bar in balance.patches]
    assert widths == [n for part in ("train", "val", "test") for n in table[f"{part} cells"]]
    lines = len(balance.collections[0].get_segments())  # between the groups of one class and part
    assert lines == len(groups) - len(groups.groupby(["label", "split"]))
    probe = chapter.leak_probe(rendered, repeats=3)
    figure = figures.leak(probe)
    texts = {text.get_text() for text in figure.axes[0].texts}
    means = probe.groupby("split")["balanced accuracy"].mean()
    assert {f"{mean:.2f}" for mean in means} <= texts
    assert f"adds {means['random'] - means['grouped']:.2f} to" in figure.get_suptitle()


def test_the_size_headline_counts_the_pairs_that_overlap_in_every_panel():
    values = {"a": (0.1, 0.2), "b": (0.15, 0.25), "c": (0.6, 0.7)}  # a and b overlap in both, c only in the second
    rows = [(name, x, 0.5 + x / 100) for name, ends in values.items() for x in np.linspace(*ends, 41)]
    measured = pd.DataFrame(rows, columns=["label", "stained share", "nucleus / cell"])
    assert "1 of 3 pairs" in figures.sizes(measured).get_suptitle()


def test_variance_between_groups_is_the_share_that_was_put_in():
    rng = np.random.default_rng(0)

    def measured(between: float, groups: int = 400) -> pd.DataFrame:
        means = rng.normal(0, between**0.5, groups)
        rows = [
            (f"c{g % 4}", f"g{g}", 5 * (g % 4) + m + x)  # classes differ, too, and must not count
            for g, m in enumerate(means)
            for x in rng.normal(0, (1 - between) ** 0.5, 8)
        ]
        return pd.DataFrame(rows, columns=["label", "group", "nucleus OD red"])

    for share in (0.0, 0.3, 0.8, 1.0):
        assert chapter.between_groups(measured(share)) == pytest.approx(share, abs=0.06)
    single = measured(0.5).drop_duplicates("group")
    assert np.isnan(chapter.between_groups(single))


def example_findings(cells):
    """One pair of training cells, one with a test cell, one with a file that was left out."""
    train = cells.table.index[cells.table["split"] == "train"]
    test = cells.table.index[cells.table["split"] == "test"]
    path = cells.table["path"]
    pairs = [(path[train[0]], path[train[1]]), (path[train[2]], path[test[0]]), (path[train[3]], "gone.png")]
    return as_table([Finding(two, f"overlaps {one} by 40 %", "warning", "look", one) for one, two in pairs])


def test_pairs_never_show_the_test_part(cells):
    images, findings = chapter.duplicate_pairs(cells, example_findings(cells))
    assert len(images) == 2 and len(findings) == 1


def test_group_samples_are_training_cells_of_every_class(rendered):
    images, names = chapter.sample_groups(rendered, rows=6, per_group=5)
    assert len(images) == len(names) and 5 <= len(set(names)) <= 6
    assert len({name.split(", ")[0] for name in names}) == 4, "every class is shown"
    train = set(rendered.table.loc[rendered.table["split"] == "train", "group"])
    assert {name.split(", ")[1] for name in names} <= train


def test_the_atlas_is_balanced_without_the_test_part(cells):
    measured = chapter.measure_cells(cells)
    points, thumbnails, records, axes = chapter.atlas_cells(cells, measured, limit=80, side=16)
    assert len(points) == len(thumbnails) == len(records) <= 80 and all(axes) and np.isfinite(points).all()
    assert "test" not in set(records["split"]) and thumbnails.shape[1] == 16
    available = cells.table[cells.table["split"] != "test"]["label"].value_counts()
    assert records["label"].value_counts().to_dict() == available.clip(upper=80 // len(cells.classes)).to_dict()
    assert repr(atlas(points, thumbnails, records, axes=axes, classes=cells.classes))
    place = {path: i for i, path in enumerate(cells.table["path"])}  # each image belongs to its record
    for row in (0, len(records) - 1):
        whole = cells.images[place[records["path"][row]]].permute(1, 2, 0).numpy()
        assert np.array_equal(thumbnails[row], cv2.resize(whole, (16, 16), interpolation=cv2.INTER_AREA))


def test_the_morphology_table_names_its_sources(rendered):
    table = chapter.source_table(rendered)
    assert (
        table["cell type"].is_unique
        and table["limits"].str.match(r"cell diameter, µm: [\d.]+–[\d.]+\*? \[\d+\]; ").all()
    )
    references = chapter.reference_table(rendered)
    assert references["item"].str.startswith("[1]").any() and set(rendered.classes) <= set(references["item"])


def test_how_the_data_were_read_is_said_with_the_split_and_without_a_path_of_this_machine(folder_like):
    lines = ("folder level 1: class (a 3, b 2)", "converted once into /home/x", "5 cells in 2 groups, by manifest")
    prepared = PreparedCells(folder_like, pd.DataFrame(), {}, (), "manifest", lines)
    table = chapter.understood_table(prepared)
    assert table["item"].tolist() == ["folder level 1", "", "split"]
    assert table["read as"].tolist()[:2] == ["class (a 3, b 2)", "5 cells in 2 groups, by manifest"]
    counts = folder_like.table["split"].value_counts()
    assert f"train {counts['train']}" in table["read as"].iloc[-1] and "/home" not in table.to_csv()
