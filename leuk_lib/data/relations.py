"""Which pictures of a folder show the same thing: exact copies, near-duplicates, overlapping fields of view."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from leuk_lib.data.duplicates import near_pairs, turn
from leuk_lib.data.opencv import cv2
from leuk_lib.data.overlaps import MIN_CORRELATION, MIN_SHARE, Features, candidates, register, small_grey

Reader = Callable[[int], NDArray[np.uint8]]

SAME = 0.85  # share of the smaller picture from which an overlap is the same picture, shifted
RECODED = 0.85  # correlation of the fine structure of two files that look alike: cells on black reach .75
COMPARED = 160  # pixels: the side at which files that look alike are compared


class Relation(NamedTuple):
    """Pictures ``first`` < ``second`` of a list show the same thing; ``what`` says how, from the second's side."""

    first: int
    second: int
    what: str  # near-duplicate | turned near-duplicate | overlaps
    share: float  # of the smaller picture that both show


def exact_copies(hashes: Sequence[str], thumbs: NDArray[np.uint8], read: Reader) -> NDArray[np.int64]:
    """(N,) position of the first picture with the same pixels (its own where it is the first).

    Files with the same bytes (``hashes``) are copies; files whose thumbnails (N,T,T,3) are equal are read again by
    ``read(i)`` and compared, so that a PNG and a BMP of one picture are copies, too.
    """
    first: dict[bytes, list[int]] = {}
    out = np.arange(len(hashes))
    for i, thumb in enumerate(thumbs):
        alike = first.setdefault(thumb.tobytes(), [])
        for j in alike:
            if hashes[i] == hashes[j] or np.array_equal(read(i), read(j)):
                out[i] = j
                break
        else:
            alike.append(i)
    return out


def relate(thumbs: NDArray[np.uint8], every: list[Features], read: Reader) -> list[Relation]:
    """All near-duplicates and overlaps among N pictures, in order.

    thumbs (N,32,32,3); ``every``: their ``overlaps.features``; ``read(i)`` gives picture i (H,W,3) again, for the few
    pairs that are compared on their pixels.
    """

    @functools.lru_cache(maxsize=128)
    def grey(i: int) -> NDArray[np.uint8]:
        return small_grey(read(i))

    found: dict[tuple[int, int], Relation] = {}
    for i, j, x, y in candidates(every).tolist():
        same, share = register(grey(i), grey(j), (x, y))
        if same >= MIN_CORRELATION and share >= MIN_SHARE:
            found[i, j] = Relation(i, j, "near-duplicate" if share >= SAME else "overlaps", share)
    for i, j, way in near_pairs(thumbs).tolist():
        if (i, j) in found:
            continue
        a = grey(i)
        b = turn(grey(j), way)
        side = min(COMPARED, *a.shape, *b.shape)
        a, b = (cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) for image in (a, b))
        if register(a, b, (0, 0))[0] >= RECODED:
            found[i, j] = Relation(i, j, "turned near-duplicate" if way else "near-duplicate", 1.0)
    return [found[pair] for pair in sorted(found)]
