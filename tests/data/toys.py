"""Test images: smooth random colours, in any file format, in class folders."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image


def picture(seed: int, size: int = 40, knots: int = 8) -> np.ndarray:
    """A smooth random colour image (size,size,3) uint8, different for each seed."""
    noise = np.random.default_rng(seed).uniform(0, 255, (knots, knots, 3)).astype(np.uint8)
    return cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)


def coded(image: np.ndarray, kind: str = "PNG", mode: str | None = None, **options: object) -> bytes:
    """The image as the bytes of a file of ``kind``."""
    stream = io.BytesIO()
    made = Image.fromarray(image)
    (made.convert(mode) if mode else made).save(stream, kind, **options)
    return stream.getvalue()


def folder(root: Path, classes: tuple[str, ...] = ("a", "b"), each: int = 4, size: int = 40) -> Path:
    """Class folders with ``each`` PNG files."""
    for k, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(each):
            (root / name / f"{name}{i}.png").write_bytes(coded(picture(100 * k + i, size)))
    return root
