"""Canvas in micrometres: smooth outlines, band-limited noise, scattered granules. Draws do not depend on the size."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.floating[Any]]  # float32 throughout
Points = NDArray[np.float64]
SHIFT = 4  # sub-pixel bits of OpenCV's drawing coordinates
TURN = np.linspace(0, 2 * np.pi, 72, endpoint=False)


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
        """(side,) coordinate of the pixel centres, µm."""
        return ((np.arange(self.side) + 0.5) / self.scale - self.field / 2).astype(np.float32)

    def zeros(self) -> Map:
        """Empty map."""
        return np.zeros((self.side, self.side), np.float32)

    def pixels(self, points: Points) -> NDArray[np.int32]:
        """µm -> fixed-point pixel coordinates for OpenCV."""
        return np.round(((points + self.field / 2) * self.scale - 0.5) * (1 << SHIFT)).astype(np.int32)

    def fill(self, *outlines: Points) -> Map:
        """Union of filled polygons, 1 inside."""
        out = np.zeros((self.side, self.side), np.uint8)
        for outline in outlines:
            cv2.fillPoly(out, [self.pixels(outline)], 1, cv2.LINE_8, SHIFT)
        return out.astype(np.float32)

    def discs(self, centres: Points, radii: Points) -> Map:
        """Union of filled circles, 1 inside."""
        out = np.zeros((self.side, self.side), np.uint8)
        fixed = self.pixels(centres)
        for (x, y), radius in zip(fixed.tolist(), radii.tolist(), strict=True):
            cv2.circle(out, (x, y), round(radius * self.scale * (1 << SHIFT)), 1, -1, cv2.LINE_8, SHIFT)
        return out.astype(np.float32)

    def blur(self, image: Map, sigma: float) -> Map:
        """Gaussian blur, ``sigma`` in µm."""
        pixels = sigma * self.scale
        return image if pixels < 0.15 else cv2.GaussianBlur(image, (0, 0), pixels, borderType=cv2.BORDER_REPLICATE)

    def smooth(self, mask: Map, sigma: float) -> Map:
        """Round off a 0/1 mask's corners over ``sigma`` µm and give it a soft edge."""
        return np.clip((self.blur(mask, sigma) - 0.5) * 2.2 + 0.5, 0, 1)

    def noise(self, rng: np.random.Generator, grain: float, stretch: float = 1.0, angle: float = 0.0) -> Map:
        """Gaussian noise of unit deviation whose features are about ``grain`` µm wide, stretched along ``angle``."""
        knots = int(np.ceil(1.45 * round(self.field) / grain)) + 5
        lattice = rng.standard_normal((knots, knots), dtype=np.float32)
        step = 1 / (grain * self.scale)
        c, s = np.cos(angle) * step, np.sin(angle) * step
        middle, half = knots / 2, self.side / 2
        affine = np.array(
            [
                [c / stretch, s / stretch, middle - (c + s) * half / stretch],
                [-s, c, middle + (s - c) * half],
            ]
        )
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        field = cv2.warpAffine(lattice, affine, (self.side, self.side), flags=flags, borderMode=cv2.BORDER_REFLECT)
        return field * np.float32(1.35)  # cubic interpolation of white noise loses a quarter of its deviation

    def scatter(self, points: Points, sigma: float, inside: Map | None = None) -> Map:
        """Gaussian spots of unit height and ``sigma`` µm at ``points`` (those where ``inside`` > 0.5)."""
        out = self.zeros()
        at = np.floor((points + self.field / 2) * self.scale).astype(np.int64)
        at = at[((at >= 0) & (at < self.side)).all(axis=1)]
        if inside is not None:
            at = at[inside[at[:, 1], at[:, 0]] > 0.5]
        np.add.at(out, (at[:, 1], at[:, 0]), 1)
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
    """A smooth closed outline (72,2): a circle of ``radius`` µm with low-order Fourier bumps, stretched, dented.

    ``roughness`` is the relative deviation of the bumps; ``dent`` the depth of one indentation, relative to the
    radius, at angle ``facing``. The area stays that of the circle, whatever the shape.
    """
    order = np.arange(2, 7)
    wave = np.cos(order[:, None] * TURN + rng.uniform(0, 2 * np.pi, (5, 1)))
    r = 1 + roughness * 1.6 * (rng.standard_normal((5, 1)) / order[:, None] * wave).sum(axis=0)
    if dent > 0:
        off = np.angle(np.exp(1j * (TURN - facing)))
        r = r - dent * np.exp(-0.5 * (off / (0.42 + 0.15 * dent)) ** 2)
    r = np.clip(r, 0.15, None)
    angle = rng.uniform(0, np.pi)
    x, y = r * np.cos(TURN) * np.sqrt(elongation), r * np.sin(TURN) / np.sqrt(elongation)
    outline = np.stack([x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)], axis=1)
    if dent > 0:  # keep the dent where it was asked for
        outline = np.stack([x, y], axis=1)
    area = 0.5 * abs(np.sum(outline[:, 0] * np.roll(outline[:, 1], 1) - outline[:, 1] * np.roll(outline[:, 0], 1)))
    return outline * radius * np.sqrt(np.pi / area) + centre


def in_disc(rng: np.random.Generator, number: int, radius: float, centre: Points) -> Points:
    """``number`` points uniform in a disc, (number, 2)."""
    draw = rng.random((number, 2))
    r, angle = radius * np.sqrt(draw[:, 0]), 2 * np.pi * draw[:, 1]
    return np.stack([r * np.cos(angle), r * np.sin(angle)], axis=1) + centre
