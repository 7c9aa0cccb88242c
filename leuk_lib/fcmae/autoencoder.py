"""The masked autoencoder: ConvNeXt V2 encoder on visible patches, a light decoder, loss on hidden pixels."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leuk_lib.fcmae.encoder import PUBLISHED, Block, Encoder, init_weights
from leuk_lib.fcmae.masking import upsample_mask
from leuk_lib.training.augment import normalise

STAINED_OD = 0.25  # summed optical density of a stained pixel: above the field, about that of a red cell's rim
STAINED_SHARE = 0.25  # share of such pixels that makes a patch a stained one


def patchify(images: Tensor, patch: int) -> Tensor:
    """Cut images into patches: (B, 3, H, W) -> (B, gh, gw, patch*patch*3), pixels in raster order, RGB last."""
    b, c, h, w = images.shape
    x = images.view(b, c, h // patch, patch, w // patch, patch)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(b, h // patch, w // patch, patch * patch * c)


def unpatchify(patches: Tensor, patch: int) -> Tensor:
    """Inverse of `patchify`: (B, gh, gw, patch*patch*3) -> (B, 3, H, W)."""
    b, gh, gw, _ = patches.shape
    x = patches.view(b, gh, gw, patch, patch, 3)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(b, 3, gh * patch, gw * patch)


def patch_statistics(patches: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and sqrt(variance + eps) of each patch over pixels and channels: two (B, gh, gw, 1).

    eps, in squared [0,1] intensities, decides what counts as detail: a flat field of sensor noise (deviation
    .01) divided by sqrt(1e-4 + 1e-3) stays quiet; with eps 1e-6 the model would be asked to predict noise.
    """
    return patches.mean(-1, keepdim=True), (patches.var(-1, unbiased=False, keepdim=True) + eps).sqrt()


def stained_patches(images: Tensor, patch: int) -> Tensor:
    """Which patches hold stained matter (cells) rather than empty field: bool (B, gh, gw).

    images (B, 3, H, W) in [0,1]. A pixel is stained if its optical density against the image's own white
    (brightest 4x4 mean of each channel), summed over the channels, exceeds STAINED_OD; pure black, as around
    cells cut from their background, is not stain. A patch counts from a share of STAINED_SHARE on.
    """
    white = F.avg_pool2d(images, 4).amax(dim=(2, 3), keepdim=True)
    density = -((images + 1 / 255) / (white + 1 / 255)).log10().sum(1, keepdim=True)
    stained = (density > STAINED_OD) & (images.amax(1, keepdim=True) > 0.06)
    return F.avg_pool2d(stained.float(), patch)[:, 0] >= STAINED_SHARE


class Reconstruction(NamedTuple):
    """What one forward pass gives: scalar `loss`, `patch_loss` (B, gh, gw) of all patches, `prediction`, and
    `pooled` (B, C_4), the encoder's features averaged over the visible sites."""

    loss: Tensor
    patch_loss: Tensor
    prediction: Tensor
    pooled: Tensor


class MaskedAutoencoder(nn.Module):
    """FCMAE: encoder on visible patches -> 1x1 -> mask tokens -> one ConvNeXt V2 block -> 1x1 to pixels.

    Source: Woo et al. 2023, section 3.1. The loss is the mean squared error on hidden patches, of pixels that
    are standardised within their patch if `norm_pix`.
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
        """Fresh weights as `init_weights` draws them, the last layer always with deviation .02.

        (Deviation 1, as in the official code, starts with a loss in the hundreds.)
        """
        for module in (self.proj, self.decoder):
            init_weights(module, generator, init)
        init_weights(self.pred, generator)
        nn.init.normal_(self.mask_token, std=0.02, generator=generator)

    @torch.no_grad()
    def start_at(self, images: Tensor) -> None:
        """Let every prediction start at the mean of what is to be predicted for `images` (B, 3, H, W) in [0,1]."""
        self.pred.bias.copy_(self.target(images).mean(dim=(0, 1, 2)).view(-1, 3).mean(0).repeat(self.encoder.patch**2))

    def forward(self, images: Tensor, visible: Tensor, dense: bool = False) -> Reconstruction:
        """images (B, 3, H, W) in [0,1]; visible bool (B, H/patch, W/patch), the same count in every sample."""
        latent = self.encoder(normalise(images), visible, dense)[-1]
        x = self.proj(latent.permute(0, 2, 3, 1))
        x = torch.where(visible[..., None], x, self.mask_token.to(x.dtype))
        prediction = self.pred(self.decoder(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        patch_loss = (prediction.float() - self.target(images)).square().mean(-1)
        hidden = ~visible
        pooled = self.encoder.norm(latent.sum(dim=(2, 3)) / visible.flatten(1).sum(1, keepdim=True))
        return Reconstruction((patch_loss * hidden).sum() / hidden.sum(), patch_loss, prediction, pooled)

    def target(self, images: Tensor) -> Tensor:
        """What is predicted: patches of pixels, standardised within the patch if `norm_pix`, else as the input is."""
        if not self.norm_pix:
            return patchify(normalise(images), self.encoder.patch)
        patches = patchify(images, self.encoder.patch)
        mean, deviation = patch_statistics(patches, self.norm_pix_eps)
        return (patches - mean) / deviation

    @torch.no_grad()
    def paint(self, images: Tensor, visible: Tensor) -> Tensor:
        """The picture a prediction stands for, (B, 3, H, W) in [0,1]; visible patches are the input's own.

        With `norm_pix` a prediction holds only the pattern within a patch: the hidden patch's true mean and
        contrast are put back to paint it, so its overall colour is given, not predicted.
        """
        prediction = self.forward(images, visible).prediction.float()
        if self.norm_pix:
            mean, deviation = patch_statistics(patchify(images, self.encoder.patch), self.norm_pix_eps)
            painted = unpatchify(prediction * deviation + mean, self.encoder.patch)
        else:
            zero, one = normalise(torch.stack([torch.zeros_like(images[0]), torch.ones_like(images[0])]))
            painted = (unpatchify(prediction, self.encoder.patch) - zero) / (one - zero)
        seen = upsample_mask(visible, self.encoder.patch)[:, None]
        return torch.where(seen, images, painted).clamp(0, 1)


def split_loss(patch_loss: Tensor, visible: Tensor, stained: Tensor) -> Tensor:
    """Sums and counts of the hidden patches' losses, apart: (stained sum, stained n, field sum, field n), (4,)."""
    hidden = ~visible
    cell, field = hidden & stained, hidden & ~stained
    loss = patch_loss.detach()
    return torch.stack([(loss * cell).sum(), cell.sum(), (loss * field).sum(), field.sum()]).float()
