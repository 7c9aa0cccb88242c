"""The rendered smear: determinism, masks, ranges of morphology, differences between patients."""

import subprocess
import sys

import numpy as np
import pytest

from leuk_lib.chapters.results import MIN_GROUPS
from leuk_lib.data.params import DataParams
from leuk_lib.data.smear.cohort import CLASS_SHARES, plan_cohort, render, render_smear, smear_cells
from leuk_lib.data.smear.individual import draw_cell, draw_patient
from leuk_lib.data.smear.morphology import CELL_TYPES, CLASSES, MIXTURES, QUANTITIES, morphology_rows
from leuk_lib.data.smear.shapes import Canvas, blob
from leuk_lib.data.splits import PARTS, assert_disjoint, split_groups
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.seeds import numpy_rng
from leuk_lib.stages import PROFILES, load_profile


def test_same_bytes_for_any_number_of_workers_and_any_order():
    images, masks, table = render_smear(120, 3, 32, seed=4)
    two = render_smear(120, 3, 32, seed=4, workers=2)
    assert np.array_equal(two[0], images) and np.array_equal(two[1], masks) and two[2].equals(table)
    patient = draw_patient(4, table["label"][50], int(table["patient"][50].split("-P")[1]))
    assert np.array_equal(render(4, 50, patient, 32).image, images[50])
    aml = render_smear(120, 3, 32, seed=4, classes=["AML"])
    assert np.array_equal(aml[0], images[table["label"] == "AML"]), "a class does not depend on the others"
    assert not np.array_equal(render_smear(120, 3, 32, seed=5)[0], images)


@pytest.mark.parametrize("label", CLASSES)
@pytest.mark.parametrize("size", [16, 32, 48, 64, 224])
def test_image_mask_and_record(label, size):
    cell = render(0, 3, draw_patient(0, label, 0), size)
    assert cell.image.shape == (size, size, 3) and cell.image.dtype == np.uint8
    assert cell.mask.shape == (size, size) and set(np.unique(cell.mask)) <= {0, 128, 255}
    assert (cell.mask == 255).any()
    inside, outside = cell.image[cell.mask == 255].mean(), cell.image[cell.mask == 0].mean()
    assert inside < outside - 40  # a dark nucleus on bright glass
    assert cell.record["label"] == label and cell.record["kind"] in MIXTURES[label][0]


def test_a_cell_is_the_same_cell_at_any_size():
    patient = draw_patient(0, "AML", 1)
    small, large = render(0, 9, patient, 64), render(0, 9, patient, 128)
    assert small.record == large.record
    grown = np.kron(small.mask == 255, np.ones((2, 2), bool))
    both = (grown & (large.mask == 255)).sum() / (grown | (large.mask == 255)).sum()
    assert both > 0.9


def test_masks_have_the_size_in_the_record():
    errors = []
    for index in range(60):
        cell = render(1, index, draw_patient(1, "ALL", index % 4), 128)
        area = (cell.mask == 255).sum() * (25.6 / 128) ** 2
        errors.append(area / (np.pi / 4 * cell.record["diameter"] ** 2 * cell.record["nc_ratio"]))
    assert 0.93 < np.median(errors) < 1.05


@pytest.mark.parametrize("label", CLASSES)
def test_every_draw_is_inside_its_range(label):
    rng = numpy_rng(0, "test")
    patient = draw_patient(0, label, 0, effect=0)
    for _ in range(200):
        cell = draw_cell(rng, patient)
        cell_type = CELL_TYPES[cell.kind]
        for name in ("diameter", "nc_ratio", "density", "clumping", "basophilia"):
            low, high = getattr(cell_type, name)[:2]
            assert low - 1e-9 <= getattr(cell, name) <= high + 1e-9
        assert cell.auer == 0 or label == "AML"


