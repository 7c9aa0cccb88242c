"""The table of a folder's cells: every file decoded once, hashed, its copies dropped, its groups told or found."""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from leuk_lib.data.complaints import HARMLESS, listening
from leuk_lib.data.decode import Unreadable, decode, decode_file, read_file, square
from leuk_lib.data.duplicates import FLAT, THUMB, components
from leuk_lib.data.findings import Finding, as_table, unusual
from leuk_lib.data.listing import Entry, Listing, list_folder
from leuk_lib.data.overlaps import Features, features, small_grey
from leuk_lib.data.relations import Relation, exact_copies, relate

ANONYMOUS = "near:"  # begins the name of a group that was found, not told


@dataclass(frozen=True)
class Reading:
    """A folder that was read. ``table`` has one row for every usable cell, ``images`` (N,S,S,3), ``masks`` (N,S,S)
    or None; ``findings`` has path, finding, severity (error: left out; warning; info), advice and other."""

    root: Path
    table: pd.DataFrame
    images: NDArray[np.uint8]
    masks: NDArray[np.uint8] | None
    findings: pd.DataFrame
    grouped_by: str


@dataclass(frozen=True)
class _Cell:
    entry: Entry
    image: NDArray[np.uint8]
    mask: NDArray[np.uint8] | None
    thumb: NDArray[np.uint8]
    features: Features
    width: int
    height: int
    kind: str  # of the file, as Pillow names it
    sha256: str  # of the file's bytes
    findings: tuple[Finding, ...]


def read_folder(
    path: str | Path, size: int = 64, workers: int = 2, class_map: Mapping[str, str] | None = None
) -> Reading:
    """Decode every image of a folder to ``size`` pixels; drop what cannot be used, and say so in ``findings``.

    Of copies with the same pixels the first (by path) stays, and none if they carry different labels. Groups come
    from the manifest; cells without one are grouped by near-duplicates and overlapping fields of view. A cell that a
    foreign test set holds as well is left out of the rest. ``class_map`` renames, merges or (to "") drops classes.
    Raises ``LeukError`` as ``list_folder`` does.
    """
    listing = list_folder(path, class_map)
    results = _read_all(listing, size, workers)
    findings = [
        Finding(name, what, "info" if what == "not an image file" else "error", advice)
        for name, what, advice in listing.left
    ]
    cells = []
    for result in results:
        if isinstance(result, _Cell):
            cells.append(result)
            findings += result.findings
        else:
            findings.append(result)
    with listening():  # some files are read again to be compared; what is to say of them is said
        cells = _without_copies(listing, cells, findings)
        cells, table, grouped_by = _grouped(listing, cells, findings)
    return Reading(
        root=listing.root,
        table=table,
        images=np.stack([c.image for c in cells]) if cells else np.zeros((0, size, size, 3), np.uint8),
        masks=_masks(cells, findings),
        findings=as_table(findings),
        grouped_by=grouped_by,
    )


def _read_all(listing: Listing, size: int, workers: int) -> list[_Cell | Finding]:
    """Every entry decoded, in order; JPEGs over which the decoder complained are read once more to tell which they are."""
    # The bar writes to the terminal itself, past the ear that is kept on the decoders.
    terminal = os.fdopen(os.dup(2), "w") if sys.stderr.isatty() else sys.stderr
    bar = tqdm(total=len(listing.entries), desc="reading", unit="image", file=terminal, delay=2, disable=None)
    results: list[_Cell | Finding] = []
    with warnings.catch_warnings(), listening() as words, ThreadPoolExecutor(max(1, workers)) as pool, bar:
        warnings.filterwarnings("ignore", module="PIL")  # what it warns of is refused or found here
        # Decoding and hashing release the interpreter's lock.
        for result in pool.map(lambda entry: _read(listing, entry, size), listing.entries):
            results.append(result)
            bar.update()
    if terminal is not sys.stderr:
        terminal.close()
    return [_overheard(listing, result) for result in results] if words else results


