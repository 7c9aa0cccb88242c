"""Decide which boxes are cells: categories, corners, size, place in the field, repeated and contradictory boxes."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from leuk_lib.data.boxes.box import Box, BoxOptions, Field
from leuk_lib.data.findings import Finding
from leuk_lib.data.layouts import spellings_of, variants_of
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.params import nearest

# Names of a category that say that there is none.
NONE = frozenset({"", "none", "no", "null", "nan", "n/a", "na", "-", "unlabeled", "unlabelled", "background"})
MAX_PAIRS = 100_000  # of repeated boxes in a field of view
SAME = 0.9  # intersection over union from which on two boxes are about one cell
OVERHANG = 1.0  # pixels that a box may reach over its field's border by rounding
MIN_INSIDE = 0.5  # share of a box that must lie in the field
SQUEEZED = 1.2  # ratio of sides from which on the typical box is not square
MIN_TYPICAL = 30  # boxes for a typical ratio


def choose_categories(
    fields: Sequence[Field], options: BoxOptions, findings: list[Finding]
) -> tuple[list[Field], Counter[str]]:
    """Merge spellings of categories, take the chosen ones, rename them, and leave out those that mean none.

    Args:
        fields: All fields.
        options: ``categories`` and ``class_map``, compared without case.
        findings: Gets what was left out or decided, with counts.

    Returns:
        The fields with the boxes that remain, and the number of boxes per category before.

    Raises:
        LeukError: For a category or a key of ``class_map`` that no box has.
    """
    counts = Counter(box.label for field in fields for box in field.boxes)
    counts.update(box.label2 for field in fields for box in field.boxes if box.label2)
    spelling = spellings_of(counts, _plain)
    for used, others in sorted(variants_of(spelling).items()):
        what = f"category also spelled {', '.join(map(repr, sorted(others)))}"
        findings.append(Finding(f"{used}/", what, "warning", "read as one; correct the annotation"))
    known = {_plain(name): name for name in spelling.values()}
    wanted = {_known(name, known, "categories") for name in options.categories}
    renamed = {_known(old, known, "map"): new for old, new in options.class_map.items()}
    present: Counter[str] = Counter()
    left: Counter[str] = Counter()
    differ = 0
    chosen = []
    for field in fields:
        boxes = []
        for box in field.boxes:
            name = spelling[box.label]
            present[name] += 1
            if name not in wanted and (wanted or _plain(name) in NONE):
                left[name] += 1
                continue
            label = renamed.get(name, name)
            if not label:
                left[name] += 1
                continue
            second = spelling[box.label2] if box.label2 else ""
            second = renamed.get(second, second)
            differ += bool(second) and second != label
            boxes.append(replace(box, label=label, label2=second))
        chosen.append(replace(field, boxes=tuple(boxes)))
    for name, number in sorted(left.items()):
        why = "means none" if _plain(name) in NONE else "is not among the chosen ones"
        what = f"category left out: {number} boxes; {name or 'an empty name'} {why}"
        findings.append(Finding(f"{name}/", what, "info", "name it in the option categories to use it"))
    second_labels = sum(bool(box.label2) for field in chosen for box in field.boxes)
    if second_labels:
        what = f"two experts differ about {differ} of {second_labels} cells"
        findings.append(Finding(".", what, "info", "the first expert's label is used, the second's is kept as label2"))
    return chosen, present


def _plain(name: str) -> str:
    """Return what names of categories are compared by: no case, blanks at the ends, Unicode form."""
    return unicodedata.normalize("NFC", name).strip().casefold()


def _known(name: str, known: Mapping[str, str], option: str) -> str:
    if _plain(name) not in known:
        raise LeukError(f"boxes: {option}: no category {name!r}; {nearest(name, known.values())}", exit_code=2)
    return known[_plain(name)]


def place_boxes(field: Field, width: int, height: int, options: BoxOptions, findings: list[Finding]) -> list[Box]:
    """Return the boxes of a field that are cells, in pixels of its image, in the order of the annotation.

    Left out, with a finding each: coordinates that are not finite, boxes with a side below ``options.min_side``, boxes
    of which more than half lies outside, repeated boxes, and boxes under two categories. Corners in reversed order are
    exchanged, and boxes that reach over the border are cut there; both are reported.

    Args:
        field: The field.
        width: Of the decoded image, pixels.
        height: Of the decoded image, pixels.
        options: ``min_side`` and ``rescale``.
        findings: Gets the findings.
    """
    if not field.boxes:
        return []
    corners = np.array([(b.x0, b.y0, b.x1, b.y1) for b in field.boxes], np.float64)
    if field.fractions:
        corners *= (width, height, width, height)
    elif field.size and field.size != (width, height):
        if not options.rescale:
            what = f"annotated for {field.size[0]} x {field.size[1]} pixels, the image has {width} x {height}"
            advice = "its boxes are left out; take the original image, or rescale=yes if the image was resized"
            findings.append(Finding(field.path, what, "error", advice))
            return []
        corners *= (width / field.size[0], height / field.size[1]) * 2
    finite = np.isfinite(corners.sum(axis=1)).tolist()
    kept = []
    for number, box in enumerate(field.boxes):
        if not finite[number]:
            _report(findings, field, box, "box without finite numbers", "error", "correct the annotation")
            continue
        x0, y0, x1, y1 = corners[number].tolist()
        if x0 > x1 or y0 > y1:
            x0, x1, y0, y1 = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
            _report(findings, field, box, "box with reversed corners", "warning", "exchanged; nothing to do")
        if min(x1 - x0, y1 - y0) < options.min_side:
            size = f"box too small: {x1 - x0:.4g} x {y1 - y0:.4g} px"
            _report(
                findings, field, box, size, "error", f"no cell has fewer than {options.min_side:g} pixels (min_side)"
            )
            continue
        inside = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
        wide, high = max(0.0, inside[2] - inside[0]), max(0.0, inside[3] - inside[1])
        share = (wide / (x1 - x0)) * (high / (y1 - y0))
        if share < MIN_INSIDE or min(wide, high) < options.min_side:
            what = f"box outside the field: {100 * share:.0f} % inside"
            _report(findings, field, box, what, "error", "its coordinates belong to another image or size")
            continue
        if max(-x0, -y0, x1 - width, y1 - height) > OVERHANG:
            what = f"box over the field's border: {100 * share:.0f} % inside"
            _report(findings, field, box, what, "warning", "cut at the border")
        kept.append(replace(box, x0=inside[0], y0=inside[1], x1=inside[2], y1=inside[3]))
    return _without_repeated(field, kept, findings)


def _report(findings: list[Finding], field: Field, box: Box, what: str, severity: str, advice: str) -> None:
    findings.append(Finding(field.path, f"{what} ({box.label}; {box.source})", severity, advice))  # type: ignore[arg-type]


def same_boxes(corners: NDArray[np.float64], limit: float = SAME) -> NDArray[np.int64]:
    """Find pairs of boxes whose intersection is at least ``limit`` of their union.

    Boxes are sorted by their left edges; only those within the possible distance are compared.

    Args:
        corners: (N,4) x0, y0, x1, y1 with positive sides.
        limit: Intersection over union, in (0,1].

    Returns:
        (P,2) positions, the first below the second.

    Raises:
        LeukError: For more than ``MAX_PAIRS`` pairs: half a million repeated boxes have 10^11.

    Example:
        >>> same_boxes(np.array([[0, 0, 10, 10], [30, 0, 40, 10], [0, 0, 10, 9.5]], float)).tolist()
        [[0, 2]]
    """
    order = np.argsort(corners[:, 0], kind="stable")
    x0, y0, x1, y1 = corners[order].T
    area = (x1 - x0) * (y1 - y0)
    # An intersection of `limit` of the union is at least `limit` of each box's width.
    last = np.searchsorted(x0, x0 + (1 - limit) * (x1 - x0), side="right")
    pairs = []
    for i in np.flatnonzero(last - np.arange(len(order)) > 1).tolist():
        others = slice(i + 1, int(last[i]))
        wide = np.minimum(x1[others], x1[i]) - np.maximum(x0[others], x0[i])
        high = np.minimum(y1[others], y1[i]) - np.maximum(y0[others], y0[i])
        both = np.clip(wide, 0, None) * np.clip(high, 0, None)
        for j in np.flatnonzero(both >= limit * (area[others] + area[i] - both)).tolist():
            pairs.append(sorted((int(order[i]), int(order[i + 1 + j]))))
        if len(pairs) > MAX_PAIRS:
            raise LeukError(f"more than {MAX_PAIRS} pairs of its boxes are the same; remove what is repeated", 2)
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)


def _without_repeated(field: Field, boxes: list[Box], findings: list[Finding]) -> list[Box]:
    """Keep the first of repeated boxes; none where they stand under several categories."""
    try:
        pairs = same_boxes(np.array([(b.x0, b.y0, b.x1, b.y1) for b in boxes], np.float64).reshape(-1, 4))
    except LeukError as error:
        raise LeukError(f"{field.path}: {error}", error.exit_code) from error
    out: set[int] = set()
    for i, j in pairs.tolist():
        if boxes[i].label != boxes[j].label:
            out |= {i, j}
            what = f"box under two categories: {boxes[i].label} and {boxes[j].label}"
            advice = "both left out; decide, or merge the categories (option map)"
            _report(findings, field, boxes[j], what, "error", advice)
    for i, j in pairs.tolist():
        if i not in out and j not in out:
            out.add(j)
            _report(findings, field, boxes[j], "box repeated", "error", "one of them is kept; nothing to do")
    return [box for position, box in enumerate(boxes) if position not in out]


def squeezed(boxes: Iterable[Box], aspect: float) -> Finding | None:
    """Return a finding if the typical box, corrected by ``aspect``, is far from square: the fields may be squeezed.

    Args:
        boxes: Boxes in pixels.
        aspect: As in ``BoxOptions``.
    """
    sides = np.array([(b.x1 - b.x0, b.y1 - b.y0) for b in boxes], np.float64).reshape(-1, 2)
    if len(sides) < MIN_TYPICAL:
        return None
    ratio = float(np.median(sides[:, 0] / sides[:, 1]))
    if max(ratio / aspect, aspect / ratio) < SQUEEZED:
        return None
    what = f"boxes are typically {ratio:.2f} times as wide as high"
    return Finding(".", what, "warning", f"if the fields were squeezed, aspect={ratio:.2f} restores square pixels")
