"""Image files before decoding: opened safely, kind and size read, missing bytes detected.

Decoders fill missing pixels with grey without an error. The containers are therefore parsed first, in microseconds per
file. PNG has checksums, so any changed byte is found. JPEG, BMP, TIFF and WebP have none; only missing bytes are found
here (``strict_jpeg`` and ``tiff`` check the coded pixels).
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})  # suffixes of images that are read
MAX_PIXELS = 64_000_000  # more is a decompression bomb or a whole slide
MAX_SCANS = 200  # of a progressive JPEG; each costs a pass over all pixels
MIN_SIDE = 8  # pixels
PIECE = 1 << 16  # bytes that are inflated at a time
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
# x, y and their steps, per pass.
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
XMP = b"http://ns.adobe.com/xap/1.0/\0"
# Keywords of PNG texts in which an orientation may stand.
PNG_TEXTS = (b"XML:com.adobe.xmp\0", b"Raw profile type ")


class Unreadable(ValueError):
    """A file that gives no trustworthy image; the message is the reason."""


@contextmanager
def open_regular(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file for reading.

    Raises:
        Unreadable: For pipes, devices, links to nothing and files without read permission.
    """
    try:
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would block until something is written
        except ValueError as error:  # a null character in its name
            raise Unreadable(f"cannot be read ({error})") from error
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise Unreadable("not a regular file")
            with os.fdopen(handle, "rb", closefd=False) as file:
                yield file
        finally:
            os.close(handle)
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror})") from error


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a regular file's bytes, or why it cannot be read."""
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except Unreadable as reason:
        return str(reason)


def is_inside(path: Path, root: Path) -> bool:
    """Whether a path, with its links followed, lies below ``root``, which is resolved."""
    try:
        return path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a link that leads to itself
        return False


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


def inflate_exactly(parts: Iterable[bytes | memoryview], least: int, most: int) -> bool:
    """Whether a zlib stream is whole and gives between ``least`` and ``most`` bytes; uses little memory.

    Raises:
        Unreadable: If the stream is damaged; zlib checks its checksum.
    """
    decoder, size = zlib.decompressobj(), 0
    try:
        for part in parts:
            for start in range(0, len(part), PIECE):
                size += len(decoder.decompress(part[start : start + PIECE], PIECE))
                while decoder.unconsumed_tail and size <= most:
                    size += len(decoder.decompress(decoder.unconsumed_tail, PIECE))
                if size > most:
                    return False
        while not decoder.eof and size <= most and (rest := decoder.decompress(b"", PIECE)):
            size += len(rest)
    except zlib.error as error:
        raise Unreadable(f"damaged ({error})") from error
    return decoder.eof and least <= size <= most


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
    coded: list[memoryview] = []
    texts = False
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
        if names[-1] == b"IDAT":
            coded.append(view[at + 8 : end])
        texts |= names[-1] in (b"iTXt", b"tEXt", b"zTXt") and data.startswith(PNG_TEXTS, at + 8)
        at = end + 4
    if names[0] != b"IHDR" or b"IDAT" not in names:
        raise Unreadable("damaged PNG: no image data")
    if b"acTL" in names:
        raise Unreadable("several images in one file")
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    check_size(width, height)
    size = _inflated_size(width, height, depth * PNG_CHANNELS.get(colour, 0), interlaced)
    if not inflate_exactly(coded, size, size):
        raise Unreadable("damaged PNG: it does not hold the pixels that its header announces")
    plain = depth == 8 and colour == 2 and b"tRNS" not in names and b"eXIf" not in names and not texts
    return Header("PNG", width, height, plain, deep=depth == 16)


def _inflated_size(width: int, height: int, bits: int, interlaced: int) -> int:
    """Bytes of a PNG's pixels of ``bits`` bits each, with a filter byte per row."""
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = ((-(-(width - x) // across), -(-(height - y) // down)) for x, y, across, down in passes)
    return sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0 and rows > 0)


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
        elif marker == 0xE1 and data.startswith((b"Exif", XMP), at + 4):
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
    if packing in (0, 3) and offset + (width * bits + 31) // 32 * 4 * height > len(data):
        raise Unreadable("truncated BMP")
    return Header("BMP", width, height, plain=bits == 24 and packing == 0)
