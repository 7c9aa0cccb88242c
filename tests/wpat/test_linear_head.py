"""The linear head: fitted by logistic regression, normalised by training cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from leuk_lib.fcmae.encoder import build_encoder
from leuk_lib.training.augment import normalise
from leuk_lib.wpat.linear_head import RIDGE, LinearClassifier, LinearHead, logistic_regression, pool
from leuk_lib.wpat.model import WPAT
from wpat.toys import blobs


def fitted(n_classes: int = 3) -> tuple[LinearClassifier, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    images, labels, _ = blobs(60)
    model = LinearClassifier(build_encoder("zepto", 4, init="fan_in"), n_classes)
    model.linear_head.fit(model.encoder, normalise(images).split(20), labels)
    return model.eval(), images, labels


def test_logits_are_zero_before_and_right_after_fitting():
    images, labels, _ = blobs(60)
    blank = LinearClassifier(build_encoder("zepto", 4), 3).eval()
    assert torch.equal(blank(normalise(images)), torch.zeros(60, 3))
    model, images, labels = fitted()
    other, truth, _ = blobs(30, seed=1)
    with torch.no_grad():
        assert (model(normalise(images)).argmax(1) == labels).float().mean() > 0.95
        assert (model(normalise(other)).argmax(1) == truth).float().mean() > 0.8


def test_features_are_normalised_and_the_mode_of_the_encoder_is_restored():
    model, images, _ = fitted()
    with torch.no_grad():
        x = model.linear_head.batch_norm(pool(model.encoder(normalise(images))))
    torch.testing.assert_close(x.mean(0), torch.zeros(x.shape[1]), atol=2e-3, rtol=0)
    assert float(x.std(0, correction=0).max()) < 1.01
    model.encoder.train()
    model.linear_head.fit(model.encoder, [normalise(images)], torch.arange(60) % 3)
    assert model.encoder.training


def test_a_shift_common_to_all_cells_changes_no_prediction_in_training_mode():
    model, images, _ = fitted()
    maps = [m.detach() for m in model.encoder(normalise(images))]
    shifted = [m + 10 * m.std() for m in maps]
    with torch.no_grad():
        assert (model.linear_head(shifted).argmax(1) != model.linear_head(maps).argmax(1)).any()
        model.linear_head.train()
        torch.testing.assert_close(model.linear_head(shifted), model.linear_head(maps), atol=1e-2, rtol=1e-2)


def test_pooling_is_mean_deviation_and_maximum():
    maps = [torch.randn(2, 3, 4, 5), torch.randn(2, 2, 2, 2)]
    pooled = pool(maps)
    assert pooled.shape == (2, 15)
    torch.testing.assert_close(pooled[:, :3], maps[0].mean((2, 3)))
    torch.testing.assert_close(pooled[:, 3:6], maps[0].std((2, 3), correction=0), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(pooled[:, 6:9], maps[0].amax((2, 3)))


def test_the_fit_equals_scikit_learn():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(90, 5)), np.arange(90) % 3
    x[np.arange(90), labels] += 1
    ours = logistic_regression(torch.from_numpy(x), torch.from_numpy(labels), 3).numpy()
    theirs = LogisticRegression(C=1 / (RIDGE * 90), tol=1e-8, max_iter=1000).fit(x, labels)
    np.testing.assert_allclose(ours[:, :-1], theirs.coef_, atol=2e-3)
    # A bias common to all classes changes no probability.
    np.testing.assert_allclose(
        ours[:, -1] - ours[:, -1].mean(), theirs.intercept_ - theirs.intercept_.mean(), atol=2e-3
    )


def test_a_class_without_cells_is_improbable():
    model, images, _ = fitted(n_classes=5)
    with torch.no_grad():
        probs = model(normalise(images)).softmax(1)
    assert torch.isfinite(probs).all() and float(probs[:, 3:].max()) < 0.2


@pytest.mark.parametrize("linear_head", [True, False])
def test_wpat_adds_the_logits_of_the_linear_head(tiny, linear_head):
    torch.manual_seed(0)
    model = WPAT(build_encoder("zepto", 4), 3, tiny.model_copy(update={"linear_head": linear_head})).eval()
    x = normalise(blobs(4)[0])
    with torch.no_grad():
        before = model(x)
        if not linear_head:
            assert model.linear_head is None
            return
        assert isinstance(model.linear_head, LinearHead)
        torch.nn.init.normal_(model.linear_head.linear.weight, std=0.1)
        torch.testing.assert_close(model(x), before + model.linear_head(model.encoder(x)))
