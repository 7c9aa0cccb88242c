"""Damaged files: none crashes the decoder, and none with a checksum is used."""

from __future__ import annotations

import io
import lzma
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterable

import cv2
import numpy as np
import pytest
from PIL import Image

from damage import mutate
from data.toys import coded, picture
from leuk_lib.data.cell_files import read_mask
from leuk_lib.data.check import check_folder
from leuk_lib.data.decode import Unreadable, decode, quiet_decoders
from leuk_lib.data.folder import read_folder
from leuk_lib.data.image_files import ADAM7
from leuk_lib.data.listing import list_folder
from leuk_lib.data.tiff import check_strips, read_lzw

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about damaged tags


def deep(image: np.ndarray, suffix: str) -> bytes:
    """16 bits per channel."""
    return cv2.imencode(suffix, image.astype(np.uint16) * 257)[1].tobytes()


def tiff(compression: str | None = None, mode: str | None = None) -> Callable[[np.ndarray], bytes]:
    return lambda image: coded(image, "TIFF", mode, compression=compression)


def png(mode: str | None = None) -> Callable[[np.ndarray], bytes]:
    return lambda image: coded(image, "PNG", mode)


KINDS: dict[str, Callable[[np.ndarray], bytes]] = {
    "PNG": png(),
    "grey PNG": png("L"),
    "palette PNG": png("P"),
    "transparent PNG": png("RGBA"),
    "grey-alpha PNG": png("LA"),
    "1-bit PNG": png("1"),
    "16-bit PNG": lambda image: deep(image, ".png"),
    "interlaced PNG": lambda image: interlaced(image),
    "16-bit grey PNG": lambda image: deep(image[..., 0], ".png"),
    "deflate TIFF": tiff("tiff_adobe_deflate"),
    "grey deflate TIFF": tiff("tiff_adobe_deflate", "L"),
    "differenced deflate TIFF": lambda image: coded(image, "TIFF", compression="tiff_adobe_deflate", tiffinfo={317: 2}),
    "deflate TIFF of eight strips": lambda image: coded(
        image, "TIFF", compression="tiff_adobe_deflate", tiffinfo={278: 5}
    ),
    "YCbCr deflate TIFF": tiff("tiff_adobe_deflate", "YCbCr"),
    "CMYK deflate TIFF": tiff("tiff_adobe_deflate", "CMYK"),
    "16-bit deflate TIFF": lambda image: cv2.imencode(
        ".tif", image.astype(np.uint16) * 257, [cv2.IMWRITE_TIFF_COMPRESSION, 8]
    )[1].tobytes(),
    "LZW TIFF": tiff("tiff_lzw"),
    "differenced LZW TIFF": lambda image: coded(image, "TIFF", compression="tiff_lzw", tiffinfo={317: 2}),
    "transparent LZW TIFF": tiff("tiff_lzw", "RGBA"),
    "16-bit LZW TIFF": lambda image: deep(image, ".tif"),
    "PackBits TIFF": tiff("packbits"),
    "JPEG TIFF": tiff("jpeg"),
    "plain TIFF": tiff(),
    "JPEG": lambda image: coded(image, "JPEG", quality=90),
    "grey JPEG": lambda image: coded(image, "JPEG", "L", quality=90),
    "progressive JPEG": lambda image: coded(image, "JPEG", quality=90, progressive=True),
    "CMYK JPEG": lambda image: coded(image, "JPEG", "CMYK", quality=90),
    "WEBP": lambda image: coded(image, "WEBP", quality=90),
    "lossless WEBP": lambda image: coded(image, "WEBP", lossless=True),
    "BMP": lambda image: coded(image, "BMP"),
    "palette BMP": lambda image: coded(image, "BMP", "P"),
}
# Largest share of mutations after which other pixels are taken in without a finding. PNG has a checksum on every byte,
# deflate on the pixels. LZW, PackBits and JPEG notice part of the damage, the others only missing bytes.
ALLOWED = {"PNG": 0.0, "deflate": 0.0, "LZW": 0.1, "JPEG": 0.3, "PackBits": 0.45}
EACH = 420  # mutations of each kind in the long test: 13,000 in all


def allowed(kind: str) -> float:
    return next((share for name, share in ALLOWED.items() if name in kind), 1.0)


