"""One scale: a disc of the same length has the same size from every source, and nothing happens where no scale is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.test_prepare import FolderStage, small
from data.toys import coded, picture
from leuk_lib.chapters.data import source_table
from leuk_lib.data.check import check_folder
from leuk_lib.data.decode import decode_file, square
from leuk_lib.data.folder import read_folder
from leuk_lib.data.prepare import prepare_cells
from leuk_lib.data.scale import common_field, plan_scale, to_field
from leuk_lib.runs.errors import LeukError


def disc(side: int, um_per_px: float, diameter_um: float = 10.0, glass: int = 230) -> np.ndarray:
    """An image of a dark cell of ``diameter_um`` in its centre, at a scale."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    inside = np.hypot(y, x) * um_per_px <= diameter_um / 2
    return np.where(inside, 60, glass)[..., None].repeat(3, axis=2).astype(np.uint8)


def area(image: np.ndarray) -> int:
    return int((image[..., 0] < 145).sum())


@pytest.mark.parametrize(("side", "um_per_px"), [(200, 0.1), (400, 0.05), (575, 0.07), (72, 0.2), (100, 0.1)])
def test_a_cell_has_the_same_size_from_every_source(side: int, um_per_px: float):
    """Ten of twenty micrometres: half the width of the image, also where the file shows less (100 px of 0.1 µm)."""
    image = to_field(disc(side, um_per_px), um_per_px, 20.0, 64)
    assert image.shape == (64, 64, 3)
    assert area(image) == pytest.approx(np.pi * 16**2, rel=0.05)
    assert image[0, 0].tolist() == [230, 230, 230]


def test_masks_keep_their_values_and_get_no_margin():
    mask = np.full((40, 40), 255, np.uint8)
    out = to_field(mask, 0.1, 8.0, 32, nearest=True)
    assert set(np.unique(out)) == {0, 255} and out.shape == (32, 32)
    assert (out == 255).mean() == pytest.approx(0.25, abs=0.03)


@given(st.integers(8, 90), st.integers(8, 90), st.floats(0.02, 2), st.floats(1, 60))
def test_any_image_gets_the_size(height: int, width: int, um_per_px: float, field: float):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert to_field(image, um_per_px, field, 16).shape == (16, 16, 3)


def test_the_whole_image_is_untouched_where_the_field_is_its_own():
    image = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    np.testing.assert_array_equal(to_field(image, 0.1, 6.0, 32), square(image, 32))


def test_nothing_is_planned_where_nothing_is_known_or_all_scales_are_equal():
    assert plan_scale([0, np.nan], [60, 80], 64).field_um == 0
    assert plan_scale([0, np.nan], [60, 80], 64).understood == ()
    same = plan_scale([0.1, 0.1004], [60, 80], 64)
    assert same.field_um == 0 and same.findings == () and "all images have 0.1 µm" in same.understood[0]


def test_different_scales_are_brought_to_the_field_that_all_sources_show():
    plan = plan_scale([0.1, 0.1, 0.05, 0.05], [300, 320, 400, 600], 64)
    assert plan.field_um == 25.0 == common_field(plan.um_per_px, np.array([300, 320, 400, 600]))
    assert "0.05 (2), 0.1 (2)" in plan.understood[0] and "one field of 25 µm" in plan.understood[0]
    assert "1 images show less" in plan.findings[0].finding and plan.findings[0].severity == "info"


def test_known_and_unknown_scales_mixed_are_a_finding_and_the_parameter_fills_the_gap():
    mixed = plan_scale([0.1, 0], [300, 300], 64)
    assert mixed.field_um == 0 and "1 of 2 images is known" in mixed.findings[0].finding
    assert plan_scale([0.1, 0], [300, 300], 64, um_per_px=0.05).field_um == 15.0
    with pytest.raises(LeukError, match="1 of 2 is unknown") as error:
        plan_scale([0.1, 0], [300, 300], 64, field_um=20)
    assert error.value.exit_code == 2
    assert plan_scale([0.1, 0.1], [300, 300], 64, field_um=20).field_um == 20


@pytest.mark.parametrize("value", [-0.1, 0.0001, 250.0])
def test_a_scale_that_no_microscope_has_is_refused(value: float):
    with pytest.raises(LeukError, match=r"must be 0\.005 to 10 micrometres"):
        plan_scale([0.1, value], [300, 300], 64)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
@pytest.mark.parametrize("name", ["um_per_px", "field_um"])
def test_a_length_that_is_none_is_refused(name: str, value: float):
    """A field of NaN micrometres was announced and planned."""
    with pytest.raises(LeukError, match=f"{name} = {value} must be a positive number, or 0"):
        plan_scale([0.1, 0.1], [300, 300], 64, **{name: value})


