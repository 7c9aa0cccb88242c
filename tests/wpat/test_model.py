"""WPAT as a whole: any size, any number of classes, reach of a pixel, cost, padding, attention maps."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from leuk_lib.fcmae.encoder import build_encoder
from leuk_lib.wpat.cost import cost_table
from leuk_lib.wpat.model import WPAT, Layout
from leuk_lib.wpat.params import WpatParams
from leuk_lib.wpat.windows import partition

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
PARAMS = WpatParams(dim=16, heads=2, window=4, latents=4, pairs=3, scales=2, drop_path=0.0)


def _model(n_classes=3, params=PARAMS, stem_stride=4, seed=0):
    torch.manual_seed(seed)
    model = WPAT(build_encoder("zepto", stem_stride), n_classes, params).eval()
    for bias in (b for step in model.window_steps for b in step.biases):  # zero-bias starts would hide mistakes
        torch.nn.init.normal_(bias.region)
    return model


def _maps(model, sizes, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    channels = model.encoder.channels[-model.scales :]
    return [torch.randn(batch, c, h, w, generator=generator) for c, (h, w) in zip(channels, sizes, strict=True)]


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (33, 70), (97, 45), (32, 224)])
@pytest.mark.parametrize("n_classes", [2, 8])
def test_any_size_and_any_number_of_classes(size, n_classes):
    model = _model(n_classes)
    x = torch.randn(2, 3, *size)
    logits, maps = model(x, return_attention=True)
    assert logits.shape == (2, n_classes) and maps.shape == (2, n_classes, *size)
    torch.testing.assert_close(maps.sum(dim=(2, 3)), torch.ones(2, n_classes))
    assert float(maps.detach().min()) >= 0
    torch.testing.assert_close(model(x), logits, atol=1e-5, rtol=1e-4)  # fused path = naive path


def test_batched_equals_one_by_one():
    model, x = _model(), torch.randn(3, 3, 48, 48)
    torch.testing.assert_close(model(x), torch.cat([model(one[None]) for one in x]), atol=1e-5, rtol=1e-4)


def test_reach_of_a_token_is_its_window_and_with_the_latents_everything():
    model = _model()
    tokens, regions, layout = model.tokens(_maps(model, [(8, 12), (4, 6)]))
    assert layout.counts == (6, 2)
    tokens, regions = tokens.detach().requires_grad_(), regions.detach()
    regions = tokens.mean(dim=2) + 0 * regions  # so that the region tokens depend on their windows here
    places = model.place(layout.centres)
    seen, told, _ = model.window_steps[0](tokens, regions, layout)

    def reach(value):
        grad = torch.autograd.grad(value.square().sum(), tokens, retain_graph=True)[0]
        return grad.abs().sum(dim=(0, 2, 3)) > 0

    only_2 = torch.arange(8) == 2
    assert torch.equal(reach(seen[:, 2]), only_2)
    assert torch.equal(reach(told[:, 2]), only_2)
    _, told, _ = model.latent_steps[0](model.latents[None], told, places)
    assert bool(reach(told[:, 2]).all())
    seen, _, _ = model.window_steps[1](seen, told, layout)
    assert bool(reach(seen[:, 2]).all())


def test_padding_reaches_nothing():
    model = _model()
    maps = _maps(model, [(5, 7), (3, 3)])
    tokens, regions, layout = model.tokens(maps)
    spoiled = torch.where(layout.real[None, :, :, None], tokens, torch.full_like(tokens, 1e3))
    step = model.window_steps[0]
    clean, dirty = step(tokens, regions, layout), step(spoiled, regions, layout)
    torch.testing.assert_close(clean[1], dirty[1])
    torch.testing.assert_close(clean[0][:, layout.real], dirty[0][:, layout.real])


def test_a_padded_window_equals_attention_over_its_real_tokens():
    model = _model()
    step = model.window_steps[0]
    tokens = torch.randn(1, 1, 16, 16)
    layout = Layout.of([(4, 2), (1, 1)], 4, torch.device("cpu"))
    both = torch.cat([partition(tokens.view(1, 4, 4, 16)[:, :, :2], 4), torch.zeros(1, 1, 16, 16)], dim=1)
    regions = torch.randn(1, 2, 16)
    seen, told, _ = step(both, regions, layout)

    real = layout.real[0]
    keep = torch.cat([torch.tensor([True]), real])
    x = torch.cat([regions[:, 0, None], both[:, 0][:, real]], dim=1)
    normed = step.norm(x)
    heard, _ = step.attention(normed, normed, step.biases[0]()[:, keep][:, :, keep], need_weights=True)
    x = x + heard
    x = x + step.mlp(x)
    torch.testing.assert_close(told[:, 0], x[:, 0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(seen[:, 0][:, real], x[:, 1:], atol=1e-5, rtol=1e-4)


def test_region_only_queries_equal_the_full_step():
    model = _model()
    last, first = model.window_steps[-1], model.window_steps[0]
    assert last.regions_only and not first.regions_only
    tokens, regions, layout = model.tokens(_maps(model, [(8, 8), (4, 4)]))
    short = last(tokens, regions, layout)[1]
    last.regions_only = False
    torch.testing.assert_close(last(tokens, regions, layout)[1], short, atol=1e-5, rtol=1e-4)


def test_cost_is_linear_in_pixels():
    # Sides that fill whole windows at every scale, so that padding does not blur the ratio. The encoder, most of the
    # cost, is counted apart: it would hide a quadratic head. What the latents and the position biases cost, whatever
    # the image, falls out of the differences.
    cost = cost_table(_model(), (256, 512, 1024)).set_index("side")
    growth = (cost.loc[1024] - cost.loc[512]) / (cost.loc[512] - cost.loc[256])
    assert growth["encoder"] == pytest.approx(4, rel=1e-3)
    assert growth["wpat"] == pytest.approx(4, rel=1e-3)
    assert growth["full_attention"] > 15  # what this would catch


def test_counted_operations_are_those_of_a_real_pass():
    model = _model()
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(1, 3, 96, 96))
    row = cost_table(model, (96,)).iloc[0]
    assert (row["encoder"] + row["wpat"]) * 1e9 == pytest.approx(counter.get_total_flops())
    assert row["tokens"] == 6 * 6 + 3 * 3 and next(model.parameters()).device.type == "cpu"


def test_every_trainable_parameter_is_used():
    model = _model().train()
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == []  # DDP would wait for them for ever


def test_frozen_attention_with_a_trainable_bias():
    model = _model()
    model.requires_grad_(False)
    for step in model.window_steps:
        step.biases.requires_grad_(True)
    model(torch.randn(1, 3, 64, 64)).square().sum().backward()
    assert all(float(p.grad.abs().sum()) > 0 for s in model.window_steps for p in s.biases.parameters())


def _relative(a, b):
    return float(((a.float() - b).norm() / b.norm()).detach())


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_autocast_bf16_stays_close(device):
    model, x = _model().to(device), torch.randn(2, 3, 64, 64, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        low, logits = model.look(x).latents, model(x)
    # bfloat16 keeps 8 bits, .4 % a rounding; some tens of roundings follow each other.
    assert 0 < _relative(low, model.look(x).latents) < 0.06
    assert 0 < _relative(logits, model(x)) < 0.1


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=needs_gpu)])
def test_gpu_agrees_with_the_cpu(device):
    model, x = _model(), torch.randn(2, 3, 64, 48)
    logits, maps = (value.detach() for value in model(x, return_attention=True))
    again, painted = model.to(device)(x.to(device), return_attention=True)
    torch.testing.assert_close(again.cpu(), logits, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(painted.cpu(), maps, atol=1e-5, rtol=1e-3)
    model.requires_grad_(False)
    for step in model.window_steps:
        step.biases.requires_grad_(True)
    model(x.to(device)).square().sum().backward()
    assert all(float(p.grad.abs().sum()) > 0 for s in model.window_steps for p in s.biases.parameters())