def outcomes(kind: str, mutations: Iterable[bytes], truth: np.ndarray) -> Counter[str]:
    """Count what becomes of damaged files: refused, named by a finding, the same pixels, or other pixels without a word."""
    counts: Counter[str] = Counter()
    usual = decode(KINDS[kind](picture(1))).findings
    for data in mutations:
        try:
            decoded = decode(data)
        except Unreadable as reason:
            assert str(reason)
            counts["refused"] += 1
            continue
        image = decoded.image
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and min(image.shape) >= 3
        same = np.array_equal(image, truth)
        named = any(finding not in usual for finding in decoded.findings)
        counts["same pixels" if same else "named" if named else "other pixels"] += 1
    return counts


def mutated(kind: str, times: int, seed: int = 20) -> Counter[str]:
    whole = KINDS[kind](picture(1))
    rng = np.random.default_rng(seed)
    return outcomes(kind, (mutate(whole, rng) for _ in range(times)), decode(whole).image)


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files_never_crash_or_pass_as_intact(kind: str):
    counts = mutated(kind, 60)
    assert counts["other pixels"] <= (allowed(kind) and allowed(kind) + 0.15) * 60, counts


@pytest.mark.long
def test_shares_of_ten_thousand_mutations(capsys):
    """Prints by format how many damaged files are taken in with other pixels."""
    with capsys.disabled():
        print(f"\n{'of ' + str(EACH) + ' mutations':22s} refused  named  same pixels  other pixels")
        for kind in KINDS:
            counts = mutated(kind, EACH)
            share = {name: counts[name] / EACH for name in ("refused", "named", "same pixels", "other pixels")}
            print(f"{kind:22s} {'  '.join(f'{100 * value:6.1f} %' for value in share.values())}")
            assert share["other pixels"] <= allowed(kind), kind


def test_a_flipped_bit_in_a_strip_is_noticed_where_it_can_be(capfd):
    """Deflate has a checksum; LZW's codes must be an encoder's and end with the last pixel, JPEG's give libjpeg no warning."""
    rng = np.random.default_rng(1)
    image = picture(1, 64, 16)
    shares = {}
    for kind in ("deflate TIFF", "grey deflate TIFF", "LZW TIFF", "differenced LZW TIFF", "JPEG TIFF"):
        whole = KINDS[kind](image)
        tags = Image.open(io.BytesIO(whole)).tag_v2
        start, length = tags[273][0], tags[279][0]
        first = 700 if kind == "JPEG TIFF" else 0  # not its tables
        flipped = []
        for place in rng.integers(min(first, length // 2), length - 2, 60).tolist():
            changed = bytearray(whole)
            changed[start + place] ^= 1 << int(rng.integers(8))
            flipped.append(bytes(changed))
        with quiet_decoders():
            shares[kind] = outcomes(kind, flipped, decode(whole).image)["other pixels"] / 60
    assert shares["deflate TIFF"] == shares["grey deflate TIFF"] == 0
    # One flipped bit of a code mostly gives another string of the table, which often nothing contradicts.
    assert shares["differenced LZW TIFF"] < 0.6 and shares["LZW TIFF"] < 0.85 and shares["JPEG TIFF"] < 0.9, shares
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("compression", ["lzma", "zstd", "group4"])
def test_a_tiff_whose_compression_has_no_checksum_and_no_rules_is_named(compression: str):
    """Libtiff writes LZMA without its checksum: of 150 mutations 61 gave other pixels."""
    data = coded(picture(1), "TIFF", "1" if compression == "group4" else None, compression=compression)
    assert "unchecked TIFF" in decode(data).findings


@pytest.mark.parametrize("tag", [529, 532])
def test_unusual_colours_of_ycbcr_pixels_are_named(tag: int):
    """They stand among the tags, which no checksum covers: 2 of 420 damaged files had other pixels without a finding."""
    image, usual = picture(1), {529: (0.299, 0.587, 0.114), 532: (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)}
    options = {"mode": "YCbCr", "compression": "tiff_adobe_deflate"}
    assert "unchecked TIFF" not in decode(coded(image, "TIFF", **options, tiffinfo=usual)).findings
    changed = usual | {tag: tuple(2 * value + 1 for value in usual[tag])}
    assert "unchecked TIFF" in decode(coded(image, "TIFF", **options, tiffinfo=changed)).findings


def test_an_lzma_strip_with_a_checksum_is_checked():
    data = bytes(range(200)) * 6
    for check, expected in ((lzma.CHECK_NONE, ["unchecked TIFF"]), (lzma.CHECK_CRC32, []), (lzma.CHECK_CRC64, [])):
        strip = lzma.compress(data, check=check)
        tags = {256: 20, 257: 20, 258: 8, 277: 3, 259: 34925, 262: 2, 273: 0, 279: len(strip)}
        assert check_strips(tags, strip) == expected
        for wrong in (strip[:-1], lzma.compress(data[:-1], check=check), strip[:40] + b"\0" + strip[41:]):
            with pytest.raises(Unreadable):
                check_strips(tags | {279: len(wrong)}, wrong)


def test_a_damaged_mask_is_not_used(tmp_path, monkeypatch):
    image = picture(1)
    mask = np.where(image[..., :1] > 128, 255, 0).astype(np.uint8).repeat(3, axis=2)
    (tmp_path / "m.tif").write_bytes(coded(mask, "TIFF", compression="tiff_lzw"))
    assert read_mask(tmp_path / "m.tif", (40, 40))[1] == ""
    monkeypatch.setattr("leuk_lib.data.tiff.read_lzw", lambda coded: (read_lzw(coded)[0], False))
    assert read_mask(tmp_path / "m.tif", (40, 40)) == (None, "mask cannot be used: suspicious TIFF")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "LZW" in kind])
