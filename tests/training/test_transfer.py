"""Batches are the images at the given positions, wherever the images are kept."""

import torch

from leuk_lib.training import transfer
from leuk_lib.training.transfer import ImageSource, on_device
from training.fake_gpu import GPU, fake_gpu

IMAGES = torch.arange(5 * 3 * 4 * 4, dtype=torch.int64).to(torch.uint8).view(5, 3, 4, 4)


def test_a_batch_is_the_images_at_the_positions():
    batch = ImageSource(IMAGES, torch.device("cpu")).batch(torch.tensor([3, 0, 3]))
    assert torch.equal(batch, IMAGES[[3, 0, 3]].float() / 255)


def test_on_device_returns_what_is_there():
    assert on_device(IMAGES, "cpu") is IMAGES


def test_a_gpu_keeps_a_set_that_fits_as_uint8_and_no_batch_waits():
    with fake_gpu() as gpu:
        source = ImageSource(IMAGES, GPU)
        assert source.resident and source.images.dtype == torch.uint8 and source.images.device == GPU
        loaded = len(gpu.usage.waits)
        batch = source.batch(torch.tensor([1, 2]))
        assert batch.device == GPU and batch.shape == (2, 3, 4, 4) and batch.dtype == torch.float32
        assert len(gpu.usage.waits) == loaded


def test_a_larger_set_stays_on_the_host_and_no_batch_waits(monkeypatch):
    with fake_gpu() as gpu:
        monkeypatch.setattr(transfer, "free_memory", lambda device: 10 * IMAGES.nbytes - 10)
        source = ImageSource(IMAGES, GPU)
        assert not source.resident and source.images.device.type == "cpu"
        assert source.batch(torch.tensor([1, 2])).device == GPU
        assert gpu.usage.waits == []
