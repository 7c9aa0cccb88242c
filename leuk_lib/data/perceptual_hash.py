"""Perceptual hashes of thumbnails, in all eight orientations, and the pairs of hashes that differ in few bits.

References:
    Norouzi, Punjani, Fleet, Fast exact search in Hamming space with multi-index hashing, IEEE TPAMI 36 (2014).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import cv2
import numpy as np
from numpy.typing import NDArray

THUMB = 32  # side of the compared thumbnails, pixels
MAX_BITS = 10  # of 63: largest Hamming distance of two hashes of one image
ORIENTATIONS = 8  # rotations by quarter turns, with and without reflection
# A hash has four pieces of 16 bits. Two that differ in at most 10 bits differ in at most so many in one of the pieces:
# if all differed in more, they would differ in 3 + 3 + 3 + 2 = 11.
PIECE_BITS = (2, 2, 2, 1)
# Bits of the pieces; neighbours, which vary together, are in different ones.
SPREAD = np.random.default_rng(0).permutation(64)
AT_ONCE = 1 << 20  # candidates that are compared at a time
MANY = 1 << 18  # queries from which on those with the same value of a piece are compared together


def orient(image: NDArray[np.uint8], k: int) -> NDArray[np.uint8]:
    """Turn ``image`` (H,W,…) by ``k % 4`` quarter turns; for ``k`` from 4 to 7, mirror it first."""
    mirrored = image[:, ::-1] if k >= 4 else image
    return np.ascontiguousarray(np.rot90(mirrored, k % 4))


def perceptual_hashes(thumb: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Hash a (32,32,3) thumbnail in each orientation: the signs of its lowest 8 x 8 cosine coefficients about their median.

    Returns:
        (8,) hashes of ``orient(thumb, k)``. The first bit, that of the mean, is 0.
    """
    grey = cv2.cvtColor(thumb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    low = np.stack([cv2.dct(orient(grey, k))[:8, :8].ravel() for k in range(ORIENTATIONS)])
    bits = low > np.partition(low[:, 1:], 31, axis=1)[:, 31:32]  # the median of 63
    bits[:, 0] = False
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


def close_hashes(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Find all pairs of images whose hashes differ in at most ``MAX_BITS`` bits in some orientation.

    Multi-index hashing: hashes that are close have a piece in which they differ in at most one or two bits, so that only
    images whose piece has one of these few values are compared. None is missed.

    Args:
        hashes: (N,8), ``perceptual_hashes`` of each image.

    Returns:
        (P,3) rows i, j, k in ascending order, with i < j: the first hash of i is close to hash k of j.
    """
    codes, queries = np.ascontiguousarray(hashes[:, 0]), hashes.ravel()
    found = [np.zeros(0, np.int64)]
    candidates = _by_value if len(queries) >= MANY else _by_query
    for piece, radius in enumerate(PIECE_BITS):
        flips = [
            sum(1 << bit for bit in bits) for number in range(radius + 1) for bits in combinations(range(16), number)
        ]
        index = _Index(_pieces(codes, piece), _pieces(queries, piece), np.array(flips))
        for i, query in candidates(index, codes, queries):
            earlier = i < query // ORIENTATIONS
            found.append(i[earlier] * len(queries) + query[earlier])
    i, query = np.divmod(np.unique(np.concatenate(found)), max(len(queries), 1))
    return np.column_stack([i, *np.divmod(query, ORIENTATIONS)])


def _pieces(codes: NDArray[np.uint64], piece: int) -> NDArray[np.uint16]:
    """Piece of each hash: 16 of its bits."""
    bits = SPREAD[16 * piece : 16 * piece + 16]
    out = np.zeros(len(codes), np.uint16)
    for place, bit in enumerate(bits.tolist()):
        out |= ((codes >> np.uint64(bit)) & np.uint64(1)).astype(np.uint16) << np.uint16(place)
    return out


class _Index:
    """Hashes in the order of one of their pieces, and likewise the queries, the hashes of all orientations.

    Args:
        pieces: (N,) piece of each hash.
        asked: (Q,) piece of each query.
        flips: (F,) the differences by which two pieces are neighbours.
    """

    def __init__(self, pieces: NDArray[np.uint16], asked: NDArray[np.uint16], flips: NDArray[np.int64]) -> None:
        values = np.arange((1 << 16) + 1)
        self.order, self.asked_order = np.argsort(pieces, kind="stable"), np.argsort(asked, kind="stable")
        self.asked = asked[self.asked_order].astype(np.int64)
        self.first = np.searchsorted(pieces[self.order], values)
        self.asked_first = np.searchsorted(self.asked, values)
        self.flips = flips


Pairs = Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]


def _by_query(index: _Index, codes: NDArray[np.uint64], queries: NDArray[np.uint64]) -> Pairs:
    """Yield positions of close hashes and their queries: one flip after the other, for all queries."""
    if not len(queries):
        return
    for flip in index.flips.tolist():
        start = index.first[index.asked ^ flip]
        count = index.first[(index.asked ^ flip) + 1] - start
        ends = np.cumsum(count)
        begin = 0
        for border in np.searchsorted(ends, np.arange(AT_ONCE, ends[-1] + AT_ONCE, AT_ONCE)).tolist():
            some = slice(begin, min(border + 1, len(ends)))
            place = index.order[_ranges(start[some], count[some])]
            query = np.repeat(index.asked_order[some], count[some])
            close = np.bitwise_count(codes[place] ^ queries[query]) <= MAX_BITS
            yield place[close], query[close]
            begin = some.stop


def _by_value(index: _Index, codes: NDArray[np.uint64], queries: NDArray[np.uint64]) -> Pairs:
    """Yield the same pairs: all queries with one value of the piece, against all its neighbours."""
    ordered = codes[index.order]
    for value in np.unique(index.asked).tolist():
        near = value ^ index.flips
        place = _ranges(index.first[near], index.first[near + 1] - index.first[near])
        whole = index.asked_order[index.asked_first[value] : index.asked_first[value + 1]]
        step = max(1, AT_ONCE // max(1, len(place)))
        for begin in range(0, len(whole) if len(place) else 0, step):
            some = whole[begin : begin + step]
            row, column = np.nonzero(np.bitwise_count(queries[some, None] ^ ordered[place]) <= MAX_BITS)
            yield index.order[place[column]], some[row]


def _ranges(start: NDArray[np.int64], count: NDArray[np.int64]) -> NDArray[np.int64]:
    """All numbers of ranges, one range after the other: ``count`` numbers from ``start`` on.

    >>> _ranges(np.array([5, 9]), np.array([2, 3])).tolist()
    [5, 6, 9, 10, 11]
    """
    ends = np.cumsum(count)
    return np.repeat(start - ends + count, count) + np.arange(ends[-1] if len(ends) else 0)
