"""The same cell twice: exact copies by hash, near copies by a perceptual hash that a correlation confirms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from leuk_lib.data.opencv import cv2

THUMB = 32  # side of the thumbnails that are compared, pixels
MAX_BITS = 10  # of 63: pairs further apart are not looked at
MIN_CORRELATION = 0.97


def perceptual_hash(thumb: NDArray[np.uint8]) -> np.uint64:
    """64-bit hash of a (32,32,3) thumbnail: signs of its lowest 8 x 8 cosine coefficients about their median."""
    grey = cv2.cvtColor(thumb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    low = cv2.dct(grey)[:8, :8].ravel()
    bits = low > np.median(low[1:])
    bits[0] = False
    return np.uint64(int("".join("1" if b else "0" for b in bits), 2))


def near_pairs(thumbs: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pairs (P,2), i < j, of thumbnails (N,32,32,3) that show the same picture.

    Candidates differ in at most 10 bits of the hash; a pair is kept if the thumbnails correlate to at least .97 over
    pixels and channels. Turned or mirrored copies are not found.
    """
    n = len(thumbs)
    if n == 0:
        return np.zeros((0, 2), np.int64)
    hashes = np.array([perceptual_hash(t) for t in thumbs], dtype=np.uint64)
    flat = thumbs.reshape(n, -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    found = []
    for start in range(0, n, 512):
        block = hashes[start : start + 512]
        near = np.argwhere(np.bitwise_count(block[:, None] ^ hashes[None, :]) <= MAX_BITS)
        near[:, 0] += start
        near = near[near[:, 0] < near[:, 1]]
        if len(near):
            same = np.einsum("pd,pd->p", flat[near[:, 0]], flat[near[:, 1]]) >= MIN_CORRELATION
            found.append(near[same])
    return np.concatenate(found).astype(np.int64) if found else np.zeros((0, 2), np.int64)


def components(n: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of the connected group of every one of ``n`` items, (n,)."""
    if not len(pairs):
        return np.arange(n)
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return connected_components(graph, directed=False)[1].astype(np.int64)
