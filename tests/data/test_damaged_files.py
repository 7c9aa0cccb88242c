"""Ten thousand damaged files: none crashes the decoder, and none with a checksum is used."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from data.toys import coded, picture
from leuk_lib.data.check import check_folder
from leuk_lib.data.decode import Unreadable, decode
from leuk_lib.data.folder import read_folder
from leuk_lib.data.listing import list_folder

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about damaged tags

KINDS = {
    "PNG": {},
    "JPEG": {"quality": 90},
    "progressive JPEG": {"quality": 90, "progressive": True},
    "BMP": {},
    "TIFF": {},
    "WEBP": {"quality": 90},
    "grey PNG": {"mode": "L"},
    "CMYK JPEG": {"mode": "CMYK"},
    "palette PNG": {"mode": "P"},
    "packed TIFF": {"compression": "tiff_lzw"},
}
EACH = 1000  # mutations of each kind, 10,000 in all


def original(kind: str) -> bytes:
    return coded(picture(1), kind.split()[-1], **KINDS[kind])


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip bits, overwrite, cut off, cut out, repeat, splice, or write a large number where a size may stand."""
    out = bytearray(data)
    at, length = int(rng.integers(len(out))), int(rng.integers(1, 64))
    match int(rng.integers(7)):
        case 0:
            for place in rng.integers(0, len(out), int(rng.integers(1, 9))):
                out[place] ^= 1 << int(rng.integers(8))
        case 1:
            out[at : at + length] = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
        case 2:
            del out[at:]
        case 3:
            del out[at : at + length]
        case 4:
            out[at:at] = out[at : at + length]
        case 5:
            other = int(rng.integers(len(out)))
            out = out[:at] + out[other:]
        case 6:
            head = int(rng.integers(min(len(out), 300)))
            out[head : head + 4] = b"\xff\xff\xff\x7f"
    return bytes(out)


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files_never_crash_or_pass_as_intact(kind: str):
    whole = original(kind)
    truth = decode(whole)
    rng = np.random.default_rng(20)
    for number in range(EACH):
        data = mutate(whole, rng)
        try:
            decoded = decode(data)
        except Unreadable as reason:
            assert str(reason)
            continue
        image = decoded.image
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and min(image.shape) >= 3
        if "PNG" in kind:
            assert np.array_equal(image, truth.image), f"{kind}, mutation {number}: other pixels, no error"


@pytest.mark.parametrize("kind", KINDS)
def test_no_file_that_ends_early_is_used(kind: str):
    """Whatever is missing at the end: refused, or nothing that mattered (a trailer) was missing."""
    whole = original(kind)
    truth = decode(whole).image
    for end in {*range(0, len(whole), 7), *range(max(0, len(whole) - 60), len(whole))}:
        try:
            image = decode(whole[:end]).image
        except Unreadable:
            continue
        assert np.array_equal(image, truth), f"{kind} cut to {end} of {len(whole)} bytes was used"


def overwritten(number: int, rng: np.random.Generator, **options: object) -> tuple[bytes, bytes]:
    """A JPEG, and the same with 24 coded bytes overwritten."""
    whole = coded(picture(number, 96, 12), "JPEG", quality=90, **options)
    changed = bytearray(whole)
    place = changed.index(b"\xff\xda") + 20 + int(rng.integers(200))
    changed[place : place + 24] = rng.integers(0, 255, 24, dtype=np.uint8).tobytes()
    return whole, bytes(changed)


def test_jpegs_with_damaged_pixels_are_left_out_or_named(tmp_path, capfd):
    rng = np.random.default_rng(5)
    damaged = set()
    for number in range(40):
        file = tmp_path / "ab"[number // 20] / f"{number:02d}.jpg"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(overwritten(number, rng)[number % 2])
        if number % 2:
            damaged.add(file.relative_to(tmp_path).as_posix())
    findings = read_folder(tmp_path, 16).findings
    named = set(findings.loc[findings["finding"].str.contains("damaged|suspicious"), "path"])
    assert named <= damaged, "no intact file is blamed"
    assert len(named) >= 15, "of twenty; the others decode to something legal"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("turned", [1, 6])
def test_damaged_pixels_are_found_in_every_kind_of_jpeg(mode, turned):
    tags = Image.Exif()
    tags[0x0112] = turned
    rng = np.random.default_rng(6)
    detected = 0
    for number in range(20):
        whole, changed = overwritten(number, rng, mode=mode, exif=tags)
        assert not any("JPEG" in finding for finding in decode(whole).findings)
        try:
            detected += any("suspicious" in finding for finding in decode(changed).findings)
        except Unreadable as reason:
            assert "damaged" in str(reason)
            detected += 1
    assert detected >= 10, "of twenty; the others decode to something legal"


@pytest.mark.parametrize("sampling", ["411", "420", "422", "440", "444"])
def test_jpegs_are_decoded_as_opencv_decodes_them(sampling):
    factor = getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{sampling}")
    data = cv2.imencode(".jpg", picture(1, 61, 12), [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor])[1]
    assert np.array_equal(decode(data.tobytes()).image, cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))


def test_harmless_oddities_of_a_jpeg_do_not_refuse_it():
    whole = coded(picture(1, 96, 12), "JPEG", quality=90)
    image = decode(whole).image
    surplus = decode(whole[:-2] + b"\0" * 5 + whole[-2:])
    assert np.array_equal(surplus.image, image)
    assert len(surplus.findings) == 1 and surplus.findings[0].startswith("suspicious JPEG")
    revision = whole.index(b"JFIF\0") + 5
    unknown = whole[:revision] + b"\x09\x09" + whole[revision + 2 :]
    comment = b"\xff\xfe\x00\x09JFIF\0\x09\x09"
    for data in (unknown, unknown[:2] + comment + unknown[2:]):
        assert np.array_equal(decode(data).image, image)


def test_a_jpeg_that_cannot_be_checked_is_used_and_named():
    data = bytearray(coded(np.full((64, 64, 3), 90, np.uint8), "JPEG", quality=90))
    data[data.index(b"\xff\xc0") + 11] = 0x42  # 4:1:0, which TurboJPEG does not support
    try:
        assert "unchecked JPEG" in decode(bytes(data)).findings
    except Unreadable as reason:
        assert "pixels" in str(reason)


def test_every_file_of_a_damaged_folder_is_used_or_named(tmp_path, capfd):
    """None vanishes: each listed file is in the table or among the findings, each left out has an error."""
    rng = np.random.default_rng(3)
    for number in range(200):
        kind = list(KINDS)[number % len(KINDS)]
        data = coded(picture(number), kind.split()[-1], **KINDS[kind])
        file = tmp_path / "ab"[number % 2] / f"{number:03d}.{kind.split()[-1].lower()}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(mutate(data, rng) if number % 3 else data)
    reading = read_folder(tmp_path, 16)
    used = set(reading.table["path"])
    left = set(reading.findings.loc[reading.findings["severity"] == "error", "path"])
    listed = {entry.path for entry in list_folder(tmp_path).entries}
    assert used | left == listed and not used & left and len(left) > 30 and len(used) > 60
    assert len(check_folder(tmp_path)) >= len(left)
    assert capfd.readouterr().err == "", "the decoders' messages do not reach the terminal"
