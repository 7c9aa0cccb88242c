import pytest
import torch

from fcmae.toys import cells, encoder, generator, stir
from leuk_lib.fcmae.autoencoder import (
    MaskedAutoencoder,
    Reconstruction,
    patch_statistics,
    patchify,
    split_loss,
    stained_patches,
    unpatchify,
)
from leuk_lib.fcmae.masking import random_masks, upsample_mask


def model(norm_pix=True, eps=1e-6, stirred=True):
    autoencoder = MaskedAutoencoder(encoder("zepto", 1), 16, norm_pix, eps)
    autoencoder.init_decoder(generator())
    if stirred:
        stir(autoencoder)
    return autoencoder


def batch(n=4, size=32):
    images = cells(n, size).float() / 255
    return images, random_masks(n, (size // 8, size // 8), 0.6, generator(1))


@pytest.mark.parametrize(("h", "w", "patch"), [(16, 16, 8), (8, 24, 4), (32, 32, 16)])
def test_patches_there_and_back(h, w, patch):
    x = torch.rand(2, 3, h, w)
    patches = patchify(x, patch)
    assert patches.shape == (2, h // patch, w // patch, patch * patch * 3)
    assert torch.equal(unpatchify(patches, patch), x)
    assert torch.equal(patches[1, 0, 1].view(patch, patch, 3), x[1, :, :patch, patch : 2 * patch].permute(1, 2, 0))


def test_visible_only_and_dense_give_the_same_loss_and_gradients():
    images, visible = batch()
    gradients = []
    for dense in (False, True):
        autoencoder = model()
        out = autoencoder(images, visible, dense=dense)
        out.loss.backward()
        gradients.append([p.grad for p in autoencoder.parameters() if p.grad is not None] + [out.loss.detach()])
    for a, b in zip(*gradients, strict=True):
        assert (a - b).abs().max() <= 1e-5 * max(1, float(b.abs().max()))


def test_the_loss_is_over_hidden_patches_only_and_predictions_do_not_depend_on_them():
    images, visible = batch()
    autoencoder = model().eval()
    out = autoencoder(images, visible)
    naive = torch.stack([out.patch_loss[b][~visible[b]].mean() for b in range(4)]).mean()
    torch.testing.assert_close(out.loss, naive)
    hidden = ~upsample_mask(visible, 8)[:, None]
    altered = autoencoder(torch.where(hidden, torch.rand_like(images), images), visible)
    assert torch.equal(out.prediction, altered.prediction)
    assert not torch.equal(out.patch_loss, altered.patch_loss)


def test_every_part_learns_but_the_head_norm():
    images, visible = batch()
    autoencoder = model()
    autoencoder(images, visible).loss.backward()
    without = {n for n, p in autoencoder.named_parameters() if p.grad is None or not p.grad.any()}
    assert without == {"encoder.norm.weight", "encoder.norm.bias"}


def test_norm_pix_eps_quiets_flat_patches():
    flat = 0.9 + 0.01 * torch.randn(1, 3, 8, 8, generator=generator())
    loud, quiet = (model(eps=e).target(flat).std() for e in (1e-8, 1e-2))
    assert loud > 0.99 and quiet < 0.12
    mean, deviation = patch_statistics(patchify(flat, 8), 1e-2)
    torch.testing.assert_close(model(eps=1e-2).target(flat) * deviation + mean, patchify(flat, 8))


def test_fresh_loss_is_of_order_one():
    images, visible = batch()
    assert 0.3 < float(model(stirred=False)(images, visible).loss.detach()) < 3


@pytest.mark.parametrize("norm_pix", [True, False])
def test_reconstruction_copies_visible_patches(norm_pix):
    images, visible = batch()
    reconstructed = model(norm_pix).eval().reconstruct(images, visible)
    copied = upsample_mask(visible, 8)[:, None].expand_as(images)
    assert torch.equal(reconstructed[copied], images[copied])
    assert not torch.equal(reconstructed, images) and reconstructed.min() >= 0 and reconstructed.max() <= 1


def test_stain_differs_from_field_and_from_black_surroundings():
    image = torch.full((1, 3, 32, 32), 0.93)
    image[:, :, :16, :16] = torch.tensor([0.4, 0.25, 0.6])[:, None, None]  # a nucleus
    image[:, :, 16:, 16:] = 0.0  # cut away
    assert stained_patches(image, 16).tolist() == [[[True, False], [False, False]]]
    dimmer = stained_patches(image * 0.7, 16)  # another exposure
    assert torch.equal(dimmer, stained_patches(image, 16))


def test_split_loss_adds_up():
    images, visible = batch()
    out = model()(images, visible)
    cell, n_cell, field, n_field = split_loss(out.patch_loss, visible, stained_patches(images, 8)).tolist()
    assert n_cell + n_field == int((~visible).sum()) and n_cell > 0 and n_field > 0
    assert (cell + field) / (n_cell + n_field) == pytest.approx(float(out.loss.detach()), rel=1e-5)


@pytest.mark.parametrize("norm_pix", [True, False])
def test_a_prediction_that_equals_the_target_gives_the_image(norm_pix):
    images, visible = batch()
    autoencoder = model(norm_pix).eval()
    perfect = Reconstruction(torch.zeros(()), torch.zeros(()), autoencoder.target(images), torch.zeros(()))
    autoencoder.forward = lambda *_: perfect
    torch.testing.assert_close(autoencoder.reconstruct(images, visible), images, atol=1e-5, rtol=1e-5)


def test_predictions_start_at_the_mean_colour():
    images, visible = batch()
    autoencoder = model(norm_pix=False, stirred=False)
    autoencoder.init_output_bias(images)
    hidden = ~upsample_mask(visible, 8)[:, None].expand_as(images)
    reconstructed = autoencoder.eval().reconstruct(images, visible)
    assert (reconstructed[hidden].mean() - images.mean()).abs() < 0.05