def test_a_field_far_beyond_the_images_is_refused():
    with pytest.raises(LeukError, match="more than 8 times the 3 µm"):
        plan_scale([0.1, 0.01], [300, 300], 64, field_um=50)


def two_sources(root: Path, scales: tuple[str, str] = ("0.25", "0.125"), masks: bool = False) -> Path:
    """Cells of 10 micrometres from two microscopes, with a manifest that states their scales."""
    rows = ["path,label,um_per_px"]
    for source, (scale, side, true) in enumerate(zip(scales, (80, 240), (0.25, 0.125), strict=True)):
        for k in range(4):
            name = f"{'AML' if k % 2 else 'CML'}/s{source}_{k}.png"
            image = disc(side, true, 10.0 + 0.1 * k, 200 + 4 * k)
            image[k : k + 12, :4] = 90 + 5 * k  # no two alike
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(coded(image))
            if masks:
                (root / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
                mask = (
                    np.where(disc(side, true, 10.0 + 0.1 * k)[..., :1] < 145, 255, 0).astype(np.uint8).repeat(3, axis=2)
                )
                (root / "masks" / name).write_bytes(coded(mask))
            rows.append(f"{name},{name[:3]},{scale}")
    (root / "manifest.csv").write_text("\n".join(rows) + "\n")
    return root


def test_a_folder_of_two_microscopes_is_brought_to_one_scale(tmp_path: Path):
    folder = read_folder(two_sources(tmp_path / "cells", masks=True), size=64)
    areas = [area(image) for image in folder.images]
    assert max(areas) < 1.25 * min(areas)  # 10.0 to 10.7 micrometres; without a common scale the ratio is over 2
    assert any("brought to one field of 20 µm" in line for line in folder.understood)
    assert folder.masks is not None and set(np.unique(folder.masks)) == {0, 255}
    overlap = [(mask == 255) & (image[..., 0] < 145) for mask, image in zip(folder.masks, folder.images, strict=True)]
    assert min(both.sum() / size for both, size in zip(overlap, areas, strict=True)) > 0.9


def test_without_scales_each_image_is_used_as_a_whole(tmp_path: Path):
    """The default: no number of an earlier run moves."""
    root = two_sources(tmp_path / "cells", ("", ""))
    folder = read_folder(root, size=64)
    assert "um_per_px" not in folder.table and not any("scale" in line for line in folder.understood)
    assert not folder.findings["finding"].str.contains("scale").any()
    first = decode_file(root / folder.table["path"][0]).image
    np.testing.assert_array_equal(folder.images[0], square(first, 64))


def test_known_and_unknown_scales_are_a_finding_of_the_check(tmp_path: Path):
    root = two_sources(tmp_path / "cells", ("0.25", ""))
    found = check_folder(root)
    assert found["finding"].str.contains("the scale of 4 of 8 images is known").any()
    filled = read_folder(root, size=64, um_per_px=0.125)
    assert sorted(set(filled.table["um_per_px"])) == [0.125, 0.25] and any(
        "one field" in line for line in filled.understood
    )


def test_magnifications_without_a_scale_are_a_finding(tmp_path: Path):
    root = tmp_path / "cells"
    for power in ("100x", "40x"):
        for name in ("AML", "CML"):
            for k in range(2):
                (root / power / name).mkdir(parents=True, exist_ok=True)
                (root / power / name / f"{k}.png").write_bytes(
                    coded(picture(100 * int(power[:-1]) + 10 * k + len(name + name[0]) + ord(name[0])))
                )
    assert check_folder(root)["finding"].str.contains(r"several magnifications \(100x, 40x\)").any()
    (root / "40x").rename(tmp_path / "other")
    assert not check_folder(root)["finding"].str.contains("magnifications").any()


def test_the_stage_says_the_scale_and_keeps_it_in_the_table(tmp_path: Path):
    root = two_sources(tmp_path / "cells")
    built = prepare_cells(small(dataset=str(root), image_size=32), FolderStage(tmp_path / "stage"))
    assert any("brought to one field" in note for note in built.notes)
    assert sorted(set(built.cells.table["um_per_px"])) == [0.125, 0.25]
    assert "µm per pixel" in source_table(built.cells) and source_table(built.cells)["µm per pixel"][0] == "0.125–0.25"
    wide = prepare_cells(small(dataset=str(root), image_size=32, field_um=30.0), FolderStage(tmp_path / "wide"))
    assert any("field of 30 µm" in note for note in wide.notes)
    with pytest.raises(LeukError, match="um_per_px is for folders"):
        prepare_cells(small(um_per_px=0.1), FolderStage(tmp_path / "smear"))
