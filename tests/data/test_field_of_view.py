"""Fields of view are distinguished from single cells: on rendered images, and with measured rates on real ones."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from leuk_lib.data.decode import decode_file, square
from leuk_lib.data.field_of_view import field_signs, has_scale_bar
from leuk_lib.data.perceptual_hash import THUMB
from leuk_lib.data.smear.cohort import render_smear


@pytest.fixture(scope="module")
def cells() -> np.ndarray:
    return render_smear(48, 2, 64, seed=5)[0]


def rendered_field(cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A field of 4 x 6 cells; the middle of the image lies between two cells."""
    chosen = cells[rng.choice(len(cells), 24, replace=False)]
    return np.concatenate([np.concatenate(list(chosen[6 * row : 6 * row + 6]), axis=1) for row in range(4)])


def with_bar(image: np.ndarray, colour: tuple[int, int, int], width: int = 60, height: int = 4) -> np.ndarray:
    out = image.copy()
    rows, columns = out.shape[:2]
    out[rows - 20 : rows - 20 + height, columns - width - 15 : columns - 15] = colour
    return out


def test_rendered_cells_are_cells(cells: np.ndarray) -> None:
    flagged = sum(field_signs(square(image, THUMB)) is not None for image in cells)
    assert flagged <= 1
    assert not any(has_scale_bar(image) for image in cells)


def test_rendered_fields_are_fields(cells: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    fields = [rendered_field(cells, rng) for _ in range(10)]
    assert sum(field_signs(square(image, THUMB)) is not None for image in fields) >= 9
    assert not any(has_scale_bar(image) for image in fields)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (0, 0, 255)])
@pytest.mark.parametrize("height", [3, 5, 9])
def test_scale_bars_are_seen(cells: np.ndarray, colour: tuple[int, int, int], height: int) -> None:
    field = np.minimum(rendered_field(cells, np.random.default_rng(1)), 210)
    barred = with_bar(field, colour, height=height)
    assert has_scale_bar(barred)
    if colour[0] != colour[2] and height < 9:
        return  # JPEG halves the resolution of colour: thin coloured bars are missed there
    coded = cv2.imencode(".jpg", barred, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    assert has_scale_bar(cv2.imdecode(coded, cv2.IMREAD_COLOR))


def test_straight_edges_that_are_no_scale_bar(cells: np.ndarray) -> None:
    field = rendered_field(cells, np.random.default_rng(2))
    band = field.copy()
    band[-20:] = 255  # a white band over the whole width
    frame = field.copy()
    frame[:4] = frame[-4:] = frame[:, :4] = frame[:, -4:] = 0
    square_ = field.copy()
    square_[60:140, 60:140] = 0  # as high as wide
    for image in (band, frame, square_, np.zeros_like(field), np.full_like(field, 255)):
        assert not has_scale_bar(image)


def test_nothing_is_said_about_images_without_purple() -> None:
    grey = np.repeat(np.random.default_rng(0).integers(0, 255, (32, 32, 1), np.uint8), 3, axis=2)
    assert field_signs(grey) is None
    assert field_signs(np.zeros((32, 32, 3), np.uint8)) is None


def test_a_nucleus_in_the_centre_or_not() -> None:
    for x, sign in ((16, None), (19, None), (26, "no nucleus in its centre")):
        image = np.full((32, 32, 3), (235, 225, 230), np.uint8)
        cv2.circle(image, (x, 16), 4, (90, 40, 130), -1)
        assert field_signs(image) == sign


def images_of(folder: Path, step: int) -> list[np.ndarray]:
    files = [path for path in sorted(folder.glob("*/*")) if "masks" not in path.parts]
    return [decode_file(path).image for path in files[::step]]


@pytest.mark.parametrize("name", ["pbc_barcelona", "tecom_wbc", "cnmc2019", "aml_lmu", "raabin_txl"])
def test_real_cells_are_rarely_taken_for_fields(real_data: Path, name: str) -> None:
    images = images_of(real_data / name, 2)
    assert not any(has_scale_bar(image) for image in images)
    flagged = sum(field_signs(square(image, THUMB)) is not None for image in images)
    assert flagged <= max(1, 0.02 * len(images))  # of all cells: pbc .7 %, tecom 1 %, the others none


def test_real_fields_are_mostly_recognised(real_data: Path) -> None:
    images = images_of(real_data / "bccd", 3)
    flagged = sum(field_signs(square(image, THUMB)) is not None for image in images)
    assert flagged >= 0.65 * len(images)  # 77 % of all 166
