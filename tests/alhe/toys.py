"""Toy images for the tests of ALHE: a blob that looks like a cell, and flat noise."""

from __future__ import annotations

import cv2
import numpy as np


def cell(height: int = 64, width: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A textured nucleus in cytoplasm on noisy ground: (H,W,3) uint8, and its mask (0, 128, 255)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    dx, dy = rng.uniform(-0.08, 0.08, 2)
    r = np.hypot((y - height * (0.5 + dy)) / height, (x - width * (0.5 + dx)) / width)
    mask = np.where(r < 0.2, 255, np.where(r < 0.36, 128, 0)).astype(np.uint8)
    colours = {0: (232, 214, 216), 128: (176, 160, 205), 255: (96, 54, 140)}
    image = np.zeros((height, width, 3), np.float32)
    for value, colour in colours.items():
        image[mask == value] = colour
    clumps = cv2.GaussianBlur(rng.normal(0, 1, (height, width)).astype(np.float32), (0, 0), 1.5)
    image[mask > 0] += 40 * clumps[mask > 0][:, None]
    image = cv2.GaussianBlur(image, (0, 0), 0.7) + rng.normal(0, 2, image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), mask


def flat_noise(side: int, deviation: float, seed: int = 0, mean: float = 190.0) -> np.ndarray:
    """(side,side,3) uint8 of one colour with independent Gaussian noise."""
    noise = np.random.default_rng(seed).normal(0, deviation, (side, side, 3))
    return np.clip(np.rint(np.array((mean, mean - 14, mean + 8)) + noise), 0, 255).astype(np.uint8)


# The eight symmetries of the square, on (H,W,...) arrays.
DIHEDRAL = [lambda a, k=k, f=f: np.rot90(a[:, ::-1] if f else a, k) for k in range(4) for f in (False, True)]
