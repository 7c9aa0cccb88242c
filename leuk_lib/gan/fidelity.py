"""How near the synthetic set is to the real one, and how far from copying it.

FD, KID, precision and recall are torch-fidelity's, on the features they are given: so they are named after the
feature network (FD-FCMAE), never FID. Density and coverage after Naeem et al. 2020, C_T after Meehan et al. 2020,
SSIM by piqa. What needs weights that are not there is reported as not computed, never replaced.
All heavy imports happen inside the functions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leuk_lib.gan.inception import ALEXNET, inception_features, inception_score, load_inception, read_weights
from leuk_lib.gan.pixels import distances
from leuk_lib.runs.errors import LeukError

MISSING = "not computed: weights unavailable"
Features = NDArray[Any]


def set_metrics(fake: Features, real: Features, name: str = "FCMAE", k: int = 3, seed: int = 0) -> dict[str, float]:
    """FD, KID (x 1000), precision, recall of features (M,D) against (N,D), keys with ``name``.

    Both need more than ``k`` rows; KID uses subsets of at most half the smaller set. Source: Heusel et al. 2017
    (Frechet distance), Binkowski et al. 2018 (kernel distance), Kynkaanniemi et al. 2019 (precision, recall).
    """
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    least = min(len(fake), len(real))
    if least <= k:
        raise LeukError(f"fidelity needs more than {k} synthetic and real cells, got {len(fake)} and {len(real)}")
    raw = [np.asarray(x, dtype=np.float64) for x in (fake, real)]
    # A shift or a turn of all features changes neither FD nor precision and recall. The shift saves digits; and few
    # cells span few of many dimensions, in which the covariances' square root is cheap. KID's kernel knows the origin.
    centred = [x - raw[1].mean(axis=0) for x in raw]
    if sum(map(len, centred)) < centred[0].shape[1]:
        basis = np.linalg.qr(np.concatenate(centred).T)[0]
        centred = [x @ basis for x in centred]
    a, b = map(torch.from_numpy, centred)
    fd = fid_statistics_to_metric(fid_features_to_statistics(a), fid_features_to_statistics(b), False)
    kid = kid_features_to_metric(
        *map(torch.from_numpy, raw), kid_subsets=50, kid_subset_size=max(2, least // 2), rng_seed=seed, verbose=False
    )
    prc = prc_features_to_metric(
        a.float(), b.float(), prc_neighborhood=k, prc_batch_size=1024, save_cpu_ram=False, verbose=False
    )
    return {
        f"FD-{name}": float(fd["frechet_inception_distance"]),
        f"KID-{name} x 1000": 1000 * float(kid["kernel_inception_distance_mean"]),
        "precision": float(prc["precision"]),
        "recall": float(prc["recall"]),
    }


def density_coverage(fake: Features, real: Features, k: int = 5) -> dict[str, float]:
    """Density (about 1 for a perfect generator) and coverage in [0,1].

    density = (1/kM) sum over fakes of the number of real k-NN balls that hold it; coverage = share of real cells
    whose ball holds a fake. Source: Naeem et al. 2020, eq. 4 and 5.
    """
    r, f = np.asarray(real, dtype=np.float64), np.asarray(fake, dtype=np.float64)
    if len(r) <= k or len(f) == 0:
        raise LeukError(f"density and coverage need more than {k} real cells and a synthetic one")
    radius = np.sort(distances(r, r), axis=1)[:, k]
    inside = distances(r, f) < radius[:, None]  # (N,M)
    return {"density": float(inside.sum() / (k * len(f))), "coverage": float(inside.any(axis=1).mean())}


def copying_z(fake: Features, train: Features, held: Features) -> float:
    """C_T: z of the Mann-Whitney test of distances to the training set; << 0 means copying, >> 0 under-fitting.

    fake (M,D), train (N,D), held (H,D): held-out real. Source: Meehan et al. 2020, section 3 (one cell).
    """
    t = np.asarray(train, dtype=np.float64)
    near_fake = distances(np.asarray(fake, dtype=np.float64), t).min(axis=1)
    near_held = distances(np.asarray(held, dtype=np.float64), t).min(axis=1)
    m, h = len(near_fake), len(near_held)
    if min(m, h) == 0:
        raise LeukError("C_T needs synthetic and held-out real cells")
    difference = near_fake[:, None] - near_held[None]
    u = float((difference > 0).sum() + 0.5 * (difference == 0).sum())
    return (u - m * h / 2) / float(np.sqrt(m * h * (m + h + 1) / 12))


def nearest_ssim(images: Tensor, bank: Tensor, nearest: NDArray[np.int64]) -> NDArray[np.float64]:
    """SSIM (M,) of each image (M,3,S,S) uint8 with its nearest real one, ``bank[nearest]``; 1 = the same picture.

    A measure of memorisation, not of quality. Window 11, smaller where the image is. Source: Wang et al. 2004.
    """
    from piqa.ssim import ssim
    from piqa.utils.functional import gaussian_kernel

    if len(images) == 0:
        return np.zeros(0)
    window = min(11, images.shape[-1] // 2 * 2 - 1)
    kernel = gaussian_kernel(window, sigma=1.5).repeat(3, 1, 1)
    a, b = images.float() / 255, bank[torch.from_numpy(np.asarray(nearest, dtype=np.int64))].float() / 255
    return ssim(a, b, kernel)[0].double().numpy()


def nearest_lpips(images: Tensor, bank: Tensor, nearest: NDArray[np.int64], weights: Path) -> NDArray[np.float64]:
    """LPIPS (AlexNet) (M,) with the nearest real image; 0 = the same picture. Zhang et al. 2018.

    ``weights``: torchvision's AlexNet state dict; the metric's own linear layers come with package lpips.
    """
    import lpips

    state = read_weights(weights, ALEXNET)
    model = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    theirs = {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}
    mine = model.net.state_dict()
    try:
        model.net.load_state_dict({key: theirs[key.split(".", 1)[1]] for key in mine})
    except (KeyError, RuntimeError) as error:
        raise LeukError(f"{weights}: these are other weights; give the path of {ALEXNET}") from error
    a, b = images.float() / 127.5 - 1, bank[torch.from_numpy(np.asarray(nearest, dtype=np.int64))].float() / 127.5 - 1
    with torch.no_grad():
        return model(a, b).flatten().double().numpy()


def fidelity_table(
    sets: dict[str, tuple[Features, Tensor]],
    train: tuple[Features, Tensor],
    held: Features,
    name: str = "FCMAE",
    lpips_weights: Path | None = None,
    seed: int = 0,
    inception_weights: Path | None = None,
    held_images: Tensor | None = None,
    device: torch.device | None = None,
) -> pd.DataFrame:
    """A row a metric and set: metric, set, value, n, note. ``sets``: features and images (uint8) by name.

    Distances between sets are taken to the held-out real cells, distances to the nearest real cell to the
    training ones. A metric that cannot be had is a row without a value that says why. FID, KID and IS on Inception's
    features are there if ``inception_weights`` (torch-fidelity's file) and ``held_images`` are given; ``device``: where
    Inception runs. Raises ``LeukError`` for weights that are missing, damaged or others.
    """
    rows: list[dict[str, Any]] = []
    for label, (features, images) in sets.items():
        n = len(features)
        few = f"not computed: {n} cells are too few"

        def add(metric: str, value: float, note: str = "", label: str = label, n: int = n) -> None:
            rows.append({"metric": metric, "set": label, "value": value, "n": n, "note": note})

        if n > 5 and len(held) > 5:
            values = set_metrics(features, held, name, seed=seed) | density_coverage(features, held)
            values["C_T"] = copying_z(features, train[0], held)
        else:
            keys = [f"FD-{name}", f"KID-{name} x 1000", "precision", "recall", "density", "coverage", "C_T"]
            values = dict.fromkeys(keys, float("nan"))
        for metric, value in values.items():
            add(metric, value, "" if np.isfinite(value) else few)
        if n:
            nearest = distances(np.asarray(features, dtype=np.float64), np.asarray(train[0], dtype=np.float64)).argmin(
                1
            )
            add("SSIM to nearest", float(np.median(nearest_ssim(images, train[1], nearest))), "median")
            if lpips_weights is not None:
                value = float(np.median(nearest_lpips(images, train[1], nearest, lpips_weights)))
                add("LPIPS to nearest", value, "median")
    if lpips_weights is None:
        rows.append(_absent("LPIPS to nearest", "lpips_weights: a path to torchvision's AlexNet weights"))
    if inception_weights is None or held_images is None:
        rows.append(
            _absent("FID, KID, IS (Inception)", "inception_weights: a path to the Inception weights of torch-fidelity")
        )
    else:
        model = load_inception(inception_weights).to(device or torch.device("cpu"))
        pictures = {label: images for label, (_, images) in sets.items()}
        rows += inception_rows(pictures, held_images, model, seed)
    return pd.DataFrame(rows, columns=["metric", "set", "value", "n", "note"])


def inception_rows(sets: dict[str, Tensor], held: Tensor, model: nn.Module, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of `fidelity_table`: FID, KID and IS of sets of images (M,3,S,S) uint8 against held-out real ones."""
    rows = []
    real = inception_features(held, model)[0] if len(held) else np.zeros((0, 1))
    for label, images in sets.items():
        n = len(images)
        keys, note = ("FID", "KID x 1000", "IS"), f"not computed: {n} and {len(held)} cells are too few"
        values = dict.fromkeys(keys, float("nan"))
        if min(n, len(held)) > 5:
            pooled, logits = inception_features(images, model)
            found = set_metrics(pooled, real, "Inception", seed=seed)
            values = {
                "FID": found["FD-Inception"], "KID x 1000": found["KID-Inception x 1000"],
                "IS": inception_score(logits, seed),
            }  # fmt: skip
            note = f"Inception, against {len(held)} held-out cells"
            if min(n, len(held)) < pooled.shape[1]:
                note += f"; FID is biased upwards under {pooled.shape[1]} cells"
        rows += [{"metric": key, "set": label, "value": values[key], "n": n, "note": note} for key in keys]
    return rows


def _absent(metric: str, remedy: str) -> dict[str, Any]:
    return {"metric": metric, "set": "all", "value": float("nan"), "n": 0, "note": f"{MISSING}; give {remedy}"}
