"""What the measures mean, and that ALHE reaches its goal on cells with expert masks."""

from __future__ import annotations

import cv2
import numpy as np
import pandas as pd
import pytest

from alhe.toys import cell
from leuk_lib.alhe import baselines, quality
from leuk_lib.runs.errors import LeukError


def test_unchanged_image():
    image, mask = cell(80, 80)
    values = quality.measure(image, image, mask)
    assert set(values) == set(quality.MEASURES)
    for name in ("texture_ratio", "spread_ratio", "background_ratio", "ssim"):
        assert values[name] == pytest.approx(1)
    assert values["ambe"] == 0


def test_cnr_by_hand():
    values = np.r_[np.tile([1.0, 3.0], 10), np.tile([9.0, 11.0], 10)]
    first = np.arange(40) < 20
    # Means 2 and 10, both deviations 1.
    assert quality.cnr(values, first, ~first) == pytest.approx(8)
    assert np.isnan(quality.cnr(values, first, np.zeros(40, bool)))


def test_auc_equals_sklearns():
    from sklearn.metrics import roc_auc_score

    image, mask = cell(48, 48)
    darkness = -quality.lightness(image)
    auc = quality.measure(image, image, mask)["auc_nucleus"]
    assert auc == pytest.approx(roc_auc_score((mask == 255).ravel(), darkness.ravel()))


def test_noise_raises_entropy_and_worsens_every_other_measure():
    image, mask = cell(80, 80)
    noisy = np.clip(image + np.random.default_rng(0).normal(0, 25, image.shape), 0, 255).astype(np.uint8)
    clean, worse = quality.measure(image, image, mask), quality.measure(image, noisy, mask)
    assert worse["entropy"] > clean["entropy"] + 0.5
    for name in ("cnr_cytoplasm", "cnr_background", "auc_nucleus", "ssim"):
        assert worse[name] < clean[name]
    assert worse["background_ratio"] > 1.5


def test_cells_without_a_region_are_left_out_of_the_mean():
    image, mask = cell(64, 64)
    table = quality.compare(
        np.stack([image, image]),
        np.stack([mask, np.zeros_like(mask)]),
        {"input": baselines.identity},
        ["a", "b"],
        ["p", "q"],
    )
    summary = quality.summarise(table, seed=0).set_index("measure")
    assert summary.loc["cnr_cytoplasm", "n"] == 1 and summary.loc["ambe", "n"] == 2
    assert np.isfinite(summary.loc["cnr_cytoplasm", "value"])


def test_measures_without_masks():
    image, _ = cell(32, 32)
    table = quality.compare(image[None], None, baselines.methods(), ["a"], ["p"])
    assert set(quality.MEASURES) & set(table.columns) == {"ambe", "ssim", "entropy"}
    assert "ssim" in quality.summary_table(quality.summarise(table, seed=0))


def test_summary_ratio_and_interval():
    rng = np.random.default_rng(0)
    base = rng.uniform(1, 2, 200)
    table = pd.DataFrame(
        {
            "cell": np.r_[0:200, 0:200],
            "label": "a",
            "group": [f"p{i % 40}" for i in range(200)] * 2,
            "method": ["input"] * 200 + ["twice"] * 200,
            "ssim": np.r_[base, 2 * base],
        }
    )
    row = quality.summarise(table, 0, relative_to="input").set_index("method").loc["twice"]
    assert row["value"] == pytest.approx(2) and row["low"] == pytest.approx(2) and row["high"] == pytest.approx(2)
    row = quality.summarise(table, 0).set_index("method").loc["input"]
    assert row["value"] == pytest.approx(base.mean()) and row["low"] < row["value"] < row["high"]
    pd.testing.assert_frame_equal(quality.summarise(table, 3), quality.summarise(table, 3))


def test_different_shapes_raise():
    image, mask = cell(32, 32)
    with pytest.raises(LeukError, match="shapes differ"):
        quality.measure(image, image, mask[:-1])


def test_methods_keep_shape_and_type():
    image, _ = cell(40, 56)
    for name, method in baselines.methods().items():
        out = method(image)
        assert out.shape == image.shape and out.dtype == np.uint8, name


def test_alhe_reaches_its_goal_on_masked_cells(real_data):
    """Nucleus/cytoplasm contrast not below the input's, texture >= 1.25, background deviation <= 1.05."""
    rows = []
    files = sorted((real_data / "tecom_wbc").glob("*/tecom_*.png"))
    methods = {name: baselines.methods()[name] for name in ("input", "ALHE", "CLAHE 2")}
    for file in [file for file in files if file.parent.name != "masks"][::2]:
        image = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
        mask = cv2.imread(str(real_data / "tecom_wbc" / "masks" / file.name), cv2.IMREAD_GRAYSCALE)
        rows.append(quality.compare(image[None], mask[None], methods, [file.parent.name], [file.stem]))
    summary = quality.summarise(pd.concat(rows), seed=0).pivot(index="method", columns="measure", values="value")
    enhanced, original = summary.loc["ALHE"], summary.loc["input"]
    assert len(rows) == 103
    assert enhanced["cnr_cytoplasm"] >= original["cnr_cytoplasm"]
    assert enhanced["texture_ratio"] >= 1.25 and enhanced["spread_ratio"] >= 1.25
    assert enhanced["background_ratio"] <= 1.05
    assert enhanced["auc_nucleus"] >= original["auc_nucleus"] - 0.001
    # Chapter 2: CLAHE loses contrast between nucleus and cytoplasm while it gains texture.
    clahe = summary.loc["CLAHE 2"]
    assert clahe["cnr_cytoplasm"] < 0.9 * original["cnr_cytoplasm"] and clahe["texture_ratio"] > 1.25
