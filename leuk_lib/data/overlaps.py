"""Two fields of view of one slide that overlap: shared cells, different pictures, invisible to any hash of the whole.

Cheap candidates first: upright binary features (ORB's, Rublee et al. 2011) of all images go into hash tables
(locality-sensitive hashing, Indyk and Motwani 1998); images whose features meet there with one and the same shift, more
often than chance, are registered on their pixels, and only what correlates is a finding. The cost grows with the number
of images, not of pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leuk_lib.data.opencv import cv2

LONGEST = 320  # pixels: features are sought in a copy of at most this side
FEATURES = 200  # per image
BITS, TABLES = 20, 12  # of the 256 bits of a feature, drawn for each hash table
CROWD = 12  # a bucket with more features than this holds what every image has, and tells nothing
CELL = 6  # pixels of the small copy: shifts that agree to this are one shift
VOTES = 3  # features with the same shift that make two images candidates, if they are
VOTING = 0.05  # of the features that lie in the overlap
MIN_SHARE = 0.1  # of the smaller image's area
EVEN = 9.0  # squared grey levels: structure weaker than 3 levels is noise
MIN_CORRELATION = 0.7  # of the fine structure where they overlap; other cells were seen to reach .6, true overlaps .84


@dataclass(frozen=True)
class Features:
    """Upright ORB features of one image: ``places`` (K,2) float32 x, y in pixels of the small copy; ``codes`` (K,32);
    ``shape`` of the small copy (rows, columns)."""

    places: NDArray[np.float32]
    codes: NDArray[np.uint8]
    shape: tuple[int, int]


def small_grey(image: NDArray[np.uint8], longest: int = LONGEST) -> NDArray[np.uint8]:
    """Grey copy of an RGB image (H,W,3) whose longer side is at most ``longest``; smaller images keep their size."""
    grey: NDArray[np.uint8] = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = longest / max(grey.shape)
    return grey if scale >= 1 else cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def features(grey: NDArray[np.uint8]) -> Features:
    """Up to ``FEATURES`` corners of a small grey image (H,W), spread over it, and their codes.

    The codes are upright: fields of one slide are shifted against each other, not turned.
    """
    corners = cv2.goodFeaturesToTrack(grey, FEATURES, 0.004, 4)
    if corners is None:
        return Features(np.zeros((0, 2), np.float32), np.zeros((0, 32), np.uint8), grey.shape)
    points = cv2.KeyPoint_convert(corners.reshape(-1, 2), 31.0, 1.0, 0, -1)
    for point in points:
        point.angle = 0.0
    kept, codes = cv2.ORB_create(nlevels=1, edgeThreshold=16, patchSize=31).compute(grey, points)
    if codes is None:
        return Features(np.zeros((0, 2), np.float32), np.zeros((0, 32), np.uint8), grey.shape)
    return Features(cv2.KeyPoint_convert(kept), codes, grey.shape)


def candidates(every: list[Features]) -> NDArray[np.int64]:
    """(P,4): image i < j and the shift x, y (pixels of the small copies) that takes j's features onto i's, for the pairs
    in which at least ``VOTES`` features agree on a shift; the shift with most votes."""
    n = len(every)
    owner = np.repeat(np.arange(n), [len(f.codes) for f in every])
    if not len(owner):
        return np.zeros((0, 4), np.int64)
    places = np.concatenate([f.places for f in every]).astype(np.int64)
    bits = np.unpackbits(np.concatenate([f.codes for f in every]), axis=1)
    rng = np.random.default_rng(0)  # which bits a table looks at is no secret and no result
    powers = 1 << np.arange(BITS, dtype=np.uint32)
    met = [_meetings(bits[:, rng.choice(256, BITS, replace=False)] @ powers, owner) for _ in range(TABLES)]
    pairs = np.unique(np.concatenate(met))  # a pair of features counts once, in however many tables it met
    a, b = np.divmod(pairs, len(owner))
    shift = places[a] - places[b] + 2 * LONGEST  # positive
    best: dict[int, tuple[int, int, int]] = {}
    for offset in (0, CELL // 2):  # two staggered grids: a shift on the border of one lies inside a field of the other
        cell = (shift + offset) // CELL
        votes = ((owner[a] * n + owner[b]) << 20) | (cell[:, 0] << 10) | cell[:, 1]
        kinds, count = np.unique(votes, return_counts=True)
        for kind, agreed in zip(kinds[count >= VOTES].tolist(), count[count >= VOTES].tolist(), strict=True):
            if agreed > best.get(kind >> 20, (0, 0, 0))[0]:
                place = ((kind >> 10) & 1023, kind & 1023)
                best[kind >> 20] = (agreed, *(v * CELL + CELL // 2 - offset - 2 * LONGEST for v in place))
    rows = []
    for pair, (agreed, x, y) in sorted(best.items()):
        first, second = every[pair // n], every[pair % n]
        share = _share(first.shape, second.shape, x, y)
        if agreed >= VOTING * share * min(len(first.codes), len(second.codes)):
            rows.append((pair // n, pair % n, x, y))
    return np.array(rows, np.int64).reshape(-1, 4)


def _share(first: tuple[int, int], second: tuple[int, int], x: int, y: int) -> float:
    """Share of the smaller image that lies on the other when the second is moved by (x, y)."""
    high = max(0, min(first[0], second[0] + y) - max(0, y))
    wide = max(0, min(first[1], second[1] + x) - max(0, x))
    return high * wide / min(first[0] * first[1], second[0] * second[1])


def _meetings(key: NDArray[np.uint32], owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs of features with one key, as first * number + second, of different images (the lower first), from buckets
    that are not crowded."""
    order = np.argsort(key, kind="stable")  # keeps the images in their order within a bucket
    ordered = key[order]
    start = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    size = np.diff(np.r_[start, len(ordered)])
    order = order[np.repeat((size > 1) & (size <= CROWD), size)]
    ordered = key[order]
    out = []
    for gap in range(1, CROWD):
        same = np.flatnonzero(ordered[gap:] == ordered[:-gap])
        a, b = order[same], order[same + gap]
        out.append((a * len(key) + b)[owner[a] != owner[b]])
    return np.concatenate(out)


