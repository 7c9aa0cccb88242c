"""TIFF files before decoding: are their coded pixels whole, and what do their grey levels mean.

Libtiff decodes damaged strips without an error that reaches the caller, and does not look at their checksums. Each
strip or tile is therefore decoded once more, only to see whether it gives exactly the bytes that the header announces:
deflate also has a checksum, and LZMA may have one, which libtiff does not write; LZW and PackBits have none, but their
codes must end with the last pixel, and LZW's must be those that an encoder writes for such pixels; JPEG has libjpeg's
warnings. Uncompressed pixels and palettes cannot be checked.

References:
    TIFF, revision 6.0 (1992). Adobe. Sections 9 (PackBits), 13 (LZW), 22 (JPEG); Technical Note 2 (JPEG in TIFF).
"""

from __future__ import annotations

import lzma
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leuk_lib.data.image_files import PIECE, Unreadable, inflate_exactly
from leuk_lib.data.strict_jpeg import jpeg_pixels

# Tags.
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, ROWS_PER_STRIP, PLANAR = 256, 257, 258, 259, 262, 277, 278, 284
MAX_VALUE, TILE_WIDTH, TILE_HEIGHT = 281, 322, 323
SAMPLE_FORMAT, RANGE_LOW, RANGE_HIGH, JPEG_TABLES = 339, 340, 341, 347
STRIPS = ((273, 279), (324, 325))  # offsets and byte counts of strips, of tiles

NONE, LZW, JPEG, DEFLATE, PACKBITS, LZMA = 1, 5, 7, (8, 32946), 32773, 34925
WHITE_IS_ZERO, YCBCR = 0, 6
# YCbCrCoefficients and ReferenceBlackWhite as all usual programs write them; others may be damage, which no checksum covers.
USUAL_COLOURS = {529: (0.299, 0.587, 0.114), 532: (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)}
UNSIGNED, FLOAT = 1, 3
UNCHECKED, SUSPICIOUS = "unchecked TIFF", "suspicious TIFF"
# A brightest value below it, of 16 bits, is taken for levels of fewer bits: bright fields have bright parts.
DARK = 1 << 14


def check_strips(tags: Mapping[int, Any], data: bytes) -> list[str]:
    """Check that all strips or tiles of a TIFF's first image are whole.

    Args:
        tags: The tags of its first directory.
        data: The whole file.

    Returns:
        The finding "unchecked TIFF" if its compression or how it codes colours cannot be checked, or "suspicious TIFF" if
        no usual encoder writes its LZW codes, else nothing.

    Raises:
        Unreadable: If a strip lies beyond the end of the file, or does not give the pixels that the header announces.
    """
    starts, lengths = _extents(tags)
    if any(start + length > len(data) for start, length in zip(starts, lengths, strict=True)):
        raise Unreadable("truncated TIFF")
    compression = int(tags.get(COMPRESSION, NONE))
    # Subsampled pixels: how many bytes a strip gives depends on more than the header's bits.
    subsampled = int(tags.get(PHOTOMETRIC, 0)) == YCBCR and compression != JPEG
    if subsampled and (compression not in DEFLATE or not _has_usual_colours(tags)):
        return [UNCHECKED]
    sizes = _expected(tags)
    if len(sizes) != len(starts):
        raise Unreadable("damaged TIFF: its strips do not fit its size")
    view, usual, checked = memoryview(data), True, True
    for start, length, (columns, rows, row_bytes, full_rows) in zip(starts, lengths, sizes, strict=True):
        coded = view[start : start + length]
        least, most = rows * row_bytes, full_rows * row_bytes
        if subsampled:
            least, most = 1, 2 * most + PIECE
        if compression == NONE:
            whole = length >= least
        elif compression in DEFLATE:
            whole = inflate_exactly([coded], least, most)
        elif compression == LZMA:
            whole, has_checksum = _lzma_exactly(coded, least, most)
            checked = checked and has_checksum
        elif compression == LZW:
            if length > 1 and coded[0] == 0 and coded[1] & 1:  # codes in the reverse bit order, before TIFF 5.0
                return [UNCHECKED]
            size, greedy = read_lzw(coded)
            whole, usual = least <= size <= most, usual and greedy
        elif compression == PACKBITS:
            whole = least <= packbits_length(coded) <= most
        elif compression == JPEG:
            if not _jpeg_is_whole(bytes(coded), bytes(tags.get(JPEG_TABLES, b"")), columns, rows):
                return [UNCHECKED]
            whole = True
        else:
            return [UNCHECKED]
        if not whole:
            raise Unreadable("damaged TIFF: a strip does not give the pixels that its header announces")
    if not usual:
        return [SUSPICIOUS]
    return [] if checked else [UNCHECKED]


def _has_usual_colours(tags: Mapping[int, Any]) -> bool:
    found = {tag: np.atleast_1d(np.asarray(tags.get(tag, usual), np.float64)) for tag, usual in USUAL_COLOURS.items()}
    return all(len(found[tag]) == len(usual) and np.allclose(found[tag], usual) for tag, usual in USUAL_COLOURS.items())


