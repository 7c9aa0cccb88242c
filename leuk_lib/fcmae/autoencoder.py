r"""Fully convolutional masked autoencoder (FCMAE): encoder on visible patches, light decoder, loss on hidden pixels.

With :math:`H` the hidden patches of a batch, :math:`P` the pixels (times channels) of a patch, :math:`\hat y` the
prediction and :math:`y` the target,

.. math:: L = \frac{1}{|H|} \sum_{p \in H} \frac1P \sum_{k=1}^P (\hat y_{pk} - y_{pk})^2 .

The target is the standardised image or, with ``norm_pix``, each patch minus its mean and divided by
:math:`\sqrt{\sigma_p^2 + \epsilon}`.

References:
    Woo et al. 2023, section 3.1; He et al. 2022 for the normalised target.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leuk_lib.fcmae.encoder import PUBLISHED, Block, Encoder, init_weights
from leuk_lib.fcmae.masking import upsample_mask
from leuk_lib.training.augment import normalise
from leuk_lib.training.transfer import on_device

STAINED_OD = 0.25  # optical density, summed over R, G, B, of a stained pixel; about that of a red cell's rim
STAINED_SHARE = 0.25  # share of stained pixels from which a patch counts as stained


def patchify(images: Tensor, patch: int) -> Tensor:
    """Cut images into patches: (B, 3, H, W) -> (B, gh, gw, patch*patch*3), pixels in raster order, channels last."""
    b, c, h, w = images.shape
    x = images.view(b, c, h // patch, patch, w // patch, patch)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(b, h // patch, w // patch, patch * patch * c)


def unpatchify(patches: Tensor, patch: int) -> Tensor:
    """Invert `patchify`: (B, gh, gw, patch*patch*3) -> (B, 3, H, W)."""
    b, gh, gw, _ = patches.shape
    x = patches.view(b, gh, gw, patch, patch, 3)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(b, 3, gh * patch, gw * patch)


def patch_statistics(patches: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    r"""Mean and :math:`\sqrt{\sigma^2 + \epsilon}` of each patch over pixels and channels.

    Args:
        patches: (B, gh, gw, P), intensities in [0, 1].
        eps: Decides what counts as detail. With 1e-3 a flat field with sensor noise of standard deviation 0.01 gives
            small targets; with 1e-6 the model would have to predict the noise.

    Returns:
        Two tensors (B, gh, gw, 1).
    """
    return patches.mean(-1, keepdim=True), (patches.var(-1, unbiased=False, keepdim=True) + eps).sqrt()


def stained_patches(images: Tensor, patch: int) -> Tensor:
    """Find patches with stained matter (cells) rather than empty field.

    A pixel is stained if its optical density against the image's own white (the brightest 4 x 4 mean per channel),
    summed over the channels, exceeds `STAINED_OD`. Black, as around cells cut from their background, is not stain.

    Args:
        images: (B, 3, H, W) in [0, 1].
        patch: Side of a patch in pixels.

    Returns:
        bool (B, gh, gw), True where at least `STAINED_SHARE` of the pixels are stained.
    """
    white = F.avg_pool2d(images, 4).amax(dim=(2, 3), keepdim=True)
    density = -((images + 1 / 255) / (white + 1 / 255)).log10().sum(1, keepdim=True)
    stained = (density > STAINED_OD) & (images.amax(1, keepdim=True) > 0.06)
    return F.avg_pool2d(stained.float(), patch)[:, 0] >= STAINED_SHARE


class Reconstruction(NamedTuple):
    """Result of a forward pass.

    Attributes:
        loss: Mean over the hidden patches, a scalar.
        patch_loss: (B, gh, gw), of all patches.
        prediction: (B, gh, gw, patch*patch*3), in units of the target.
        pooled: (B, C_4), the encoder's last features averaged over the visible sites and normalised.
    """

    loss: Tensor
    patch_loss: Tensor
    prediction: Tensor
    pooled: Tensor


class MaskedAutoencoder(nn.Module):
    """Encoder on visible patches, linear layer, mask tokens, one ConvNeXt V2 block, linear layer to pixels.

    Args:
        encoder: The encoder to pretrain.
        decoder_dim: Channels of the decoder.
        norm_pix: Whether the target is standardised within each patch.
        norm_pix_eps: As ``eps`` in `patch_statistics`.
    """

    def __init__(
        self, encoder: Encoder, decoder_dim: int = 512, norm_pix: bool = True, norm_pix_eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.encoder, self.norm_pix, self.norm_pix_eps = encoder, norm_pix, norm_pix_eps
        self.proj = nn.Linear(encoder.channels[-1], decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(decoder_dim))
        self.decoder = Block(decoder_dim)
        self.pred = nn.Linear(decoder_dim, encoder.patch**2 * 3)

    def init_decoder(self, generator: torch.Generator | None = None, init: str = PUBLISHED) -> None:
        """Initialise the decoder as `init_weights` does, and its last layer with standard deviation 0.02.

        The official code uses 1, with which the loss starts in the hundreds.
        """
        for module in (self.proj, self.decoder):
            init_weights(module, generator, init)
        init_weights(self.pred, generator)
        nn.init.normal_(self.mask_token, std=0.02, generator=generator)

    @torch.no_grad()
    def init_output_bias(self, images: Tensor) -> None:
        """Set the bias of the last layer to the mean target of ``images`` (B, 3, H, W) in [0, 1], per channel."""
        self.pred.bias.copy_(self.target(images).mean(dim=(0, 1, 2)).view(-1, 3).mean(0).repeat(self.encoder.patch**2))

    def forward(self, images: Tensor, visible: Tensor, dense: bool = False) -> Reconstruction:
        """Predict all patches from the visible ones.

        Args:
            images: (B, 3, H, W) in [0, 1].
            visible: bool (B, H/patch, W/patch), equally many True in every sample; on the device of the images or on the
                CPU.
            dense: As in `Encoder.forward`.
        """
        latent = self.encoder(normalise(images), visible, dense)[-1]
        visible = on_device(visible, images.device)
        x = self.proj(latent.permute(0, 2, 3, 1))
        x = torch.where(visible[..., None], x, self.mask_token.to(x.dtype))
        prediction = self.pred(self.decoder(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        patch_loss = (prediction.float() - self.target(images)).square().mean(-1)
        hidden = ~visible
        pooled = self.encoder.norm(latent.sum(dim=(2, 3)) / visible.flatten(1).sum(1, keepdim=True))
        return Reconstruction((patch_loss * hidden).sum() / hidden.sum(), patch_loss, prediction, pooled)

    def target(self, images: Tensor) -> Tensor:
        """Target of the prediction for images (B, 3, H, W) in [0, 1]: (B, gh, gw, patch*patch*3)."""
        if not self.norm_pix:
            return patchify(normalise(images), self.encoder.patch)
        patches = patchify(images, self.encoder.patch)
        mean, deviation = patch_statistics(patches, self.norm_pix_eps)
        return (patches - mean) / deviation

    @torch.no_grad()
    def reconstruct(self, images: Tensor, visible: Tensor) -> Tensor:
        """Images with the hidden patches predicted, (B, 3, H, W) in [0, 1]; visible patches are copied.

        With ``norm_pix`` only the pattern within a patch is predicted; its mean and contrast are the input's.
        """
        prediction = self.forward(images, visible).prediction.float()
        if self.norm_pix:
            mean, deviation = patch_statistics(patchify(images, self.encoder.patch), self.norm_pix_eps)
            predicted = unpatchify(prediction * deviation + mean, self.encoder.patch)
        else:
            black, white = normalise(torch.stack([torch.zeros_like(images[0]), torch.ones_like(images[0])]))
            predicted = (unpatchify(prediction, self.encoder.patch) - black) / (white - black)
        copied = upsample_mask(visible, self.encoder.patch)[:, None]
        return torch.where(copied, images, predicted).clamp(0, 1)


def split_loss(patch_loss: Tensor, visible: Tensor, stained: Tensor) -> Tensor:
    """Loss of the hidden patches, separately for stained patches and empty field.

    Args:
        patch_loss: (B, gh, gw).
        visible: bool (B, gh, gw).
        stained: bool (B, gh, gw), from `stained_patches`.

    Returns:
        (4,): sum and count of stained patches, sum and count of field patches.
    """
    hidden = ~visible
    cell, field = hidden & stained, hidden & ~stained
    loss = patch_loss.detach()
    return torch.stack([(loss * cell).sum(), cell.sum(), (loss * field).sum(), field.sum()]).float()
