"""JPEG compression of batches: the loss grows with the compression, and no image depends on another."""

from __future__ import annotations

import pytest
import torch

from leuk_lib.data.jpeg import recompress
from leuk_lib.data.smear.cohort import smear_cells


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return smear_cells(cells=48, patients=3, size=40, seed=1).images


def test_the_loss_grows_with_the_compression(images: torch.Tensor):
    losses = [(recompress(images, quality).float() - images.float()).abs().mean() for quality in (100, 90, 60, 20)]
    assert losses[0] < 1.5 and losses == sorted(losses) and losses[-1] > 2 * losses[0]


def test_each_image_is_compressed_by_itself(images: torch.Tensor):
    whole = recompress(images, 70)
    assert whole.dtype == torch.uint8 and all(
        torch.equal(recompress(image[None], 70)[0], whole[k]) for k, image in enumerate(images)
    )
    assert recompress(images[:0], 70).shape == images[:0].shape
