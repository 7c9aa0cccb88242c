"""Copies to a GPU for which the host does not wait, and training images where the GPU reads them fastest.

A plain ``tensor.to("cuda")`` makes the host wait until the GPU has finished all earlier work, and so does reading one
number from the GPU. A few of these in each training step leave the GPU idle for a quarter of the time.
"""

from __future__ import annotations

import torch
from torch import Tensor

RESIDENT_SHARE = 0.1  # of the free memory of a GPU; larger sets of images stay in the memory of the host


def on_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copy a tensor of the CPU to ``device`` without waiting for the GPU; a tensor that is there is returned as it is."""
    return tensor.to(device, non_blocking=tensor.device.type == "cpu")


def free_memory(device: torch.device) -> int:
    """Free memory of a GPU in bytes."""
    return int(torch.cuda.mem_get_info(device)[0])


class ImageSource:
    """Batches of training images: from uint8 images on the GPU if they fit there, else from the host by pinned memory.

    As no step waits for the GPU, the host gathers the next batch while the GPU still computes.

    Args:
        images: (N, 3, S, S) uint8 on the CPU.
        device: Where batches are needed.
        share: Largest share of the GPU's free memory that the images may take.

    Attributes:
        resident: Whether the images are on the device.
    """

    def __init__(self, images: Tensor, device: torch.device, share: float = RESIDENT_SHARE) -> None:
        self.device = device
        self.resident = device.type == "cpu" or images.nbytes <= share * free_memory(device)
        self.images = images.to(device) if self.resident else images

    def batch(self, rows: Tensor) -> Tensor:
        """Images at positions ``rows`` (B,), on the CPU: (B, 3, S, S) float in [0,1] on the device."""
        if self.resident:
            part = self.images[on_device(rows, self.device)]
        else:
            part = on_device(self.images[rows].pin_memory(), self.device)
        return part.float() / 255