def _extents(tags: Mapping[int, Any]) -> tuple[list[int], list[int]]:
    for offsets, counts in STRIPS:
        starts, lengths = _numbers(tags.get(offsets)), _numbers(tags.get(counts))
        if len(starts) != len(lengths):
            raise Unreadable("truncated TIFF")
        if starts:
            return starts, lengths
    raise Unreadable("truncated TIFF: no strips")


def _numbers(value: Any) -> list[int]:
    if value is None:
        return []
    return [int(item) for item in (value if isinstance(value, Sequence) else (value,))]


def _expected(tags: Mapping[int, Any]) -> list[tuple[int, int, int, int]]:
    """Columns, rows, bytes per row and rows with padding of each strip or tile, in the file's order."""
    width, height, samples = int(tags[WIDTH]), int(tags[HEIGHT]), int(tags.get(SAMPLES, 1))
    bits = _numbers(tags.get(BITS, 1))
    bits = bits * samples if len(bits) == 1 else bits
    planes = [[item] for item in bits] if int(tags.get(PLANAR, 1)) == 2 else [bits]
    sizes = []
    for plane in planes:
        if TILE_WIDTH in tags:
            across, down = int(tags[TILE_WIDTH]), int(tags[TILE_HEIGHT])
            count = -(-width // max(across, 1)) * -(-height // max(down, 1))
            sizes += [(across, down, (across * sum(plane) + 7) // 8, down)] * count
        else:
            step = max(1, min(int(tags.get(ROWS_PER_STRIP, height)), height))
            row = (width * sum(plane) + 7) // 8
            sizes += [(width, min(step, height - top), row, step) for top in range(0, height, step)]
    return sizes


def _lzma_exactly(coded: memoryview, least: int, most: int) -> tuple[bool, bool]:
    """Whether a stream is whole and gives ``least`` to ``most`` bytes, and whether it has a checksum."""
    decoder = lzma.LZMADecompressor()
    try:
        size = len(decoder.decompress(coded, max_length=most + 1))
    except lzma.LZMAError as error:
        raise Unreadable(f"damaged TIFF ({error})") from error
    return decoder.eof and least <= size <= most, decoder.check not in (lzma.CHECK_NONE, lzma.CHECK_UNKNOWN)


# LZW: the width of a code depends only on how many codes follow the last clear code, and so does its place.
CLEAR, END, FIRST = 256, 257, 258
_WIDTHS = np.repeat([9, 10, 11, 12], [254, 512, 1024, 3072])  # one code early, as TIFF does; some clear late
_OFFSETS = np.concatenate([[0], np.cumsum(_WIDTHS)[:-1]])


def read_lzw(coded: bytes | memoryview) -> tuple[int, bool]:
    """Read the codes of an LZW strip.

    An encoder writes the longest string that is in its table, so that each entry that its codes make is a new one. A
    changed code mostly gives another string of the table, and later codes then often make an entry twice.

    Returns:
        Number of bytes that the strip decodes to, and whether all entries are new.

    Raises:
        Unreadable: If a code is not in the table, or if the strip does not end with an end code or its last byte.

    >>> read_lzw(bytes([0x80, 0x00, 0x60, 0x40, 0x18, 0x08]))  # clear, 1, 258, 1, end: the bytes 1 1 1 1
    (4, True)
    """
    padded = np.frombuffer(bytes(coded) + bytes(4), np.uint8).astype(np.uint32)
    words = padded[:-3] << 24 | padded[1:-2] << 16 | padded[2:-1] << 8 | padded[3:]
    bits, at, total, greedy = 8 * len(coded), 0, 0, True
    while True:
        places = at + _OFFSETS
        fit = int(np.searchsorted(places + _WIDTHS, bits, side="right"))
        places, widths = places[:fit], _WIDTHS[:fit]
        codes = words[places >> 3] >> (32 - (places & 7) - widths).astype(np.uint32) & ((1 << widths) - 1).astype(
            np.uint32
        )
        stops = np.flatnonzero((codes == CLEAR) | (codes == END))
        stop = int(stops[0]) if len(stops) else fit
        lengths, firsts = _strings(codes[:stop].astype(np.int64))
        total += int(lengths.sum())
        entries = codes[: max(stop - 1, 0)].astype(np.int64) << 8 | firsts[1:]
        greedy = greedy and len(np.unique(entries)) == len(entries)
        if not len(stops):
            if fit == len(_WIDTHS):
                raise Unreadable("damaged TIFF: its table of LZW codes overflows")
            return total, greedy  # no end code, which some programs leave out
        if codes[stop] == END:
            return total, greedy
        at = int(places[stop] + widths[stop])


def _strings(codes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Length and first byte of the string of each code (N,) after a clear code.

    Code i adds entry i - 1 to the table: what code i - 1 stands for, and one byte more. So an entry is one byte longer
    than the code of its number, and all lengths and first bytes follow by pointer jumping.
    """
    count = len(codes)
    behind = codes - FIRST
    if (behind >= np.arange(count)).any():
        raise Unreadable("damaged TIFF: an LZW code that is not in the table")
    behind = np.append(np.where(behind < 0, count, behind), count)
    lengths, firsts = np.append(np.ones(count, np.int64), 0), np.append(codes, 0)
    while (more := behind < count).any():
        lengths += lengths[behind]
        firsts = np.where(more, firsts[behind], firsts)
        behind = behind[behind]
    return lengths[:-1], firsts[:-1]


def packbits_length(coded: bytes | memoryview) -> int:
    """Number of bytes that a PackBits strip decodes to.

    Raises:
        Unreadable: If the strip ends inside a run.

    >>> packbits_length(bytes([2, 7, 8, 9, 253, 5]))  # three bytes as they are, then 5 four times
    7
    """
    at = total = 0
    while at < len(coded):
        head = coded[at]
        if head < 128:
            at += head + 2
            total += head + 1
        else:
            at += 1 if head == 128 else 2
            total += 0 if head == 128 else 257 - head
    if at > len(coded):
        raise Unreadable("damaged TIFF: a strip ends inside a run")
    return total


def _jpeg_is_whole(coded: bytes, tables: bytes, columns: int, rows: int) -> bool:
    """Whether a strip's JPEG could be checked; damage raises ``Unreadable``."""
    if not coded.startswith(b"\xff\xd8") or (tables and not _are_tables(tables)):
        raise Unreadable("damaged TIFF: the tables of its JPEG strips")
    whole = coded[:2] + tables[2:-2] + coded[2:]  # the tables stand in a JPEG file of their own
    findings: list[str] = []
    pixels = jpeg_pixels(whole, findings)
    if pixels is not None and (pixels.shape[1] < columns or pixels.shape[0] < rows):
        raise Unreadable("damaged TIFF: a strip's JPEG does not fit its header")
    return pixels is not None and not findings


def _are_tables(data: bytes) -> bool:
    """Whether a JPEG file holds tables only, from its first to its last byte."""
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1] in (0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE):
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data.startswith(b"\xff\xd8") and at == len(data) - 2 and data.endswith(b"\xff\xd9")


def scale_levels(tags: Mapping[int, Any], values: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale grey levels of more than 8 bits by what the file states.

    Args:
        tags: The TIFF's tags.
        values: (H,W) levels, in Pillow's type.

    Returns:
        (H,W) uint8, 0 black.

    Raises:
        Unreadable: If the range of the levels is not stated, or if a level is outside it, NaN or infinite.
    """
    bits, form = max(_numbers(tags.get(BITS, 8))), max(_numbers(tags.get(SAMPLE_FORMAT, UNSIGNED)))
    if bits <= 16 and form == UNSIGNED:
        low, high = 0.0, float(stated_top(tags, bits, int(values.max())))
    else:
        if bits == 32 and form == UNSIGNED:
            values = values.view(np.uint32)
        kind = "floating-point" if form == FLOAT else f"{bits}-bit" if form == UNSIGNED else f"signed {bits}-bit"
        if RANGE_LOW not in tags or RANGE_HIGH not in tags:
            raise Unreadable(f"{kind} grey levels without a stated range; save it with 8 bits")
        low, high = (float(np.ravel(tags[tag])[0]) for tag in (RANGE_LOW, RANGE_HIGH))
        least, most = float(values.min()), float(values.max())
        if not (low < high and low <= least and most <= high):  # also for NaN
            raise Unreadable(
                f"{kind} grey levels from {least:.4g} to {most:.4g}, outside the stated {low:.4g} to {high:.4g}"
            )
    return to_8_bits(values, low, high, inverted=int(tags.get(PHOTOMETRIC, 1)) == WHITE_IS_ZERO)


def stated_top(tags: Mapping[int, Any], bits: int, most: int) -> int:
    """The level that stands for full brightness, of unsigned levels of at most 16 bits with the greatest value ``most``.

    Raises:
        Unreadable: If all levels of 16 bits are so low that they probably have fewer bits, and the file does not say.
    """
    top = (1 << bits) - 1
    stated = max(_numbers(tags.get(MAX_VALUE, top)))
    if most <= stated < top and stated & (stated + 1) == 0:  # all ones: as many bits are used
        return stated
    if bits == 16 and most < DARK:
        raise Unreadable(
            f"16 bits, but no level above {most} of 65535, and the number of bits in use is not stated; save it with 8 bits"
        )
    return top


def to_8_bits(values: NDArray[Any], low: float, high: float, inverted: bool = False) -> NDArray[np.uint8]:
    """Scale ``values`` (H,W) or (H,W,C) from [low, high] to [0,255], or to [255,0], row by row to save memory."""
    out = np.empty(values.shape, np.uint8)
    for row, target in zip(values, out, strict=True):
        share = (row.astype(np.float64) - low) / (high - low)
        target[...] = (1 - share if inverted else share) * 255 + 0.5
    return out


def is_common(tags: Mapping[int, Any]) -> bool:
    """Whether the compression is one that most programs can read."""
    return tags.get(COMPRESSION, NONE) in (NONE, LZW, JPEG, PACKBITS, *DEFLATE)


def bits_of(tags: Mapping[int, Any]) -> int:
    """The greatest number of bits of a sample."""
    bits: Iterable[int] = _numbers(tags.get(BITS, 8))
    return max(bits)