def test_no_intact_lzw_tiff_is_suspicious(kind: str):
    for number, side in enumerate((9, 64, 200)):  # the table of the largest is cleared several times
        assert not any("TIFF" in finding for finding in decode(KINDS[kind](picture(number, side, 10))).findings)


def test_lzw_codes_that_make_an_entry_twice_are_no_encoders():
    codes = [256, 1, 2, 1, 2, 257]  # the entry 258 is "1 2", so that an encoder writes 258 the second time
    bits = "".join(f"{code:09b}" for code in codes)
    coded = bytes(int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8))
    assert read_lzw(coded) == (4, False)


def chunk(name: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")


def interlaced(image: np.ndarray) -> bytes:
    """A PNG in the seven passes of Adam7, which neither Pillow nor OpenCV writes."""
    rows = [row for x, y, across, down in ADAM7 for row in image[y::down, x::across] if row.size]
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))
    header = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 8, 2, 0, 0, 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def with_rows(depth: int, colour: int, kept: int) -> bytes:
    """A PNG of 40 x 40 pixels with right checksums, of whose rows only the first ``kept`` are coded."""
    row = bytes(1) + bytes(range(255, 0, -1)) * 2
    row = row[: 1 + (40 * depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] + 7) // 8]
    header = struct.pack(">IIBBBBB", 40, 40, depth, colour, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(range(256)) * 3) if colour == 3 else b""
    pixels = chunk(b"IDAT", zlib.compress(row * kept))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("depth", "colour"), [(1, 0), (8, 0), (16, 0), (8, 2), (16, 2), (8, 3), (8, 4), (16, 4), (8, 6), (16, 6)]
)
def test_a_png_with_half_its_rows_is_refused(depth, colour, capfd):
    assert decode(with_rows(depth, colour, 40)).image.shape == (40, 40, 3)
    for kept in (0, 20, 39, 41):
        with pytest.raises(Unreadable, match="PNG"):
            decode(with_rows(depth, colour, kept))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", KINDS)
def test_no_file_that_ends_early_is_used(kind: str):
    """Whatever is missing at the end: refused, or nothing that mattered (a trailer) was missing."""
    whole = KINDS[kind](picture(1))
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
        data = KINDS[kind](picture(number))
        file = tmp_path / "ab"[number // 2 % 2] / f"{number:03d}.{kind.split()[-1].lower()}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(mutate(data, rng) if number % 3 else data)
    reading = read_folder(tmp_path, 16)
    used = set(reading.table["path"])
    left = set(reading.findings.loc[reading.findings["severity"] == "error", "path"])
    listed = {entry.path for entry in list_folder(tmp_path).entries}
    assert used | left == listed and not used & left and len(left) > 30 and len(used) > 60
    assert len(check_folder(tmp_path)) >= len(left)
    assert capfd.readouterr().err == "", "the decoders' messages do not reach the terminal"
