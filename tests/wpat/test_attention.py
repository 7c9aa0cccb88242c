"""Attention: fused against naive, bounds of the logit scale, the position bias and its gradients."""

import math

import pytest
import torch

from leuk_lib.wpat.attention import (
    CosineAttention,
    PositionBias,
    attend,
    attend_naive,
    cosine_scale,
    log_spaced,
    offset_index,
    offset_table,
)


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("masked", [False, True])
def test_fused_equals_unfused_softmax(masked):
    q, k, v = (_random(2, 6, 17, 8, seed=s).requires_grad_() for s in range(3))
    bias = _random(1, 6, 17, 17, seed=3)
    if masked:
        bias[..., :9, 9:] = float("-inf")
    fused, (naive, weights) = attend(q, k, v, bias), attend_naive(q, k, v, bias)
    torch.testing.assert_close(fused, naive, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 6, 17))
    upstream = _random(2, 6, 17, 8, seed=4)
    grads = [torch.autograd.grad((out * upstream).sum(), (q, k, v), retain_graph=True) for out in (fused, naive)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_fused_equals_a_loop_over_windows_heads_and_queries():
    torch.manual_seed(0)
    attention = CosineAttention(8, 2).eval()
    tokens, bias = _random(2, 3, 5, 8), _random(3, 2, 5, 5, seed=1)
    out, nothing = attention(tokens, tokens, bias)
    assert nothing is None
    heads = {"q": attention.q(tokens), "k": attention.kv(tokens)[..., :8], "v": attention.kv(tokens)[..., 8:]}
    expected = torch.zeros_like(tokens)
    for b in range(2):
        for n in range(3):
            for h in range(2):
                q, k, v = (heads[name][b, n, :, 4 * h : 4 * h + 4] for name in ("q", "k", "v"))
                for i in range(5):
                    cosine = torch.nn.functional.cosine_similarity(q[i][None], k, dim=-1)
                    weights = (cosine * attention.logit_scale[h].exp().item() + bias[n, h, i]).softmax(dim=0)
                    expected[b, n, i, 4 * h : 4 * h + 4] = weights @ v
    torch.testing.assert_close(out, attention.proj(expected), atol=1e-5, rtol=1e-4)


def test_asking_for_weights_changes_nothing():
    torch.manual_seed(0)
    attention, tokens = CosineAttention(8, 2), _random(2, 3, 5, 8)
    out, _ = attention(tokens, tokens)
    same, weights = attention(tokens, tokens, need_weights=True)
    torch.testing.assert_close(out, same, atol=1e-6, rtol=1e-5)
    assert weights is not None and weights.shape == (2, 3, 2, 5, 5)


def test_frozen_projections_and_trainable_bias_get_the_right_gradient():
    q, k, v, upstream = (_random(2, 4, 6, 8, seed=s) for s in range(4))
    fused_bias = _random(1, 4, 6, 6, seed=9).requires_grad_()
    naive_bias = fused_bias.detach().clone().requires_grad_()
    (attend(q, k, v, fused_bias) * upstream).sum().backward()
    (attend_naive(q, k, v, naive_bias)[0] * upstream).sum().backward()
    assert fused_bias.grad is not None and naive_bias.grad is not None
    assert float(naive_bias.grad.abs().max()) > 1e-3
    torch.testing.assert_close(fused_bias.grad, naive_bias.grad, atol=1e-6, rtol=1e-5)


def test_cosine_ignores_length_and_bounds_the_scale():
    q, k = _random(3, 2, 5, 4), _random(3, 2, 5, 4, seed=1)
    huge = torch.full((2, 1, 1), 50.0)
    a, b = cosine_scale(q, k, huge)
    assert float((a @ b.transpose(-1, -2)).abs().max()) <= 100 + 1e-3
    c, d = cosine_scale(9 * q, 0.1 * k, huge)
    torch.testing.assert_close(a, c, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(b, d)


def test_log_offsets_as_swin_v2_writes_them():
    steps = torch.arange(-3.0, 4.0)
    spaced = log_spaced(steps, 4)
    assert float(spaced[3]) == 0 and float(spaced[6]) == pytest.approx(math.log2(9) / 3)
    torch.testing.assert_close(spaced, -spaced.flip(0))
    assert bool((spaced.diff() > 0).all())


@pytest.mark.parametrize("side", [1, 2, 4, 7])
def test_the_region_token_sits_at_the_centre(side):
    offsets, index = offset_table(side)
    whole = offsets[index]  # (1+s*s, 1+s*s, 2): query's place minus key's place
    torch.testing.assert_close(whole, -whole.transpose(0, 1))
    place = torch.cartesian_prod(torch.arange(side), torch.arange(side)).view(-1, 2).float()
    every = torch.cat([place.mean(dim=0, keepdim=True), place])
    torch.testing.assert_close(whole, every[:, None] - every[None])


def test_offset_index_depends_on_the_offset_alone():
    index = offset_index(3)
    assert index.shape == (9, 9) and int(index.max()) == 24 and int(index.min()) == 0
    assert index[0, 1] == index[3, 4] == index[7, 8]
    assert index[0, 1] != index[1, 0]


def test_position_bias_shape_range_and_gradient():
    torch.manual_seed(0)
    bias = PositionBias(3, heads=2)
    table = bias().detach()
    assert table.shape == (2, 10, 10)
    assert float(table.min()) > 0 and float(table.max()) < 16
    bias().square().sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in bias.parameters())


def test_heads_must_divide():
    with pytest.raises(ValueError, match="multiple"):
        CosineAttention(10, 3)
