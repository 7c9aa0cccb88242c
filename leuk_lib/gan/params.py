"""Parameters of stage acdb_gan; the defaults are the laptop profile."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leuk_lib.runs.params import TrainParams


class AcdbGanParams(TrainParams):
    """Everything that chapter 3 can be told: networks, training, sampling, quota, gate."""

    images: Literal["alhe", "raw"] = Field("alhe", description="enhanced images of stage alhe, or the raw ones")
    gan_size: Literal[16, 32, 64, 128] = Field(32, description="side of the generated images, px")

    # networks
    width: int = Field(24, ge=4, le=1024, description="channels of the finest level")
    max_width: int = Field(64, ge=4, le=1024, description="most channels of any level")
    blocks: int = Field(1, ge=1, le=4, description="residual blocks a level")
    groups: int = Field(
        0, ge=0, le=64, description="0: slim plain 3x3 blocks; > 0: channels a group of R3GAN's grouped blocks"
    )
    patch: Literal[1, 2] = Field(2, description="side of the pixel block that one site of the finest level draws, px")
    latent: int = Field(64, ge=2, le=512, description="length of the noise vector z")

    # training
    steps: int = Field(2000, ge=1, description="optimiser steps of each network")
    batch_size: int = Field(32, ge=2, le=1024, description="images of the global batch")
    lr: float = Field(2e-3, gt=0, le=0.1, description="first learning rate (cosine to a quarter of it)")
    gamma: float = Field(
        2.0, ge=0, le=100, description="first weight of the gradient penalties at 32 px; grows with the size squared"
    )
    gamma_end: float = Field(1.0, ge=0, le=1, description="share of that weight which is left at the end (cosine)")
    penalty_every: int = Field(4, ge=1, le=64, description="steps between penalties; their weight is multiplied by it")
    ema_halflife: float = Field(2000.0, gt=0, description="half-life of the weights' average at the end, images")
    ramp_start: float = Field(0.0, ge=0, le=1, description="share of training before labels have any weight")
    ramp_end: float = Field(0.1, ge=0, le=1, description="share of training after which labels have full weight")
    ada_target: float = Field(0.6, gt=-1, lt=1, description="target of r_t = E[sign(D(real) - D(fake))], per class")
    ada_images: int = Field(8000, ge=1, description="images of a class over which p may move from 0 to 1")
    eta: float = Field(1.0, ge=0, le=10, description="how much a class's missing recall raises its sampling weight")
    min_count: int = Field(12, ge=2, description="fewest inner-training cells of a class that the GAN may learn")

    # quota
    beta: float = Field(0.999, gt=0, lt=1, description="effective number of samples: (1 - beta^n) / (1 - beta)")
    quota_need: float = Field(1.0, ge=0, le=10, description="a1: weight of the missing effective number")
    quota_recall: float = Field(1.0, ge=0, le=10, description="a2: weight of the missing recall")
    rho: float = Field(1.0, ge=0, le=1, description="most synthetic cells a real one")
    rounds: int = Field(2, ge=1, le=3, description="rounds of quota, delivery and new recall")
    damping: float = Field(0.5, ge=0, lt=1, description="share of the previous round's quota that is kept")

    # gate
    inner_fraction: float = Field(
        0.25, gt=0, lt=0.6, description="share of the training cells held out for gate and recall"
    )
    knn: int = Field(5, ge=1, le=50, description="neighbours of the gate's balls")
    min_acceptance: float = Field(0.1, gt=0, le=1, description="acceptance under which a class's GAN counts as failed")
    pilot: int = Field(64, ge=8, le=2000, description="candidates a class that measure the acceptance")
    max_candidates: int = Field(400, ge=8, description="most candidates drawn for one class")

    # frozen feature network (FCMAE, pretrained on the inner-training cells only)
    feature_steps: int = Field(100, ge=2, description="optimiser steps of its pretraining (batch 32)")

    # the gate's judge of classes (ResNet-10-T, trained on the inner-training cells only)
    judge_steps: int = Field(200, ge=1, description="optimiser steps of its training (batch 48)")

    # weights of published metrics, which cannot be shipped
    inception_weights: str = Field(
        "", description="path of torch-fidelity's Inception weights, for FID, KID and IS (empty: not computed)"
    )
    lpips_weights: str = Field("", description="path of torchvision's AlexNet weights, for LPIPS (empty: not computed)")

    # synthetic cells handed on
    sample_batch: int = Field(64, ge=1, le=4096, description="images generated or embedded at a time")
