"""Speed of ALHE and of OpenCV's and scikit-image's CLAHE, in one process: ``python tests/benchmarks/bench_alhe.py``.

Ratios can be compared between machines, milliseconds cannot. Each figure is the fastest of several interleaved rounds,
so that other work on the machine disturbs all methods alike.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import cv2
import numpy as np
import torch

from leuk_lib.alhe.baselines import clahe_2, equalize_adapthist
from leuk_lib.alhe.enhance import alhe
from leuk_lib.alhe.torch_alhe import alhe_batch


def toy_smear(side: int, seed: int = 0) -> np.ndarray:
    """(side,side,3) uint8: stained discs on a bright, noisy ground."""
    rng = np.random.default_rng(seed)
    image = np.full((side, side, 3), (235, 220, 225), np.float32)
    for _ in range(12):
        x, y, r = (int(v) for v in rng.integers(0, side, 3))
        colour = tuple(float(v) for v in rng.uniform(60, 190, 3))
        cv2.circle(image, (x, y), max(4, r // 6), colour, -1, lineType=cv2.LINE_AA)
    image = cv2.GaussianBlur(image, (0, 0), side / 256 + 0.5) + rng.normal(0, 5, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def fastest(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Fastest seconds of each function over interleaved ``rounds``."""
    seconds = dict.fromkeys(functions, float("inf"))
    for function in functions.values():
        function()
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds


def on_one_thread(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """`fastest` with OpenCV on one thread: the processor time of the functions."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # outside the timed part: it stops and starts OpenCV's pool
    try:
        return fastest(calls, rounds)
    finally:
        cv2.setNumThreads(threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds, the fastest counts")
    rounds = parser.parse_args().rounds
    image = toy_smear(512)
    methods = {
        "cv2 Lab CLAHE 2": lambda: clahe_2(image),
        "ALHE": lambda: alhe(image),
        "skimage equalize_adapthist": lambda: equalize_adapthist(image),
    }
    seconds = fastest(methods, rounds)
    one_core = on_one_thread({name: methods[name] for name in list(methods)[:2]}, rounds)
    seconds |= {f"{name}, OpenCV on one thread": value for name, value in one_core.items()}
    print(f"ALHE bench, {torch.get_num_threads()} threads, OpenCV {cv2.__version__}, torch {torch.__version__}")
    print("512x512 RGB                                       ms   over cv2   over ALHE")
    for name, value in seconds.items():
        over_cv2, over_alhe = (
            value / seconds[base + name.removeprefix(name.split(",")[0])] for base in ("cv2 Lab CLAHE 2", "ALHE")
        )
        print(f"{name:46s} {value * 1e3:6.2f} {over_cv2:9.2f}x {over_alhe:9.2f}x")

    print(f"\nns per pixel, {torch.get_num_threads()} threads and one   ALHE   on one   cv2 Lab CLAHE 2   on one")
    sides = np.array([256, 512, 1024, 2048])
    alhe_seconds = []
    for side in sides.tolist():
        large = toy_smear(side)
        calls = {"alhe": lambda image=large: alhe(image), "cv2": lambda image=large: clahe_2(image)}
        repeats = max(5, rounds * 512 // side)
        threaded, single = fastest(calls, repeats), on_one_thread(calls, repeats)
        both, clahe, one, clahe_one = (value * 1e9 / side**2 for value in (*threaded.values(), *single.values()))
        alhe_seconds.append(single["alhe"])
        print(f"{side:>4d} px {both:31.1f} {one:8.1f} {clahe:17.1f} {clahe_one:8.1f}")
    # Time per image plus time per pixel, fitted with equal weight on relative errors.
    weight = 1 / np.array(alhe_seconds)
    fixed, each = np.linalg.lstsq(np.column_stack([weight, sides**2 * weight]), np.ones(len(sides)), rcond=None)[0]
    print(f"on one thread: {fixed * 1e3:.2f} ms per image and {each * 1e9:.1f} ns per pixel")

    print("\nbatch of 32, ms per image    NumPy    torch on one thread (times as fast)    torch (times as fast)")
    threads = torch.get_num_threads()

    def one_thread(batch: torch.Tensor) -> None:
        torch.set_num_threads(1)
        alhe_batch(batch)
        torch.set_num_threads(threads)

    for size in (64, 128, 224):
        cells = np.stack([toy_smear(size, seed) for seed in range(32)])
        batch = torch.from_numpy(cells).permute(0, 3, 1, 2).contiguous()
        pair = fastest(
            {
                "numpy": lambda c=cells: [alhe(cell) for cell in c],
                "one": lambda b=batch: one_thread(b),
                "torch": lambda b=batch: alhe_batch(b),
            },
            max(3, rounds // 3),
        )
        numpy, one, torches = (pair[name] / 32 * 1e3 for name in ("numpy", "one", "torch"))
        print(f"{size:>4d} px {numpy:25.2f} {one:13.2f} ({numpy / one:.2f}x) {torches:25.2f} ({numpy / torches:.2f}x)")


if __name__ == "__main__":
    main()
