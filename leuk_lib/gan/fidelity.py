"""Fidelity, diversity and memorisation of a set of synthetic cells.

Distances are computed on given features and named after the feature network (FD-FCMAE); only features of Inception make
an FID. A metric whose weights are unavailable is reported as not computed and never replaced by another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leuk_lib.gan.features import distances
from leuk_lib.gan.inception import ALEXNET, inception_features, inception_score, load_inception, read_weights
from leuk_lib.runs.errors import LeukError

MISSING = "not computed: weights unavailable"
Features = NDArray[Any]


def set_metrics(fake: Features, real: Features, name: str = "FCMAE", k: int = 3, seed: int = 0) -> dict[str, float]:
    r"""Return Fréchet distance, kernel distance (x 1000), precision and recall by torch-fidelity.

    .. math::
        \mathrm{FD} = \lVert \mu_f - \mu_r \rVert^2
        + \operatorname{tr}\left(\Sigma_f + \Sigma_r - 2 (\Sigma_f \Sigma_r)^{1/2}\right)

    Args:
        fake: Features (M,D) of synthetic cells, M > k.
        real: Features (N,D) of real cells, N > k.
        name: Feature network, for the keys FD-<name> and KID-<name>.
        k: Neighbours of precision and recall.
        seed: Seed of the 50 subsets of KID, each of half the smaller set.

    Raises:
        LeukError: If a set has too few cells, or a feature is NaN or infinite.

    References:
        Heusel et al. 2017 (FD); Bińkowski et al. 2018 (KID); Kynkäänniemi et al. 2019 (precision, recall).
    """
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    least = min(len(fake), len(real))
    if least <= k:
        raise LeukError(f"fidelity needs more than {k} synthetic and real cells, got {len(fake)} and {len(real)}")
    raw = [np.asarray(x, dtype=np.float64) for x in (fake, real)]
    # FD, precision and recall are invariant to shifts and rotations of all features. The shift preserves digits. The
    # rotation into the span of few cells makes the square root of the covariances cheap. KID depends on the origin.
    centred = _centred(real, fake)[::-1]
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


def _centred(reference: Features, *others: Features) -> list[NDArray[np.float64]]:
    """Features less the mean of the first set; distances through squares lose all digits far from the origin.

    Raises:
        LeukError: If a feature is NaN or infinite.
    """
    sets = [np.asarray(features, dtype=np.float64) for features in (reference, *others)]
    for features in sets:
        if wrong := int((~np.isfinite(features)).any(axis=1).sum()):
            raise LeukError(f"fidelity: the features of {wrong} of {len(features)} cells are NaN or infinite")
    return [features - sets[0].mean(axis=0) for features in sets]


def density_coverage(fake: Features, real: Features, k: int = 5) -> dict[str, float]:
    r"""Return density (about 1 for a perfect generator) and coverage (in [0,1]).

    With the k-NN balls :math:`B_j` of the real cells,

    .. math::
        \text{density} &= \frac{1}{kM} \sum_{i=1}^{M} \sum_{j=1}^{N} [f_i \in B_j], &
        \text{coverage} &= \frac{1}{N} \sum_{j=1}^{N} [\exists i: f_i \in B_j].

    Args:
        fake: Features (M,D) of synthetic cells, M > 0.
        real: Features (N,D) of real cells, N > k.
        k: Neighbours.

    Raises:
        LeukError: If a set has too few cells.

    References:
        Naeem et al. 2020, eq. 4 and 5.
    """
    if len(real) <= k or len(fake) == 0:
        raise LeukError(f"density and coverage need more than {k} real cells and a synthetic one")
    r, f = _centred(real, fake)
    radius = np.sort(distances(r, r), axis=1)[:, k]
    inside = distances(r, f) < radius[:, None]  # (N,M)
    return {"density": float(inside.sum() / (k * len(f))), "coverage": float(inside.any(axis=1).mean())}


def copying_z(fake: Features, train: Features, holdout: Features) -> float:
    r"""Return :math:`C_T`, the z-score of the Mann-Whitney test on distances to the nearest training cell.

    Far below 0, synthetic cells are copies: nearer to training cells than held-out cells are. Far above 0, the
    generator underfits.

    Args:
        fake: Features (M,D) of synthetic cells.
        train: Features (N,D) of training cells.
        holdout: Features (H,D) of held-out real cells.

    Raises:
        LeukError: If a set is empty.

    References:
        Meehan et al. 2020, section 3 (undivided space).
    """
    from scipy.stats import mannwhitneyu

    m, h = len(fake), len(holdout)
    if min(m, h, len(train)) == 0:
        raise LeukError("C_T needs synthetic, training and held-out real cells")
    t, f, held = _centred(train, fake, holdout)
    near_fake, near_holdout = (distances(part, t).min(axis=1) for part in (f, held))
    u = float(mannwhitneyu(near_fake, near_holdout, method="asymptotic").statistic)
    return (u - m * h / 2) / float(np.sqrt(m * h * (m + h + 1) / 12))


def nearest_ssim(images: Tensor, bank: Tensor, nearest: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the SSIM of each image with its nearest real one, a measure of memorisation.

    Args:
        images: Synthetic images (M,3,S,S) uint8.
        bank: Real images (N,3,S,S) uint8.
        nearest: Positions (M,) in ``bank``.

    Returns:
        (M,), 1 for identical images.

    References:
        Wang et al. 2004, with windows of at most 11 px.
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
    """Return the LPIPS (AlexNet) of each image with its nearest real one.

    Args:
        images: Synthetic images (M,3,S,S) uint8.
        bank: Real images (N,3,S,S) uint8.
        nearest: Positions (M,) in ``bank``.
        weights: File with torchvision's AlexNet weights. The linear layers come with the package lpips.

    Returns:
        (M,), 0 for identical images.

    Raises:
        LeukError: If the file is missing, damaged, or holds other weights.

    References:
        Zhang et al. 2018.
    """
    import lpips

    state = read_weights(weights, ALEXNET)
    model = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    layers = {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}
    try:
        model.net.load_state_dict({key: layers[key.split(".", 1)[1]] for key in model.net.state_dict()})
    except (KeyError, RuntimeError) as error:
        raise LeukError(f"{weights}: these are other weights; give the path of {ALEXNET}") from error
    a, b = images.float() / 127.5 - 1, bank[torch.from_numpy(np.asarray(nearest, dtype=np.int64))].float() / 127.5 - 1
    with torch.no_grad():
        return model(a, b).flatten().double().numpy()


def fidelity_table(
    sets: dict[str, tuple[Features, Tensor]],
    train: tuple[Features, Tensor],
    holdout: Features,
    name: str = "FCMAE",
    lpips_weights: Path | None = None,
    seed: int = 0,
    inception_weights: Path | None = None,
    holdout_images: Tensor | None = None,
    device: torch.device | None = None,
) -> pd.DataFrame:
    """Return all metrics of sets of synthetic cells.

    Sets are compared with held-out real cells, single images with their nearest training cell.

    Args:
        sets: Features (M,D) and images (M,3,S,S) uint8 by name of the set.
        train: The same of the training cells.
        holdout: Features (H,D) of the held-out cells.
        name: Feature network.
        lpips_weights: File with AlexNet's weights; None: no LPIPS.
        seed: Seed of subsets.
        inception_weights: File with Inception's weights; None: no FID, KID and IS.
        holdout_images: Held-out images (H,3,S,S) uint8, for Inception.
        device: Where Inception runs; None: CPU.

    Returns:
        One row per metric and set: metric, set, value, n, note. If a metric is not computed, the note says why.

    Raises:
        LeukError: If a file of weights is missing, damaged, or holds other weights.
    """
    rows: list[dict[str, Any]] = []
    for label, (features, images) in sets.items():
        n = len(features)
        too_few = f"not computed: {n} cells are too few"

        def add(metric: str, value: float, note: str = "", label: str = label, n: int = n) -> None:
            rows.append({"metric": metric, "set": label, "value": value, "n": n, "note": note})

        if n > 5 and len(holdout) > 5:
            values = set_metrics(features, holdout, name, seed=seed) | density_coverage(features, holdout)
            values["C_T"] = copying_z(features, train[0], holdout)
        else:
            keys = [f"FD-{name}", f"KID-{name} x 1000", "precision", "recall", "density", "coverage", "C_T"]
            values = dict.fromkeys(keys, float("nan"))
        for metric, value in values.items():
            add(metric, value, "" if np.isfinite(value) else too_few)
        if n:
            bank = np.asarray(train[0], dtype=np.float64)
            nearest = distances(np.asarray(features, dtype=np.float64), bank).argmin(axis=1)
            add("SSIM to nearest", float(np.median(nearest_ssim(images, train[1], nearest))), "median")
            if lpips_weights is not None:
                value = float(np.median(nearest_lpips(images, train[1], nearest, lpips_weights)))
                add("LPIPS to nearest", value, "median")
    if lpips_weights is None:
        rows.append(_not_computed("LPIPS to nearest", "lpips_weights: a path to torchvision's AlexNet weights"))
    if inception_weights is None or holdout_images is None:
        rows.append(
            _not_computed(
                "FID, KID, IS (Inception)", "inception_weights: a path to the Inception weights of torch-fidelity"
            )
        )
    else:
        model = load_inception(inception_weights).to(device or torch.device("cpu"))
        images_of = {label: images for label, (_, images) in sets.items()}
        rows += inception_rows(images_of, holdout_images, model, seed)
    return pd.DataFrame(rows, columns=["metric", "set", "value", "n", "note"])


def inception_rows(sets: dict[str, Tensor], holdout: Tensor, model: nn.Module, seed: int = 0) -> list[dict[str, Any]]:
    """Return rows of :func:`fidelity_table` with FID, KID and IS.

    Args:
        sets: Images (M,3,S,S) uint8 by name of the set.
        holdout: Held-out real images (H,3,S,S) uint8.
        model: Inception.
        seed: Seed of subsets.
    """
    rows = []
    real = inception_features(holdout, model)[0] if len(holdout) else np.zeros((0, 1))
    for label, images in sets.items():
        n = len(images)
        keys, note = ("FID", "KID x 1000", "IS"), f"not computed: {n} and {len(holdout)} cells are too few"
        values = dict.fromkeys(keys, float("nan"))
        if min(n, len(holdout)) > 5:
            pooled, logits = inception_features(images, model)
            metrics = set_metrics(pooled, real, "Inception", seed=seed)
            values = {
                "FID": metrics["FD-Inception"], "KID x 1000": metrics["KID-Inception x 1000"],
                "IS": inception_score(logits, seed),
            }  # fmt: skip
            note = f"Inception, against {len(holdout)} held-out cells"
            if min(n, len(holdout)) < pooled.shape[1]:
                note += f"; FID is biased upwards under {pooled.shape[1]} cells"
        rows += [{"metric": key, "set": label, "value": values[key], "n": n, "note": note} for key in keys]
    return rows


def _not_computed(metric: str, remedy: str) -> dict[str, Any]:
    return {"metric": metric, "set": "all", "value": float("nan"), "n": 0, "note": f"{MISSING}; give {remedy}"}
