"""Decoding: every kind of image file is converted to RGB or refused with a reason."""

from __future__ import annotations

import io
import os
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from data.toys import coded, picture
from leuk_lib.data import image_files
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


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("turned", range(1, 9))
def test_all_eight_orientations(kind, turned):
    image = np.vstack([picture(5), picture(6)])
    options = {"lossless": True} if kind == "WEBP" else {}
    whole = coded(image, kind, exif=exif(turned), **options)
    expected = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(whole))))
    decoded = decode(whole)
    assert decoded.image.shape == expected.shape and np.abs(decoded.image.astype(int) - expected).mean() < 2
    assert ("EXIF-rotated" in decoded.findings) == (turned != 1)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("grey", [False, True])
def test_the_orientation_of_every_png_is_applied(deep, grey):
    image = np.vstack([picture(5), picture(6)])
    values = image[..., 0] if grey else image[..., ::-1]
    whole = cv2.imencode(".png", values.astype(np.uint16) * 257 if deep else values)[1].tobytes()
    tags = exif(6).tobytes().removeprefix(b"Exif\0\0")
    chunk = len(tags).to_bytes(4, "big") + b"eXIf" + tags + zlib.crc32(b"eXIf" + tags).to_bytes(4, "big")
    for place in (33, len(whole) - 12):  # before and after the pixels
        decoded = decode(whole[:place] + chunk + whole[place:])
        assert "EXIF-rotated" in decoded.findings
        assert np.array_equal(decoded.image, np.rot90(decode(whole).image, -1))


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def test_an_orientation_in_xmp_only_is_applied():
    image = np.vstack([picture(5), picture(6)])
    for kind, options in (
        ("JPEG", {"xmp": XMP, "quality": 98}),
        ("PNG", {"pnginfo": PngInfo()}),
        ("WEBP", {"xmp": XMP}),
    ):
        if kind == "PNG":
            options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
        decoded = decode(coded(image, kind, **options))
        assert "EXIF-rotated" in decoded.findings, kind
        assert np.abs(decoded.image.astype(int) - np.rot90(image, -1)).mean() < 8


def tiff(values, **options):
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, **options)
    return stream.getvalue()


LEVELS = picture(3)[..., 0]
LEVELS[0, :2] = 0, 255


def stated(kind, low, high):
    return {"extratags": [(340, kind, 1, low, True), (341, kind, 1, high, True)]}


@pytest.mark.parametrize(
    "data",
    [
        tiff((LEVELS / 255).astype(np.float32), **stated("f", 0.0, 1.0)),
        tiff((LEVELS - 20.0).astype(np.float32), **stated("f", -20.0, 235.0)),
        tiff(LEVELS.astype(np.uint32) * 0x1010101, **stated("I", 0, 2**32 - 1)),
        tiff(LEVELS.astype(np.int32) - 100, **stated("i", -100, 155)),
        tiff(LEVELS.astype(np.uint16) * 257),
        tiff((255 - LEVELS).astype(np.uint16) * 257, photometric="miniswhite"),
        tiff(255 - LEVELS, photometric="miniswhite"),
        tiff(np.rint(LEVELS * (4095 / 255)).astype(np.uint16), extratags=[(281, "H", 1, 4095, True)]),
        cv2.imencode(".png", LEVELS.astype(np.uint16) * 257)[1].tobytes(),
    ],
)
def test_grey_levels_are_scaled_by_what_the_file_states(data):
    decoded = decode(data)
    assert np.array_equal(decoded.image, np.repeat(LEVELS[..., None], 3, axis=2)) and "grey" in decoded.findings


def test_twelve_bits_per_channel_are_scaled_if_stated():
    image = picture(3)
    image[0, 0] = 255
    deep = np.rint(image * (4095 / 255)).astype(np.uint16)
    data = tiff(deep, photometric="rgb", extratags=[(281, "H", 3, (4095,) * 3, True)])
    assert np.array_equal(decode(data).image, image)
    with pytest.raises(Unreadable, match="no level above 4095 of 65535"):
        decode(tiff(deep, photometric="rgb"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff((LEVELS / 255).astype(np.float32)), "floating-point grey levels without a stated range"),
        (tiff((LEVELS / 255).astype(np.float32), **stated("f", 0.0, 0.5)), "outside the stated"),
        (tiff(np.where(LEVELS == 255, np.nan, 0.5).astype(np.float32), **stated("f", 0.0, 1.0)), "nan"),
        (tiff(np.where(LEVELS == 255, np.inf, 0.5).astype(np.float32), **stated("f", 0.0, 1.0)), "inf"),
        (tiff(LEVELS.astype(np.uint32)), "32-bit grey levels without a stated range"),
        (tiff(LEVELS.astype(np.int32)), "signed 32-bit"),
        (tiff(LEVELS.astype(np.int16)), "signed 16-bit"),
        (tiff(LEVELS.astype(np.uint16) * 16), "no level above 4080 of 65535"),
        (cv2.imencode(".png", LEVELS.astype(np.uint16))[1].tobytes(), "no level above 255 of 65535"),
    ],
)
def test_grey_levels_of_unknown_range_are_refused(data, reason):
    with pytest.raises(Unreadable, match=reason):
        decode(data)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("interlaced", [False, True])
def test_the_pixels_of_every_png_are_counted_right(bits, interlaced):
    """Odd sizes, few bits, rows in seven passes: none intact is refused."""
    for width, height in ((8, 9), (13, 40), (41, 8), (29, 31)):
        data = bytearray(coded(np.full((height, width), 1, np.uint8), "PNG", "P", bits=bits))
        if interlaced:  # the same rows would be other pixels: count the bytes only
            size = image_files._inflated_size(width, height, bits, 1)
            passes = [
                range(x, width, dx) and -(-len(range(x, width, dx)) * bits // 8) for x, _, dx, _ in image_files.ADAM7
            ]
            rows = [len(range(y, height, dy)) for _, y, _, dy in image_files.ADAM7]
            assert size == sum((1 + p) * r for p, r in zip(passes, rows, strict=True) if p and r)
        else:
            assert decode(bytes(data)).image.shape == (height, width, 3)
