"""Decode image files to 8-bit RGB, or refuse them with a reason."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from leuk_lib.data import tiff
from leuk_lib.data.image_files import Header, Unreadable, check_size, open_regular, read_header
from leuk_lib.data.strict_jpeg import jpeg_pixels

MAX_BYTES = 1 << 29  # of one file
SMALL_SIDE = 24  # pixels; smaller images get the finding "tiny"
SUFFIXES = {
    "PNG": {".png"},
    "JPEG": {".jpg", ".jpeg"},
    "MPO": {".jpg", ".jpeg"},
    "BMP": {".bmp"},
    "TIFF": {".tif", ".tiff"},
    "WEBP": {".webp"},
}
JPEG = ("JPEG", "MPO")  # an MPO file holds several JPEG images; the first is the picture
ORIENTATION = 0x0112  # EXIF tag
BAND_PIXELS = 1 << 20  # converted at a time
TIFF_MAGIC = (b"II*\0", b"MM\0*")
# What Pillow and OpenCV raise for damaged files (collected by fuzzing).
DAMAGE = (
    OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, EOFError, AttributeError, RuntimeError,
    ArithmeticError, AssertionError, MemoryError, struct.error, zlib.error, cv2.error,
)  # fmt: skip
BOMB = (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning)


@dataclass(frozen=True)
class Decoded:
    """A decoded image file.

    Attributes:
        image: (H,W,3) uint8 RGB, upright.
        findings: What is unusual about the file; empty for most. The keys of ``findings.UNUSUAL``.
    """

    image: NDArray[np.uint8]
    findings: tuple[str, ...]


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Silence Pillow's warnings and OpenCV's log, which do not name the file; the findings do."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")
            yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def decode_file(path: Path) -> Decoded:
    """Decode one image file.

    Raises:
        Unreadable: As ``read_file`` and ``decode`` do.
    """
    return decode(read_file(path), path.suffix)


def read_file(path: Path) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        Unreadable: For pipes, devices, files that cannot be opened, and files larger than 512 MiB.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_BYTES:
            raise Unreadable(f"oversized: {size >> 20} MiB are too many for one cell")
        return file.read()


def decode(data: bytes, suffix: str = "") -> Decoded:
    """Decode the bytes of an image file to upright 8-bit RGB.

    Unusual files are converted, and the conversion becomes a finding: 16 bits are reduced to 8, CMYK and palettes
    become RGB, grey is repeated, transparency is laid on white, and the EXIF orientation is applied.

    Grey levels of more than 8 bits are scaled by the range that the file states. A file that states none is refused,
    unless its levels are unsigned, have 16 bits and use them.

    PNG has checksums, and so has TIFF with deflate. JPEG has none: any warning of libjpeg about the coded pixels refuses
    the file, except surplus bytes after the last pixel, which are a finding. Of a TIFF, whatever can be checked is checked
    (``tiff``). Damage inside the pixels of a BMP, WebP or uncompressed TIFF file of the right length, and in the palette of
    a TIFF, cannot be detected.

    Args:
        data: The whole file.
        suffix: The file name's extension; one that does not fit the content is a finding. Empty: not compared.

    Raises:
        Unreadable: For truncated, damaged, unknown and animated files, and for images of more than 64 megapixels or
            with a side of fewer than 8 pixels.
    """
    if not data:
        raise Unreadable("empty file")
    header = read_header(data)
    findings: list[str] = []
    if header is None or not header.plain:
        kind, image = _unusual(data, header, findings)
    elif header.kind in JPEG:
        kind, image = header.kind, _jpeg(data, (header.height, header.width), findings)
    else:
        kind, image = header.kind, _by_opencv(data, (header.height, header.width))
    if suffix and suffix.lower() not in SUFFIXES[kind]:
        findings.insert(0, f"is a {kind} file under another name")
    if min(image.shape[:2]) < SMALL_SIDE:
        findings.append("tiny")
    return Decoded(image, tuple(dict.fromkeys(findings)))


def _by_opencv(data: bytes, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Decode with OpenCV without turning it upright (except TIFF); ``shape`` (rows, columns) is the header's."""
    how = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image: NDArray[np.uint8] | None = cv2.imdecode(np.frombuffer(data, np.uint8), how)
    except cv2.error as error:
        raise Unreadable(f"damaged ({error})") from error
    if image is None or image.shape[:2] not in (shape, shape[::-1]):
        raise Unreadable("damaged: its pixels cannot be decoded")
    return image


