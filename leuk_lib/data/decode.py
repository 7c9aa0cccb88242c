"""Bytes to RGB: every kind of image file is decoded the same way or refused with a reason."""

from __future__ import annotations

import io
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from leuk_lib.data.image_files import MAX_PIXELS, Header, Unreadable, check_size, open_regular, probe
from leuk_lib.data.opencv import cv2

__all__ = ["MAX_PIXELS", "Decoded", "Unreadable", "decode", "decode_file", "square"]

MAX_BYTES = 1 << 29  # of one file
SMALL_SIDE = 24  # pixels: reported below it
SUFFIXES = {
    "PNG": {".png"},
    "JPEG": {".jpg", ".jpeg"},
    "MPO": {".jpg", ".jpeg"},
    "BMP": {".bmp"},
    "TIFF": {".tif", ".tiff"},
    "WEBP": {".webp"},
}
ORIENTATION = 0x0112
STRIPS = ((273, 279), (324, 325))  # TIFF tags: offsets and byte counts of strips, of tiles
TIFF_MAGIC = (b"II*\0", b"MM\0*")
# What Pillow and OpenCV were seen to raise over damaged files (fuzzing); all mean "this is no image".
DAMAGE = (
    OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, EOFError, AttributeError, RuntimeError,
    ArithmeticError, AssertionError, MemoryError, struct.error, zlib.error, cv2.error,
)  # fmt: skip
BOMB = (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning)


@dataclass(frozen=True)
class Decoded:
    """image (H,W,3) uint8 RGB, upright, how the file is unusual (findings, possibly none), and its kind as Pillow names it."""

    image: NDArray[np.uint8]
    findings: tuple[str, ...]
    kind: str = ""


def decode_file(path: Path) -> Decoded:
    """Decode one image file. Raises ``Unreadable``."""
    return decode(read_file(path), path.suffix)


def read_file(path: Path) -> bytes:
    """The bytes of a regular file. Raises ``Unreadable`` for pipes, devices and what is larger than 512 MiB."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise Unreadable(f"oversized: {size >> 20} MiB are too many for one cell")
        return file.read()


def decode(data: bytes, suffix: str = "") -> Decoded:
    """Decode an image file's bytes to upright 8-bit RGB.

    16 bits are reduced to 8, CMYK and palette converted, grey repeated, transparency laid on white, EXIF orientation
    applied; each is a finding. Truncated, damaged, unknown, animated, huge (> 64 megapixels) and tiny (< 8 px) files
    raise ``Unreadable``. Damage inside the coded pixels of a JPEG, BMP, TIFF or WebP that leaves the file whole cannot
    be seen here: those kinds have no checksum. (Of JPEGs ``manifest.read_folder`` also hears what the decoder says.)
    """
    if not data:
        raise Unreadable("empty file")
    header = probe(data)
    findings: list[str] = []
    if header is not None and header.plain:
        kind, image = header.kind, _by_opencv(data, (header.height, header.width))
    else:
        kind, image = _unusual(data, header, findings)
    if suffix and suffix.lower() not in SUFFIXES[kind]:
        findings.insert(0, f"is a {kind} file under another name")
    if min(image.shape[:2]) < SMALL_SIDE:
        findings.append("tiny")
    return Decoded(image, tuple(dict.fromkeys(findings)), kind)


def _by_opencv(data: bytes, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """OpenCV's decoder, which applies the orientation; ``shape`` (rows, columns) is what the header promised."""
    try:
        image: NDArray[np.uint8] | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise Unreadable(f"damaged ({error})") from error
    if image is None or image.shape[:2] not in (shape, shape[::-1]):
        raise Unreadable("damaged: its pixels cannot be decoded")
    return image


def _unusual(data: bytes, header: Header | None, findings: list[str]) -> tuple[str, NDArray[np.uint8]]:
    """Kind and pixels of what is not plain 8-bit RGB."""
    try:
        # GIF is opened only to be refused by its name.
        opened = Pillow.open(io.BytesIO(data), formats=[*(k for k in SUFFIXES if k != "MPO"), "GIF"])
    except BOMB as error:
        raise Unreadable("oversized: its header promises too many pixels for one cell") from error
    except DAMAGE as error:
        if data[:4] in TIFF_MAGIC:
            raise Unreadable(
                "a TIFF with a damaged header or of a kind that is not read; save it with 8 bits"
            ) from error
        raise Unreadable("not an image, or its header is damaged") from error
    kind = opened.format or ""
    if kind not in SUFFIXES:
        raise Unreadable(f"format {kind} is not supported")
    check_size(*opened.size)
    if kind not in ("JPEG", "MPO") and _frames(opened) > 1:  # of a camera's JPEG the first picture is the picture
        raise Unreadable("several images in one file")
    if kind == "TIFF":
        _whole_tiff(opened, len(data))
    try:
        if opened.mode == "RGB" and "transparency" not in opened.info:
            if _orientation(opened) not in (0, 1):
                findings.append("EXIF-rotated")
            image = _by_opencv(data, opened.size[::-1])
        else:
            image = _by_pillow(opened, findings)
        if _deep(opened, header):
            findings.append("16-bit")
        return kind, image
    except Unreadable:
        raise
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
        findings.append("EXIF-rotated")
    if turned not in (0, 1) and header.format != "TIFF":  # a TIFF is turned by Pillow when it is loaded
        from PIL import ImageOps

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


def _deep(opened: Pillow.Image, header: Header | None) -> bool:
    """Whether a file holds more than 8 bits a channel (Pillow's mode does not tell)."""
    if header is not None:
        return header.deep
    bits = getattr(opened, "tag_v2", {}).get(258, (8,))
    return max(bits if isinstance(bits, tuple) else (bits,)) > 8


def _whole_tiff(opened: Pillow.Image, size: int) -> None:
    """Raise ``Unreadable`` if a strip or tile of the TIFF lies beyond its end."""
    tags = getattr(opened, "tag_v2", {})
    for offsets, counts in STRIPS:
        starts, lengths = tags.get(offsets, ()), tags.get(counts, ())
        if len(starts) != len(lengths) or any(a + n > size for a, n in zip(starts, lengths, strict=True)):
            raise Unreadable("truncated TIFF")


def square(image: NDArray[np.uint8], size: int, nearest: bool = False) -> NDArray[np.uint8]:
    """Centre square of an image or mask, resized to (size, size): by area downwards, cubic upwards, or nearest."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    crop = image[top : top + side, left : left + side]
    how = cv2.INTER_NEAREST if nearest else cv2.INTER_AREA if side >= size else cv2.INTER_CUBIC
    out: NDArray[np.uint8] = cv2.resize(crop, (size, size), interpolation=how)
    return out
