import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fcmae.toys import generator
from leuk_lib.fcmae.depthwise import DepthwiseConv


def pair(dim, kernel_size, dtype=torch.float64):
    ours = DepthwiseConv(dim, kernel_size).to(dtype)
    theirs = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim).to(dtype)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def results(layer, x, weight):
    x = x.clone().requires_grad_()
    y = layer(x)
    (y * weight).sum().backward()
    return [y.detach(), x.grad, layer.weight.grad, layer.bias.grad]


@given(
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([3, 5, 7]),
    st.booleans(),
)
def test_values_and_gradients_are_those_of_torch(batch, dim, height, width, kernel_size, channels_last):
    ours, theirs = pair(dim, kernel_size)
    x, weight = (torch.randn(batch, dim, height, width, dtype=torch.float64, generator=generator(s)) for s in (1, 2))
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    for a, b in zip(results(ours, x, weight), results(theirs, x, weight), strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b)


def test_gradient_is_the_numerical_one():
    layer = DepthwiseConv(2, 3).double()
    x = torch.randn(2, 2, 4, 3, dtype=torch.float64, generator=generator(), requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


@pytest.mark.parametrize("frozen", ["weight", "bias", "input"])
def test_frozen_tensors_get_no_gradient(frozen):
    layer = DepthwiseConv(3)
    x = torch.randn(1, 3, 8, 8, requires_grad=frozen != "input")
    if frozen != "input":
        getattr(layer, frozen).requires_grad_(False)
    layer(x).sum().backward()
    gradients = {"weight": layer.weight.grad, "bias": layer.bias.grad, "input": x.grad}
    assert [name for name, value in gradients.items() if value is None] == [frozen]


def test_bfloat16_and_inference_use_conv2d():
    ours, theirs = pair(4, 7, torch.float32)
    x = torch.randn(1, 4, 9, 9)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(x).dtype == torch.bfloat16
        ours(x).sum().backward()
    assert ours.weight.grad.dtype == torch.float32
