"""Settings of the enhancement, and parameters of stage ``alhe``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

from pydantic import Field, model_validator

from leuk_lib.runs.params import FrozenParams, StageParams


class EnhanceParams(FrozenParams):
    """Settings of ALHE. One grey level is 1/256 of the range of CIELAB lightness L*.

    >>> EnhanceParams(clip_limit=3.0).tiles
    4
    """

    RENAMED: ClassVar[Mapping[str, str]] = {"kappa_max": "clip_limit"}

    clip_limit: float = Field(
        2.0, ge=1, le=40, description="clip limit of a fully active tile, in mean bin counts; 1 is the identity"
    )
    contrast_floor: float = Field(
        1.0, ge=0, le=1, description="least slope of a tile's curve over the image's occupied levels; 0: plain CLAHE"
    )
    tiles: int = Field(4, ge=1, le=64, description="tiles along the image's shorter side")
    tile_min: int = Field(16, ge=8, le=512, description="smallest tile side, pixels")
    entropy_low: float = Field(0.35, ge=0, le=1, description="normalised entropy at which a tile's activity starts")
    entropy_high: float = Field(0.75, ge=0, le=1, description="normalised entropy at which a tile is fully active")
    spread_limit: float = Field(0.0, ge=0, le=256, description="grey-level spread that ends activity; 0: no limit")
    gain_low: float = Field(30.0, ge=0, le=100, description="percentile of optical density where the gain starts")
    gain_high: float = Field(98.0, ge=0, le=100, description="percentile of optical density where the gain is full")
    gain_box: int = Field(5, ge=1, le=15, description="side of the box that smooths optical density, pixels (odd)")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.entropy_low >= self.entropy_high:
            raise ValueError(f"entropy_low {self.entropy_low} must be below entropy_high {self.entropy_high}")
        if self.gain_low >= self.gain_high:
            raise ValueError(f"gain_low {self.gain_low} must be below gain_high {self.gain_high}")
        if self.gain_box % 2 == 0:
            raise ValueError(f"gain_box {self.gain_box} must be odd")
        return self


class AlheParams(EnhanceParams, StageParams):
    """Parameters of stage ``alhe``: the settings of ALHE, and how many cells are measured and shown."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        **StageParams.RENAMED,
        **EnhanceParams.RENAMED,
        "batch": "batch_size",
        "measured": "quality_cells",
        "shown": "cells_per_class",
    }

    batch_size: int = Field(64, ge=1, le=65536, description="cells enhanced at a time")
    quality_cells: int = Field(200, ge=8, le=100000, description="training cells on which the quality is measured")
    cells_per_class: int = Field(
        3, ge=1, le=12, description="cells per class that can be seen under each method, 15 in all at most"
    )
    timed_size: int = Field(512, ge=32, le=4096, description="side of the image on which the time is measured, pixels")
