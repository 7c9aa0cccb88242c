"""Several passes per batch give the gradients of one pass of the whole batch, batch statistics and drop path included."""

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import leuk_lib.wpat.finetune as finetune_module
from leuk_lib.fcmae.encoder import build_encoder
from leuk_lib.runs.errors import LeukError
from leuk_lib.training.backbones import TimmBackbone
from leuk_lib.training.fabric import make_fabric
from leuk_lib.training.optimisers import ADAMW
from leuk_lib.training.pretrained import NetworkSpec
from leuk_lib.wpat.finetune import Finetuned, finetune
from leuk_lib.wpat.linear_head import LinearClassifier
from leuk_lib.wpat.params import WpatParams
from wpat.toys import blobs

PARAMS = WpatParams(
    dim=16, heads=2, latents=4, depth=2, steps=2, batch_size=8, evaluations=1, accelerator="cpu", lr=0.1, warmup=0.0,
    drop_path=0.4, branch_drop=0.5, mixup=0.4, cutmix=0.4, clip_norm=1e6, threads=1,
)  # fmt: skip


@pytest.fixture(autouse=True)
def gradient_descent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain gradient descent: the first steps of Adam have the size of the rate even for a gradient that is rounding."""

    def optimisers(model, *_, **__):  # type: ignore[no-untyped-def]
        trained = [p for p in model.parameters() if p.requires_grad]
        return {ADAMW: torch.optim.SGD([{"params": trained, "lr_scale": 1.0}], lr=0.0)}

    monkeypatch.setattr(finetune_module, "build_optimisers", optimisers)


def run(network: nn.Module, folder: Path, accumulate: int, **changes: object) -> Finetuned:
    params = PARAMS.model_copy(update={"accumulate": accumulate, **changes})
    images, labels, _ = blobs(24)
    return finetune(
        images, labels, *blobs(8, seed=1)[:2], network, params, folder / str(accumulate), "id", make_fabric(params)
    )


def encoder() -> nn.Module:
    torch.manual_seed(5)
    return build_encoder("zepto", 4, PARAMS.drop_path)


def plain() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, 4), nn.GroupNorm(2, 8), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )


NETWORKS = {
    "WPAT": encoder,
    "linear head": lambda: LinearClassifier(encoder(), 3),
    "network without batch statistics": plain,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_passes_equal_the_whole_batch(name: str, tmp_path: Path) -> None:
    whole, parts = (run(NETWORKS[name](), tmp_path, count) for count in (1, 4))
    start = NETWORKS[name]().state_dict()
    moved = 0.0
    for key, value in whole.model.state_dict().items():
        torch.testing.assert_close(
            parts.model.state_dict()[key], value, rtol=1e-4, atol=2e-6, msg=lambda m, k=key: f"{k}: {m}"
        )
        if key in start:
            moved = max(moved, float((value - start[key]).abs().max()))
    if name != "WPAT":
        assert moved > 1e-3  # the comparison is of weights that were trained
    torch.testing.assert_close(
        torch.tensor(parts.history["loss"]), torch.tensor(whole.history["loss"]), rtol=1e-5, atol=1e-6
    )


def test_passes_that_draw_for_themselves_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import nullcontext

    whole = run(encoder(), tmp_path, 1)
    monkeypatch.setattr(finetune_module, "part_of_batch", lambda start, total: nullcontext())
    parts = run(encoder(), tmp_path, 2)
    assert float((whole.val_logits - parts.val_logits).abs().max()) > 1e-4


def test_batch_normalisation_inside_a_network_sees_each_pass_once(tmp_path: Path) -> None:
    torch.manual_seed(5)
    backbone = TimmBackbone(NetworkSpec.of("resnet10t", 32, False), 32)
    tuned = run(backbone, tmp_path, 2, steps=1)
    counts = {int(v) for k, v in tuned.model.state_dict().items() if k.endswith("num_batches_tracked")}
    assert counts == {2}  # two passes, although the features of each are computed twice
    torch.manual_seed(5)
    network = run(timm.create_model("resnet10t", num_classes=3), tmp_path / "plain", 4, steps=1).model
    assert {int(v) for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")} == {4}


def test_a_batch_that_cannot_be_cut_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LeukError, match="batch_size 8 cannot be cut into 1 processes x accumulate 3 equal parts"):
        run(encoder(), tmp_path, 3)
