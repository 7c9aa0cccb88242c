"""Overlapping fields of view of one slide: shared cells in different pictures, which no hash of the whole image finds.

Upright binary features (ORB) of all images go into hash tables (locality-sensitive hashing). Two images whose features
collide with one common shift, more often than by chance, are registered on their pixels; only images that correlate
there overlap. The cost grows with the number of images, not of pairs.

References:
    Rublee et al., ORB: an efficient alternative to SIFT or SURF, ICCV 2011.
    Indyk and Motwani, Approximate nearest neighbors: towards removing the curse of dimensionality, STOC 1998.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

LONGEST = 320  # longest side of the copy in which features are detected, pixels
FEATURES = 200  # at most, per image
BITS, TABLES = 20, 12  # bits per hash table, of the 256 of a feature, and number of tables
CROWDED = 12  # larger buckets hold features that occur in every image; they are skipped
BIN = 6  # pixels of the small copy: shifts within a bin count as equal
VOTES = 3  # equal shifts that make two images a candidate pair
MIN_VOTING = 0.05  # votes per feature in the overlap
MIN_SHARE = 0.1  # overlap, as a fraction of the smaller image
NOISE = 9.0  # squared grey levels: structure weaker than 3 levels is noise
KEYED = 1 << 16  # features whose keys are computed at a time
VOTING = 1 << 17  # features whose collisions are counted at a time: the memory does not grow with the images
MIN_CORRELATION = 0.7  # of the fine structure in the overlap; other cells reach 0.6, true overlaps start at 0.84


@dataclass(frozen=True)
class Features:
    """Upright ORB features of one image.

    Attributes:
        places: (K,2) float32 x, y in pixels of the small copy.
        codes: (K,32) uint8 binary descriptors.
        shape: Rows and columns of the small copy.
    """

    places: NDArray[np.float32]
    codes: NDArray[np.uint8]
    shape: tuple[int, int]


def small_grey(image: NDArray[np.uint8], longest: int = LONGEST) -> NDArray[np.uint8]:
    """Convert an RGB image (H,W,3) to grey and shrink it until its longer side is at most ``longest`` pixels."""
    grey: NDArray[np.uint8] = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = longest / max(grey.shape)
    return grey if scale >= 1 else cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def orb_features(grey: NDArray[np.uint8]) -> Features:
    """Detect up to ``FEATURES`` corners of a small grey image (H,W) and describe them.

    The descriptors are upright: fields of one slide are shifted against each other, not turned.
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


def candidate_shifts(features: Sequence[Features]) -> NDArray[np.int64]:
    """Find the pairs of images in which at least ``VOTES`` features agree on a shift.

    Args:
        features: Features of each image.

    Returns:
        (P,4) rows i, j, x, y: images i < j and the shift in pixels of the small copies that moves the features of j
        onto those of i; the shift with most votes.
    """
    n = len(features)
    counts = [len(f.codes) for f in features]
    owner = np.repeat(np.arange(n), counts)
    if not len(owner):
        return np.zeros((0, 4), np.int64)
    places = np.concatenate([f.places for f in features]).astype(np.int16)  # whole pixels
    tables = [_Buckets.of(key) for key in _keys(np.concatenate([f.codes for f in features]))]
    rows = []
    ends = np.cumsum(counts)
    begin = 0
    while begin < len(owner):
        # Whole images: all votes about a pair of images are about the features of the first.
        end = int(ends[min(int(np.searchsorted(ends, begin + VOTING)), n - 1)])
        # A pair of features counts once, not once per table.
        pairs = np.unique(np.concatenate([table.collisions(begin, end, owner) for table in tables]))
        rows += _agreed(pairs, owner, places, features)
        begin = end
    return np.array(rows, np.int64).reshape(-1, 4)


def _keys(codes: NDArray[np.uint8]) -> list[NDArray[np.uint32]]:
    """Keys of features (F,32) in each hash table: ``BITS`` of their bits, chosen at random."""
    rng = np.random.default_rng(0)  # chooses the bits of each table
    weights = np.zeros((256, TABLES), np.float32)  # sums of powers below 2^24 are exact
    for table in range(TABLES):
        weights[rng.choice(256, BITS, replace=False), table] = 1 << np.arange(BITS)
    keys = np.empty((TABLES, len(codes)), np.uint32)
    for start in range(0, len(codes), KEYED):
        bits = np.unpackbits(codes[start : start + KEYED], axis=1)
        keys[:, start : start + KEYED] = (bits.astype(np.float32) @ weights).T
    return list(keys)


