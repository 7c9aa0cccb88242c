"""Drawing in micrometres: smooth outlines, band-limited noise, scattered granules.

The number of random draws does not depend on the size in pixels, so a cell is the same cell at any size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.floating[Any]]  # (side, side), float32
Points = NDArray[np.float64]  # (N, 2) or (2,), µm
SHIFT = 4  # sub-pixel bits of OpenCV's drawing coordinates
ANGLES = np.linspace(0, 2 * np.pi, 72, endpoint=False)


@dataclass(frozen=True)
class Canvas:
    """A square of ``side`` pixels over ``field`` µm; coordinates in µm from its centre, x right, y down."""

    side: int
    field: float

    @property
    def scale(self) -> float:
        """Pixels per µm."""
        return self.side / self.field

    @cached_property
    def axis(self) -> Map:
        """Coordinates of the pixel centres, µm: (side,)."""
        return ((np.arange(self.side) + 0.5) / self.scale - self.field / 2).astype(np.float32)

    def zeros(self) -> Map:
        """Return an empty map."""
        return np.zeros((self.side, self.side), np.float32)

    def pixels(self, points: Points) -> NDArray[np.int32]:
        """Convert µm to fixed-point pixel coordinates of OpenCV."""
        return np.round(((points + self.field / 2) * self.scale - 0.5) * (1 << SHIFT)).astype(np.int32)

    def fill(self, *outlines: Points) -> Map:
        """Draw the union of filled polygons: 1 inside, 0 outside."""
        out = np.zeros((self.side, self.side), np.uint8)
        for outline in outlines:
            cv2.fillPoly(out, [self.pixels(outline)], 1, cv2.LINE_8, SHIFT)
        return out.astype(np.float32)

    def discs(self, centres: Points, radii: Points) -> Map:
        """Draw the union of filled circles: 1 inside, 0 outside."""
        out = np.zeros((self.side, self.side), np.uint8)
        fixed = self.pixels(centres)
        for (x, y), radius in zip(fixed.tolist(), radii.tolist(), strict=True):
            cv2.circle(out, (x, y), round(radius * self.scale * (1 << SHIFT)), 1, -1, cv2.LINE_8, SHIFT)
        return out.astype(np.float32)

    def blur(self, image: Map, sigma: float) -> Map:
        """Blur with a Gaussian of ``sigma`` µm; below 0.15 pixels the image is returned as it is."""
        pixels = sigma * self.scale
        return image if pixels < 0.15 else cv2.GaussianBlur(image, (0, 0), pixels, borderType=cv2.BORDER_REPLICATE)

    def smooth(self, mask: Map, sigma: float) -> Map:
        """Round the corners of a 0/1 mask over ``sigma`` µm and give it a soft edge."""
        return np.clip((self.blur(mask, sigma) - 0.5) * 2.2 + 0.5, 0, 1)

    def noise(self, rng: np.random.Generator, grain: float, stretch: float = 1.0, angle: float = 0.0) -> Map:
        """Draw Gaussian noise of about unit deviation, band-limited by cubic interpolation of a random lattice.

        Args:
            rng: source of the lattice.
            grain: width of the features, µm.
            stretch: ratio of their length to their width.
            angle: direction of their length, radians.
        """
        knots = int(np.ceil(1.45 * round(self.field) / grain)) + 5
        lattice = rng.standard_normal((knots, knots), dtype=np.float32)
        step = 1 / (grain * self.scale)
        c, s = np.cos(angle) * step, np.sin(angle) * step
        lattice_centre, centre = knots / 2, self.side / 2
        affine = np.array(
            [
                [c / stretch, s / stretch, lattice_centre - (c + s) * centre / stretch],
                [-s, c, lattice_centre + (s - c) * centre],
            ]
        )
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        field = cv2.warpAffine(lattice, affine, (self.side, self.side), flags=flags, borderMode=cv2.BORDER_REFLECT)
        return field * np.float32(1.35)  # cubic interpolation of white noise reduces its deviation by a quarter

    def scatter(self, points: Points, sigma: float, inside: Map | None = None) -> Map:
        """Draw Gaussian spots of height 1 and ``sigma`` µm at those ``points`` where ``inside`` is over 0.5."""
        out = self.zeros()
        pixel = np.floor((points + self.field / 2) * self.scale).astype(np.int64)
        pixel = pixel[((pixel >= 0) & (pixel < self.side)).all(axis=1)]
        if inside is not None:
            pixel = pixel[inside[pixel[:, 1], pixel[:, 0]] > 0.5]
        np.add.at(out, (pixel[:, 1], pixel[:, 0]), 1)
        pixels = max(sigma * self.scale, 0.4)
        return cv2.GaussianBlur(out, (0, 0), pixels) * np.float32(2 * np.pi * pixels**2 * (sigma * self.scale / pixels))


def blob(
    rng: np.random.Generator,
    radius: float,
    roughness: float,
    centre: Points,
    elongation: float = 1.0,
    dent: float = 0.0,
    facing: float = 0.0,
) -> Points:
    """Draw a smooth closed outline: a circle with low-order Fourier bumps, stretched and dented, of the circle's area.

    Args:
        rng: source of the bumps and of the direction of the stretch.
        radius: radius of the circle, µm.
        roughness: relative standard deviation of the bumps.
        centre: centre of the circle, µm.
        elongation: ratio of length to width.
        dent: depth of an indentation, relative to the radius; the outline is then not rotated.
        facing: direction of the indentation, radians.

    Returns:
        Vertices, (72, 2), µm.

    >>> outline = blob(np.random.default_rng(0), 5.0, 0.0, np.zeros(2))
    >>> round(float(np.linalg.norm(outline, axis=1).max()), 2)  # a polygon with the area of the circle
    5.0
    """
    order = np.arange(2, 7)
    wave = np.cos(order[:, None] * ANGLES + rng.uniform(0, 2 * np.pi, (5, 1)))
    r = 1 + roughness * 1.6 * (rng.standard_normal((5, 1)) / order[:, None] * wave).sum(axis=0)
    if dent > 0:
        offset = np.angle(np.exp(1j * (ANGLES - facing)))
        r = r - dent * np.exp(-0.5 * (offset / (0.42 + 0.15 * dent)) ** 2)
    r = np.clip(r, 0.15, None)
    angle = rng.uniform(0, np.pi)
    x, y = r * np.cos(ANGLES) * np.sqrt(elongation), r * np.sin(ANGLES) / np.sqrt(elongation)
    outline = np.stack([x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)], axis=1)
    if dent > 0:  # keep the dent at its angle
        outline = np.stack([x, y], axis=1)
    area = 0.5 * abs(np.sum(outline[:, 0] * np.roll(outline[:, 1], 1) - outline[:, 1] * np.roll(outline[:, 0], 1)))
    return outline * radius * np.sqrt(np.pi / area) + centre


def in_disc(rng: np.random.Generator, number: int, radius: float, centre: Points) -> Points:
    """Draw ``number`` points uniformly in a disc: (number, 2)."""
    unit = rng.random((number, 2))
    r, angle = radius * np.sqrt(unit[:, 0]), 2 * np.pi * unit[:, 1]
    return np.stack([r * np.cos(angle), r * np.sin(angle)], axis=1) + centre
