"""Parameters of the stages after training; the defaults are the laptop profile."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leuk_lib.runs.params import StageParams


class LeakageParams(StageParams):
    """Parameters of the chapter on leakage: those that all stages share."""


class TrustParams(StageParams):
    """Parameters of robustness and explanation."""

    accelerator: Literal["auto", "cpu", "cuda"] = Field("auto", description="device of the trained models")
    shifted_cells: int = Field(120, ge=1, le=10**5, description="largest number of test cells evaluated under shifts")
    explained_cells: int = Field(64, ge=1, le=10**5, description="largest number of test cells with attribution maps")
    gradient_steps: int = Field(8, ge=1, le=512, description="points on the path of integrated gradients")


class ResultsParams(StageParams):
    """Parameters of the evaluation of stage ``comparison``'s predictions."""

    model: str = Field("wpat", min_length=1, description="name of the full model in predictions.csv")
    n_resamples: int = Field(2000, ge=100, le=10**6, description="bootstrap resamples of groups")
    level: float = Field(0.95, gt=0.5, lt=1, description="coverage of every interval")
    ece_bins: int = Field(10, ge=2, le=100, description="number of equal-count bins of the calibration error")


class ClaimsParams(StageParams):
    """Parameters of the audit of the paper's claims."""

    level: float = Field(0.95, gt=0.5, lt=1, description="coverage of the interval of the published accuracy")
    train_part: float = Field(
        0.8, gt=0, lt=1, description="share of the cells in training that the Nadeau-Bengio correction assumes"
    )
