"""Read one cell's image file: pixels and mask at the wanted size, and what it is compared by with other cells."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leuk_lib.data.decode import Unreadable, decode, decode_file, read_file, square
from leuk_lib.data.duplicates import FLAT
from leuk_lib.data.field_of_view import BAR, field_signs, has_scale_bar
from leuk_lib.data.findings import Finding, unusual
from leuk_lib.data.listing import Entry
from leuk_lib.data.overlaps import Features, orb_features, small_grey
from leuk_lib.data.perceptual_hash import THUMB, perceptual_hashes

RESTORE = "restore the file from its source or delete it"


@dataclass(frozen=True)
class Cell:
    """A cell whose file was read.

    Attributes:
        entry: What the listing says about it.
        image: (S,S,3) uint8.
        mask: (S,S) uint8, or None.
        thumb: (32,32,3) uint8.
        hashes: (8,) ``perceptual_hashes`` of the thumbnail.
        features: ``overlaps.orb_features`` of the whole image.
        width: Pixels of the file.
        height: Pixels of the file.
        sha256: Hash of the file's bytes.
        findings: What is unusual about the file.
        field_sign: Why it looks like a field of view, or "".
    """

    entry: Entry
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8] | None
    thumb: NDArray[np.uint8]
    hashes: NDArray[np.uint64]
    features: Features
    width: int
    height: int
    sha256: str
    findings: tuple[Finding, ...]
    field_sign: str


def read_cell(root: Path, size: int, entry: Entry) -> Cell | Finding:
    """Read an entry of a data folder.

    Args:
        root: The data folder.
        size: Side S of the image, pixels.
        entry: The entry.

    Returns:
        The cell, or the finding why its file cannot be used.
    """
    try:
        data = read_file(root / entry.path)
        decoded = decode(data, Path(entry.path).suffix)
    except Unreadable as error:
        return Finding(entry.path, str(error), "error", RESTORE)
    image, keys = decoded.image, list(decoded.findings)
    height, width = image.shape[:2]
    thumb = square(image, THUMB)
    if thumb.std(axis=(0, 1)).max() < FLAT:
        keys.append("blank")
    elif "grey" not in keys and not np.ptp(thumb, axis=2).any() and not np.ptp(image, axis=2).any():
        keys.append("grey")  # an RGB file without any colour
    if max(height, width) > 1.5 * min(height, width):
        keys.append("far from square")
    findings = unusual(entry.path, keys)
    findings += [Finding(entry.path, what, "warning", advice) for what, advice in entry.ambiguous]
    mask = None
    if entry.mask:
        mask, problem = read_mask(root / entry.mask, image.shape[:2])
        if problem:
            advice = "the cell is used without its mask; replace the mask file"
            findings.append(Finding(entry.path, problem, "warning", advice))
    return Cell(
        entry=entry,
        image=thumb if size == THUMB else square(image, size),
        mask=None if mask is None else square(mask, size, nearest=True),
        thumb=thumb,
        hashes=perceptual_hashes(thumb),
        features=orb_features(small_grey(image)),
        width=width,
        height=height,
        sha256=hashlib.sha256(data).hexdigest(),
        findings=tuple(findings),
        field_sign=BAR if has_scale_bar(image) else field_signs(thumb) or "",
    )


def read_mask(path: Path, shape: tuple[int, ...]) -> tuple[NDArray[np.uint8] | None, str]:
    """Read a mask with the values 0, 128 and 255; otherwise return what is wrong with it."""
    try:
        decoded = decode_file(path)
    except Unreadable as error:
        return None, f"mask cannot be used: {error}"
    if suspicious := next((key for key in decoded.findings if key.startswith("suspicious")), ""):
        return None, f"mask cannot be used: {suspicious}"
    mask = decoded.image[..., 0]
    if mask.shape != shape:
        return None, f"mask of {mask.shape[1]} x {mask.shape[0]} pixels does not fit"
    if not set(np.unique(mask).tolist()) <= {0, 128, 255}:
        return None, "mask holds values other than 0, 128 and 255"
    return mask, ""
