"""Parameters of a training run of seconds."""

import pytest

from leuk_lib.wpat.params import WpatParams


@pytest.fixture
def tiny():
    return WpatParams(
        steps=12, batch_size=8, evaluations=3, dim=16, heads=2, latents=4, levels=2, accelerator="cpu", threads=1,
        checkpoint_every=5,
    )  # fmt: skip
