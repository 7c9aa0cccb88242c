"""Speed of reading, augmenting and feeding images, against OpenCV, torchvision and a training step, in one process.

Run by ``make bench``. It uses synthetic files and rendered cells; with LEUK_SHARED_DATA or ``../shared/data`` also real
files.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from timing import Ratio, in_turns, ratio
from torchvision.transforms import v2

from leuk_lib.data.decode import decode_file
from leuk_lib.data.smear.cohort import render, render_smear
from leuk_lib.data.smear.individual import draw_patient
from leuk_lib.data.smear.morphology import CLASSES
from leuk_lib.fcmae.encoder import build_encoder
from leuk_lib.training.augment import dihedral, normalise, random_resized_crop, stain_jitter
from leuk_lib.training.batches import Batches
from leuk_lib.wpat.model import WPAT
from leuk_lib.wpat.params import WpatParams

RUNS = 7


def seconds(work: Callable[[], object]) -> float:
    """Measure the CPU seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def paired(ours: Callable[[], object], baseline: Callable[[], object]) -> tuple[Ratio, float, float]:
    """Return the ratio of the CPU seconds of two functions that take turns, and the least seconds of both."""
    timed = in_turns({"ours": ours, "baseline": baseline}, RUNS, calls=1, clock=time.process_time)
    return ratio(timed["ours"], timed["baseline"]), *(float(seconds.min()) for seconds in timed.values())


def bench_decoding(files: list[Path], name: str) -> None:
    """Compare ``decode_file``, which checks each file, with a bare OpenCV loop over the same files."""

    def bare() -> None:
        for path in files:
            cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)

    def ours() -> None:
        for path in files:
            decode_file(path)

    times, a, b = paired(ours, bare)
    print(
        f"decoding {name}: {times} x a bare OpenCV loop ({1e3 * a / len(files):.3f} ms and "
        f"{1e3 * b / len(files):.3f} ms per file, n = {len(files)}); goal: at most 1.3"
    )


def augmented(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Augment a batch as fine-tuning does."""
    return stain_jitter(random_resized_crop(dihedral(x, generator), generator, (0.7, 1.0)), generator)


def bench_feeding(size: int, batch: int, variant: str, stem: int) -> None:
    """Compare the time from memory-mapped cells to a batch with that of an optimiser step."""
    images = torch.randint(0, 256, (4 * batch, 3, size, size), dtype=torch.uint8)
    feed = Batches(images, torch.arange(4 * batch) % 4, torch.arange(4 * batch), batch, 1000, augment=augmented)
    model = WPAT(build_encoder(variant, stem), 4, WpatParams())
    optimiser = torch.optim.AdamW(model.parameters())
    counter = itertools.count()

    def fetch() -> tuple[torch.Tensor, torch.Tensor]:
        x, y = feed[next(counter) % 1000]
        return normalise(x), y

    def train(x: torch.Tensor, y: torch.Tensor) -> None:
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
        optimiser.zero_grad()

    ready = fetch()
    train(*ready)
    pairs = []
    for _ in range(RUNS):
        start = time.perf_counter()
        fetch()
        middle = time.perf_counter()
        train(*ready)
        pairs.append((middle - start, time.perf_counter() - middle))
    a, b = np.median(pairs, axis=0)
    share = float(np.median([feeding / training for feeding, training in pairs]))
    print(
        f"feeding {batch} cells of {size} px to WPAT ({variant}): {100 * share:.1f} % of a training step "
        f"({1e3 * a:.1f} ms and {1e3 * b:.0f} ms, 2 threads); goal: at most 10 %"
    )


def bench_augmentation(size: int, batch: int) -> None:
    """Compare the batched crop, rotation and reflection with torchvision's v2 applied to one sample at a time."""
    x = torch.rand(batch, 3, size, size)
    generator = torch.Generator().manual_seed(0)
    per_sample = v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.7, 1.0), antialias=False),
            v2.RandomHorizontalFlip(),
            v2.RandomChoice([v2.Identity(), *(v2.RandomRotation((a, a)) for a in (90, 180, 270))]),
        ]
    )
    times, a, b = paired(
        lambda: random_resized_crop(dihedral(x, generator), generator, (0.7, 1.0)),
        lambda: [per_sample(image) for image in x],
    )
    print(
        f"crop, rotation, reflection, {batch} cells of {size} px: {times} x torchvision v2 sample by sample "
        f"({1e3 * a:.1f} ms and {1e3 * b:.1f} ms of CPU)"
    )


def bench_rendering() -> None:
    """Measure rendered cells per second: CPU of one process, and a whole call with two processes."""
    patients = [draw_patient(0, label, number) for label in CLASSES for number in range(3)]
    for size, cells, goal in ((64, 2400, 300), (224, 480, 60)):
        render(0, 0, patients[0], size)
        cost = min(seconds(lambda s=size: [render(0, i, patients[i % 12], s) for i in range(100)]) for _ in range(3))
        start = time.perf_counter()
        render_smear(cells=cells, patients=6, size=size, workers=2)
        whole = time.perf_counter() - start
        print(
            f"rendering at {size} px: {100 / cost:.0f} images per second of CPU, so {200 / cost:.0f} images/s on two cores; "
            f"{cells} cells with two processes, their start included: {whole:.1f} s; goal: {goal} images/s"
        )


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
    for size, batch, variant, stem in ((64, 48, "zepto", 2), (224, 16, "atto", 4)):
        bench_feeding(size, batch, variant, stem)
        bench_augmentation(size, batch)
    bench_rendering()
    root = Path(__file__).resolve().parents[2]
    shared = Path(os.environ.get("LEUK_SHARED_DATA", root.parent / "shared" / "data"))
    for name in ("pbc_barcelona_128", "pbc_barcelona", "bccd", "tecom_wbc"):
        if (shared / name).is_dir():
            files = sorted(p for p in (shared / name).glob("*/*") if p.parent.name != "masks")[:400]
            bench_decoding(files, name)


if __name__ == "__main__":
    main()