def _overheard(listing: Listing, result: _Cell | Finding) -> _Cell | Finding:
    """The cell, or why it cannot be trusted: what the decoder says of it when it is alone."""
    if not isinstance(result, _Cell) or result.kind not in ("JPEG", "MPO"):
        return result
    with listening() as words:
        decode_file(listing.root / result.entry.path)
    told = [word for word in dict.fromkeys(words) if "JFIF" not in word]
    if not told:
        return result
    if all(HARMLESS.search(word) for word in told):
        advice = "look at it: if its lower part is shifted or has other colours, restore the file; else save it anew"
        finding = Finding(result.entry.path, f"suspicious JPEG: {told[0]}", "warning", advice)
        return replace(result, findings=(*result.findings, finding))
    return Finding(result.entry.path, f"damaged ({told[0]})", "error", "restore the file from its source or delete it")


def _read(listing: Listing, entry: Entry, size: int) -> _Cell | Finding:
    try:
        data = read_file(listing.root / entry.path)
        decoded = decode(data, Path(entry.path).suffix)
    except Unreadable as error:
        return Finding(entry.path, str(error), "error", "restore the file from its source or delete it")
    image, words = decoded.image, list(decoded.findings)
    height, width = image.shape[:2]
    thumb = square(image, THUMB)
    if thumb.std(axis=(0, 1)).max() < FLAT:
        words.append("blank")
    elif "grey" not in words and not np.ptp(thumb, axis=2).any() and not np.ptp(image, axis=2).any():
        words.append("grey")  # saved as colour, but without any
    if max(height, width) > 1.5 * min(height, width):
        words.append("far from square")
    findings = unusual(entry.path, words)
    findings += [Finding(entry.path, what, "warning", advice) for what, advice in entry.unclear]
    mask = None
    if entry.mask:
        mask, trouble = _read_mask(listing.root / entry.mask, image.shape[:2])
        if trouble:
            advice = "the cell is used without its mask; replace the mask file"
            findings.append(Finding(entry.path, trouble, "warning", advice))
    return _Cell(
        entry=entry,
        image=square(image, size),
        mask=None if mask is None else square(mask, size, nearest=True),
        thumb=thumb,
        features=features(small_grey(image)),
        width=width,
        height=height,
        kind=decoded.kind,
        sha256=hashlib.sha256(data).hexdigest(),
        findings=tuple(findings),
    )


def _read_mask(path: Path, shape: tuple[int, ...]) -> tuple[NDArray[np.uint8] | None, str]:
    """A mask with values 0, 128, 255, or what is wrong with it."""
    try:
        mask = decode_file(path).image[..., 0]
    except Unreadable as error:
        return None, f"mask cannot be used: {error}"
    if mask.shape != shape:
        return None, f"mask of {mask.shape[1]} x {mask.shape[0]} pixels does not fit"
    if not set(np.unique(mask).tolist()) <= {0, 128, 255}:
        return None, "mask holds values other than 0, 128 and 255"
    return mask, ""


def _without_copies(listing: Listing, cells: list[_Cell], findings: list[Finding]) -> list[_Cell]:
    """Drop cells whose pixels were seen before, and every copy where labels contradict each other."""
    if not cells:
        return cells
    first = exact_copies(
        [c.sha256 for c in cells],
        np.stack([c.thumb for c in cells]),
        lambda i: decode_file(listing.root / cells[i].entry.path).image,
    )
    kept = []
    for i, cell in enumerate(cells):
        copies = np.flatnonzero(first == first[i]).tolist()
        others = [cells[j].entry for j in copies if j != i]
        same_set = [j for j in copies if cells[j].entry.foreign == cell.entry.foreign]
        foreign = [other for other in others if other.foreign]
        if len({cells[j].entry.label for j in copies}) > 1:
            named = ", ".join(f"{c.path} ({c.label})" for c in others)
            advice = "decide which label is right; keep one copy"
            findings.append(Finding(cell.entry.path, f"label conflict with {named}", "error", advice, others[0].path))
        elif foreign and not cell.entry.foreign:
            findings.append(_in_test(cell, foreign[0]))
        elif i == same_set[0]:
            kept.append(cell)
        else:
            original, advice = cells[same_set[0]].entry.path, "delete it: copies leak across a split"
            findings.append(Finding(cell.entry.path, f"copy of {original}", "error", advice, original))
    return kept


