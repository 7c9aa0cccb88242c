"""The table of a folder's cells: every file decoded once, hashed, its copies dropped, its groups told or found."""

from __future__ import annotations

import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leuk_lib.data.decode import Unreadable, decode_file, square
from leuk_lib.data.duplicates import THUMB, components, near_pairs
from leuk_lib.data.files import Entry, Listing, list_folder
from leuk_lib.data.opencv import cv2

ADVICE = {
    "grey": "colour carries the diagnosis; replace it by the colour original if there is one",
    "16-bit": "reduced to 8 bits; check that its range was used",
    "CMYK": "converted; save it as RGB to be sure of the colours",
    "palette": "converted; colours were reduced when it was saved",
    "transparent": "laid on white; save it without transparency",
    "EXIF-rotated": "turned upright; nothing to do",
    "tiny": "enlarging invents no detail; use the original crop",
}
HARMLESS = {"EXIF-rotated"}


@dataclass(frozen=True)
class Reading:
    """A folder that was read. ``table`` has one row for every usable cell, ``images`` (N,S,S,3), ``masks`` (N,S,S)
    or None; ``findings`` has path, finding, severity (error: left out; warning; info) and advice."""

    root: Path
    table: pd.DataFrame
    images: NDArray[np.uint8]
    masks: NDArray[np.uint8] | None
    thumbs: NDArray[np.uint8]
    findings: pd.DataFrame
    grouped_by: str


@dataclass(frozen=True)
class _Cell:
    entry: Entry
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8] | None
    thumb: NDArray[np.uint8]
    width: int
    height: int
    content: str  # hash of the pixels
    findings: tuple[tuple[str, str, str], ...]


def read_folder(path: str | Path, size: int = 64, workers: int = 2) -> Reading:
    """Decode every image of a folder to ``size`` pixels; drop what cannot be used, and say so in ``findings``.

    Of copies with the same pixels the first (by path) stays, and none if they carry different labels. Groups come
    from the manifest; cells without one are grouped by near-duplicates. Raises ``LeukError`` as ``list_folder`` does.
    """
    listing = list_folder(path)
    with ThreadPoolExecutor(max(1, workers)) as pool:  # decoding and hashing release the lock
        results = list(pool.map(lambda entry: _read(listing, entry, size), listing.entries))
    findings = [(name, what, "info" if what == "not an image file" else "error", do) for name, what, do in listing.left]
    cells = []
    for result in results:
        if isinstance(result, _Cell):
            cells.append(result)
            findings += [(result.entry.path, *finding) for finding in result.findings]
        else:
            findings.append(result)
    cells = _without_copies(cells, findings)
    table, grouped_by = _table(cells, findings)
    empty = np.zeros((0, size, size, 3), np.uint8)
    return Reading(
        root=listing.root,
        table=table,
        images=np.stack([c.image for c in cells]) if cells else empty,
        masks=_masks(cells, findings),
        thumbs=np.stack([c.thumb for c in cells]) if cells else empty,
        findings=pd.DataFrame(findings, columns=["path", "finding", "severity", "advice"]),
        grouped_by=grouped_by,
    )


def _read(listing: Listing, entry: Entry, size: int) -> _Cell | tuple[str, str, str, str]:
    try:
        decoded = decode_file(listing.root / entry.path)
    except Unreadable as error:
        return (entry.path, str(error), "error", "restore the file from its source or delete it")
    findings = [
        (f, "info" if f in HARMLESS else "warning", ADVICE.get(f, "give it the extension of its content"))
        for f in decoded.findings
    ]
    image = decoded.image
    mask = None
    if entry.mask:
        mask, trouble = _read_mask(listing.root / entry.mask, image.shape[:2])
        if trouble:
            findings.append((trouble, "warning", "the cell is used without its mask; replace the mask file"))
    height, width = image.shape[:2]
    if max(height, width) > 1.5 * min(height, width):
        findings.append(("far from square", "warning", "only the centre square is used; crop the cell yourself"))
    return _Cell(
        entry=entry,
        image=square(image, size),
        mask=None if mask is None else square(mask, size, nearest=True),
        thumb=square(image, THUMB),
        width=width,
        height=height,
        content=hashlib.sha256(f"{height}x{width}".encode() + np.ascontiguousarray(image).tobytes()).hexdigest(),
        findings=tuple(findings),
    )