def _agreed(
    pairs: NDArray[np.int64], owner: NDArray[np.int64], places: NDArray[np.int16], features: Sequence[Features]
) -> list[tuple[int, int, int, int]]:
    """Return (i, j, x, y) of the images whose pairs of features, as first * number + second, agree on a shift."""
    n = len(features)
    a, b = np.divmod(pairs, len(owner))
    shift = places[a].astype(np.int64) - places[b] + 2 * LONGEST  # positive
    best: dict[int, tuple[int, int, int]] = {}
    for offset in (0, BIN // 2):  # two staggered grids: a shift on the border of one lies inside a bin of the other
        cell = (shift + offset) // BIN
        votes = ((owner[a] * n + owner[b]) << 20) | (cell[:, 0] << 10) | cell[:, 1]
        keys, count = np.unique(votes, return_counts=True)
        for key, agreed in zip(keys[count >= VOTES].tolist(), count[count >= VOTES].tolist(), strict=True):
            if agreed > best.get(key >> 20, (0, 0, 0))[0]:
                place = ((key >> 10) & 1023, key & 1023)
                best[key >> 20] = (agreed, *(v * BIN + BIN // 2 - offset - 2 * LONGEST for v in place))
    rows = []
    for pair, (agreed, x, y) in sorted(best.items()):
        first, second = features[pair // n], features[pair % n]
        share = _overlap_share(first.shape, second.shape, x, y)
        if agreed >= MIN_VOTING * share * min(len(first.codes), len(second.codes)):
            rows.append((pair // n, pair % n, x, y))
    return rows


def _overlap_share(first: tuple[int, int], second: tuple[int, int], x: int, y: int) -> float:
    """Fraction of the smaller image that lies on the other one when the second is moved by (x, y)."""
    high = max(0, min(first[0], second[0] + y) - max(0, y))
    wide = max(0, min(first[1], second[1] + x) - max(0, x))
    return high * wide / min(first[0] * first[1], second[0] * second[1])


@dataclass(frozen=True)
class _Buckets:
    """The uncrowded buckets of a hash table that hold several features.

    Attributes:
        order: (F',) uint32 features, bucket by bucket, ascending within a bucket.
        after: (F',) uint8 how many features follow in the same bucket.
    """

    order: NDArray[np.uint32]
    after: NDArray[np.uint8]

    @classmethod
    def of(cls, key: NDArray[np.uint32]) -> _Buckets:
        """Sort features by their keys (F,)."""
        ordered = np.sort((key.astype(np.uint64) << np.uint64(32)) | np.arange(len(key), dtype=np.uint64))
        bucket = (ordered >> np.uint64(32)).astype(np.uint32)
        start = np.flatnonzero(np.r_[True, bucket[1:] != bucket[:-1]])
        size = np.diff(np.r_[start, len(bucket)])
        used = (size > 1) & (size <= CROWDED)
        keep, size = np.repeat(used, size), size[used]
        last = np.cumsum(size)
        after = np.repeat(last, size) - np.arange(1, keep.sum() + 1)
        return cls(ordered[keep].astype(np.uint32), after.astype(np.uint8))

    def collisions(self, begin: int, end: int, owner: NDArray[np.int64]) -> NDArray[np.int64]:
        """Find pairs of features of different images in one bucket, as first * number + second.

        The first feature is one of those from ``begin`` to ``end``.
        """
        place = np.flatnonzero((self.order >= begin) & (self.order < end))
        out = [np.zeros(0, np.int64)]
        for gap in range(1, CROWDED):
            place = place[self.after[place] >= gap]
            a, b = self.order[place].astype(np.int64), self.order[place + gap].astype(np.int64)
            out.append((a * len(owner) + b)[owner[a] != owner[b]])
        return np.concatenate(out)


def register(a: NDArray[np.uint8], b: NDArray[np.uint8], shift: tuple[float, float]) -> tuple[float, float]:
    """Register two grey images and correlate their fine structure where they overlap.

    The shift is refined by phase correlation before.

    Args:
        a: (H,W) grey image.
        b: Grey image, of any size.
        shift: Approximate shift x, y in pixels that moves ``b`` onto ``a``.

    Returns:
        Correlation in [-1,1] and the overlap as a fraction of the smaller image; (0, 0) without an overlap.
    """
    x, y = round(shift[0]), round(shift[1])
    first, second = _overlap(a, b, x, y)
    if min(first.shape) < 16:
        return 0.0, 0.0
    fine, other = _fine_structure(first), _fine_structure(second)
    window = cv2.createHanningWindow(fine.shape[::-1], cv2.CV_32F)
    (dx, dy), _ = cv2.phaseCorrelate(fine, other, window)
    if max(abs(dx), abs(dy)) < 3 * BIN:  # otherwise the peak is spurious
        first, second = _overlap(a, b, x - round(dx), y - round(dy))
        if min(first.shape) < 16:
            return 0.0, 0.0
        fine, other = _fine_structure(first), _fine_structure(second)
    if min(fine.std(), other.std()) < 1e-3:  # empty glass
        return 0.0, 0.0
    return float(np.corrcoef(fine.ravel(), other.ravel())[0, 1]), float(fine.size / min(a.size, b.size))


def _overlap(a: NDArray[np.uint8], b: NDArray[np.uint8], x: int, y: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Cut out the parts of ``a`` and of ``b``, moved by (x, y), that overlap."""
    top, left = max(0, y), max(0, x)
    bottom, right = min(a.shape[0], b.shape[0] + y), min(a.shape[1], b.shape[1] + x)
    bottom, right = max(top, bottom), max(left, right)
    return a[top:bottom, left:right], b[top - y : bottom - y, left - x : right - x]


def _fine_structure(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Keep structure finer than a cell, without illumination, at equal local contrast."""
    image = grey.astype(np.float32)
    image = cv2.GaussianBlur(image, (0, 0), 1.0) - cv2.GaussianBlur(image, (0, 0), 5.0)
    # Without equal contrast the outline of a dark cell on clear glass, which all cells have, would dominate.
    return image / np.sqrt(cv2.GaussianBlur(image * image, (0, 0), 5.0) + NOISE)