def _in_test(cell: _Cell, other: Entry) -> Finding:
    what = f"also in the test set {other.foreign}: {other.path}"
    return Finding(cell.entry.path, what, "error", "nothing to do; training on it would leak", other.path)


def _grouped(listing: Listing, cells: list[_Cell], findings: list[Finding]) -> tuple[list[_Cell], pd.DataFrame, str]:
    """Groups as told, else by what shows the same thing; and without cells that a foreign test set holds."""
    relations = relate(
        np.stack([c.thumb for c in cells]) if cells else np.zeros((0, THUMB, THUMB, 3), np.uint8),
        [c.features for c in cells],
        lambda i: decode_file(listing.root / cells[i].entry.path).image,
    )
    pairs = np.array([(r.first, r.second) for r in relations], np.int64).reshape(-1, 2)
    member = components(len(cells), pairs).tolist()
    shown_by: dict[int, _Cell] = {}  # a group's cell in a foreign test set
    named: dict[int, str] = {}  # a group's name: a told one, else that of its first file
    for cell, m in zip(reversed(cells), reversed(member), strict=True):
        if cell.entry.foreign:
            shown_by[m] = cell
        if cell.entry.group or not named.get(m, ANONYMOUS).startswith(ANONYMOUS):
            named[m] = cell.entry.group or named[m]
        else:
            named[m] = ANONYMOUS + cell.entry.path
    group = [cell.entry.group or named[m] for cell, m in zip(cells, member, strict=True)]
    findings += [_related(relation, cells, group) for relation in relations]
    keep = []
    for i, (cell, m) in enumerate(zip(cells, member, strict=True)):
        if cell.entry.foreign:
            group[i] = f"{cell.entry.foreign}/{group[i]}"
        elif m in shown_by:
            findings.append(_in_test(cell, shown_by[m].entry))
            continue
        keep.append(i)
    told = [bool(cells[i].entry.group) for i in keep]
    grouped_by = "manifest" if told and all(told) else "near-duplicates and overlaps"
    if any(told) and not all(told):
        grouped_by = f"manifest, else {grouped_by}"
    table = pd.DataFrame(
        {
            "path": [cells[i].entry.path for i in keep],
            "label": [cells[i].entry.label for i in keep],
            "group": [group[i] for i in keep],
            "foreign": [cells[i].entry.foreign for i in keep],
            "width": [cells[i].width for i in keep],
            "height": [cells[i].height for i in keep],
            "sha256": [cells[i].sha256 for i in keep],
        }
    )
    return [cells[i] for i in keep], table, grouped_by


def _related(relation: Relation, cells: list[_Cell], group: list[str]) -> Finding:
    """The finding about the second picture of a pair that shows the same thing."""
    one, two = cells[relation.first].entry, cells[relation.second].entry
    if relation.what == "overlaps":
        what = f"overlaps {one.path} by {100 * relation.share:.0f} %"
    else:
        what = f"{relation.what} of {one.path}"
    if one.label != two.label:
        advice = "decide which label is right, and keep one of the two"
        # A field of view may show cells of two classes; one and the same picture may not.
        if relation.what == "overlaps":
            advice = "kept in one group; look whether both labels are about the same cell"
        return Finding(two.path, f"{what} under another label", "warning", advice, one.path)
    if group[relation.first] == group[relation.second]:
        told = bool(one.group and two.group)
        advice = "in one group as it should be; nothing to do" if told else "kept in one group with it"
        return Finding(two.path, what, "info" if told else "warning", advice, one.path)
    advice = f"the groups {group[relation.first]} and {group[relation.second]} share a cell: correct the manifest"
    return Finding(two.path, what, "warning", advice, one.path)


def _masks(cells: list[_Cell], findings: list[Finding]) -> NDArray[np.uint8] | None:
    """All masks, or None: a set with holes would make every statistic over masks a statistic of another set."""
    have = [c.mask for c in cells if c.mask is not None]
    if have and len(have) < len(cells):
        what = f"masks for {len(have)} of {len(cells)} cells only"
        findings.append(Finding(".", what, "warning", "masks are not used; add the others"))
    return np.stack(have) if have and len(have) == len(cells) else None
