"""Images that show the same thing: exact copies, near-duplicates (also turned or mirrored), overlapping fields of view.

Candidates come from a perceptual hash of the whole image and from shared local features (``overlaps``); the pixels
decide about each candidate.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from leuk_lib.data.overlaps import MIN_CORRELATION, MIN_SHARE, Features, candidate_shifts, register, small_grey

Reader = Callable[[int], NDArray[np.uint8]]

THUMB = 32  # side of the compared thumbnails, pixels
MAX_BITS = 10  # of 63: largest Hamming distance of two hashes of one image
MIN_THUMB_CORRELATION = 0.95
ORIENTATIONS = 8  # rotations by quarter turns, with and without reflection
FLAT = 2.0  # grey levels: thumbnails with a smaller standard deviation show nothing to compare
SAME_SHARE = 0.85  # of the smaller image: from here on, an overlap is the same picture, shifted
RECODED = 0.85  # correlation of the fine structure of two copies; different cells on black reach 0.75
COMPARED = 160  # side at which near-duplicates are compared, pixels


class Match(NamedTuple):
    """Two images of a list, ``first`` < ``second``, that show the same thing.

    Args:
        first: Position of the first image.
        second: Position of the second image.
        kind: How the second image relates to the first.
        share: Fraction of the smaller image that both show, in (0,1].
    """

    first: int
    second: int
    kind: Literal["near-duplicate", "turned near-duplicate", "overlaps"]
    share: float


def orient(image: NDArray[np.uint8], k: int) -> NDArray[np.uint8]:
    """Turn ``image`` (H,W,…) by ``k % 4`` quarter turns; for ``k`` from 4 to 7, mirror it first."""
    mirrored = image[:, ::-1] if k >= 4 else image
    return np.ascontiguousarray(np.rot90(mirrored, k % 4))


def perceptual_hash(thumb: NDArray[np.uint8]) -> np.uint64:
    """Hash a (32,32,3) thumbnail to 64 bits: the signs of its lowest 8 x 8 cosine coefficients about their median."""
    grey = cv2.cvtColor(thumb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    low = cv2.dct(grey)[:8, :8].ravel()
    bits = low > np.median(low[1:])
    bits[0] = False
    return np.uint64(np.packbits(bits).view(">u8")[0])


def near_pairs(thumbs: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Find pairs of thumbnails that show the same picture in any of the eight orientations.

    Candidates differ in at most 10 bits of the hash. A candidate is kept, with its best orientation, if the thumbnails
    correlate to at least 0.95 over pixels and channels. Thumbnails of one colour are in no pair.

    Args:
        thumbs: (N,32,32,3) uint8.

    Returns:
        (P,3) rows i, j, k with i < j: thumbnail i shows the same as ``orient(thumbs[j], k)``.
    """
    n = len(thumbs)
    textured = np.flatnonzero(thumbs.reshape(n, -1).std(axis=1) >= FLAT) if n else np.zeros(0, np.int64)
    if not len(textured):
        return np.zeros((0, 3), np.int64)
    hashes = np.array(
        [[perceptual_hash(orient(thumbs[i], k)) for k in range(ORIENTATIONS)] for i in textured], np.uint64
    )
    candidates = []
    for start in range(0, len(textured), 64):
        near = np.argwhere(np.bitwise_count(hashes[start : start + 64, 0, None, None] ^ hashes[None]) <= MAX_BITS)
        near[:, 0] += start
        candidates.append(near[near[:, 0] < near[:, 1]])
    best: dict[tuple[int, int], tuple[float, int]] = {}
    for a, b, k in np.concatenate(candidates).tolist():
        i, j = int(textured[a]), int(textured[b])
        correlation = float(np.corrcoef(thumbs[i].ravel(), orient(thumbs[j], k).ravel())[0, 1])
        if correlation >= MIN_THUMB_CORRELATION and correlation > best.get((i, j), (0.0, 0))[0]:
            best[i, j] = (correlation, k)
    return np.array([(i, j, k) for (i, j), (_, k) in sorted(best.items())], np.int64).reshape(-1, 3)


def components(n: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number the connected components of a graph.

    Args:
        n: Number of nodes.
        pairs: (P,2) edges.

    Returns:
        (n,) component of each node.

    Example:
        >>> components(4, np.array([[0, 2], [2, 3]])).tolist()
        [0, 1, 0, 0]
    """
    if not len(pairs):
        return np.arange(n)
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def exact_copies(hashes: Sequence[str], thumbs: NDArray[np.uint8], read: Reader) -> NDArray[np.int64]:
    """Find images with identical pixels, whatever their file format.

    Args:
        hashes: N hashes of the files' bytes; equal hashes are copies.
        thumbs: (N,T,T,3) thumbnails; images with equal ones are read again and compared.
        read: Returns image i, (H,W,3).

    Returns:
        (N,) position of the first image with the same pixels; an image without an earlier copy has its own position.
    """
    by_thumb: dict[bytes, list[int]] = {}
    first = np.arange(len(hashes))
    for i, thumb in enumerate(thumbs):
        originals = by_thumb.setdefault(thumb.tobytes(), [])
        for j in originals:
            if hashes[i] == hashes[j] or np.array_equal(read(i), read(j)):
                first[i] = j
                break
        else:
            originals.append(i)
    return first


def find_matches(thumbs: NDArray[np.uint8], features: list[Features], read: Reader) -> list[Match]:
    """Find all near-duplicates and overlapping fields of view among N images.

    Args:
        thumbs: (N,32,32,3) thumbnails, uint8.
        features: ``overlaps.orb_features`` of each image.
        read: Returns image i, (H,W,3), for the few pairs that are compared on their pixels.

    Returns:
        The matches, sorted by their positions.
    """

    @functools.lru_cache(maxsize=128)
    def grey(i: int) -> NDArray[np.uint8]:
        return small_grey(read(i))

    matches: dict[tuple[int, int], Match] = {}
    for i, j, x, y in candidate_shifts(features).tolist():
        correlation, share = register(grey(i), grey(j), (x, y))
        if correlation >= MIN_CORRELATION and share >= MIN_SHARE:
            matches[i, j] = Match(i, j, "near-duplicate" if share >= SAME_SHARE else "overlaps", share)
    for i, j, k in near_pairs(thumbs).tolist():
        if (i, j) in matches:
            continue
        a, b = grey(i), orient(grey(j), k)
        side = min(COMPARED, *a.shape, *b.shape)
        a, b = (cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) for image in (a, b))
        if register(a, b, (0, 0))[0] >= RECODED:
            matches[i, j] = Match(i, j, "turned near-duplicate" if k else "near-duplicate", 1.0)
    return [matches[pair] for pair in sorted(matches)]
