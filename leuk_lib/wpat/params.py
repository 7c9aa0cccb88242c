"""Parameters of the stages that train classifiers, ``wpat`` and ``comparison``; the defaults are the laptop profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from leuk_lib.runs.params import SeveralTrainings

FCMAE = "fcmae"  # the encoder of that stage as a backbone


class WpatParams(SeveralTrainings):
    """Architecture and fine-tuning of the classifier; the baselines of stage ``comparison`` are trained by the same."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        **SeveralTrainings.RENAMED,
        "scales": "levels",
        "pairs": "depth",
        "pooled": "linear_head",
        "baselines": "comparison.baselines",
        "shifted": "trust.shifted_cells",
        "shifted_cells": "trust.shifted_cells",
        "explained": "trust.explained_cells",
        "explained_cells": "trust.explained_cells",
        "gradient_steps": "trust.gradient_steps",
    }

    images: Literal["alhe", "raw"] = Field("alhe", description="images of all models of this run: enhanced or raw")
    synthetic: bool = Field(True, description="add the accepted cells of stage acdb_gan to the training part")

    backbones: tuple[str, ...] = Field(
        (FCMAE, "efficientnet_lite0@pretrained"),
        min_length=1,
        description="networks under WPAT: fcmae (the encoder of that stage), or any of timm's with feature maps from random "
        "(NAME) or published weights (NAME@pretrained, NAME@FILE); the first is explained and goes to later chapters, each "
        "further one is trained for comparison",
    )
    levels: int = Field(3, ge=1, le=4, description="feature levels read from the encoder, counted from the coarsest")
    dim: int = Field(64, ge=8, le=1024, description="width d of the tokens")
    heads: int = Field(4, ge=1, le=32, description="attention heads; must divide dim")
    window: int = Field(4, ge=1, le=16, description="side of a window, tokens")
    latents: int = Field(16, ge=1, le=256, description="latent tokens M")
    depth: int = Field(2, ge=1, le=12, description="pairs of a window block and a latent block")
    mlp_ratio: float = Field(2.0, gt=0, le=8, description="hidden width of the MLPs, in units of dim")
    linear_head: bool = Field(
        True, description="add a linear head on the encoder's pooled features, fitted before the first step"
    )

    branch_drop: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="share of the training images for which the attention part is left out and the linear head classifies "
        "alone (no effect without a linear head)",
    )

    steps: int = Field(180, ge=1, le=10**6, description="optimiser steps of each trained model")
    batch_size: int = Field(48, ge=2, le=8192, description="images per optimiser step, over all processes")
    accumulate: int = Field(
        1,
        ge=1,
        le=1024,
        description="passes that share one batch, to save memory; the result of WPAT and of linear heads is that of one pass "
        "up to rounding (on their encoder each pass is made twice). Batch normalisation inside a network of timm uses the "
        "statistics of each pass",
    )
    lr: float = Field(1e-3, gt=0, le=1, description="peak learning rate of the new layers")
    muon: float = Field(
        5.0,
        ge=0,
        le=1000,
        description="learning rate of Muon (inner matrices) in units of AdamW's (everything else), in all networks; 0: "
        "AdamW only",
    )
    warmup: float = Field(0.1, ge=0, le=0.5, description="fraction of the steps with a rising learning rate")
    weight_decay: float = Field(0.05, ge=0, le=1, description="weight decay of matrices")
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="learning rate of an encoder stage, in units of the next stage's"
    )
    drop_path: float = Field(0.05, ge=0, lt=1, description="drop path rate of the last block; rises linearly from 0")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="probability mass spread over all classes")
    ema_decay: float = Field(0.98, ge=0, lt=1, description="EMA decay of the weights")
    clip_norm: float = Field(1.0, gt=0, description="largest gradient norm of AdamW's parameters")
    evaluations: int = Field(9, ge=1, le=1000, description="evaluations on the validation part during training")
    patience: int = Field(
        0,
        ge=0,
        le=1000,
        description="evaluations without a lower validation loss after which training stops; 0: never",
    )
    balance: Literal["weights", "sampling", "none"] = Field(
        "weights",
        description="against class imbalance: class weights in the loss, by the number of real and synthetic training "
        "cells; or classes drawn with equal probability; or nothing. With either, the validation loss that selects the weights is "
        "a mean over the classes",
    )
    max_weight: float = Field(
        10.0, ge=1, le=1000, description="largest class weight in the loss, in units of the smallest"
    )

    crop_min: float = Field(0.9, gt=0, le=1, description="smallest area of a random crop, fraction of the image")
    stain: float = Field(0.15, ge=0, lt=1, description="stain jitter: largest relative change of a stain")
    light: float = Field(
        0.15, ge=0, lt=1, description="light jitter: largest relative change of a colour channel's brightness; 0: none"
    )
    mixup: float = Field(0.0, ge=0, le=10, description="alpha of mixup's Beta distribution; 0: no mixup")
    cutmix: float = Field(0.0, ge=0, le=10, description="alpha of CutMix's Beta distribution; 0: no CutMix")

    @model_validator(mode="after")
    def _heads_divide(self) -> WpatParams:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        return self


class ComparisonParams(SeveralTrainings):
    """The baselines; steps, batches, augmentation and learning rates are those of stage ``wpat``."""

    baselines: tuple[str, ...] = Field(
        ("majority", "colour", "background", "linear_probe", "resnet10t", "efficientnet_lite0@pretrained"),
        description="majority, colour, background, linear_probe; any timm model from random weights (NAME), from published "
        "ones (NAME@pretrained, NAME@FILE; also efficientnet_lite0, dinobloom_s/b/l/g), frozen (knn:NAME@pretrained, "
        "linear:NAME@pretrained), or a vision transformer with few trained weights (lora:NAME@pretrained, "
        "last:NAME@pretrained)",
    )
