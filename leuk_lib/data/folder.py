"""Read a folder of images: decode each file once, drop copies, and group cells that must not be split apart."""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leuk_lib.data.boxes.box import FIELD
from leuk_lib.data.cell_files import Cell, read_cell, read_mask
from leuk_lib.data.decode import decode_file, quiet_decoders
from leuk_lib.data.duplicates import Match, components, exact_copies, find_matches
from leuk_lib.data.field_of_view import BAR, FALSE_ALARMS
from leuk_lib.data.findings import ACROSS_PARTS, Finding, Severity, as_table, repeated
from leuk_lib.data.layouts import role_of
from leuk_lib.data.listing import MISSING, Entry, Listing, list_folder
from leuk_lib.data.perceptual_hash import ORIENTATIONS, THUMB
from leuk_lib.data.scale import ScalePlan, plan_scale, to_field
from leuk_lib.data.tables import EXTRA
from leuk_lib.runs.parallel import ordered_map

CUT_OUT = re.compile(r"(.+) \d+,\d+,\d+,\d+")  # source of a cell that was cut out at a box
INFERRED = "near:"  # prefix of a group's name that no manifest gave


@dataclass(frozen=True)
class ImageFolder:
    """The usable cells of a folder and the findings about its files.

    Attributes:
        root: The folder.
        table: One row per usable cell: path, label, group, external (name of its external test set, or ""), part (its
            published part or fold, or ""), width, height (pixels of the file), sha256 (of the file's bytes), and those
            of label2, label3 (classes according to further experts), um_per_px and source that any cell has.
        images: (N,S,S,3) uint8.
        masks: (N,S,S) uint8 with 0 background, 128 cytoplasm, 255 nucleus; None unless every cell has one.
        findings: One row per finding: path, finding, severity, advice, other (see ``findings.Finding``).
        grouped_by: Where the groups come from: the manifest, folder names, inference, or several of them.
        understood: How the folder was read, in lines for a person.
        name: Name of the data set: that of the folder, or of the file that was converted.
    """

    root: Path
    table: pd.DataFrame
    images: NDArray[np.uint8]
    masks: NDArray[np.uint8] | None
    findings: pd.DataFrame
    grouped_by: str
    understood: tuple[str, ...] = ()
    name: str = ""


def read_folder(
    path: str | Path,
    size: int = 64,
    workers: int = 2,
    class_map: Mapping[str, str] | None = None,
    layout: str = "",
    *,
    reader: str = "",
    reader_options: Mapping[str, str] | None = None,
    pattern: str = "",
    um_per_px: float = 0.0,
    field_um: float = 0.0,
) -> ImageFolder:
    """Decode every image of a folder; leave out what cannot be used, and list it in the findings.

    Of copies with the same pixels the first by path stays, one in a published test or validation part before others;
    none stays if their labels differ. Groups come from the manifest. Cells without one are grouped with their
    near-duplicates and with overlapping fields of view. A cell that an external test set also contains is left out of
    the other cells.

    Args:
        path: A folder or the name of a known set, as for ``listing.list_folder``.
        size: Side of the decoded images in pixels.
        workers: Processes, or threads for few images; 0: one per core.
        class_map: Class -> new name; "" drops the class.
        layout: Roles of the folder levels, as for ``listing.list_folder``; "" to infer them.
        reader: Name of a reader, as for ``listing.list_folder``; "" for the one that recognises the data.
        reader_options: Options of the reader.
        pattern: Pattern of the file names, as for ``listing.list_folder``.
        um_per_px: Micrometres per pixel of the files for which nothing else states it; 0: unknown.
        field_um: Side of the field to which all cells are brought, in micrometres; 0: as ``scale.plan_scale`` decides.

    Raises:
        LeukError: As ``listing.list_folder`` and ``scale.plan_scale`` do.
    """
    listing = list_folder(path, class_map, layout, reader=reader, reader_options=reader_options, pattern=pattern)
    findings = [
        Finding(name, what, "info" if what == "not an image file" else "error", advice)
        for name, what, advice in listing.left_out
    ]
    findings += [Finding(name, what, "warning", advice) for name, what, advice in listing.notices]
    findings += listing.findings
    cells = []
    for result in _read_all(listing, size, workers):
        if isinstance(result, Cell):
            cells.append(result)
            findings += result.findings
        else:
            findings.append(result)
    findings += _fields_of_view(cells)
    cells = _without_copies(listing, cells, findings)
    cells, table, grouped_by = _grouped(listing, cells, findings, workers)
    plan = _plan_scale(listing, cells, size, um_per_px, field_um)
    findings += plan.findings
    if um_per_px and cells:
        table["um_per_px"] = plan.um_per_px
    if plan.field_um:
        cells = _brought_to_scale(listing, cells, plan, size, workers)
    return ImageFolder(
        root=listing.root,
        table=table,
        images=np.stack([c.image for c in cells]) if cells else np.zeros((0, size, size, 3), np.uint8),
        masks=_all_masks(cells, findings),
        findings=pd.concat(
            [as_table(findings), repeated(listing.missing, MISSING[0], "error", MISSING[1])], ignore_index=True
        ),
        grouped_by=grouped_by,
        understood=(*listing.understood, *plan.understood),
        name=listing.name or listing.root.name,
    )


