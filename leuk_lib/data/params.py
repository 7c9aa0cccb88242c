"""Parameters of stage ``data``; the defaults are the laptop profile."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from leuk_lib.runs.params import StageParams


class DataParams(StageParams):
    """Parameters of stage ``data``."""

    image_size: int = Field(64, ge=16, le=512, description="side of the square images of all stages, pixels")
    cells: int = Field(2400, ge=16, le=200_000, description="rendered cells in total (no effect on folders)")
    patients: int = Field(40, ge=3, le=1000, description="rendered patients per class")
    patient_effect: float = Field(
        1.0, ge=0, le=3, description="how much the slides of rendered patients differ (0: not at all)"
    )
    per_class: int = Field(0, ge=0, description="at most this many cells per class of a folder (0: all)")
    class_map: dict[str, str] = Field(
        {}, description="class of a folder -> new name: renames, merges (one new name) or drops (empty new name)"
    )
    layout: str = Field(
        "",
        description="roles of a folder's levels, as in part/class/patient, or the number of the class level; "
        "empty: inferred, and refused where two readings are possible",
    )
    reader: str = Field(
        "", description="reader of the files, as in medmnist, or folders for class folders; empty: the one that fits"
    )
    reader_options: dict[str, str] = Field({}, description="options of the reader, each a text")
    pattern: str = Field(
        "",
        description="what file names state: a named pattern, as in cnmc, or an expression with named groups (label, "
        "patient, slide, part); empty: only what is unmistakable",
    )
    um_per_px: float = Field(
        0.0, ge=0, le=10, description="micrometres per pixel of a folder's images where no table states it (0: unknown)"
    )
    field_um: float = Field(
        0.0, ge=0, le=500,
        description="side of the field around each cell to which all images are cropped or padded, micrometres; 0: where "
        "all scales are known and differ, the field that every source shows, else the whole image",
    )  # fmt: skip
    split: Literal["auto", "grouped", "published"] = Field(
        "auto",
        description="grouped: by groups in the fractions below; published: the parts that the data set was published "
        "with; auto: published for known sets that bring a split (leuk data list NAME says so), else grouped",
    )
    keep_split: str = Field(
        "", description="splits.json of an earlier run: its groups keep their parts, only new groups are assigned"
    )
    fractions: tuple[float, float, float] = Field(
        (0.7, 0.1, 0.2), description="fractions of train, validation and test"
    )

    @model_validator(mode="after")
    def _fractions_sum_to_one(self) -> DataParams:
        if not all(share > 0 for share in self.fractions) or not abs(sum(self.fractions) - 1) <= 1e-6:
            raise ValueError(f"fractions {self.fractions} must be positive and sum to 1")
        if self.split == "published" and self.keep_split:
            raise ValueError("split 'published' and keep_split exclude each other")
        return self
