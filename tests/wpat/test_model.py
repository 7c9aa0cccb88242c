"""WPAT: any image size, any number of classes, receptive field, cost, padding, attention maps."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from leuk_lib.fcmae.encoder import build_encoder
from leuk_lib.wpat.cost import cost_table
from leuk_lib.wpat.model import WPAT, WindowLayout, parts_of
from leuk_lib.wpat.params import WpatParams
from leuk_lib.wpat.windows import window_partition

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
PARAMS = WpatParams(dim=16, heads=2, window=4, latents=4, depth=3, levels=2, drop_path=0.0)


def _model(n_classes=3, params=PARAMS, stem_stride=4, seed=0):
    torch.manual_seed(seed)
    model = WPAT(build_encoder("zepto", stem_stride), n_classes, params).eval()
    for bias in (b for block in model.window_blocks for b in block.position_biases):  # 0 would hide mistakes
        torch.nn.init.normal_(bias.region_bias)
    return model


def _maps(model, sizes, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    channels = model.encoder.channels[-model.levels :]
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
    torch.testing.assert_close(model(x), torch.cat([model(image[None]) for image in x]), atol=1e-5, rtol=1e-4)


def test_receptive_field_is_the_window_and_with_the_latents_the_image():
    model = _model()
    tokens, regions, layout = model.window_tokens(_maps(model, [(8, 12), (4, 6)]))
    assert layout.counts == (6, 2)
    tokens, regions = tokens.detach().requires_grad_(), regions.detach()
    regions = tokens.mean(dim=2) + 0 * regions  # so that the region tokens depend on their windows here
    positions = model.position_embed(layout.centres)
    tokens_1, regions_1, _ = model.window_blocks[0](tokens, regions, layout)

    def reach(value):
        grad = torch.autograd.grad(value.square().sum(), tokens, retain_graph=True)[0]
        return grad.abs().sum(dim=(0, 2, 3)) > 0

    only_2 = torch.arange(8) == 2
    assert torch.equal(reach(tokens_1[:, 2]), only_2)
    assert torch.equal(reach(regions_1[:, 2]), only_2)
    _, regions_1, _, _ = model.latent_blocks[0](model.latents[None], regions_1, positions)
    assert bool(reach(regions_1[:, 2]).all())
    tokens_2, _, _ = model.window_blocks[1](tokens_1, regions_1, layout)
    assert bool(reach(tokens_2[:, 2]).all())


def test_padding_has_no_influence():
    model = _model()
    maps = _maps(model, [(5, 7), (3, 3)])
    tokens, regions, layout = model.window_tokens(maps)
    changed = torch.where(layout.valid[None, :, :, None], tokens, torch.full_like(tokens, 1e3))
    block = model.window_blocks[0]
    clean, dirty = block(tokens, regions, layout), block(changed, regions, layout)
    torch.testing.assert_close(clean[1], dirty[1])
    torch.testing.assert_close(clean[0][:, layout.valid], dirty[0][:, layout.valid])


def test_a_padded_window_equals_attention_over_its_valid_tokens():
    model = _model()
    block = model.window_blocks[0]
    tokens = torch.randn(1, 1, 16, 16)
    layout = WindowLayout.of([(4, 2), (1, 1)], 4, torch.device("cpu"))
    both = torch.cat([window_partition(tokens.view(1, 4, 4, 16)[:, :, :2], 4), torch.zeros(1, 1, 16, 16)], dim=1)
    regions = torch.randn(1, 2, 16)
    new_tokens, new_regions, _ = block(both, regions, layout)

    valid = layout.valid[0]
    keep = torch.cat([torch.tensor([True]), valid])
    x = torch.cat([regions[:, 0, None], both[:, 0][:, valid]], dim=1)
    normed = block.norm(x)
    out, _ = block.attention(normed, normed, block.position_biases[0]()[:, keep][:, :, keep], need_weights=True)
    x = x + out
    x = x + block.mlp(x)
    torch.testing.assert_close(new_regions[:, 0], x[:, 0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(new_tokens[:, 0][:, valid], x[:, 1:], atol=1e-5, rtol=1e-4)


def test_region_only_queries_equal_the_full_block():
    model = _model()
    last, first = model.window_blocks[-1], model.window_blocks[0]
    assert last.regions_only and not first.regions_only
    tokens, regions, layout = model.window_tokens(_maps(model, [(8, 8), (4, 4)]))
    short = last(tokens, regions, layout)[1]
    last.regions_only = False
    torch.testing.assert_close(last(tokens, regions, layout)[1], short, atol=1e-5, rtol=1e-4)


def test_cost_is_linear_in_pixels():
    # These sides fill whole windows at every level, so that padding does not blur the ratio. The encoder is counted
    # separately, because it is most of the cost and would hide a quadratic head. The constant cost of latents and
    # position biases cancels in the differences.
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
    assert unused == []  # DDP would wait for them


def test_frozen_attention_with_a_trainable_bias():
    model = _model()
    model.requires_grad_(False)
    for block in model.window_blocks:
        block.position_biases.requires_grad_(True)
    model(torch.randn(1, 3, 64, 64)).square().sum().backward()
    assert all(float(p.grad.abs().sum()) > 0 for b in model.window_blocks for p in b.position_biases.parameters())


def test_every_parameter_belongs_to_one_part_in_order_from_logits_to_image():
    model = _model()
    parts = parts_of(model)
    assert list(parts) == ["class queries", "latents", "windows", "encoder"]
    for name, _ in model.named_parameters():
        assert sum(name.startswith(tuple(prefixes)) for prefixes in parts.values()) == 1, name


def _relative(a, b):
    return float(((a.float() - b).norm() / b.norm()).detach())


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_autocast_bf16_stays_close(device):
    model, x = _model().to(device), torch.randn(2, 3, 64, 64, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        latents, logits = model.forward_features(x).latents, model(x)
    # bfloat16 has 8 significant bits, an error of 0.4 % per rounding, over some tens of roundings.
    assert 0 < _relative(latents, model.forward_features(x).latents) < 0.06
    assert 0 < _relative(logits, model(x)) < 0.1


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=needs_gpu)])
def test_gpu_agrees_with_the_cpu(device):
    model, x = _model(), torch.randn(2, 3, 64, 48)
    logits, maps = (value.detach() for value in model(x, return_attention=True))
    again, painted = model.to(device)(x.to(device), return_attention=True)
    torch.testing.assert_close(again.cpu(), logits, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(painted.cpu(), maps, atol=1e-5, rtol=1e-3)
    model.requires_grad_(False)
    for block in model.window_blocks:
        block.position_biases.requires_grad_(True)
    model(x.to(device)).square().sum().backward()
    assert all(float(p.grad.abs().sum()) > 0 for b in model.window_blocks for p in b.position_biases.parameters())


def test_the_attention_part_is_left_out_for_a_share_of_the_training_images(tiny):
    torch.manual_seed(0)
    model = WPAT(build_encoder("zepto", 4), 3, tiny.model_copy(update={"branch_drop": 0.5}))
    x = torch.randn(64, 3, 32, 32)
    model.train()
    model.linear_head.forward = lambda maps: torch.zeros(len(maps[0]), 3)  # what is left is the attention part
    logits = model(x)
    left_out = (logits == 0).all(dim=1)
    assert 0.25 < left_out.float().mean() < 0.75
    assert not (model.eval()(x) == 0).any()
    alone = WPAT(
        build_encoder("zepto", 4), 3, tiny.model_copy(update={"branch_drop": 0.5, "linear_head": False})
    ).train()
    assert not (alone(x) == 0).all(dim=1).any()  # without a linear head there is nothing else to classify
