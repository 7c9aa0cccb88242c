"""Image files before decoding: opened safely, kind and size read, missing bytes detected.

Decoders fill missing pixels with grey without an error. The containers are therefore parsed first, in microseconds per
file. PNG has checksums, so any changed byte is found. JPEG, BMP, TIFF and WebP have none; only missing bytes are found
here (``decode`` checks a JPEG's coded pixels).
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

MAX_PIXELS = 64_000_000  # more is a decompression bomb or a whole slide
MAX_SCANS = 200  # of a progressive JPEG; each costs a pass over all pixels
MIN_SIDE = 8  # pixels


class Unreadable(ValueError):
    """A file that gives no trustworthy image; the message is the reason."""


@contextmanager
def open_regular(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file for reading.

    Raises:
        Unreadable: For pipes, devices, links to nothing and files without read permission.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would block until something is written
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise Unreadable("not a regular file")
            with os.fdopen(handle, "rb", closefd=False) as file:
                yield file
        finally:
            os.close(handle)
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror})") from error


@dataclass(frozen=True)
class Header:
    """Header of an image file.

    Attributes:
        kind: Pillow's name of the format, such as "PNG".
        width: In pixels.
        height: In pixels.
        plain: 8-bit RGB without transparency, EXIF data or a second image: decoded without any conversion.
        deep: More than 8 bits per channel.
    """

    kind: str
    width: int
    height: int
    plain: bool = False
    deep: bool = False


def check_size(width: int, height: int) -> None:
    """Raise ``Unreadable`` for more than 64 megapixels and for a side of fewer than 8 pixels."""
    if width * height > MAX_PIXELS:
        raise Unreadable(f"oversized: {width} x {height} pixels are too many for one cell")
    if min(width, height) < MIN_SIDE:
        raise Unreadable(f"{width} x {height} pixels are too few")


def read_header(data: bytes) -> Header | None:
    """Parse the header of a PNG, JPEG or BMP and check that the file is complete.

    Args:
        data: The whole file.

    Returns:
        The header; None for other formats, whose headers Pillow reads.

    Raises:
        Unreadable: For a damaged or truncated PNG, JPEG, BMP or WebP file, and for sizes that ``check_size`` refuses.
    """
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(data)
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data)
        if data.startswith(b"BM"):
            return _bmp(data)
    except (struct.error, IndexError) as error:
        raise Unreadable("truncated: the file ends inside its header") from error
    if data.startswith(b"RIFF") and int.from_bytes(data[4:8], "little") + 8 > len(data):
        raise Unreadable("truncated WebP")
    return None


def _png(data: bytes) -> Header:
    view, at = memoryview(data), 8
    names: list[bytes] = []
    while not names or names[-1] != b"IEND":
        if at + 12 > len(data):
            raise Unreadable("truncated PNG")
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            raise Unreadable("truncated PNG")
        if zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise Unreadable("damaged PNG: checksum")
        names.append(data[at + 4 : at + 8])
        at = end + 4
    if names[0] != b"IHDR" or b"IDAT" not in names:
        raise Unreadable("damaged PNG: no image data")
    if b"acTL" in names:
        raise Unreadable("several images in one file")
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    check_size(width, height)
    plain = depth == 8 and colour == 2 and b"tRNS" not in names and b"eXIf" not in names
    return Header("PNG", width, height, plain, deep=depth == 16)


# Start-of-frame markers; the other C0-CF are tables.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def _jpeg(data: bytes) -> Header:
    at, size, components, extra, progressive = 2, (0, 0), 0, False, False
    kind = "JPEG"
    while True:
        if at + 4 > len(data) or data[at] != 0xFF:
            raise Unreadable("truncated JPEG: no image data")
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if marker == 0xDA:
            break
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            size, components, progressive = (width, height), data[at + 9], marker == 0xC2
            extra |= data[at + 4] != 8 or marker not in (0xC0, 0xC1, 0xC2)
        elif marker == 0xE1 and data[at + 4 : at + 8] == b"Exif":
            extra = True
        elif marker == 0xE2 and data[at + 4 : at + 8] == b"MPF\0":
            kind = "MPO"
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    if not components:
        raise Unreadable("damaged JPEG: no frame before the image data")
    # An end marker before the start of scan may be a thumbnail's.
    if data.find(b"\xff\xd9", at) < 0:
        raise Unreadable("truncated JPEG: no end-of-image marker")
    if progressive and data.count(b"\xff\xda", at) > MAX_SCANS:
        raise Unreadable(f"oversized: more than {MAX_SCANS} scans in one JPEG")
    check_size(*size)
    return Header(kind, *size, plain=components == 3 and not extra)


def _bmp(data: bytes) -> Header:
    offset, info = struct.unpack_from("<II", data, 10)
    if info < 40:
        raise Unreadable("damaged BMP: header of an unknown kind")
    width, height, _, bits, packing = struct.unpack_from("<iiHHI", data, 18)
    width, height = abs(width), abs(height)
    check_size(width, height)
    if packing == 0 and offset + (width * bits + 31) // 32 * 4 * height > len(data):
        raise Unreadable("truncated BMP")
    return Header("BMP", width, height, plain=bits == 24 and packing == 0)