def _jpeg(data: bytes, shape: tuple[int, int], findings: list[str], colours: str = "RGB") -> NDArray[np.uint8]:
    """Decode a JPEG; ``shape`` (rows, columns) is the header's."""
    image = jpeg_pixels(data, findings, colours)
    if image is None:
        findings.append("unchecked JPEG")
        try:
            image = np.array(Pillow.open(io.BytesIO(data), formats=["JPEG"]).convert("RGB"))
        except DAMAGE as error:
            raise Unreadable("damaged: its pixels cannot be decoded") from error
    if image.shape[:2] != shape:
        raise Unreadable("damaged: its pixels do not fit its header")
    return image


def _unusual(data: bytes, header: Header | None, findings: list[str]) -> tuple[str, NDArray[np.uint8]]:
    """Return the kind and the pixels of a file that is not plain 8-bit RGB."""
    try:
        # GIF is opened only so that the refusal can name it.
        opened = Pillow.open(io.BytesIO(data), formats=[*(k for k in SUFFIXES if k != "MPO"), "GIF"])
    except BOMB as error:
        raise Unreadable("oversized: its header states too many pixels for one cell") from error
    except DAMAGE as error:
        if data[:4] in TIFF_MAGIC:
            raise Unreadable("a TIFF with a damaged header or of an unsupported kind; save it with 8 bits") from error
        raise Unreadable("not an image, or its header is damaged") from error
    kind = opened.format or ""
    if kind not in SUFFIXES:
        raise Unreadable(f"format {kind} is not supported")
    check_size(*opened.size)
    if kind not in JPEG and _frames(opened) > 1:
        raise Unreadable("several images in one file")
    try:
        if kind == "TIFF":
            findings += tiff.check_strips(opened.tag_v2, data)  # type: ignore[attr-defined]
        # Pillow's pixels of 16 bits are not used: they are freed before OpenCV decodes its own.
        again = header is not None and header.deep
        turned = _orientation(Pillow.open(io.BytesIO(data), formats=["PNG"]) if again else opened, header)
        bits = _bits(opened, header)
        image = _pixels(kind, opened, bits, data, findings)
        if turned not in (0, 1):
            findings.append("EXIF-rotated")
        if bits > 8:
            findings.append("16-bit" if bits <= 16 else "32-bit")
        # Pillow and OpenCV turn a TIFF themselves.
        return kind, image if kind == "TIFF" else _upright(image, turned)
    except Unreadable:
        raise
    except DAMAGE as error:
        raise Unreadable(f"damaged ({error})") from error


def _pixels(kind: str, opened: Pillow.Image, bits: int, data: bytes, findings: list[str]) -> NDArray[np.uint8]:
    """Convert the pixels to RGB without turning them upright (except TIFF)."""
    shape = opened.size[::-1]
    if kind in JPEG:
        pixels = _jpeg(data, shape, findings, "CMYK" if opened.mode == "CMYK" else "RGB")
        return pixels if opened.mode == "RGB" else _by_pillow(opened, findings)
    if kind == "TIFF" and (opened.mode.startswith("I") or opened.mode == "F"):
        findings.append("grey")
        return _repeated(tiff.scale_levels(opened.tag_v2, np.asarray(opened)))  # type: ignore[attr-defined]
    if bits > 8:
        return _deep(opened, data, findings)
    if kind in ("PNG", "TIFF", "WEBP") and opened.mode == "RGB" and "transparency" not in opened.info:
        # OpenCV lacks some compressions of TIFF.
        rare = kind == "TIFF" and not tiff.is_common(opened.tag_v2)  # type: ignore[attr-defined]
        return _by_pillow(opened, findings) if rare else _by_opencv(data, shape)
    return _by_pillow(opened, findings)