def register(a: NDArray[np.uint8], b: NDArray[np.uint8], shift: tuple[float, float]) -> tuple[float, float]:
    """Correlation of the fine structure of two grey images where ``b`` moved by ``shift`` (x, y) covers ``a``, after a
    sub-pixel refinement by phase correlation; and the overlap's share of the smaller image. (0, 0) if there is none."""
    x, y = round(shift[0]), round(shift[1])
    first, second = _common(a, b, x, y)
    if min(first.shape) < 16:
        return 0.0, 0.0
    fine, other = _fine(first), _fine(second)
    window = cv2.createHanningWindow(fine.shape[::-1], cv2.CV_32F)
    (dx, dy), _ = cv2.phaseCorrelate(fine, other, window)
    if max(abs(dx), abs(dy)) < 3 * CELL:  # else the peak is an accident
        first, second = _common(a, b, x - round(dx), y - round(dy))
        if min(first.shape) < 16:
            return 0.0, 0.0
        fine, other = _fine(first), _fine(second)
    if min(fine.std(), other.std()) < 1e-3:  # clear glass on clear glass
        return 0.0, 0.0
    return float(np.corrcoef(fine.ravel(), other.ravel())[0, 1]), float(fine.size / min(a.size, b.size))


def _common(a: NDArray[np.uint8], b: NDArray[np.uint8], x: int, y: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The parts of ``a`` and of ``b`` moved by (x, y) that lie on each other."""
    top, left = max(0, y), max(0, x)
    bottom, right = min(a.shape[0], b.shape[0] + y), min(a.shape[1], b.shape[1] + x)
    bottom, right = max(top, bottom), max(left, right)
    return a[top:bottom, left:right], b[top - y : bottom - y, left - x : right - x]


def _fine(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Structure finer than a cell: without illumination and without what every cell on glass shares."""
    image = grey.astype(np.float32)
    image = cv2.GaussianBlur(image, (0, 0), 1.0) - cv2.GaussianBlur(image, (0, 0), 5.0)
    # Equalised, else the outline of a dark cell on clear glass, which all cells have, would decide alone.
    return image / np.sqrt(cv2.GaussianBlur(image * image, (0, 0), 5.0) + EVEN)