def _read_mask(path: Path, shape: tuple[int, ...]) -> tuple[NDArray[np.uint8] | None, str]:
    """A mask with values 0, 128, 255, or what is wrong with it."""
    mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if path.is_file() else None
    if mask is None:
        return None, "mask missing or unreadable"
    if mask.shape != shape:
        return None, f"mask of {mask.shape[1]} x {mask.shape[0]} pixels does not fit"
    if not set(np.unique(mask).tolist()) <= {0, 128, 255}:
        return None, "mask holds values other than 0, 128 and 255"
    return mask, ""


def _without_copies(cells: list[_Cell], findings: list[tuple[str, str, str, str]]) -> list[_Cell]:
    """Drop cells whose pixels were seen before, and every copy where labels contradict each other."""
    same: dict[str, list[_Cell]] = {}
    for cell in cells:
        same.setdefault(cell.content, []).append(cell)
    kept = []
    for cell in cells:
        copies = same[cell.content]
        if len({c.entry.label for c in copies}) > 1:
            others = ", ".join(f"{c.entry.path} ({c.entry.label})" for c in copies if c is not cell)
            findings.append(
                (
                    cell.entry.path,
                    f"label conflict with {others}",
                    "error",
                    "decide which label is right; keep one copy",
                )
            )
        elif cell is copies[0]:
            kept.append(cell)
        else:
            findings.append(
                (cell.entry.path, f"copy of {copies[0].entry.path}", "error", "delete it: copies leak across a split")
            )
    return kept


def _table(cells: list[_Cell], findings: list[tuple[str, str, str, str]]) -> tuple[pd.DataFrame, str]:
    """One row a cell; groups as told, else by near-duplicates."""
    n = len(cells)
    told = [c.entry.group for c in cells]
    if n and all(told):
        group, grouped_by = told, "manifest"
    else:
        thumbs = np.stack([c.thumb for c in cells]) if n else np.zeros((0, THUMB, THUMB, 3), np.uint8)
        pairs = near_pairs(thumbs)
        member = components(n, pairs)
        size = Counter(member.tolist())
        first = {int(m): cells[i].entry.path for i, m in reversed(list(enumerate(member)))}
        # A near-duplicate of a grouped cell belongs to that cell's group.
        named = {int(m): told[i] for i, m in reversed(list(enumerate(member))) if told[i]}
        group = [told[i] or named.get(int(m)) or f"near:{first[int(m)]}" for i, m in enumerate(member)]
        for i, m in enumerate(member.tolist()):
            if size[m] > 1 and cells[i].entry.path != first[m]:
                findings.append(
                    (cells[i].entry.path, f"near-duplicate of {first[m]}", "warning", "kept in one group with it")
                )
        grouped_by = "near-duplicates" if not any(told) else "manifest, else near-duplicates"
    table = pd.DataFrame(
        {
            "path": [c.entry.path for c in cells],
            "label": [c.entry.label for c in cells],
            "group": group,
            "width": [c.width for c in cells],
            "height": [c.height for c in cells],
            "sha256": [c.content for c in cells],
        }
    )
    return table, grouped_by


def _masks(cells: list[_Cell], findings: list[tuple[str, str, str, str]]) -> NDArray[np.uint8] | None:
    """All masks, or None: a set with holes would make every statistic over masks a statistic of another set."""
    have = [c for c in cells if c.mask is not None]
    if not have:
        return None
    if len(have) < len(cells):
        findings.append(
            (".", f"masks for {len(have)} of {len(cells)} cells only", "warning", "masks are not used; add the others")
        )
        return None
    return np.stack([c.mask for c in have if c.mask is not None])
