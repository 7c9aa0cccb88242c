"""Speed of ALHE and of OpenCV's and scikit-image's CLAHE, in one process: ``python tests/benchmarks/bench_alhe.py``.

Ratios can be compared between machines, milliseconds cannot. All methods are timed in turns (``timing``): a ratio is that
of the fastest calls, with the least and the greatest ratio of a round behind it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from timing import in_turns, ratio

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


def on_one_thread(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, NDArray[np.float64]]:
    """`in_turns` with OpenCV on one thread: the processor time of the functions."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # outside the timed part: it stops and starts OpenCV's pool
    try:
        return in_turns(calls, rounds)
    finally:
        cv2.setNumThreads(threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="rounds; the minimum of three calls counts in each")
    rounds = parser.parse_args().rounds
    image = toy_smear(512)
    cv2_name, alhe_name = "cv2 Lab CLAHE 2", "ALHE"
    methods = {
        cv2_name: lambda: clahe_2(image),
        alhe_name: lambda: alhe(image),
        "skimage equalize_adapthist": lambda: equalize_adapthist(image),
    }
    print(f"ALHE bench, {torch.get_num_threads()} threads, OpenCV {cv2.__version__}, torch {torch.__version__}")
    print(f"{'512x512 RGB':46s}     ms   over cv2, and in each round")
    for threads, timed in (
        ("", in_turns(methods, rounds)),
        (", OpenCV on one thread", on_one_thread({name: methods[name] for name in (cv2_name, alhe_name)}, rounds)),
    ):
        for name, seconds in timed.items():
            over = ratio(seconds, timed[cv2_name])
            print(f"{name + threads:46s} {seconds.min() * 1e3:6.2f}   {over}")

    print(
        f"\nns per pixel, {torch.get_num_threads()} threads and one   ALHE   on one   cv2 Lab CLAHE 2   on one   ALHE over cv2"
    )
    sides = np.array([256, 512, 1024, 2048])
    alhe_seconds = []
    for side in sides.tolist():
        large = toy_smear(side)
        calls = {"alhe": lambda image=large: alhe(image), "cv2": lambda image=large: clahe_2(image)}
        repeats = max(2, rounds * 512 // side)
        threaded, single = in_turns(calls, repeats), on_one_thread(calls, repeats)
        ns = [seconds.min() * 1e9 / side**2 for seconds in (*threaded.values(), *single.values())]
        alhe_seconds.append(single["alhe"].min())
        over = ratio(threaded["alhe"], threaded["cv2"])
        print(f"{side:>4d} px {ns[0]:31.1f} {ns[2]:8.1f} {ns[1]:17.1f} {ns[3]:8.1f}   {over}")
    # Time per image plus time per pixel, fitted with equal weight on relative errors.
    weight = 1 / np.array(alhe_seconds)
    fixed, each = np.linalg.lstsq(np.column_stack([weight, sides**2 * weight]), np.ones(len(sides)), rcond=None)[0]
    print(f"on one thread: {fixed * 1e3:.2f} ms per image and {each * 1e9:.1f} ns per pixel")

    print("\nbatch of 32, ms per image    NumPy    torch on one thread (NumPy over it)    torch (NumPy over it)")
    threads = torch.get_num_threads()

    def one_thread(batch: torch.Tensor) -> None:
        torch.set_num_threads(1)
        alhe_batch(batch)
        torch.set_num_threads(threads)

    for size in (64, 128, 224):
        cells = np.stack([toy_smear(size, seed) for seed in range(32)])
        batch = torch.from_numpy(cells).permute(0, 3, 1, 2).contiguous()
        timed = in_turns(
            {
                "numpy": lambda c=cells: [alhe(cell) for cell in c],
                "one": lambda b=batch: one_thread(b),
                "torch": lambda b=batch: alhe_batch(b),
            },
            max(3, rounds // 2),
            calls=2,
        )
        numpy, one, torches = (timed[name].min() / 32 * 1e3 for name in ("numpy", "one", "torch"))
        over = [ratio(timed["numpy"], timed[name]) for name in ("one", "torch")]
        print(f"{size:>4d} px {numpy:25.2f} {one:13.2f}  {over[0]!s:24s} {torches:8.2f}  {over[1]}")


if __name__ == "__main__":
    main()
