"""The same picture twice: candidates by a perceptual hash of the whole, also turned and mirrored, and a correlation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from leuk_lib.data.opencv import cv2

THUMB = 32  # side of the thumbnails that are compared, pixels
MAX_BITS = 10  # of 63: pairs further apart are not looked at
MIN_CORRELATION = 0.95  # of the thumbnails; the pixels have the last word (``overlaps.register``)
TURNS = 8  # the ways to lay a square picture on itself
FLAT = 2.0  # grey levels: a thumbnail of a smaller deviation shows nothing that could be compared


def turn(image: NDArray[np.uint8], way: int) -> NDArray[np.uint8]:
    """``image`` (H,W,…) turned by ``way % 4`` quarters and, from 4 on, mirrored first."""
    mirrored = image[:, ::-1] if way >= 4 else image
    return np.ascontiguousarray(np.rot90(mirrored, way % 4))


def perceptual_hash(thumb: NDArray[np.uint8]) -> np.uint64:
    """64-bit hash of a (32,32,3) thumbnail: signs of its lowest 8 x 8 cosine coefficients about their median."""
    grey = cv2.cvtColor(thumb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    low = cv2.dct(grey)[:8, :8].ravel()
    bits = low > np.median(low[1:])
    bits[0] = False
    return np.uint64(np.packbits(bits).view(">u8")[0])


def near_pairs(thumbs: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Rows (i, j, way), i < j: thumbnail j of (N,32,32,3), turned by ``way``, shows the same picture as i.

    Candidates differ in at most 10 bits of the hash; a pair is kept, with its best way, if the thumbnails correlate to
    at least .95 over pixels and channels. Thumbnails of one colour are in no pair.
    """
    n = len(thumbs)
    showing = np.flatnonzero(thumbs.reshape(n, -1).std(axis=1) >= FLAT) if n else np.zeros(0, np.int64)
    if not len(showing):
        return np.zeros((0, 3), np.int64)
    ways = np.array([[perceptual_hash(turn(thumbs[i], way)) for way in range(TURNS)] for i in showing], np.uint64)
    found = []
    for start in range(0, len(showing), 64):
        near = np.argwhere(np.bitwise_count(ways[start : start + 64, 0, None, None] ^ ways[None]) <= MAX_BITS)
        near[:, 0] += start
        found.append(near[near[:, 0] < near[:, 1]])
    best: dict[tuple[int, int], tuple[float, int]] = {}
    for a, b, way in np.concatenate(found).tolist():
        i, j = int(showing[a]), int(showing[b])
        same = float(np.corrcoef(thumbs[i].ravel(), turn(thumbs[j], way).ravel())[0, 1])
        if same >= MIN_CORRELATION and same > best.get((i, j), (0.0, 0))[0]:
            best[i, j] = (same, way)
    return np.array([(i, j, way) for (i, j), (_, way) in sorted(best.items())], np.int64).reshape(-1, 3)


def components(n: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of the connected group of every one of ``n`` items, (n,)."""
    if not len(pairs):
        return np.arange(n)
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return connected_components(graph, directed=False)[1].astype(np.int64)
