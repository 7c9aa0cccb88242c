"""The pooled read-out: fitted before the first step, standardised by training cells, one image at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from leuk_lib.fcmae.encoder import build_encoder
from leuk_lib.training.augment import normalise
from leuk_lib.wpat.model import WPAT
from leuk_lib.wpat.pooled import RIDGE, PooledClassifier, PooledHead, logistic, pool
from wpat.toys import blobs


def fitted(n_classes: int = 3) -> tuple[PooledClassifier, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    images, labels, _ = blobs(60)
    model = PooledClassifier(build_encoder("zepto", 4, init="fan_in"), n_classes)
    model.pooled.start_at(model.encoder, normalise(images).split(20), labels)
    return model.eval(), images, labels


def test_it_answers_nothing_before_and_right_after_it_was_fitted():
    images, labels, _ = blobs(60)
    blank = PooledClassifier(build_encoder("zepto", 4), 3).eval()
    assert torch.equal(blank(normalise(images)), torch.zeros(60, 3))
    model, images, labels = fitted()
    other, truth, _ = blobs(30, seed=1)
    with torch.no_grad():
        assert (model(normalise(images)).argmax(1) == labels).float().mean() > 0.95
        assert (model(normalise(other)).argmax(1) == truth).float().mean() > 0.8


def test_features_are_standardised_and_the_encoder_is_left_as_it_was():
    model, images, _ = fitted()
    with torch.no_grad():
        x = model.pooled.standardise(pool(model.encoder(normalise(images))))
    torch.testing.assert_close(x.mean(0), torch.zeros(x.shape[1]), atol=2e-3, rtol=0)
    assert float(x.std(0, correction=0).max()) < 1.01
    model.encoder.train()
    model.pooled.start_at(model.encoder, [normalise(images)], torch.arange(60) % 3)
    assert model.encoder.training


def test_a_common_change_of_all_cells_features_changes_no_answer_while_training():
    model, images, _ = fitted()
    maps = [m.detach() for m in model.encoder(normalise(images))]
    moved = [m + 10 * m.std() for m in maps]
    with torch.no_grad():
        assert (model.pooled(moved).argmax(1) != model.pooled(maps).argmax(1)).any()
        model.pooled.train()
        torch.testing.assert_close(model.pooled(moved), model.pooled(maps), atol=1e-2, rtol=1e-2)


def test_pooling_is_mean_deviation_and_maximum():
    maps = [torch.randn(2, 3, 4, 5), torch.randn(2, 2, 2, 2)]
    found = pool(maps)
    assert found.shape == (2, 15)
    torch.testing.assert_close(found[:, :3], maps[0].mean((2, 3)))
    torch.testing.assert_close(found[:, 3:6], maps[0].std((2, 3), correction=0), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found[:, 6:9], maps[0].amax((2, 3)))


def test_the_fit_is_scikit_learns():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(90, 5)), np.arange(90) % 3
    x[np.arange(90), labels] += 1
    ours = logistic(torch.from_numpy(x), torch.from_numpy(labels), 3).numpy()
    theirs = LogisticRegression(C=1 / (RIDGE * 90), tol=1e-8, max_iter=1000).fit(x, labels)
    np.testing.assert_allclose(ours[:, :-1], theirs.coef_, atol=2e-3)
    # A bias common to all classes changes no probability.
    np.testing.assert_allclose(
        ours[:, -1] - ours[:, -1].mean(), theirs.intercept_ - theirs.intercept_.mean(), atol=2e-3
    )


def test_a_class_without_a_cell_is_unlikely_and_breaks_nothing():
    model, images, _ = fitted(n_classes=5)
    with torch.no_grad():
        chances = model(normalise(images)).softmax(1)
    assert torch.isfinite(chances).all() and float(chances[:, 3:].max()) < 0.2


@pytest.mark.parametrize("pooled", [True, False])
def test_wpats_answer_is_attentions_plus_the_read_outs(tiny, pooled):
    torch.manual_seed(0)
    model = WPAT(build_encoder("zepto", 4), 3, tiny.model_copy(update={"pooled": pooled})).eval()
    x = normalise(blobs(4)[0])
    with torch.no_grad():
        before = model(x)
        if not pooled:
            assert model.pooled is None
            return
        assert isinstance(model.pooled, PooledHead)
        torch.nn.init.normal_(model.pooled.head.weight, std=0.1)
        torch.testing.assert_close(model(x), before + model.pooled(model.encoder(x)))