def test_ranges_overlap_where_haematologists_confuse_cells():
    assert "myeloblast" in MIXTURES["CML"][0] and "myeloblast" in MIXTURES["AML"][0]
    for name, other in (("myeloblast", "lymphoblast L2"), ("CLL lymphocyte", "lymphoblast L1")):
        for quantity in ("diameter", "nc_ratio", "clumping", "density"):
            a, b = getattr(CELL_TYPES[name], quantity), getattr(CELL_TYPES[other], quantity)
            assert max(a.low, b.low) < min(a.high, b.high), (name, other, quantity)


def test_every_range_has_a_source():
    table = list(morphology_rows())
    assert len(table) > 100 and {row["cell type"] for row in table} == set(CELL_TYPES)
    assert all(row["source"] and row["basis"] in {"stated", "described"} for row in table)
    assert all(row["low"] <= row["high"] and row["quantity"] in QUANTITIES.values() for row in table)
    for label in CLASSES:
        assert sum(MIXTURES[label][0].values()) == pytest.approx(1)


def test_patient_effect_scales_the_differences_between_patients():
    def deviation(effect):
        images, _, table = render_smear(120, 4, 32, seed=2, patient_effect=effect)
        colour = images.reshape(len(images), -1, 3).max(axis=1).astype(float)
        return np.std([colour[table["patient"] == p].mean(axis=0) for p in table["patient"].unique()], axis=0).mean()

    assert deviation(0.0) < 0.5 * deviation(1.0)
    assert draw_patient(0, "AML", 3, 0.0).white == draw_patient(0, "ALL", 1, 0.0).white


@pytest.mark.parametrize("profile", sorted({*PROFILES} - {"smoke"}))
@pytest.mark.parametrize("seed", range(3))
def test_the_default_data_have_the_test_patients_of_each_class_that_their_claims_need(profile: str, seed: int):
    """The profile smoke has fewer, which chapter 9 states (``chapters.results.cautions``)."""
    params = DataParams(**load_profile(profile)["data"])
    table = plan_cohort(params.cells, params.patients, seed)
    groups = table["label"] + "-" + table["patient"].astype(str)
    in_test = PARTS[2] == np.array(PARTS)[split_groups(table["label"], groups, params.fractions, seed)]
    assert (
        groups[in_test].groupby(table["label"]).nunique().reindex(list(CLASS_SHARES), fill_value=0).min() >= MIN_GROUPS
    )


def test_the_default_cohort_is_imbalanced_with_enough_patients():
    table = plan_cohort(2400, 16, 0)
    counts = table["label"].value_counts()
    assert 2000 <= len(table) <= 2600 and counts.min() * 6 <= counts.max()
    assert (table.groupby("label")["patient"].nunique() >= 12).all()
    assert sum(CLASS_SHARES.values()) == pytest.approx(1)
    with pytest.raises(LeukError, match="at least 229"):
        plan_cohort(100, 16, 0)


def test_smear_cells_is_a_split_set():
    cells = smear_cells(120, 4, 16)
    assert cells.kind == "rendered" and cells.classes == CLASSES and cells.masks is not None
    assert_disjoint(cells.parts, cells.groups)
    assert (cells.counts("train") > 0).all() and (cells.counts("val") > 0).all()


def test_canvas_and_outline():
    canvas = Canvas(128, 25.6)
    rng = np.random.default_rng(0)
    outline = blob(rng, 5.0, 0.05, np.zeros(2), 1.2, 0.4, 1.0)
    assert canvas.fill(outline).sum() / canvas.scale**2 == pytest.approx(np.pi * 25, rel=0.05)
    noise = np.stack([canvas.noise(rng, 1.0, 2.0, 0.4) for _ in range(20)])
    assert abs(noise.mean()) < 0.1 and 0.75 < noise.std() < 1.25
    assert noise.dtype == np.float32


def test_importing_the_package_is_light():
    code = "import sys, leuk_lib.data, leuk_lib.data.smear; sys.exit(bool({'torch','pandas','cv2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
