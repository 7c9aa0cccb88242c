"""Bytes to RGB: every kind of image file is decoded the same way or refused with a reason."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from leuk_lib.data.opencv import cv2

MAX_PIXELS = 64_000_000  # a decompression bomb, or a whole slide: not a cell
MIN_SIDE, SMALL_SIDE = 8, 24  # pixels: refused below the first, reported below the second
SUFFIXES = {
    "PNG": {".png"},
    "JPEG": {".jpg", ".jpeg"},
    "MPO": {".jpg", ".jpeg"},
    "BMP": {".bmp"},
    "TIFF": {".tif", ".tiff"},
    "WEBP": {".webp"},
}
ORIENTATION = 0x0112
# What Pillow and OpenCV were seen to raise over damaged files (fuzzing); all mean "this is no image".
DAMAGE = (
    OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, EOFError, AttributeError, RuntimeError,
    ArithmeticError, AssertionError, MemoryError, struct.error, zlib.error, cv2.error,
)  # fmt: skip


class Unreadable(ValueError):
    """This file gives no trustworthy image; the message says why."""


@dataclass(frozen=True)
class Decoded:
    """image (H,W,3) uint8 RGB, upright, and how the file is unusual (findings, possibly none)."""

    image: NDArray[np.uint8]
    findings: tuple[str, ...]


def decode_file(path: Path) -> Decoded:
    """Decode one image file. Raises ``Unreadable``."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror})") from error
    return decode(data, path.suffix)


def decode(data: bytes, suffix: str = "") -> Decoded:
    """Decode an image file's bytes to upright 8-bit RGB.

    16 bits are reduced to 8, CMYK and palette converted, grey repeated, transparency laid on white, EXIF orientation
    applied; each is a finding. Truncated, damaged, unknown, animated, huge (> 64 megapixels) and tiny (< 8 px) files
    raise ``Unreadable``.
    """
    if not data:
        raise Unreadable("empty file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of bombs; the limit below is stricter
        try:
            header = Pillow.open(io.BytesIO(data))
        except (*DAMAGE, Pillow.DecompressionBombError) as error:
            raise Unreadable("not an image, or its header is damaged") from error
        kind, (width, height) = header.format or "", header.size
        if kind not in SUFFIXES:
            raise Unreadable(f"format {kind} is not supported")
        if width * height > MAX_PIXELS:
            raise Unreadable(f"{width} x {height} pixels are too many for one cell")
        if min(width, height) < MIN_SIDE:
            raise Unreadable(f"{width} x {height} pixels are too few")
        if kind != "MPO" and _frames(header) > 1:
            raise Unreadable("several images in one file")
        _whole(data, kind)
        findings = [] if suffix.lower() in SUFFIXES[kind] or not suffix else [f"is a {kind} file under another name"]
        image = _pixels(data, header, findings)
    if min(image.shape[:2]) < SMALL_SIDE:
        findings.append("tiny")
    return Decoded(image, tuple(dict.fromkeys(findings)))


def _pixels(data: bytes, header: Pillow.Image, findings: list[str]) -> NDArray[np.uint8]:
    """Decode: OpenCV where it is exact and fast, Pillow for the kinds that OpenCV would get wrong or hide."""
    try:
        if header.mode == "RGB" and "transparency" not in header.info:
            if _orientation(header) not in (0, 1):
                findings.append("EXIF-rotated")
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)  # applies the orientation
            if image is not None:
                if header.format in ("PNG", "TIFF") and _deep(data, header):
                    findings.append("16-bit")
                return np.ascontiguousarray(image[..., ::-1])
        return _by_pillow(header, findings)
    except DAMAGE as error:
        raise Unreadable(f"damaged ({error})") from error


def _by_pillow(header: Pillow.Image, findings: list[str]) -> NDArray[np.uint8]:
    turned = _orientation(header)
    mode = header.mode
    if mode.startswith("I") or mode == "F":
        values = np.asarray(header, dtype=np.float64)
        findings += ["16-bit", "grey"]
        top = 65535.0 if values.max() > 255 else 255.0
        grey = np.clip(values / top * 255 + 0.5, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    names = {"P": "palette", "CMYK": "CMYK", "L": "grey", "1": "grey", "LA": "grey"}
    if mode in names:
        findings.append(names[mode])
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in header.info:
        rgba = header.convert("RGBA")
        if np.asarray(rgba)[..., 3].min() < 255:
            findings.append("transparent")
        rgba = Pillow.alpha_composite(Pillow.new("RGBA", rgba.size, "white"), rgba)
        image = rgba.convert("RGB")
    else:
        image = header.convert("RGB")
    if turned not in (0, 1):
        from PIL import ImageOps

        findings.append("EXIF-rotated")
        exif = image.getexif()
        exif[ORIENTATION] = turned
        image = ImageOps.exif_transpose(image)
    return np.array(image, dtype=np.uint8)


def _frames(header: Pillow.Image) -> int:
    try:
        return int(getattr(header, "n_frames", 1))
    except DAMAGE as error:
        raise Unreadable(f"damaged ({error})") from error


def _orientation(header: Pillow.Image) -> int:
    if "exif" not in header.info and header.format != "TIFF":
        return 0
    try:
        return int(header.getexif().get(ORIENTATION, 0))
    except DAMAGE:
        return 0  # damaged EXIF does not make the pixels wrong


def _deep(data: bytes, header: Pillow.Image) -> bool:
    """Whether an RGB file holds more than 8 bits a channel (Pillow's mode does not tell)."""
    if header.format == "PNG":
        return data[24] == 16
    bits = getattr(header, "tag_v2", {}).get(258, (8,))
    return max(bits if isinstance(bits, tuple) else (bits,)) > 8


def _whole(data: bytes, kind: str) -> None:
    """Raise ``Unreadable`` if the file ends early or a PNG chunk's checksum is wrong; decoders forgive too much."""
    if kind in ("JPEG", "MPO"):
        if data.find(b"\xff\xd9", _start_of_scan(data)) < 0:
            raise Unreadable("truncated JPEG: no end-of-image marker")
    elif kind == "PNG":
        at = 8
        while True:
            if at + 12 > len(data):
                raise Unreadable("truncated PNG")
            length = int.from_bytes(data[at : at + 4], "big")
            end = at + 8 + length
            if end + 4 > len(data):
                raise Unreadable("truncated PNG")
            if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
                raise Unreadable("damaged PNG: checksum")
            if data[at + 4 : at + 8] == b"IEND":
                return
            at = end + 4
    elif kind == "BMP" and int.from_bytes(data[2:6], "little") > len(data):
        raise Unreadable("truncated BMP")


def _start_of_scan(data: bytes) -> int:
    """Where a JPEG's coded pixels begin; behind it the end marker cannot be a thumbnail's."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        if data[at + 1] == 0xDA:
            return at
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise Unreadable("truncated JPEG: no image data")


def square(image: NDArray[np.uint8], size: int, nearest: bool = False) -> NDArray[np.uint8]:
    """Centre square of an image or mask, resized to (size, size): by area downwards, cubic upwards, or nearest."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    crop = image[top : top + side, left : left + side]
    how = cv2.INTER_NEAREST if nearest else cv2.INTER_AREA if side >= size else cv2.INTER_CUBIC
    out: NDArray[np.uint8] = cv2.resize(crop, (size, size), interpolation=how)
    return out
