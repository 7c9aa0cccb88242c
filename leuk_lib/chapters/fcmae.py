"""Chapter 4, masked pretraining: reconstructed cells, a map of the features, metrics, and the cost of a step."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from leuk_lib.chapters.one_cell import find_cell
from leuk_lib.data.cellset import CellSet
from leuk_lib.fcmae.autoencoder import MaskedAutoencoder
from leuk_lib.fcmae.encoder import VARIANTS, Encoder
from leuk_lib.fcmae.masking import random_masks, upsample_mask
from leuk_lib.fcmae.params import FcmaeParams
from leuk_lib.fcmae.pretrain import build_autoencoder, mask_grid
from leuk_lib.fcmae.probe import ENCODER, RANDOM_START, Probe, encode
from leuk_lib.fcmae.start import Start, load_start
from leuk_lib.fcmae.weights import origin_sentence
from leuk_lib.runs import display
from leuk_lib.runs.recorder import Notes, Recorder
from leuk_lib.runs.seeds import torch_generator
from leuk_lib.runs.stage import Stage

METRIC_KEYS = {"k-NN": "knn", "k-NN, whitened": "knn_whitened", "linear": "linear"}  # of a probe, in the metrics
MAP_LIMIT, THUMBNAIL = 600, 32  # largest number of cells on the map, and the side of their pictures in px


def given_weights(stage: Stage[FcmaeParams]) -> Start | None:
    """Load the weights that the stage starts from; None for random ones.

    Hash, licence and source go into the stage's card, and are shown. Call it before the stage's identity is used.

    Raises:
        LeukError: As `leuk_lib.fcmae.start.load_start`.
    """
    start = load_start(stage.params)
    if start is not None:
        stage.use_file(str(start.weights.path.absolute()))
        stage.notice(origin_sentence(start.facts()))
        if start.file_stride != stage.params.stem_stride:
            stage.note(
                f"weights: the stem was resampled from stride {start.file_stride} to {stage.params.stem_stride} px"
            )
    return start


@dataclass(frozen=True)
class Reconstructions:
    """Cells, their visible part and their reconstruction, as arrays for a figure.

    Attributes:
        images: (N, H, W, 3) float in [0, 1].
        visible: (N, H, W) bool.
        reconstructed: (N, H, W, 3) float in [0, 1]; visible patches are copied from the images.
    """

    images: NDArray[Any]
    visible: NDArray[np.bool_]
    reconstructed: NDArray[Any]

    def tensors(self) -> dict[str, Tensor]:
        """Images and reconstructions as uint8 (N, 3, H, W) and the mask as uint8 (N, H, W), for a file."""

        def as_bytes(x: NDArray[Any]) -> Tensor:
            return torch.from_numpy((x * 255).round().astype(np.uint8)).permute(0, 3, 1, 2).contiguous()

        return {
            "images": as_bytes(self.images),
            "visible": torch.from_numpy(self.visible.astype(np.uint8)),
            "reconstructed": as_bytes(self.reconstructed),
        }


def one_per_class(
    labels: Tensor, positions: Tensor, classes: Sequence[str], limit: int = 6
) -> tuple[Tensor, list[str]]:
    """First cell of each class among `positions`, for at most `limit` classes: positions and class names."""
    first = [
        (int(members[0]), name) for k, name in enumerate(classes) if len(members := positions[labels[positions] == k])
    ][:limit]
    return torch.tensor([position for position, _ in first]), [name for _, name in first]


def reconstruct(model: MaskedAutoencoder, images: Tensor, mask_ratio: float, seed: int = 0) -> Reconstructions:
    """Mask images (N, 3, S, S) uint8 at random and reconstruct them."""
    device = model.mask_token.device
    training = model.training
    model.eval()
    x = images.float() / 255
    side = x.shape[-1] // model.encoder.patch
    visible = random_masks(len(x), (side, side), mask_ratio, torch_generator(seed, "fcmae", "pictures"))
    reconstructed = model.reconstruct(x.to(device), visible.to(device)).cpu()
    model.train(training)
    pixels = upsample_mask(visible, model.encoder.patch)
    return Reconstructions(_channels_last(x), pixels.numpy(), _channels_last(reconstructed))


def _channels_last(x: Tensor) -> NDArray[Any]:
    return x.permute(0, 2, 3, 1).contiguous().numpy()


def feature_map(encoder: Encoder, images: Tensor) -> tuple[NDArray[Any], list[str]]:
    """First two principal components of the frozen features of images (N, 3, S, S) uint8.

    Returns:
        Points (N, 2), and labels of the axes with their share of the variance.
    """
    features = encode(encoder, images)
    points, shares = np.zeros((len(features), 2)), [0.0, 0.0]
    if len(features) > 2:
        pca = PCA(2, svd_solver="full").fit(features)
        points, shares = pca.transform(features), pca.explained_variance_ratio_.tolist()
    return points, [f"principal component {i + 1} ({share:.0%} of the variance)" for i, share in enumerate(shares)]


def thumbnails(images: Tensor, side: int = THUMBNAIL) -> NDArray[np.uint8]:
    """Images (N, 3, S, S) uint8 reduced to (N, side, side, 3) by area averages; small images stay as they are."""
    side = min(side, images.shape[-1])
    small = F.adaptive_avg_pool2d(images.float(), side).round().to(torch.uint8)
    return _channels_last(small)


def record_metrics(stage: Recorder, probe: Probe, history: list[dict[str, Any]]) -> None:
    """Record the accuracies, their gains over the random start, and the final losses, with intervals if possible."""
    table, gains = probe.table(), probe.gains()
    last = table.loc[table["features"] == ENCODER, "step"].max()
    for row in table.to_dict("records"):
        key = METRIC_KEYS[row["probe"]]
        if row["features"] == RANDOM_START:
            _record(stage, f"{key}_random", row, "accuracy")
        elif row["features"] != ENCODER:
            _record(stage, f"{key}_{row['features'].replace(' ', '_').replace('-', '_').lower()}", row, "accuracy")
        elif row["step"] in (0, last):
            start = "random" if probe.start == RANDOM_START else "given"
            _record(stage, f"{key}_pretrained" if row["step"] == last else f"{key}_{start}", row, "accuracy")
    suffixes = {probe.start: "gain_over_given", RANDOM_START: "gain"}
    for row in gains[gains["baseline"].isin(list(suffixes))].to_dict("records"):
        _record(stage, f"{METRIC_KEYS[row['probe']]}_{suffixes[row['baseline']]}", row, "difference")
    if table["low"].isna().any():
        stage.note("probe: all validation cells belong to one group, so that their accuracy has no interval")
    tail = pd.DataFrame(history).tail(max(len(history) // 10, 1))
    for column in ("loss", "stained", "field", "contrast"):
        if column in tail and math.isfinite(mean := tail[column].mean()):
            stage.record(f"loss_{column}" if column != "loss" else "loss", float(mean), n=len(tail))


def probes_title(gains: pd.DataFrame, start: str) -> str:
    """Say in how many probes the encoder is better and worse after pretraining than at its start.

    Args:
        gains: Columns baseline and verdict, of `Probe.gains`.
        start: The baseline that is the encoder's start; without it, as where nothing was trained, the random weights.
    """
    baseline = start if (gains["baseline"] == start).any() else RANDOM_START
    verdicts = gains.loc[gains["baseline"] == baseline, "verdict"].tolist()
    counts = ", ".join(f"{word} in {verdicts.count(word)}" for word in ("better", "worse", "inconclusive"))
    return f"Pretrained encoder against {baseline}, {len(verdicts)} probes: {counts}"


def _record(stage: Recorder, key: str, row: dict[Any, Any], value: str) -> None:
    bounded = math.isfinite(row["low"])
    low, high = (row["low"], row["high"]) if bounded else (None, None)
    stage.record(key, row[value], low=low, high=high, n=row["n"])


VISIBLE, DENSE, ZEROED = "visible sites only", "dense with masks", "timm, hidden pixels set to 0"
FORMS = VISIBLE, DENSE, ZEROED


class _ZeroedEncoder(nn.Module):
    """timm's ConvNeXt V2 on images with hidden pixels set to 0, for timing only.

    It computes every site, and its blocks see the edges of the hidden patches.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        from timm.models.convnext import ConvNeXt

        spec = VARIANTS[encoder.variant]
        body = ConvNeXt(
            depths=spec["depths"], dims=spec["dims"], use_grn=True, ls_init_value=None, num_classes=0,
            conv_mlp=encoder.variant not in ("tiny", "base"),
        )  # fmt: skip
        # With its patch_size timm would add a fifth downsampling, so the usual stem is replaced.
        body.stem[0] = nn.Conv2d(3, spec["dims"][0], encoder.stem_stride, encoder.stem_stride)
        self.stem, self.stages, self.norm = body.stem, body.stages, nn.LayerNorm(spec["dims"][-1])
        self.patch = encoder.patch

    def forward(self, x: Tensor, visible: Tensor, dense: bool = False) -> list[Tensor]:
        """Features of the last stage, as a list of one."""
        return [self.stages(self.stem(x * upsample_mask(visible, self.patch)[:, None]))]


