"""Parameters of stage ``wpat``; the defaults are the laptop profile."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from leuk_lib.runs.params import TrainParams


class WpatParams(TrainParams):
    """What the classifier is, how it is fine-tuned, and what it is compared with."""

    images: Literal["alhe", "raw"] = Field("alhe", description="which images every model of this stage sees")
    synthetic: bool = Field(True, description="add the accepted cells of stage acdb_gan to the training part")

    scales: int = Field(3, ge=1, le=4, description="feature maps read from the encoder, the coarsest first")
    dim: int = Field(64, ge=8, le=1024, description="width d of every token")
    heads: int = Field(4, ge=1, le=32, description="attention heads; dim must be a multiple")
    window: int = Field(4, ge=1, le=16, description="side of a window, in tokens")
    latents: int = Field(16, ge=1, le=256, description="latent tokens M through which windows speak")
    pairs: int = Field(2, ge=1, le=12, description="window step + latent step, repeated L times")
    mlp_ratio: float = Field(2.0, gt=0, le=8, description="hidden width of the MLPs, in units of dim")
    pooled: bool = Field(
        True, description="add a linear read-out of the encoder's pooled features, fitted before the first step"
    )

    steps: int = Field(180, ge=1, le=10**6, description="optimiser steps of every trained model")
    batch_size: int = Field(48, ge=2, le=8192, description="images an optimiser step, over all processes")
    lr: float = Field(1e-3, gt=0, le=1, description="peak learning rate of the new layers")
    muon: float = Field(
        5.0,
        ge=0,
        le=1000,
        description="Muon's learning rate for matrices over AdamW's for the rest, in every network; 0: AdamW for all "
        "(equal on any number of processes to 1e-5; Muon rounds to bfloat16)",
    )
    warmup: float = Field(0.1, ge=0, le=0.5, description="part of the steps with a rising learning rate")
    weight_decay: float = Field(0.05, ge=0, le=1, description="AdamW weight decay of matrices")
    layer_decay: float = Field(0.7, gt=0, le=1, description="learning rate of a stage over that of the next one")
    drop_path: float = Field(0.05, ge=0, lt=1, description="largest probability of skipping a residual branch")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="probability mass spread over all classes")
    ema_decay: float = Field(0.98, ge=0, lt=1, description="decay of the moving average of the weights")
    clip_norm: float = Field(1.0, gt=0, description="largest norm of AdamW's part of the gradient")
    evaluations: int = Field(9, ge=1, le=1000, description="looks at the validation part during training")
    patience: int = Field(
        0, ge=0, le=1000, description="looks without a lower validation loss after which training stops; 0: never"
    )
    balance: Literal["weights", "sampling", "none"] = Field(
        "weights",
        description="against class imbalance: loss weights by the cells that a model learns from, the synthetic ones "
        "counted in; or every class drawn equally often; or nothing",
    )
    max_weight: float = Field(
        10.0, ge=1, le=1000, description="most that a class may weigh in the loss, in units of the smallest weight"
    )

    crop_min: float = Field(0.9, gt=0, le=1, description="smallest area of a random crop, part of the image")
    stain: float = Field(0.15, ge=0, lt=1, description="largest relative change of a stain by the augmentation")
    mixup: float = Field(0.0, ge=0, le=10, description="alpha of mixup's Beta distribution; 0: no mixup")
    cutmix: float = Field(0.0, ge=0, le=10, description="alpha of CutMix's Beta distribution; 0: no CutMix")

    baselines: tuple[str, ...] = Field(
        ("majority", "colour", "background", "linear_probe", "resnet10t"),
        description="majority, colour, background, linear_probe or any timm model's name",
    )
    shifted: int = Field(120, ge=1, le=10**5, description="test cells that are tried under shifts, at most")
    explained: int = Field(64, ge=1, le=10**5, description="test cells whose attributions are computed")
    gradient_steps: int = Field(8, ge=1, le=512, description="points of the integrated-gradients path")

    @model_validator(mode="after")
    def _heads_divide(self) -> WpatParams:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        return self