def _read_all(listing: Listing, size: int, workers: int) -> list[Cell | Finding]:
    """Read every entry, in order."""
    read = functools.partial(read_cell, listing.root, size)
    return list(ordered_map(read, listing.entries, workers, "reading", within=quiet_decoders))


def _without_copies(listing: Listing, cells: list[Cell], findings: list[Finding]) -> list[Cell]:
    """Drop all but one copy of each picture, and every copy where the labels contradict each other.

    A copy in a published test part stays, else one in validation, else the one of which most is known: in the manifest,
    with a group, with a mask; else the first by path. It takes over a group or a mask that only another copy has.
    """
    if not cells:
        return cells
    first = exact_copies(
        [c.sha256 for c in cells],
        np.stack([c.thumb for c in cells]),
        lambda i: decode_file(listing.root / cells[i].entry.path).image,
    )
    same: dict[int, list[int]] = defaultdict(list)
    for i, original in enumerate(first.tolist()):
        same[original].append(i)
    kept = []
    for i, cell in enumerate(cells):
        copies = same[int(first[i])]
        others = [cells[j].entry for j in copies if j != i]
        same_set = [j for j in copies if cells[j].entry.external == cell.entry.external]
        external = [other for other in others if other.external]
        original = min(same_set, key=lambda j: (_rank(cells[j].entry.part), _unknown(cells[j]), j))
        if len({cells[j].entry.label for j in copies}) > 1:
            names = ", ".join(f"{c.path} ({c.label})" for c in others)
            advice = "decide which label is right; keep one copy"
            findings.append(Finding(cell.entry.path, f"label conflict with {names}", "error", advice, others[0].path))
        elif external and not cell.entry.external:
            findings.append(_in_test_set(cell, external[0]))
        elif i == original:
            kept.append(_completed(cell, [cells[j] for j in same_set], findings))
        else:
            name, advice = cells[original].entry.path, "delete it: copies leak across a split"
            across = ACROSS_PARTS if cell.entry.part != cells[original].entry.part else ""
            findings.append(Finding(cell.entry.path, f"copy of {name}{across}", "error", advice, name))
    return kept


def _rank(part: str) -> int:
    """Rank published parts: the copy in the first one stays, so that a test part stays as it was published."""
    return 0 if part.startswith("test") else 1 if part.startswith("validation") else 2


def _unknown(cell: Cell) -> tuple[bool, bool, bool]:
    return not cell.entry.listed, not cell.entry.group, cell.mask is None


def _completed(cell: Cell, copies: list[Cell], findings: list[Finding]) -> Cell:
    """Return a cell with a group and a mask from its copies, where it has none of its own."""
    groups = sorted({_patient(copy.entry) for copy in copies if _patient(copy.entry)})
    if len(groups) > 1:
        advice = "one picture has one patient or slide: correct the table"
        findings.append(Finding(cell.entry.path, f"copies in several groups ({', '.join(groups)})", "warning", advice))
    group = _patient(cell.entry) or (groups[0] if len(groups) == 1 else cell.entry.group)
    masks = [copy.mask for copy in copies if copy.mask is not None]
    mask = cell.mask if cell.mask is not None or not masks else masks[0]
    file = next((copy.entry.mask for copy in copies if copy.mask is mask), "") if mask is not None else ""
    return replace(cell, entry=replace(cell.entry, group=group, mask=file), mask=mask)


def _in_test_set(cell: Cell, other: Entry) -> Finding:
    what = f"also in the test set {other.external}: {other.path}"
    return Finding(cell.entry.path, what, "error", "nothing to do; training on it would leak", other.path)


