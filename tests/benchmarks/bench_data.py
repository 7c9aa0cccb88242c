"""Speed of the data room against its peers, in one process: decoding with OpenCV, feeding a training step.

Run by ``make bench``. Synthetic files and rendered cells only, so that it runs anywhere; with LEUK_SHARED_DATA or
``../shared/data`` also the decoding of real files.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from leuk_lib.data.check import check_folder
from leuk_lib.data.decode import decode_file
from leuk_lib.data.smear.cohort import render_smear

RUNS = 7


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def ratio(ours: Callable[[], object], peer: Callable[[], object]) -> tuple[float, float, float]:
    """Median of the ratios of RUNS pairs of calls, taken in turns, and the medians of both in seconds."""
    ours(), peer()
    pairs = np.array([(seconds(ours), seconds(peer)) for _ in range(RUNS)])
    return float(np.median(pairs[:, 0] / pairs[:, 1])), *np.median(pairs, axis=0).tolist()


def bench_decoding(files: list[Path], name: str) -> None:
    """``decode_file`` (with all its checks) against a bare loop of OpenCV over the same files."""

    def bare() -> None:
        for path in files:
            cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)

    def ours() -> None:
        for path in files:
            decode_file(path)

    times, a, b = ratio(ours, bare)
    print(
        f"decoding {name}: {times:.2f} x a bare OpenCV loop ({1e3 * a / len(files):.3f} ms and "
        f"{1e3 * b / len(files):.3f} ms a file, n = {len(files)}); goal: at most 1.3"
    )


def bench_check(folder: Path, name: str) -> None:
    """The whole of ``leuk data check``, for the record: hashes, thumbnails, features, comparisons."""
    count = sum(path.suffix in (".png", ".jpg") for path in folder.rglob("*"))
    cost = min(seconds(lambda: check_folder(folder, workers=1)) for _ in range(2))
    print(f"whole check of {name}: {1e3 * cost / count:.2f} ms of CPU a file, n = {count}")


def main() -> None:
    torch.set_num_threads(2)
    cv2.setNumThreads(1)
    images = render_smear(cells=120, patients=3, size=300, seed=0)[0]
    with tempfile.TemporaryDirectory() as folder:
        for suffix, options in ((".jpg", [cv2.IMWRITE_JPEG_QUALITY, 90]), (".png", [])):
            files = []
            for number, image in enumerate(images):
                files.append(Path(folder) / "ab"[number % 2] / f"{number}{suffix}")
                files[-1].parent.mkdir(exist_ok=True)
                cv2.imwrite(str(files[-1]), image[..., ::-1], options)
            bench_decoding(files, f"rendered {suffix[1:]} of 300 px")
        bench_check(Path(folder), "rendered cells")
    root = Path(__file__).resolve().parents[2]
    shared = Path(os.environ.get("LEUK_SHARED_DATA", root.parent / "shared" / "data"))
    for name in ("pbc_barcelona_128", "pbc_barcelona", "bccd", "tecom_wbc"):
        if (shared / name).is_dir():
            files = sorted(p for p in (shared / name).glob("*/*") if p.parent.name != "masks")[:400]
            bench_decoding(files, name)
            bench_check(shared / name, name)


if __name__ == "__main__":
    main()
