"""Images that show the same thing: exact copies, near-duplicates (also turned or mirrored), overlapping fields of view.

Candidates come from a perceptual hash of the whole image and from shared local features (``overlaps``); the pixels
decide about each candidate.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from leuk_lib.data.decode import decode_file, quiet_decoders
from leuk_lib.data.overlaps import MIN_CORRELATION, MIN_SHARE, Features, candidate_shifts, register, small_grey
from leuk_lib.data.perceptual_hash import ORIENTATIONS, close_hashes, orient, perceptual_hashes
from leuk_lib.runs.parallel import ordered_map

Reader = Callable[[int], NDArray[np.uint8]]

MIN_THUMB_CORRELATION = 0.95
FLAT = 2.0  # grey levels: thumbnails with a smaller standard deviation show nothing to compare
SAME_SHARE = 0.85  # of the smaller image: from here on, an overlap is the same picture, shifted
RECODED = 0.85  # correlation of the fine structure of two copies; different cells on black reach 0.75
COMPARED = 160  # side at which near-duplicates are compared, pixels
AT_ONCE = 1024  # pairs of thumbnails that are correlated at a time
DOUBT = 1e-9  # far more than the error of a correlation from exact sums
TOGETHER = 16  # pairs of images that are compared one after the other
LEAST_COMPARED = 64  # such groups of pairs from which on processes are worth their start


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


def near_pairs(thumbs: NDArray[np.uint8], hashes: NDArray[np.uint64] | None = None) -> NDArray[np.int64]:
    """Find pairs of thumbnails that show the same picture in any of the eight orientations.

    Candidates differ in at most 10 bits of the hash. A candidate is kept, with its best orientation, if the thumbnails
    correlate to at least 0.95 over pixels and channels. Thumbnails of one colour are in no pair.

    Args:
        thumbs: (N,32,32,3) uint8.
        hashes: (N,8), ``perceptual_hashes`` of each; None to compute them.

    Returns:
        (P,3) rows i, j, k with i < j: thumbnail i shows the same as ``orient(thumbs[j], k)``.
    """
    if hashes is None:
        hashes = np.array([perceptual_hashes(thumb) for thumb in thumbs], np.uint64).reshape(-1, ORIENTATIONS)
    parts = [thumbs[start : start + AT_ONCE] for start in range(0, len(thumbs), AT_ONCE)]
    deviation = np.concatenate([part.reshape(len(part), -1).std(axis=1) for part in parts] or [np.zeros(0)])
    mean = np.concatenate([part.reshape(len(part), -1).mean(axis=1) for part in parts] or [np.zeros(0)])
    textured = np.flatnonzero(deviation >= FLAT)
    pairs = close_hashes(hashes[textured])
    pairs[:, :2] = textured[pairs[:, :2]]
    best: dict[tuple[int, int], tuple[float, int]] = {}
    for i, j, k in _likely(thumbs, mean, deviation, pairs).tolist():
        correlation = float(np.corrcoef(thumbs[i].ravel(), orient(thumbs[j], k).ravel())[0, 1])
        if correlation >= MIN_THUMB_CORRELATION and correlation > best.get((i, j), (0.0, 0))[0]:
            best[i, j] = (correlation, k)
    return np.array([(i, j, k) for (i, j), (_, k) in sorted(best.items())], np.int64).reshape(-1, 3)


def _likely(
    thumbs: NDArray[np.uint8], mean: NDArray[np.float64], deviation: NDArray[np.float64], pairs: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Keep the rows i, j, k whose correlation, from exact sums, does not exclude that they show the same picture."""
    if not len(pairs):
        return pairs
    pixels = np.arange(thumbs[0].size).reshape(thumbs.shape[1:])
    flat = thumbs.reshape(len(thumbs), -1)
    kept = []
    for k in range(ORIENTATIONS):
        of_k = pairs[pairs[:, 2] == k]
        turned = orient(pixels, k).ravel()
        for start in range(0, len(of_k), AT_ONCE):
            some = of_k[start : start + AT_ONCE]
            i, j = some[:, 0], some[:, 1]
            # Sums below 2^31; single precision would lose the contrast of bright thumbnails.
            product = np.vecdot(flat[i].astype(np.int32), flat[j][:, turned].astype(np.int32)) / flat.shape[1]
            correlation = (product - mean[i] * mean[j]) / (deviation[i] * deviation[j])
            kept.append(some[correlation >= MIN_THUMB_CORRELATION - DOUBT])
    rows = np.concatenate(kept)
    return rows[np.lexsort(rows.T[::-1])]


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
    from scipy.sparse import coo_array  # the processes that read images do without it
    from scipy.sparse.csgraph import connected_components

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

    @functools.cache
    def pixels(i: int) -> bytes:
        image = read(i)
        return hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).digest()

    by_thumb: dict[bytes, list[int]] = {}
    first = np.arange(len(hashes))
    for i, thumb in enumerate(thumbs):
        originals = by_thumb.setdefault(hashlib.sha256(thumb.tobytes()).digest(), [])
        for j in originals:
            if hashes[i] == hashes[j] or pixels(i) == pixels(j):
                first[i] = j
                break
        else:
            originals.append(i)
    return first


