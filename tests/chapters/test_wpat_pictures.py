"""What chapter 5 draws of the model is what the model computes."""

import numpy as np
import pandas as pd
import pytest
import torch

from leuk_lib.chapters.wpat_pictures import tensor_table
from leuk_lib.evaluation import sanity
from leuk_lib.evaluation.attribution import record_shares
from leuk_lib.fcmae.encoder import build_encoder
from leuk_lib.fcmae.weights import save_backbone
from leuk_lib.figures import evidence
from leuk_lib.wpat.cost import cost_table
from leuk_lib.wpat.model import WPAT


@pytest.mark.parametrize(("size", "stem"), [(32, 2), (48, 2), (64, 4)])
def test_the_drawn_tensors_are_those_of_a_real_pass(tiny, tmp_path, size, stem):
    encoder = build_encoder("zepto", stem)
    path = tmp_path / "encoder.safetensors"
    save_backbone(encoder, path)
    drawn = tensor_table(path, tiny, size, 5).set_index("name")[["height", "width", "channels"]]
    model = WPAT(encoder, 5, tiny).eval()
    with torch.no_grad():
        features = encoder(torch.zeros(1, 3, size, size))
        tokens, regions, layout = model.tokens(features[-model.scales :])
        latents = model.look(torch.zeros(1, 3, size, size)).latents
        logits = model(torch.zeros(1, 3, size, size))
    for stride, feature in zip(encoder.strides, features, strict=True):
        assert drawn.loc[f"stride {stride}"].tolist() == [*feature.shape[2:], feature.shape[1]]
    for stride, count, real in zip(
        encoder.strides[-model.scales :], layout.counts, layout.real.split(layout.counts), strict=True
    ):
        height, width, channels = drawn.loc[f"tokens {stride}"]
        assert height * width == int(real.sum()) and channels == tokens.shape[-1] and count == len(real)
    assert drawn.loc["regions"].tolist() == [regions.shape[1], 1, regions.shape[2]]
    assert "pooled" not in set(tensor_table(path, tiny.model_copy(update={"pooled": False}), size, 5)["name"])
    assert drawn.loc["latents"].tolist() == [latents.shape[1], 1, latents.shape[2]]
    assert drawn.loc["queries"].tolist() == [*model.queries.shape[:1], 1, model.queries.shape[1]]
    assert drawn.loc["pooled"].prod() == model.pooled.head.in_features
    assert drawn.loc["logits"].tolist() == [logits.shape[1], 1, 1]


class Numbers:
    """A stage as far as metrics go."""

    def __init__(self):
        self.found = {}

    def record(self, key, value, low, high, n):
        self.found[key] = (value, low, high, n)


def test_figures_draw_and_numbers_get_their_names(tiny):
    table = pd.DataFrame(
        [(m, r, v, v - 0.1, v + 0.1, 7) for m in ("attention", "image alone") for r, v in (("head", 0.9), ("… and rest", 0.2))],
        columns=sanity.COLUMNS,
    )  # fmt: skip
    stage = Numbers()
    sanity.record(stage, table)
    assert stage.found["sanity_image_alone"] == pytest.approx((0.2, 0.1, 0.3, 7))
    shares = pd.DataFrame(
        [("image alone", "cell", "share", 0.5, 0.4, 0.6, 0.2, 9)],
        columns=["method", "region", "measure", "value", "low", "high", "area", "n"],
    )
    record_shares(stage, shares, "x")
    assert stage.found["x_image_alone_cell_share"] == (0.5, 0.4, 0.6, 9)
    evidence.sanity(table).canvas.draw()
    cost = cost_table(WPAT(build_encoder("zepto", 4), 3, tiny), (64, 128))
    evidence.cost(cost).canvas.draw()
    assert np.isfinite(cost.to_numpy(dtype=float)).all()
