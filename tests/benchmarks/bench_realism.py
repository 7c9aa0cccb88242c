"""Distance of rendered cells from micrographs, compared with the distances between real sources.

Needs the development images (``LEUK_SHARED_DATA`` or ``../shared/data``). Each image covers about 26 µm at 128 px. Three
distances: Wasserstein-1 of the colours and of the optical densities, and a Fréchet distance on 27 handcrafted features
(FD-hand: means, deviations, quantiles and correlations of optical density, and the energy of four scales of detail, in
the cell and around it; each divided by its deviation over the PBC cells). FD-hand uses no network and is not FID.
"""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from scipy.stats import wasserstein_distance

from leuk_lib.data.decode import decode_file
from leuk_lib.data.smear.cohort import render_smear

SIZE = 128
# Share of the image's side that covers about 26 µm, by the diameter of red cells.
FIELDS = {"pbc_barcelona": 0.80, "aml_lmu": 0.90, "raabin_txl": 0.62}
WHITE_CELLS = {
    "pbc_barcelona": ("neutrophil", "eosinophil", "basophil", "lymphocyte", "monocyte", "immature_granulocyte")
}


def real(folder: Path) -> NDArray[np.uint8]:
    """Return the white cells of one source, (N, 128, 128, 3)."""
    out = []
    for path in sorted(folder.glob("*/*")):
        if path.parent.name not in WHITE_CELLS.get(folder.name, (path.parent.name,)):
            continue
        image = decode_file(path).image
        side = round(min(image.shape[:2]) * FIELDS[folder.name])
        top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
        crop = image[top : top + side, left : left + side]
        out.append(cv2.resize(crop, (SIZE, SIZE), interpolation=cv2.INTER_AREA))
    return np.stack(out)


def density(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the optical density over the clear glass of each image (98th percentile)."""
    glass = np.percentile(images.reshape(len(images), -1, 3), 98, axis=1)[:, None, None]
    return -np.log10(np.clip(images / np.maximum(glass, 1), 1 / 255, 1)).astype(np.float32)


def features(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the handcrafted features, (N, 27)."""
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    centre = np.hypot(x, y) < 0.22 * SIZE
    around = np.hypot(x, y) > 0.42 * SIZE
    rows = []
    for od in density(images):
        total = od.sum(axis=2)
        row = [*od.mean(axis=(0, 1)), *od.std(axis=(0, 1))]
        row += [*np.percentile(total[centre], (5, 25, 50, 75, 95)), *np.percentile(total[around], (5, 25, 50, 75, 95))]
        row += list(np.corrcoef(od.reshape(-1, 3).T)[np.triu_indices(3, 1)])
        for sigma in (0.7, 1.4, 2.8, 5.6):
            detail = cv2.GaussianBlur(total, (0, 0), sigma) - cv2.GaussianBlur(total, (0, 0), 2 * sigma)
            row += [np.log(detail[centre].std() + 1e-3), np.log(detail[around].std() + 1e-3)]
        rows.append(row)
    return np.array(rows)


def frechet(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the Fréchet distance of Gaussians fitted to samples (N, D) and (M, D)."""
    first, second = np.cov(a.T), np.cov(b.T)
    root = np.real(sqrtm(first @ second))
    return float(((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum() + np.trace(first + second - 2 * root))


def histograms(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Return the Wasserstein-1 distance of the values, averaged over the channels."""
    step = 31  # a subsample of the pixels is enough
    return float(
        np.mean([wasserstein_distance(a[..., c].ravel()[::step], b[..., c].ravel()[::step]) for c in range(3)])
    )


def main() -> None:
    root = Path(__file__).resolve().parents[2]
    shared = Path(os.environ.get("LEUK_SHARED_DATA", root.parent / "shared" / "data"))
    if not shared.is_dir():
        print(f"realism: no development images at {shared}")
        return
    sets = {name: real(shared / name) for name in FIELDS}
    sets["rendered"] = render_smear(cells=240, patients=10, size=SIZE, seed=0)[0]
    pbc = sets["pbc_barcelona"]
    scale = features(pbc).std(axis=0)
    order = np.random.default_rng(0).permutation(len(pbc))
    sets["pbc half"], other = pbc[order[::2]], pbc[order[1::2]]
    print("distance to PBC        n   colour (0-255)   OD     FD-hand")
    for name in ("pbc half", "raabin_txl", "aml_lmu", "rendered"):
        reference = other if name == "pbc half" else pbc
        colour = histograms(sets[name].astype(np.float32), reference.astype(np.float32))
        od = histograms(density(sets[name]), density(reference))
        distance = frechet(features(sets[name]) / scale, features(reference) / scale)
        print(f"{name:<18} {len(sets[name]):5d}   {colour:14.1f}   {od:.3f}   {distance:6.1f}")


if __name__ == "__main__":
    main()