def training_step(form: str, params: FcmaeParams, size: int, batch: int, device: str = "cpu") -> Callable[[], None]:
    """A function that makes one training step (forward, backward, AdamW) of the autoencoder of `params`.

    Args:
        form: One of `FORMS`.
        params: Architecture and mask ratio.
        size: Image side in pixels. The images are noise, on which the time does not depend.
        batch: Images per step.
        device: Where to train.

    Raises:
        ValueError: Unknown form.
    """
    if form not in FORMS:
        raise ValueError(f"form {form!r} is none of {', '.join(map(repr, FORMS))}")
    model = build_autoencoder(params)
    if form == ZEROED:
        model.encoder = _ZeroedEncoder(model.encoder)  # type: ignore[assignment]
    model = model.to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch, 3, size, size, generator=generator).to(device)
    visible = random_masks(batch, mask_grid(size, params), params.mask_ratio, generator).to(device)

    def step() -> None:
        loss = model(images, visible, dense=form == DENSE).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if device != "cpu":
            torch.cuda.synchronize()

    return step


def measure_seconds(steps: Mapping[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each repeat of each step, after one warm-up each.

    The steps take turns, so that other load on the machine slows all of them and their ratios stay fair.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def peak_memory(step: Callable[[], None], device: str = "cpu", warm_up: bool = True) -> float:
    """Largest memory in MiB that a step holds beyond what was allocated before it: activations and gradients.

    Measured by torch's profiler on the CPU, and by CUDA's memory statistics on a GPU.

    Args:
        step: The step.
        device: Where it runs.
        warm_up: Whether to make one step before, because the first allocates the optimiser's state.
    """
    if warm_up:
        step()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    allocated = itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
    return max(allocated, default=0) / 2**20


def step_costs(params: FcmaeParams, size: int, batch: int = 16, repeats: int = 3, device: str = "cpu") -> pd.DataFrame:
    """Time and memory of one training step in all `FORMS`; arguments as in `training_step`.

    Returns:
        Columns form, ms per step (median), relative time (to the first form, median over the paired repeats) and peak
        MiB.
    """
    steps = {form: training_step(form, params, size, batch, device) for form in FORMS}
    seconds = measure_seconds(steps, repeats)
    rows = []
    for form, step in steps.items():
        ratios = [a / b for a, b in zip(seconds[form], seconds[VISIBLE], strict=True)]
        memory = peak_memory(step, device, warm_up=False)
        rows.append((form, 1e3 * statistics.median(seconds[form]), statistics.median(ratios), memory))
    return pd.DataFrame(rows, columns=["form", "ms per step", "relative time", "peak MiB"])


def record_costs(stage: Stage[FcmaeParams], params: FcmaeParams, size: int) -> display.Html:
    """Time a training step in all `FORMS`, measure the ratios, and return the table; a sentence if no step is to be timed.

    Args:
        stage: Chapter 4's stage.
        params: Architecture and mask ratio.
        size: Image side in pixels.
    """
    if not stage.params.timed_steps:
        return display.sentences("Not timed in this run (timed_steps = 0).")
    costs = step_costs(params, size, repeats=stage.params.timed_steps)
    by_form = costs.set_index("form").to_dict("index")
    dense, visible = by_form[DENSE], by_form[VISIBLE]
    stage.measure("dense_over_visible", dense["relative time"])
    stage.measure("visible_over_dense_memory", visible["peak MiB"] / dense["peak MiB"])
    return stage.table(costs, "Time and largest memory of one training step on this machine, while this notebook ran")


def one_cell(
    model: MaskedAutoencoder, cells: CellSet, mask_ratio: float, trained: bool, stage: Notes, seed: int = 0
) -> dict[str, Any] | None:
    """The same cell, masked and reconstructed.

    Args:
        model: The autoencoder.
        cells: The cells as it sees them.
        mask_ratio: Share of the patches to hide.
        trained: Whether its decoder was trained in this run.
        stage: The stage whose card gets a note.
        seed: Seed of the mask.

    Returns:
        Arguments of ``figures.fcmae.one_cell``; None for a data set without test cells.
    """
    cell = find_cell(cells, stage)
    if cell is None:
        return None
    made = reconstruct(model, cells.images[cell.position : cell.position + 1], mask_ratio, seed)
    image, visible, filled = made.images[0], made.visible[0], made.reconstructed[0]
    plain = image[visible].mean(axis=0) if visible.any() else np.full(3, 0.5)
    errors = [float(np.sqrt(np.mean((guess - image[~visible]) ** 2))) for guess in (filled[~visible], plain)]
    return {"image": image, "visible": visible, "reconstructed": filled if trained else None, "errors": errors}