def find_matches(
    thumbs: NDArray[np.uint8],
    hashes: NDArray[np.uint64],
    features: Sequence[Features],
    files: Sequence[Path],
    workers: int = 1,
) -> list[Match]:
    """Find all near-duplicates and overlapping fields of view among N images.

    Args:
        thumbs: (N,32,32,3) thumbnails, uint8.
        hashes: (N,8), ``perceptual_hashes`` of each image.
        features: ``overlaps.orb_features`` of each image.
        files: The N image files, for the few pairs that are compared on their pixels.
        workers: Processes.

    Returns:
        The matches, sorted by their positions.
    """
    shifts = candidate_shifts(features).tolist()
    matches: dict[tuple[int, int], Match] = {}
    registered = _compare(_register_shifted, [(files[i], files[j], x, y) for i, j, x, y in shifts], workers)
    for (i, j, _, _), (correlation, share) in zip(shifts, registered, strict=True):
        if correlation >= MIN_CORRELATION and share >= MIN_SHARE:
            matches[i, j] = Match(i, j, "near-duplicate" if share >= SAME_SHARE else "overlaps", share)
    near = [(i, j, k) for i, j, k in near_pairs(thumbs, hashes).tolist() if (i, j) not in matches]
    correlated = _compare(_correlate_turned, [(files[i], files[j], k) for i, j, k in near], workers)
    for (i, j, k), correlation in zip(near, correlated, strict=True):
        if correlation >= RECODED:
            matches[i, j] = Match(i, j, "turned near-duplicate" if k else "near-duplicate", 1.0)
    return [matches[pair] for pair in sorted(matches)]


def _compare(work: Callable[[list[Any]], list[Any]], pairs: Sequence[Any], workers: int) -> list[Any]:
    """Compare pairs of images on their pixels: ``work`` does so for some of them, in order."""
    if not pairs:
        return []
    together = [list(pairs[start : start + TOGETHER]) for start in range(0, len(pairs), TOGETHER)]
    what = f"comparing pairs of images, {TOGETHER} at a time"
    results = ordered_map(work, together, workers, what, "group", quiet_decoders, least=LEAST_COMPARED)
    return [result for part in results for result in part]


def _greys() -> Callable[[Path], NDArray[np.uint8]]:
    """Return a function that reads small grey images and remembers them: neighbouring pairs share an image."""
    return functools.lru_cache(maxsize=TOGETHER)(lambda file: small_grey(decode_file(file).image))


def _register_shifted(pairs: list[tuple[Path, Path, int, int]]) -> list[tuple[float, float]]:
    """Correlation and overlap of each pair of files at its shift (``overlaps.register``)."""
    grey = _greys()
    return [register(grey(first), grey(second), (x, y)) for first, second, x, y in pairs]


def _correlate_turned(pairs: list[tuple[Path, Path, int]]) -> list[float]:
    """Correlation of the fine structure of each pair of files, the second one turned."""
    grey = _greys()
    out = []
    for first, second, k in pairs:
        a, b = grey(first), orient(grey(second), k)
        side = min(COMPARED, *a.shape, *b.shape)
        a, b = (cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) for image in (a, b))
        out.append(register(a, b, (0, 0))[0])
    return out
