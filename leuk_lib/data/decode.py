"""Decode image files to 8-bit RGB, or refuse them with a reason."""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageOps

from leuk_lib.data.image_files import Header, Unreadable, check_size, open_regular, read_header

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
STRIPS = ((273, 279), (324, 325))  # TIFF tags: offsets and byte counts of strips, of tiles
TIFF_MAGIC = (b"II*\0", b"MM\0*")
# libjpeg's warning about bytes before the end marker, which some cameras and programs write; the pixels may be intact.
SURPLUS = "extraneous bytes before marker 0xd9"
# The revision number of JFIF; libjpeg warns about unknown ones, which do not concern the pixels.
REVISION = re.compile(rb"JFIF\0..", re.DOTALL)
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

    JPEG has no checksum. Any warning of libjpeg about the coded pixels refuses the file, except surplus bytes after the
    last pixel, which are a finding. Damage inside the pixels of a BMP, TIFF or WebP file of the right length cannot be
    detected.

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
    """Decode with OpenCV, which applies the EXIF orientation; ``shape`` (rows, columns) is the header's."""
    try:
        image: NDArray[np.uint8] | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise Unreadable(f"damaged ({error})") from error
    if image is None or image.shape[:2] not in (shape, shape[::-1]):
        raise Unreadable("damaged: its pixels cannot be decoded")
    return image


def _jpeg(data: bytes, shape: tuple[int, int], findings: list[str], colours: str = "RGB") -> NDArray[np.uint8]:
    """Decode a JPEG with libjpeg's warnings as errors; ``shape`` (rows, columns) is the header's.

    OpenCV and Pillow decode damaged JPEGs without an error; OpenCV lets libjpeg write to the terminal instead.
    """
    import simplejpeg  # rendered cells do without it

    try:
        image: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colours, strict=True)
    except ValueError as error:
        reason = str(error)
        if SURPLUS in reason:
            findings.append("suspicious JPEG: surplus bytes after the pixels")
            image = simplejpeg.decode_jpeg(data, colours, strict=False)
        elif "JFIF" in reason and (known := REVISION.sub(b"JFIF\0\1\1", data)) != data:
            return _jpeg(known, shape, findings, colours)
        elif "subsampling" in reason:  # legal, but not supported by TurboJPEG
            findings.append("unchecked JPEG")
            try:
                image = np.array(Pillow.open(io.BytesIO(data), formats=["JPEG"]).convert("RGB"))
            except DAMAGE:
                raise Unreadable("damaged: its pixels cannot be decoded") from error
        else:
            raise Unreadable(f"damaged ({reason})") from error
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
    if kind == "TIFF":
        _whole_tiff(opened, len(data))
    try:
        shape, turned = opened.size[::-1], _orientation(opened)
        pixels = None
        if kind in JPEG:
            pixels = _jpeg(data, shape, findings, "CMYK" if opened.mode == "CMYK" else "RGB")
        if opened.mode != "RGB" or "transparency" in opened.info:
            image = _by_pillow(opened, turned, findings)
        else:
            image = _by_opencv(data, shape) if pixels is None else _upright(Pillow.fromarray(pixels), turned)
        if turned not in (0, 1):
            findings.append("EXIF-rotated")
        if _deep(opened, header):
            findings.append("16-bit")
        return kind, image
    except Unreadable:
        raise
    except DAMAGE as error:
        raise Unreadable(f"damaged ({error})") from error


def _by_pillow(opened: Pillow.Image, turned: int, findings: list[str]) -> NDArray[np.uint8]:
    """Convert palettes, grey, CMYK, transparency and 16-bit grey to RGB."""
    mode = opened.mode
    names = {"P": "palette", "CMYK": "CMYK", "L": "grey", "1": "grey", "LA": "grey"}
    if mode in names:
        findings.append(names[mode])
    if mode.startswith("I") or mode == "F":
        findings += ["16-bit", "grey"]
        values = np.asarray(opened, dtype=np.float64)
        top = 65535.0 if values.max() > 255 else 255.0
        image = Pillow.fromarray(np.clip(values / top * 255 + 0.5, 0, 255).astype(np.uint8)).convert("RGB")
    elif mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in opened.info:
        rgba = opened.convert("RGBA")
        if np.asarray(rgba)[..., 3].min() < 255:
            findings.append("transparent")
        rgba = Pillow.alpha_composite(Pillow.new("RGBA", rgba.size, "white"), rgba)
        image = rgba.convert("RGB")
    else:
        image = opened.convert("RGB")
    # Pillow turns a TIFF when it loads it.
    return np.array(image, dtype=np.uint8) if opened.format == "TIFF" else _upright(image, turned)


def _upright(image: Pillow.Image, turned: int) -> NDArray[np.uint8]:
    """Apply the EXIF orientation ``turned`` (0 or 1: none)."""
    if turned not in (0, 1):
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
        return 0  # the pixels may be right although the EXIF data are damaged


def _deep(opened: Pillow.Image, header: Header | None) -> bool:
    """Whether a file has more than 8 bits per channel, which Pillow's mode does not show."""
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
