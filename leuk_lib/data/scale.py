"""Scale: cells of several microscopes are brought to one field of view, so that a pixel means the same length.

An image file of w x h pixels at u micrometres per pixel shows min(w, h) u micrometres. Stages see S x S pixels, whatever
the file: without this step a lymphocyte fills the image of one source and a third of the image of another, and the
source, not the cell, is learned. Known scales come from the column ``um_per_px`` (manifest or reader) or the parameter of
that name.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from leuk_lib.data.decode import square
from leuk_lib.data.findings import Finding
from leuk_lib.runs.errors import LeukError

TOLERANCE = 0.01  # scales that differ by less, relatively, are one
PLAUSIBLE = (0.005, 10.0)  # micrometres per pixel of a light microscope's camera
MAX_PADDING = 8  # an image is padded to at most this many times its shorter side


@dataclass(frozen=True)
class ScalePlan:
    """What is done about the scale of the cells.

    Attributes:
        um_per_px: (N,) micrometres per pixel of each file; 0 where unknown.
        field_um: Side of the square around each cell, in micrometres; 0: each image is used as a whole.
        understood: What was known and decided, in lines for a person.
        findings: What is wrong with it.
    """

    um_per_px: NDArray[np.float64]
    field_um: float
    understood: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


def common_field(um_per_px: NDArray[np.float64], sides: NDArray[np.int64]) -> float:
    """Return the field that the images of every scale show: the smallest of the scales' median fields, in micrometres.

    Example:
        >>> common_field(np.array([0.1, 0.1, 0.05]), np.array([360, 400, 600]))
        30.0
    """
    fields = pd.Series(um_per_px * sides)
    return float(fields.groupby(_steps(um_per_px)).median().min())


def _steps(um_per_px: NDArray[np.float64]) -> NDArray[np.int64]:
    """Number the scales: those that differ by less than the tolerance share a number."""
    order = np.argsort(um_per_px, kind="stable")
    ordered = um_per_px[order]
    number = np.zeros(len(order), dtype=np.int64)
    number[order] = np.concatenate([[0], np.cumsum(ordered[1:] > ordered[:-1] * (1 + TOLERANCE))])
    return number


def plan_scale(
    known: ArrayLike, sides: ArrayLike, size: int, um_per_px: float = 0.0, field_um: float = 0.0, where: str = "."
) -> ScalePlan:
    """Decide whether and how the cells are brought to one scale.

    Nothing is done where no scale is known, where all images have the same one (unless ``field_um`` is given), and where
    only some images have one, which is a finding.

    Args:
        known: (N,) micrometres per pixel of each file; 0 or NaN where unknown.
        sides: (N,) shorter side of each file in pixels.
        size: Side of the images of the stages in pixels.
        um_per_px: Scale of the files whose scale is unknown; 0: it stays unknown.
        field_um: Field to bring the cells to, in micrometres; 0: `common_field` where scales differ.
        where: The data folder, for messages.

    Raises:
        LeukError: For a scale that no light microscope has, also NaN and less than 0; and where ``field_um`` is given, if
            the scale of some images is unknown, or if it is many times what the images show.
    """
    for name, value in (("um_per_px", um_per_px), ("field_um", field_um)):
        if not 0 <= value < np.inf:
            raise LeukError(f"{where}: {name} = {value} must be a positive number, or 0", exit_code=2)
    scale = np.nan_to_num(np.asarray(known, dtype=np.float64))
    shorter = np.asarray(sides, dtype=np.int64)
    wrong = scale[(scale != 0) & ((scale < PLAUSIBLE[0]) | (scale > PLAUSIBLE[1]))]
    if len(wrong):
        raise LeukError(
            f"{where}: um_per_px = {wrong[0]:g} of {len(wrong)} images; must be {PLAUSIBLE[0]} to {PLAUSIBLE[1]:g} "
            "micrometres per pixel, or empty where unknown",
            exit_code=2,
        )
    if um_per_px:
        scale = np.where(scale > 0, scale, um_per_px)
    n_known = int((scale > 0).sum())
    if field_um and n_known < len(scale):
        raise LeukError(
            f"{where}: field_um = {field_um:g} needs the scale of every image, and that of {len(scale) - n_known} of "
            f"{len(scale)} is unknown; give the column um_per_px in manifest.csv, or the parameter um_per_px",
            exit_code=2,
        )
    if not n_known:
        return ScalePlan(scale, 0.0)
    if n_known < len(scale):
        what = f"the scale of {n_known} of {len(scale)} images is known: they are not brought to one scale"
        advice = "a pixel means another length in each source; give um_per_px for all images"
        return ScalePlan(scale, 0.0, (), (Finding(".", what, "warning", advice),))
    step = _steps(scale)
    shown = ", ".join(
        f"{value:.4g} ({int((step == k).sum())})" for k in np.unique(step) for value in [scale[step == k][0]]
    )
    if not field_um and step.max() == 0:
        return ScalePlan(scale, 0.0, (f"scale: all images have {scale[0]:.4g} µm per pixel",))
    field = field_um or common_field(scale, shorter)
    if field > MAX_PADDING * float((shorter * scale).min()):
        raise LeukError(
            f"{where}: field_um = {field:g} is more than {MAX_PADDING} times the {float((shorter * scale).min()):.4g} µm that "
            "the smallest image shows; give a smaller field",
            exit_code=2,
        )
    line = (
        f"scale: µm per pixel (images) {shown}; brought to one field of {field:.4g} µm, {field / size:.3g} µm per pixel of "
        "the stages, by cropping or padding"
    )
    small = int((shorter * scale < field * (1 - TOLERANCE)).sum())
    padded = (
        (Finding(".", f"{small} images show less than the common field of {field:.4g} µm: padded", "info",
                 "the margin has the colour of the image's border; nothing to do if these are tight crops"),)
        if small else ()
    )  # fmt: skip
    return ScalePlan(scale, field, (line,), padded)


def to_field(
    image: NDArray[np.uint8], um_per_px: float, field_um: float, size: int, nearest: bool = False
) -> NDArray[np.uint8]:
    """Cut the centre square of ``field_um`` micrometres out of an image, or pad the image to it, and resize it.

    Args:
        image: (H,W,3) uint8, or (H,W) for a mask.
        um_per_px: Micrometres per pixel of the image.
        field_um: Side of the field in micrometres.
        size: Side of the result in pixels.
        nearest: Keep values as they are, for masks; the margin is then 0, else the median colour of the border.

    Returns:
        (size,size,3) or (size,size) uint8.
    """
    side = max(1, round(field_um / um_per_px))
    height, width = image.shape[:2]
    top, left = (max(0, (length - side) // 2) for length in (height, width))
    crop = image[top : top + side, left : left + side]
    missing = [side - length for length in crop.shape[:2]]
    if any(missing):
        edges = [image[0], image[-1], image[:, 0], image[:, -1]]
        colour = 0 if nearest else np.median(np.concatenate(edges), axis=0)
        margins = (missing[0] // 2, missing[0] - missing[0] // 2, missing[1] // 2, missing[1] - missing[1] // 2)
        value = np.atleast_1d(colour).astype(float).tolist()
        crop = cv2.copyMakeBorder(np.ascontiguousarray(crop), *margins, cv2.BORDER_CONSTANT, value=value)
    return square(np.ascontiguousarray(crop), size, nearest=nearest)