def _grouped(
    listing: Listing, cells: list[Cell], findings: list[Finding], workers: int
) -> tuple[list[Cell], pd.DataFrame, str]:
    """Group the cells, and leave out those that match a cell of an external test set.

    Returns:
        The remaining cells, their table, and where the groups come from.
    """
    matches = find_matches(
        np.stack([c.thumb for c in cells]) if cells else np.zeros((0, THUMB, THUMB, 3), np.uint8),
        np.array([c.hashes for c in cells], np.uint64).reshape(-1, ORIENTATIONS),
        [c.features for c in cells],
        [listing.root / c.entry.path for c in cells],
        workers,
    )
    links = [(match.first, match.second) for match in matches]
    pairs = np.array(links + _same_field(cells), np.int64).reshape(-1, 2)
    component = components(len(cells), pairs).tolist()
    external: dict[int, Cell] = {}  # component -> its first cell in an external test set
    names: dict[int, str] = {}  # component -> its first patient or slide, else its first field, else its first file
    ranks: dict[int, int] = {}
    for cell, c in zip(reversed(cells), reversed(component), strict=True):
        if cell.entry.external:
            external[c] = cell
        rank = 2 if _patient(cell.entry) else 1 if cell.entry.group else 0
        if rank >= ranks.get(c, 0):
            names[c], ranks[c] = cell.entry.group or INFERRED + cell.entry.path, rank
    group = [_patient(cell.entry) or names[c] for cell, c in zip(cells, component, strict=True)]
    findings += [_match_finding(match, cells, group) for match in matches]
    keep = []
    for i, (cell, c) in enumerate(zip(cells, component, strict=True)):
        if cell.entry.external:
            group[i] = f"{cell.entry.external}/{group[i]}"
        elif c in external:
            findings.append(_in_test_set(cell, external[c].entry))
            continue
        keep.append(i)
    given = [bool(_patient(cells[i].entry)) for i in keep]
    inferred = "near-duplicates and overlaps"
    if any(cells[i].entry.group.startswith(FIELD) for i in keep):
        inferred = f"fields of view, {inferred}"
    grouped_by = listing.grouped_by if given and all(given) else inferred
    if any(given) and not all(given):
        grouped_by = f"{listing.grouped_by}, else {grouped_by}"
    table = pd.DataFrame(
        {
            "path": [cells[i].entry.path for i in keep],
            "label": [cells[i].entry.label for i in keep],
            "group": [group[i] for i in keep],
            "external": [cells[i].entry.external for i in keep],
            "part": [cells[i].entry.part for i in keep],
            "width": [cells[i].width for i in keep],
            "height": [cells[i].height for i in keep],
            "sha256": [cells[i].sha256 for i in keep],
        }
    )
    for column in EXTRA:
        values = [getattr(cells[i].entry, column) for i in keep]
        if any(values):
            table[column] = pd.to_numeric(pd.Series(values)) if column == "um_per_px" else values
    table = table.astype(
        dict.fromkeys(["path", "label", "group", "external", "part", "sha256"], str)
    )  # also without rows
    return [cells[i] for i in keep], table, grouped_by


def _patient(entry: Entry) -> str:
    """Return the given group of a cell, "" for none and for a field of view, which may be joined with others."""
    return "" if entry.group.startswith(FIELD) else entry.group


def _same_field(cells: list[Cell]) -> list[tuple[int, int]]:
    """Return pairs that connect the cells of each field of view."""
    first: dict[str, int] = {}
    pairs = []
    for i, cell in enumerate(cells):
        if cell.entry.group.startswith(FIELD) and first.setdefault(cell.entry.group, i) != i:
            pairs.append((first[cell.entry.group], i))
    return pairs


def _field_of(entry: Entry) -> str:
    """Return the field of view that a box reader cut the cell out of, or ""."""
    found = CUT_OUT.fullmatch(entry.source)
    return found[1] if found else ""


def _fields_of_view(cells: list[Cell]) -> list[Finding]:
    """List the images that look like fields of view: warnings where they are more than the rule's false alarms."""
    seen = [cell for cell in cells if not _field_of(cell.entry)]  # cells cut out of fields have been seen by a person
    found = [cell for cell in seen if cell.field_sign]
    share = len(found) / max(1, len(seen))
    severity: Severity = "warning" if share > FALSE_ALARMS or any(c.field_sign == BAR for c in found) else "info"
    advice = (
        f"{100 * share:.0f} % of the images, of single cells up to 1 %: cut the cells out, or give boxes (data/README.md)"
        if severity == "warning"
        else f"{100 * share:.1f} % of the images, as among single cells; look at it"
    )
    return [
        Finding(cell.entry.path, f"looks like a field of view: {cell.field_sign}", severity, advice) for cell in found
    ]


