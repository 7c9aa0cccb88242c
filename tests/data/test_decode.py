"""Decoding: every kind of image file is converted to RGB or refused with a reason."""

from __future__ import annotations

import io
import os

import cv2
import numpy as np
import pytest
from PIL import Image

from data.toys import coded, picture
from leuk_lib.data.decode import Unreadable, decode, read_file, square
from leuk_lib.data.image_files import MAX_SCANS


def exif(turn):
    tags = Image.Exif()
    tags[0x0112] = turn
    return tags


def deep_png(image):
    return cv2.imencode(".png", image.astype(np.uint16)[..., ::-1] * 257)[1].tobytes()


UNUSUAL = {
    "grey": lambda: coded(picture(1), mode="L"),
    "palette": lambda: coded(picture(1), mode="P"),
    "16-bit": lambda: deep_png(picture(1)),
    "CMYK": lambda: coded(picture(1), "JPEG", "CMYK"),
    "transparent": lambda: coded(np.dstack([picture(1), picture(2)[..., 0]])),
    "EXIF-rotated": lambda: coded(picture(1), "JPEG", exif=exif(6)),
    "tiny": lambda: coded(picture(1, 12)),
}


@pytest.mark.parametrize("clear", [False, True])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_with_alpha_are_findings(suffix, clear):
    rgba = np.dstack([picture(3), np.full((40, 40), 255, np.uint8)]).astype(np.uint16) * 257
    rgba[:20, :, 3] = 0 if clear else 65535
    decoded = decode(cv2.imencode(suffix, rgba[..., [2, 1, 0, 3]])[1].tobytes(), suffix)
    assert decoded.findings == (("transparent", "16-bit") if clear else ("16-bit",))
    assert np.array_equal(decoded.image[20:], picture(3)[20:])


@pytest.mark.parametrize("finding", UNUSUAL)
def test_unusual_files_are_decoded_with_a_finding(finding):
    decoded = decode(UNUSUAL[finding](), ".jpg" if finding in ("CMYK", "EXIF-rotated") else ".png")
    assert finding in decoded.findings
    assert decoded.image.dtype == np.uint8 and decoded.image.ndim == 3 and decoded.image.shape[2] == 3


def test_pixels_are_right_whatever_the_container():
    image = picture(3)
    assert np.array_equal(decode(coded(image), ".png").image, image)
    assert np.array_equal(decode(coded(image, "BMP"), ".bmp").image, image)
    assert np.array_equal(decode(coded(image, "TIFF"), ".tif").image, image)
    assert np.array_equal(decode(deep_png(image), ".png").image, image)
    turned = decode(coded(image, "JPEG", quality=98, exif=exif(6)), ".jpg").image
    assert np.abs(turned.astype(int) - np.rot90(image, -1)).mean() < 6
    cmyk = decode(coded(image, "JPEG", "CMYK", quality=98), ".jpg").image
    assert np.abs(cmyk.astype(int) - image).mean() < 12


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello world, I am a text", "not an image"),
        (coded(picture(1))[:-20], "truncated"),
        (coded(picture(1), "JPEG")[:-200], "truncated"),
        (coded(picture(1, 6)), "too few"),
        (coded(np.zeros((9000, 9000), np.uint8)), "too many"),
        (coded(picture(1), "GIF"), "not supported"),
        (cv2.imencode(".tif", np.ones((20, 20, 3), np.float32))[1].tobytes(), "TIFF .* save it with 8 bits"),
    ],
)
def test_unusable_files_are_refused_with_a_reason(data, reason):
    with pytest.raises(Unreadable, match=reason):
        decode(data)


def test_square_cuts_out_the_centre():
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, 10:30] = 200
    assert (square(image, 10) == 200).all()
    mask = np.tile(np.array([0, 128, 255, 0], np.uint8), (4, 1))
    assert set(np.unique(square(mask, 9, nearest=True))) <= {0, 128, 255}


def test_a_tiff_without_its_dimensions_is_refused():
    """Found by fuzzing: Pillow raises TypeError over it."""
    data = bytearray(coded(picture(1), "TIFF"))
    entries = bytes(data).find((256).to_bytes(2, "little") + (3).to_bytes(2, "little"))
    entries = entries if entries >= 0 else bytes(data).find((256).to_bytes(2, "little") + (4).to_bytes(2, "little"))
    data[entries : entries + 2] = b"\xff\xff"
    with pytest.raises(Unreadable):
        decode(bytes(data))


def test_a_jpeg_with_too_many_scans_is_refused():
    data = coded(picture(1), "JPEG", progressive=True)
    end = data.rindex(b"\xff\xd9")
    with pytest.raises(Unreadable, match="scans"):
        decode(data[:end] + b"\xff\xda\x00\x02" * (MAX_SCANS + 1) + data[end:])


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(Unreadable, match="regular"):
        read_file(tmp_path / "pipe.png")


@pytest.mark.parametrize("mode", [None, "L"])
@pytest.mark.parametrize("kind", ["TIFF", "PNG", "JPEG"])
@pytest.mark.parametrize("turned", [3, 6, 8])
def test_orientation_is_applied_once_whatever_the_container(kind, mode, turned):
    from PIL import Image

    tags = Image.Exif()
    tags[0x0112] = turned
    image = np.vstack([picture(5), picture(6)])
    plain, rotated = (decode(coded(image, kind, mode, **kw)).image for kw in ({}, {"exif": tags}))
    upright = np.rot90(plain, {3: 2, 6: -1, 8: 1}[turned])
    assert rotated.shape == upright.shape and np.abs(rotated.astype(int) - upright).mean() < 2


def test_the_orientation_of_a_16_bit_png_is_applied():
    image = np.vstack([picture(5), picture(6)])[..., 0]
    stream = io.BytesIO()
    Image.fromarray(image.astype(np.uint16) * 257).save(stream, "PNG", exif=exif(6))
    decoded = decode(stream.getvalue())
    assert np.array_equal(decoded.image[..., 0], np.rot90(image, -1)) and "EXIF-rotated" in decoded.findings
