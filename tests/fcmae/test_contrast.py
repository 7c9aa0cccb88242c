import math

import pytest
import torch

from fcmae.toys import generator
from leuk_lib.fcmae.contrast import Projector, info_nce


def naive(z, temperature):
    n, total = len(z) // 2, 0.0
    for i in range(2 * n):

        def cosine(j, i=i):
            return float(torch.dot(z[i], z[j]) / z[i].norm() / z[j].norm()) / temperature

        others = [math.exp(cosine(j)) for j in range(2 * n) if j != i]
        total += -math.log(math.exp(cosine((i + n) % (2 * n))) / sum(others))
    return total / (2 * n)


@pytest.mark.parametrize("n", [2, 5])
def test_agrees_with_a_naive_loop(n):
    z = torch.randn(2 * n, 7, generator=generator(n))
    assert float(info_nce(z, 0.2)) == pytest.approx(naive(z, 0.2), rel=1e-5)


def test_views_that_agree_cost_less_than_views_that_do_not():
    first = torch.eye(8)
    together, apart = torch.cat([first, first]), torch.cat([first, first.roll(1, 0)])
    assert float(info_nce(together)) < 0.1 < math.log(15) < float(info_nce(apart))
    assert float(info_nce(torch.ones(16, 4))) == pytest.approx(math.log(15))  # all alike: a guess among the others


def test_length_of_embeddings_and_order_of_images_do_not_matter():
    z = torch.randn(12, 5, generator=generator())
    order = torch.randperm(6, generator=generator(1))
    torch.testing.assert_close(info_nce(z), info_nce(z * torch.rand(12, 1, generator=generator(2)).add(0.1)))
    torch.testing.assert_close(info_nce(z), info_nce(torch.cat([z[:6][order], z[6:][order]])))


def test_projector_has_its_width_and_a_gradient_everywhere():
    projector = Projector(6, 10)
    info_nce(projector(torch.randn(8, 6, generator=generator()))).backward()
    assert projector(torch.randn(4, 6)).shape == (4, 10)
    assert all(p.grad is not None for p in projector.parameters())
