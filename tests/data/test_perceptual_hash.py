"""Pairs of close hashes: multi-index hashing finds what comparing all pairs finds; hashes follow the orientation."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from data.toys import picture
from leuk_lib.data import perceptual_hash
from leuk_lib.data.perceptual_hash import MAX_BITS, ORIENTATIONS, SPREAD, close_hashes, orient, perceptual_hashes


def all_pairs(hashes: np.ndarray) -> list[list[int]]:
    """The same as ``close_hashes``, by comparing all pairs."""
    distance = np.bitwise_count(hashes[:, 0, None, None] ^ hashes[None])
    found = np.argwhere(distance <= MAX_BITS)
    return found[found[:, 0] < found[:, 1]].tolist()


def flipped(rng: np.random.Generator, code: np.uint64, bits: int) -> np.uint64:
    """A hash that differs from ``code`` in exactly so many bits."""
    for bit in rng.choice(64, bits, replace=False).tolist():
        code ^= np.uint64(1) << np.uint64(bit)
    return code


@pytest.mark.parametrize("many", [0, 10**9], ids=["by value", "by query"])
@pytest.mark.parametrize("spread", [64, 28], ids=["random hashes", "hashes that resemble each other"])
def test_close_hashes_are_those_of_all_pairs(spread: int, many: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(perceptual_hash, "MANY", many)
    monkeypatch.setattr(perceptual_hash, "AT_ONCE", 1000)
    rng = np.random.default_rng(spread)
    mask = np.uint64(sum(1 << int(bit) for bit in rng.choice(64, spread, replace=False)))
    hashes = rng.integers(0, 1 << 64, (150, ORIENTATIONS), np.uint64) & mask
    for k, bits in enumerate([0, 1, 5, 8, 9, 10, 10, 10, 11, 12, 20] * 6):
        hashes[2 * k + 1, rng.integers(ORIENTATIONS)] = flipped(rng, hashes[2 * k, 0], bits)
    expected = all_pairs(hashes)
    assert len(expected) >= 8 * 6 and close_hashes(hashes).tolist() == expected


@pytest.mark.parametrize(
    "where", [(3, 3, 3, 1), (2, 3, 3, 2), (10, 0, 0, 0), (0, 0, 0, 10), (5, 5, 0, 0), (3, 2, 3, 2)]
)
def test_differences_in_any_pieces_are_found(where: tuple[int, ...]):
    """Wherever the ten bits lie: one piece always differs little enough."""
    rng = np.random.default_rng(0)
    bits = SPREAD.reshape(4, 16)
    for _ in range(20):
        a = rng.integers(0, 1 << 64, (2, ORIENTATIONS), np.uint64)
        a[1, 3] = a[0, 0]
        for piece, number in enumerate(where):
            for bit in rng.choice(bits[piece], number, replace=False).tolist():
                a[1, 3] ^= np.uint64(1) << np.uint64(bit)
        assert [0, 1, 3] in close_hashes(a).tolist()


def test_no_and_one_hash():
    assert close_hashes(np.zeros((0, ORIENTATIONS), np.uint64)).shape == (0, 3)
    assert close_hashes(np.zeros((1, ORIENTATIONS), np.uint64)).shape == (0, 3)


def test_hashes_are_those_of_the_oriented_thumbnails():
    """The definition, with a median, one orientation at a time."""
    for seed in range(5):
        thumb = picture(seed, 32)
        for k, code in enumerate(perceptual_hashes(thumb)):
            grey = cv2.cvtColor(orient(thumb, k), cv2.COLOR_RGB2GRAY).astype(np.float32)
            low = cv2.dct(grey)[:8, :8].ravel()
            bits = low > np.median(low[1:])
            bits[0] = False
            assert code == int("".join("01"[int(bit)] for bit in bits), 2)