def _match_finding(match: Match, cells: list[Cell], group: list[str]) -> Finding:
    """Describe a match, as a finding about its second image."""
    first, second = cells[match.first].entry, cells[match.second].entry
    if match.kind == "overlaps":
        what = f"overlaps {first.path} by {100 * match.share:.0f} %"
    else:
        what = f"{match.kind} of {first.path}"
    if first.label != second.label:
        if match.kind == "overlaps" and _field_of(first) and _field_of(first) == _field_of(second):
            advice = "neighbours in one field of view; nothing to do"
            return Finding(second.path, what, "info", advice, first.path)
        advice = "decide which label is right, and keep one of the two"
        # A field of view may show cells of two classes; a near-duplicate may not.
        if match.kind == "overlaps":
            advice = "kept in one group; check that both labels are about the same cell"
        return Finding(second.path, f"{what} under another label", "warning", advice, first.path)
    if group[match.first] == group[match.second]:
        given = bool(_patient(first) and _patient(second)) or (bool(first.group) and first.group == second.group)
        advice = "already in one group; nothing to do" if given else "kept in one group with it"
        return Finding(second.path, what, "info" if given else "warning", advice, first.path)
    advice = f"the groups {group[match.first]} and {group[match.second]} share a cell: correct the manifest"
    return Finding(second.path, what, "warning", advice, first.path)


def _plan_scale(listing: Listing, cells: list[Cell], size: int, um_per_px: float, field_um: float) -> ScalePlan:
    """Plan the common scale, and find magnifications that are pooled although their scales are unknown."""
    known = [float(cell.entry.um_per_px or 0) for cell in cells]
    sides = [min(cell.width, cell.height) for cell in cells]
    plan = plan_scale(known, sides, size, um_per_px, field_um, str(listing.root))
    folders = {name for cell in cells for name in PurePosixPath(cell.entry.path).parts[:-1]}
    powers = sorted(name for name in folders if role_of(name) == "magnification")
    if len(powers) > 1 and not plan.um_per_px.all():
        what = f"images of several magnifications ({', '.join(powers)}) without micrometres per pixel"
        advice = "they are not brought to one scale: use one magnification, or give um_per_px in manifest.csv"
        plan = replace(plan, findings=(*plan.findings, Finding(".", what, "warning", advice)))
    return plan


def _brought_to_scale(listing: Listing, cells: list[Cell], plan: ScalePlan, size: int, workers: int) -> list[Cell]:
    """Read the kept cells again, each cut or padded to the common field; with their masks."""
    bring = functools.partial(_bring_to_scale, listing.root, size, plan.field_um)
    files = [
        (cell.entry.path, "" if cell.mask is None else cell.entry.mask, um_per_px)
        for cell, um_per_px in zip(cells, plan.um_per_px.tolist(), strict=True)
    ]
    results = ordered_map(bring, files, workers, "bringing to one scale", within=quiet_decoders)
    return [replace(cell, image=image, mask=mask) for cell, (image, mask) in zip(cells, results, strict=True)]


def _bring_to_scale(
    root: Path, size: int, field_um: float, file: tuple[str, str, float]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Read the image of a cell and its mask, if it has one, at the common field; their scale is the third of ``file``."""
    path, mask_path, um_per_px = file
    image = decode_file(root / path).image
    mask = None
    if mask_path:
        whole = read_mask(root / mask_path, image.shape[:2])[0]
        mask = None if whole is None else to_field(whole, um_per_px, field_um, size, nearest=True)
    return to_field(image, um_per_px, field_um, size), mask


def _all_masks(cells: list[Cell], findings: list[Finding]) -> NDArray[np.uint8] | None:
    """Return the masks if every cell has one: statistics over some of the cells would describe another data set."""
    masks = [c.mask for c in cells if c.mask is not None]
    if masks and len(masks) < len(cells):
        what = f"masks for {len(masks)} of {len(cells)} cells only"
        findings.append(Finding(".", what, "warning", "masks are not used; add the others"))
    return np.stack(masks) if masks and len(masks) == len(cells) else None
