"""Parameters of stage acdb_gan; the defaults are the laptop profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from leuk_lib.runs.params import SeveralTrainings


class AcdbGanParams(SeveralTrainings):
    """Networks, training, sampling, quota and gate of ACDB-GAN."""

    RENAMED: ClassVar[Mapping[str, str]] = {**SeveralTrainings.RENAMED, "judge_steps": "verifier_steps"}

    images: Literal["alhe", "raw"] = Field("alhe", description="enhanced images of stage alhe, or raw images")
    gan_size: Literal[16, 32, 64, 128] = Field(32, description="side of the generated images, px")

    # networks
    width: int = Field(24, ge=4, le=1024, description="channels of the finest level")
    max_width: int = Field(64, ge=4, le=1024, description="largest number of channels of a level")
    blocks: int = Field(1, ge=1, le=4, description="residual blocks per level")
    groups: int = Field(
        0,
        ge=0,
        le=64,
        description="0: blocks of two 3x3 convolutions; > 0: channels per group in R3GAN's grouped blocks",
    )
    patch: Literal[1, 2] = Field(2, description="side of the pixel block of one site of the finest level, px")
    latent: int = Field(64, ge=2, le=512, description="length of the noise vector z")

    # training
    steps: int = Field(2000, ge=1, description="optimiser steps of each network")
    batch_size: int = Field(32, ge=2, le=1024, description="images per step, over all processes")
    accumulate: int = Field(
        1,
        ge=1,
        le=64,
        description="passes of each network that share one batch, to save memory; the result is that of one pass up to "
        "rounding. More than 1: each pass must have a multiple of 16 images, which the discriminator compares",
    )
    lr: float = Field(2e-3, gt=0, le=0.1, description="initial learning rate (cosine decay to a quarter)")
    gamma: float = Field(
        2.0,
        ge=0,
        le=100,
        description="initial weight of the gradient penalties at 32 px; scaled with the squared image size",
    )
    gamma_end: float = Field(1.0, ge=0, le=1, description="share of that weight at the end (cosine decay)")
    penalty_every: int = Field(4, ge=1, le=64, description="steps between penalties, whose weight is multiplied by it")
    ema_halflife: float = Field(
        2000.0, gt=0, description="half-life of the moving average of weights at the end, images"
    )
    ramp_start: float = Field(0.0, ge=0, le=1, description="share of training until which labels have no weight")
    ramp_end: float = Field(0.1, ge=0, le=1, description="share of training from which labels have full weight")
    ada_target: float = Field(0.6, gt=-1, lt=1, description="target of r_t = E[sign(D(real) - D(fake))], per class")
    ada_images: int = Field(8000, ge=1, description="images of a class after which p can have moved from 0 to 1")
    eta: float = Field(1.0, ge=0, le=10, description="weight of a class's recall deficit in its sampling weight")
    min_count: int = Field(12, ge=2, description="a class with fewer inner-training cells is not learned")

    # quota
    beta: float = Field(0.999, gt=0, lt=1, description="effective number of samples: (1 - beta^n) / (1 - beta)")
    quota_need: float = Field(1.0, ge=0, le=10, description="a1: weight of the missing effective number")
    quota_recall: float = Field(1.0, ge=0, le=10, description="a2: weight of the recall deficit")
    rho: float = Field(1.0, ge=0, le=1, description="at most this many synthetic cells per real one")
    rounds: int = Field(2, ge=1, le=3, description="rounds of quota, delivery and recall")
    damping: float = Field(0.5, ge=0, lt=1, description="weight of the previous round's quota")

    # gate
    inner_fraction: float = Field(
        0.25, gt=0, lt=0.6, description="share of the training cells held out for gate and recall"
    )
    knn: int = Field(5, ge=1, le=50, description="neighbours that define the gate's k-NN balls")
    min_acceptance: float = Field(0.1, gt=0, le=1, description="below this acceptance, the GAN of a class has failed")
    pilot: int = Field(64, ge=8, le=2000, description="candidates per class that measure the acceptance")
    max_candidates: int = Field(400, ge=8, description="largest number of candidates per class")

    # feature network (FCMAE, pretrained on the inner-training cells only)
    light: float = Field(
        0.15,
        ge=0,
        lt=1,
        description="light jitter of the gate's networks: largest relative change of a colour channel's brightness; 0: none",
    )
    feature_steps: int = Field(100, ge=2, description="optimiser steps of the feature network's pretraining (batch 32)")

    # class verifier (ResNet-10-T, trained on the inner-training cells only)
    verifier_steps: int = Field(200, ge=1, description="optimiser steps of the class verifier's training (batch 48)")

    # weights of published metrics, which are not distributed with the library
    inception_weights: str = Field(
        "", description="path of torch-fidelity's Inception weights, for FID, KID and IS (empty: not computed)"
    )
    lpips_weights: str = Field("", description="path of torchvision's AlexNet weights, for LPIPS (empty: not computed)")

    # sampling
    sample_batch: int = Field(64, ge=1, le=4096, description="images generated per forward pass")
