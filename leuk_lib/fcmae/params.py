"""Parameters of the stage fcmae; the defaults are the laptop profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from leuk_lib.runs.params import TrainParams


class FcmaeParams(TrainParams):
    """Masked pretraining of a ConvNeXt V2 encoder, and the probes of its features."""

    RENAMED: ClassVar[Mapping[str, str]] = {**TrainParams.RENAMED, "lr_scale": "base_lr"}

    images: Literal["alhe", "raw"] = Field("alhe", description="pretrain on enhanced or on raw images")
    variant: Literal["zepto", "atto", "femto", "pico", "nano", "tiny", "base"] = Field(
        "zepto", description="size of the ConvNeXt V2 encoder"
    )
    weights: str = Field(
        "",
        description="weights to start from: a timm name of ConvNeXt V2 weights (convnextv2_tiny.fcmae), "
        "hf-hub:OWNER/REPO, or a file; they set the variant. Empty: random weights",
    )
    weights_revision: str = Field(
        "",
        description="commit of the hub's repository that the weights must have; empty: the newest, which is recorded",
    )
    stem_stride: Literal[1, 2, 4] = Field(
        2,
        description="stride of the stem in px; the side of a mask patch is 8 times as large and must divide that of the image. "
        "The kernel of given weights is resampled",
    )
    mask_ratio: float = Field(0.6, gt=0, lt=1, description="share of patches hidden from the encoder")
    decoder_dim: int = Field(128, ge=8, le=1024, description="channels of the decoder (512 as published)")
    norm_pix: bool = Field(
        False, description="predict pixels standardised within their patch (as published) instead of colours"
    )
    norm_pix_eps: float = Field(
        1e-3,
        ge=1e-8,
        le=1.0,
        description="added to the variance of a patch (pixels in [0,1]), so that flat background does not count as detail",
    )
    init: Literal["fan_in", "published"] = Field(
        "fan_in",
        description="standard deviation of initial weights: 1/sqrt(fan-in), or 0.02 as published (for long runs)",
    )
    contrast: float = Field(
        0.0,
        ge=0,
        le=100,
        description="weight of the contrastive term between two masked views of a cell; 0: none, as published "
        "(meant for cells whose stain does not reveal the patient)",
    )
    muon: float = Field(
        10.0,
        ge=0,
        le=1000,
        description="Muon's learning rate, for matrices, divided by AdamW's, for the rest; 0: AdamW for all",
    )
    steps: int = Field(
        400, ge=0, le=10_000_000, description="optimiser steps, at least 2; 0 takes given weights as they are"
    )
    batch_size: int = Field(32, ge=2, le=65536, description="images per optimiser step, all processes together")
    accumulate: int = Field(1, ge=1, le=1024, description="forward passes that share one batch")
    base_lr: float = Field(
        2.4e-3, gt=0, le=1.0, description="learning rate per 256 images of a batch (1.5e-4 as published, for long runs)"
    )
    weight_decay: float = Field(
        0.05, ge=0, le=1.0, description="weight decay of matrices and kernels; vectors have none"
    )
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="EMA decay of the weights; 0 disables averaging",
    )
    crop_min: float = Field(
        0.4, gt=0, le=1, description="smallest share of the area of a random crop (0.2 as published)"
    )
    stain: float = Field(
        0.15, ge=0, lt=1, description="largest relative change of a stain's amount in a view of the contrastive term"
    )
    light: float = Field(
        0.15, ge=0, lt=1, description="light jitter: largest relative change of a colour channel's brightness; 0: none"
    )
    probe_points: int = Field(
        3, ge=2, le=50, description="points of pretraining at which the encoder is probed, besides the start"
    )
    probe_limit: int = Field(600, ge=50, le=1_000_000, description="largest number of training images used by a probe")
    knn_k: int = Field(20, ge=1, le=1000, description="neighbours in the k-NN probe")
    timed_steps: int = Field(
        3,
        ge=0,
        le=100,
        description="training steps timed in each form, after one that is not; 0: none. They change no weights",
    )

    @field_validator("weights_revision")
    @classmethod
    def _revision_of_weights(cls, revision: str, info: ValidationInfo) -> str:
        if revision and not info.data.get("weights"):
            raise ValueError("a revision needs weights")
        return revision

    @field_validator("steps")
    @classmethod
    def _enough_steps(cls, steps: int, info: ValidationInfo) -> int:
        if steps < 2 and (steps or not info.data.get("weights")):
            raise ValueError("must be at least 2, or 0 with weights")
        return steps
