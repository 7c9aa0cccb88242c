"""Parameters of stage fcmae; the defaults are the laptop profile."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leuk_lib.runs.params import TrainParams


class FcmaeParams(TrainParams):
    """Masked pretraining of a ConvNeXt V2 encoder and the probes that judge it."""

    images: Literal["alhe", "raw"] = Field("alhe", description="pretrain on enhanced or on raw images")
    variant: Literal["zepto", "atto", "femto", "pico", "nano", "tiny", "base"] = Field(
        "zepto", description="size of the ConvNeXt V2 encoder"
    )
    stem_stride: Literal[1, 2, 4] = Field(
        2, description="stride of the stem in px; the mask patch is 8 times it and must divide the image side"
    )
    mask_ratio: float = Field(0.6, gt=0, lt=1, description="share of patches hidden from the encoder")
    decoder_dim: int = Field(128, ge=8, le=1024, description="channels of the decoder (512 as published)")
    norm_pix: bool = Field(
        False, description="predict pixels standardised within their patch (as published), else their colours"
    )
    norm_pix_eps: float = Field(
        1e-3,
        ge=1e-8,
        le=1.0,
        description="added to the patch variance (pixels in [0,1]); keeps flat background from counting as detail",
    )
    init: Literal["fan_in", "published"] = Field(
        "fan_in", description="deviation of fresh weights: 1/sqrt(inputs), or .02 for all as published (for long runs)"
    )
    contrast: float = Field(
        0.0,
        ge=0,
        le=100,
        description="weight of a contrastive term between two masked views of a cell; 0: none, as published "
        "(1 helps where slides do not differ by patient, and harms where they do)",
    )
    muon: float = Field(
        10.0,
        ge=0,
        le=1000,
        description="Muon's learning rate for matrices over AdamW's for the rest; 0: AdamW for all "
        "(equal on any number of processes to 1e-5; Muon rounds to bfloat16)",
    )
    steps: int = Field(400, ge=2, le=10_000_000, description="optimiser steps")
    batch_size: int = Field(32, ge=2, le=65536, description="images per optimiser step, all processes together")
    accumulate: int = Field(1, ge=1, le=1024, description="forward passes the batch is cut into")
    lr_scale: float = Field(
        2.4e-3, gt=0, le=1.0, description="base learning rate per 256 images (1.5e-4 as published, for long runs)"
    )
    weight_decay: float = Field(0.05, ge=0, le=1.0, description="AdamW decay of matrices; vectors have none")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps in which the rate rises from 0")
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="memory of the weights' moving average, which then is the result; 0: the last weights",
    )
    crop_min: float = Field(0.4, gt=0, le=1, description="least area share of a random crop (0.2 as published)")
    stain: float = Field(
        0.15, ge=0, lt=1, description="largest change of a stain's amount between the contrastive term's two views"
    )
    probe_points: int = Field(3, ge=2, le=50, description="checkpoints of pretraining that are probed, with the start")
    probe_limit: int = Field(600, ge=50, le=1_000_000, description="most training images a probe sees")
    knn_k: int = Field(20, ge=1, le=1000, description="neighbours that vote in the k-NN probe")