def _deep(opened: Pillow.Image, data: bytes, findings: list[str]) -> NDArray[np.uint8]:
    """Reduce 16 bits per channel to 8 (Pillow drops the lower ones while it reads)."""
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16:
        raise Unreadable("more than 8 bits per channel in a way that is not supported; save it with 8 bits")
    channels = 1 if values.ndim == 2 else values.shape[2]
    colour = values if channels == 1 else values[..., :3]
    top = tiff.stated_top(getattr(opened, "tag_v2", {}), 16, int(colour.max()))
    if channels == 1 or opened.mode in ("L", "LA") or opened.mode.startswith("I"):
        findings.append("grey")
    if channels == 1:
        return _repeated(tiff.to_8_bits(values, 0, top))
    out = np.empty((*values.shape[:2], 3), np.uint8)
    for rows in _bands(values.shape[0], values.shape[1]):
        out[rows] = tiff.to_8_bits(values[rows, :, 2::-1], 0, top)
        if channels == 4 and values[rows, :, 3].min() < 65535:
            findings.append("transparent")
            out[rows] = _on_white(np.dstack([out[rows], tiff.to_8_bits(values[rows, :, 3], 0, 65535)]))
    return out


def _bands(height: int, width: int) -> Iterator[slice]:
    step = max(1, BAND_PIXELS // width)
    yield from (slice(top, min(top + step, height)) for top in range(0, height, step))


def _repeated(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    grey: NDArray[np.uint8] = cv2.cvtColor(levels, cv2.COLOR_GRAY2RGB)
    return grey


def _on_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lay (H,W,4) on white."""
    over = Pillow.fromarray(rgba)
    return np.array(Pillow.alpha_composite(Pillow.new("RGBA", over.size, "white"), over).convert("RGB"))


def _by_pillow(opened: Pillow.Image, findings: list[str]) -> NDArray[np.uint8]:
    """Convert palettes, grey, CMYK and transparency to RGB, band by band to save memory."""
    opened.load()
    mode = opened.mode
    names = {"P": "palette", "CMYK": "CMYK", "L": "grey", "1": "grey", "LA": "grey"}
    if mode in names:
        findings.append(names[mode])
    transparent = mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in opened.info
    width, height = opened.size
    out = np.empty((height, width, 3), np.uint8)
    for rows in _bands(height, width):
        band = opened.crop((0, rows.start, width, rows.stop))
        if transparent:
            rgba = np.asarray(band.convert("RGBA"))
            if rgba[..., 3].min() < 255:
                findings.append("transparent")
            out[rows] = _on_white(rgba)
        else:
            out[rows] = np.asarray(band.convert("RGB"))
    return out


def _upright(image: NDArray[np.uint8], turned: int) -> NDArray[np.uint8]:
    """Apply the EXIF orientation ``turned``: 1 to 8, else none."""
    if turned in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if turned in (3, 4, 7, 8):
        image = image[::-1]
    if turned in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _frames(header: Pillow.Image) -> int:
    try:
        return int(getattr(header, "n_frames", 1))
    except DAMAGE as error:
        raise Unreadable(f"damaged ({error})") from error


def _orientation(opened: Pillow.Image, header: Header | None) -> int:
    """The orientation in the EXIF data, else in the XMP data."""
    try:
        if header is not None and header.kind == "PNG":
            opened.load()  # they may stand after the pixels
        return int(opened.getexif().get(ORIENTATION, 0))
    except DAMAGE:
        return 0  # the pixels may be right although the EXIF data are damaged


def _bits(opened: Pillow.Image, header: Header | None) -> int:
    """Bits per channel, which Pillow's mode does not show."""
    if header is not None:
        return 16 if header.deep else 8
    return tiff.bits_of(getattr(opened, "tag_v2", {}))


def square(image: NDArray[np.uint8], size: int, nearest: bool = False) -> NDArray[np.uint8]:
    """Cut out the centre square of an image and resize it.

    Args:
        image: (H,W,3) image or (H,W) mask, uint8.
        size: Side of the result in pixels.
        nearest: Nearest neighbour, for masks. Otherwise area interpolation to shrink, cubic to enlarge.

    Returns:
        (size,size,3) or (size,size) uint8.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    crop = image[top : top + side, left : left + side]
    how = cv2.INTER_NEAREST if nearest else cv2.INTER_AREA if side >= size else cv2.INTER_CUBIC
    out: NDArray[np.uint8] = cv2.resize(crop, (size, size), interpolation=how)
    return out
