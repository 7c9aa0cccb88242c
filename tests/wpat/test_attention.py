"""Attention: fused against naive, cosine scaling, and the position bias against timm's Swin V2."""

import math

import pytest
import torch
from timm.models.swin_transformer_v2 import WindowAttention
from torch import nn

from leuk_lib.wpat.attention import (
    CosineAttention,
    PositionBias,
    cosine_qk,
    fused_attention,
    log_spaced,
    naive_attention,
    relative_coords,
    relative_position_index,
)


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("masked", [False, True])
def test_fused_equals_unfused_softmax(masked):
    q, k, v = (_random(2, 6, 17, 8, seed=s).requires_grad_() for s in range(3))
    bias = _random(1, 6, 17, 17, seed=3)
    if masked:
        bias[..., :9, 9:] = float("-inf")
    fused, (naive, weights) = fused_attention(q, k, v, bias), naive_attention(q, k, v, bias)
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
    out, weights = attention(tokens, tokens, bias)
    assert weights is None
    projected = {"q": attention.q(tokens), "k": attention.kv(tokens)[..., :8], "v": attention.kv(tokens)[..., 8:]}
    expected = torch.zeros_like(tokens)
    for b in range(2):
        for n in range(3):
            for h in range(2):
                q, k, v = (projected[name][b, n, :, 4 * h : 4 * h + 4] for name in ("q", "k", "v"))
                for i in range(5):
                    cosine = torch.nn.functional.cosine_similarity(q[i][None], k, dim=-1)
                    weights = (cosine * attention.logit_scale[h].exp().item() + bias[n, h, i]).softmax(dim=0)
                    expected[b, n, i, 4 * h : 4 * h + 4] = weights @ v
    torch.testing.assert_close(out, attention.proj(expected), atol=1e-5, rtol=1e-4)


def test_returning_weights_does_not_change_the_output():
    torch.manual_seed(0)
    attention, tokens = CosineAttention(8, 2), _random(2, 3, 5, 8)
    out, _ = attention(tokens, tokens)
    same, weights = attention(tokens, tokens, need_weights=True)
    torch.testing.assert_close(out, same, atol=1e-6, rtol=1e-5)
    assert weights is not None and weights.shape == (2, 3, 2, 5, 5)


def test_a_trainable_bias_over_frozen_projections_gets_the_right_gradient():
    q, k, v, upstream = (_random(2, 4, 6, 8, seed=s) for s in range(4))
    fused_bias = _random(1, 4, 6, 6, seed=9).requires_grad_()
    naive_bias = fused_bias.detach().clone().requires_grad_()
    (fused_attention(q, k, v, fused_bias) * upstream).sum().backward()
    (naive_attention(q, k, v, naive_bias)[0] * upstream).sum().backward()
    assert fused_bias.grad is not None and naive_bias.grad is not None
    assert float(naive_bias.grad.abs().max()) > 1e-3
    torch.testing.assert_close(fused_bias.grad, naive_bias.grad, atol=1e-6, rtol=1e-5)


def test_cosine_attention_ignores_norms_and_bounds_the_scale():
    q, k = _random(3, 2, 5, 4), _random(3, 2, 5, 4, seed=1)
    huge = torch.full((2, 1, 1), 50.0)
    a, b = cosine_qk(q, k, huge)
    assert float((a @ b.transpose(-1, -2)).abs().max()) <= 100 + 1e-3
    c, d = cosine_qk(9 * q, 0.1 * k, huge)
    torch.testing.assert_close(a, c, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(b, d)


def test_log_spacing_is_odd_monotone_and_as_published():
    spaced = log_spaced(torch.arange(-3.0, 4.0), 4)
    assert float(spaced[3]) == 0 and float(spaced[6]) == pytest.approx(math.log2(9) / 3)
    torch.testing.assert_close(spaced, -spaced.flip(0))
    assert bool((spaced.diff() > 0).all())


def _swin_v2(window_size, heads, hidden=64):
    """timm's window attention with a position-bias MLP of our hidden width."""
    theirs = WindowAttention(8 * heads, (window_size, window_size), heads)
    theirs.cpb_mlp = nn.Sequential(nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, heads, bias=False))
    return theirs


@pytest.mark.parametrize("side", [1, 2, 4, 7])
def test_position_bias_between_tokens_is_that_of_swin_v2(side):
    torch.manual_seed(0)
    ours, theirs = PositionBias(side, heads=2), _swin_v2(side, heads=2)
    nn.init.normal_(ours.region_bias)  # concerns the region token's row and column only
    theirs.cpb_mlp.load_state_dict(ours.cpb_mlp.state_dict())
    n_offsets = (2 * side - 1) ** 2
    torch.testing.assert_close(
        ours.relative_coords_table[:n_offsets], theirs.relative_coords_table.view(-1, 2), atol=1e-6, rtol=0
    )
    assert torch.equal(ours.relative_position_index[1:, 1:], theirs.relative_position_index)
    table = theirs.cpb_mlp(theirs.relative_coords_table).view(-1, 2)
    expected = 16 * torch.sigmoid(table[theirs.relative_position_index]).permute(2, 0, 1)  # as in timm's forward
    torch.testing.assert_close(ours()[:, 1:, 1:], expected, atol=1e-6, rtol=0)


def test_attention_between_tokens_is_that_of_swin_v2():
    torch.manual_seed(0)
    ours, bias, theirs = CosineAttention(16, 2), PositionBias(4, heads=2), _swin_v2(4, heads=2)
    theirs.cpb_mlp.load_state_dict(bias.cpb_mlp.state_dict())
    with torch.no_grad():
        ours.kv.bias[:16] = 0  # Swin V2 has no bias on keys
        theirs.qkv.weight.copy_(torch.cat([ours.q.weight, ours.kv.weight]))
        theirs.q_bias.copy_(ours.q.bias)
        theirs.v_bias.copy_(ours.kv.bias[16:])
        theirs.proj.load_state_dict(ours.proj.state_dict())
        for scale in (ours.logit_scale, theirs.logit_scale):
            scale.copy_(torch.tensor([1.5, 50.0]).view(2, 1, 1))  # the second is clamped
    tokens = _random(3, 16, 16)
    out, _ = ours(tokens, tokens, bias()[:, 1:, 1:])
    torch.testing.assert_close(out, theirs(tokens), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("side", [1, 2, 4, 7])
def test_the_region_token_is_at_the_centre(side):
    offsets, index = relative_coords(side)
    pairs = offsets[index]  # (1+s*s, 1+s*s, 2): position of the query minus position of the key
    torch.testing.assert_close(pairs, -pairs.transpose(0, 1))
    position = torch.cartesian_prod(torch.arange(side), torch.arange(side)).view(-1, 2).float()
    positions = torch.cat([position.mean(dim=0, keepdim=True), position])
    torch.testing.assert_close(pairs, positions[:, None] - positions[None])


def test_relative_position_index_depends_on_the_offset_alone():
    index = relative_position_index(3)
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
