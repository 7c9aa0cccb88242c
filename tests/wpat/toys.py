"""Parameters of a training run of seconds, and images that a network learns in it: a class is a size of blob."""

import torch

from leuk_lib.wpat.params import WpatParams

TINY = WpatParams(
    steps=12, batch_size=8, evaluations=3, dim=16, heads=2, latents=4, levels=2, accelerator="cpu", threads=1,
    checkpoint_every=5,
)  # fmt: skip


def blobs(n, n_classes=3, size=32, seed=0):
    """Images (n,3,S,S) uint8 of a disc whose radius depends on the class, labels (n,), masks (n,S,S)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % n_classes
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centre = size / 2 + 4 * (torch.rand(n, 2, generator=generator) - 0.5)
    distance = ((y - centre[:, 0, None, None]) ** 2 + (x - centre[:, 1, None, None]) ** 2).sqrt()
    radius = (4 + 2.5 * labels + torch.rand(n, generator=generator))[:, None, None]
    inside, nucleus = distance < radius, distance < radius / 2
    images = 225 + 10 * torch.randn(n, 3, size, size, generator=generator)
    images = torch.where(inside[:, None], images - torch.tensor([60.0, 90.0, 30.0])[:, None, None], images)
    images = torch.where(nucleus[:, None], images - 50, images)
    masks = 128 * inside.to(torch.uint8) + 127 * nucleus.to(torch.uint8)
    return images.clamp(0, 255).to(torch.uint8), labels, masks
