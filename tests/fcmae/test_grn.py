import pytest
import torch

from fcmae.toys import generator
from leuk_lib.fcmae.grn import GRN, global_response_norm


def example(shape, seed=0):
    g = generator(seed)
    x = torch.randn(*shape, generator=g, dtype=torch.float64)
    return (
        x,
        torch.randn(shape[-1], generator=g, dtype=torch.float64),
        torch.randn(shape[-1], generator=g, dtype=torch.float64),
    )


def naive(x, gamma, beta):
    out = torch.empty_like(x)
    for b in range(len(x)):
        norms = [x[b, ..., c].square().sum().sqrt() for c in range(x.shape[-1])]
        mean = sum(norms) / len(norms)
        for c, norm in enumerate(norms):
            out[b, ..., c] = gamma[c] * x[b, ..., c] * norm / (mean + 1e-6) + beta[c] + x[b, ..., c]
    return out


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 2, 2, 2, 4)])
def test_agrees_with_a_naive_loop(shape):
    x, gamma, beta = example(shape)
    torch.testing.assert_close(global_response_norm(x, gamma, beta), naive(x, gamma, beta))


def test_closed_gradient_is_the_numerical_one():
    layer = GRN(4).double()
    x, gamma, beta = example((2, 3, 2, 4))

    def f(x, gamma, beta):
        return torch.func.functional_call(layer, {"gamma": gamma.view(1, 1, 1, -1), "beta": beta.view(1, 1, 1, -1)}, x)

    assert torch.autograd.gradcheck(f, [t.requires_grad_() for t in (x, gamma, beta)])


def test_closed_gradient_is_that_of_autograd_and_zero_channels_are_harmless():
    layer = GRN(6)
    x, gamma, beta = (t.float() for t in example((3, 4, 4, 6)))
    x[0, ..., 2] = 0
    x[1] = 0
    layer.gamma.data, layer.beta.data = gamma.view(1, 1, 1, -1), beta.view(1, 1, 1, -1)
    weight = torch.randn(x.shape, generator=generator(1))
    a = x.clone().requires_grad_()
    (layer(a) * weight).sum().backward()
    b, g, s = x.clone().requires_grad_(), gamma.clone().requires_grad_(), beta.clone().requires_grad_()
    (global_response_norm(b, g, s) * weight).sum().backward()
    torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer.gamma.grad.flatten(), g.grad, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(layer.beta.grad.flatten(), s.grad, atol=1e-4, rtol=1e-5)


def test_other_images_and_hidden_sites_have_no_influence():
    x, gamma, beta = example((2, 4, 4, 3))
    both = global_response_norm(x, gamma, beta)
    torch.testing.assert_close(both[:1], global_response_norm(x[:1], gamma, beta), rtol=0, atol=0)
    mask = torch.zeros(2, 4, 4, 1, dtype=torch.float64)
    mask[:, :2] = 1
    masked = global_response_norm(x, gamma, beta, mask)
    torch.testing.assert_close(masked[:, :2], global_response_norm(x[:, :2], gamma, beta))


def test_starts_as_the_identity():
    x = torch.randn(2, 3, 3, 8)
    assert torch.equal(GRN(8)(x), x)
