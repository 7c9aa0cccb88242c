import pytest
import torch

from fcmae.toys import encoder, generator, timm_model
from leuk_lib.fcmae.encoder import VARIANTS, build_encoder
from leuk_lib.fcmae.masking import random_masks, upsample_mask
from leuk_lib.fcmae.weights import load_state

SIZES = [(64, 64), (65, 47), (96, 33)]


def features_of_timm(model, x):
    x, out = model.stem(x), []
    for stage in model.stages:
        x = stage(x)
        out.append(x)
    return out


@pytest.mark.parametrize(
    "variant", [*(v for v in VARIANTS if v != "base"), pytest.param("base", marks=pytest.mark.slow)]
)
def test_features_are_those_of_timm_at_odd_sizes_too(variant):
    theirs = timm_model(variant)
    ours = build_encoder(variant).eval()
    report = load_state(ours, theirs.state_dict())
    assert report.loaded == report.total == len(ours.state_dict())
    with torch.no_grad():
        for size in SIZES[: 1 if variant == "base" else 3]:
            x = torch.randn(2, 3, *size, generator=generator(1))
            for f, g in zip(ours(x), features_of_timm(theirs, x), strict=True):
                assert f.shape == g.shape
                assert (f - g).abs().max() <= 1e-5 * max(1, float(g.detach().abs().max()))
            pooled = theirs.forward_head(theirs.forward_features(x), pre_logits=True)
            torch.testing.assert_close(ours.pool(x), pooled, atol=1e-5, rtol=1e-5)


def test_stem_stride_one_is_timms_patch_size_one():
    theirs, ours = timm_model("zepto", patch_size=1), build_encoder("zepto", 1).eval()
    load_state(ours, theirs.state_dict())
    x = torch.randn(1, 3, 24, 17, generator=generator())
    with torch.no_grad():
        for f, g in zip(ours(x), features_of_timm(theirs, x), strict=True):
            torch.testing.assert_close(f, g, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stem", [1, 2, 4])
def test_shapes_follow_channels_and_strides(stem):
    model = build_encoder("zepto", stem)
    assert model.strides == (stem, 2 * stem, 4 * stem, 8 * stem)
    x = torch.randn(1, 3, 64, 32)
    for feature, c, s in zip(model(x), model.channels, model.strides, strict=True):
        assert feature.shape == (1, c, 64 // s, 32 // s)
    assert model.pool(x).shape == (1, model.channels[-1])


@pytest.mark.parametrize("grid", [(4, 4), (2, 5)])
def test_visible_only_equals_dense_masked_with_its_gradients(grid):
    model = encoder()
    x = torch.randn(3, 3, grid[0] * 16, grid[1] * 16, generator=generator())
    visible = random_masks(3, grid, 0.6, generator(1))
    results = []
    for dense in (False, True):
        model.zero_grad()
        inputs = x.clone().requires_grad_()
        features = model(inputs, visible, dense=dense)
        loss = sum(f.square().mean() for f in features)
        loss.backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        results.append((features, gradients | {"input": inputs.grad}))
    for f, g, stride in zip(results[0][0], results[1][0], model.strides, strict=True):
        assert (f - g).abs().max() <= 1e-6 * max(1, float(g.detach().abs().max()))
        assert (f * ~upsample_mask(visible, model.patch // stride)[:, None]).abs().max() == 0
    assert set(results[0][1]) == set(results[1][1])
    for name, gradient in results[0][1].items():
        other = results[1][1][name]
        assert (gradient - other).abs().max() <= 1e-5 * max(1, float(other.abs().max())), name


@pytest.mark.parametrize("dense", [False, True])
def test_hidden_pixels_have_exactly_no_influence(dense):
    model = encoder()
    x = torch.randn(2, 3, 64, 64, generator=generator()).requires_grad_()
    visible = random_masks(2, (4, 4), 0.6, generator(1))
    hidden = ~upsample_mask(visible, 16)[:, None]
    features = model(x, visible, dense=dense)
    (gradient,) = torch.autograd.grad(sum(f.square().sum() for f in features), x)
    assert (gradient * hidden).abs().max() == 0
    assert ((gradient * ~hidden).abs().amax(1) > 0).float().mean() > 0.3
    with torch.no_grad():
        other = model(torch.where(hidden, 1e3, x), visible, dense=dense)
    assert all(torch.equal(f, g) for f, g in zip(features, other, strict=True))


def test_a_batch_is_its_images_one_by_one():
    model = encoder()
    x = torch.randn(3, 3, 64, 64, generator=generator())
    visible = random_masks(3, (4, 4), 0.6, generator(1))
    with torch.no_grad():
        for mask in (None, visible):
            together = model(x, mask)
            for i in range(3):
                alone = model(x[i : i + 1], None if mask is None else mask[i : i + 1])
                for f, g in zip(together, alone, strict=True):
                    torch.testing.assert_close(f[i : i + 1], g, atol=1e-5, rtol=1e-5)


def test_fully_visible_is_the_dense_encoder():
    model = encoder()
    x = torch.randn(1, 3, 64, 64, generator=generator())
    everything = torch.ones(1, 4, 4, dtype=torch.bool)
    with torch.no_grad():
        for f, g in zip(model(x, everything), model(x), strict=True):
            torch.testing.assert_close(f, g, atol=1e-5, rtol=1e-5)


def test_drop_path_acts_only_while_training():
    model = build_encoder("zepto", 2, drop_path=0.5, generator=generator())
    x = torch.randn(4, 3, 32, 32)
    model.eval()
    assert torch.equal(model.pool(x), model.pool(x))
    model.train()
    assert not torch.equal(model.pool(x), model.pool(x))


def test_invalid_arguments_are_named():
    with pytest.raises(ValueError, match=r"huge.*zepto"):
        build_encoder("huge")
    with pytest.raises(ValueError, match="stem_stride 3"):
        build_encoder("zepto", 3)
    with pytest.raises(ValueError, match="16 px"):
        encoder()(torch.randn(1, 3, 60, 64), torch.ones(1, 3, 4, dtype=torch.bool))


def test_initial_weights_follow_the_generator_and_are_small():
    a, b = (build_encoder("zepto", 2, generator=generator(5)) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert 0.015 < float(a.stages[2][0].pwconv1.weight.std()) < 0.02
