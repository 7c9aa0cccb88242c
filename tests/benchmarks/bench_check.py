"""CPU time and memory of ``leuk data check`` against the number of files, which it makes itself.

Run as a script (`make bench` does): python tests/benchmarks/bench_check.py [--files 2000 8000] [--side 64] [--jpeg]
[--workers 2] [--near 40]. The figures are CPU seconds, so that other work on the machine counts little. With w idle cores
the command takes at most its own seconds, most of which pass while its processes wait, and 1/w of the processes' seconds.
200,000 files: ``--files 200000`` (1.6 GB of files in a temporary folder).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from leuk_lib.data.smear.cohort import render_smear

MEASURED = """
import resource, sys, time
from leuk_lib.data.check import check_folder
start = time.process_time()
table = check_folder(sys.argv[1], workers=int(sys.argv[2]))
own = time.process_time() - start
if int(sys.argv[2]) > 1:
    from joblib.externals.loky import get_reusable_executor
    get_reusable_executor().shutdown(wait=True)
children = resource.getrusage(resource.RUSAGE_CHILDREN)
kinds = table["kind"].value_counts()
print(sum(table.attrs["classes"].values()), own, children.ru_utime + children.ru_stime,
      resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, int(kinds.filter(like="near-duplicate").sum()))
"""


def write(path: Path, image: np.ndarray) -> None:
    """Write an image (S,S,3) of grey levels."""
    cv2.imwrite(str(path), np.ascontiguousarray(np.clip(image[..., ::-1], 0, 255).astype(np.uint8)))


def make_files(folder: Path, files: int, side: int, jpeg: bool, near: int) -> int:
    """Write files in four classes, of which every ``near``-th has a turned, brighter copy; return the number of copies."""
    images, _, table = render_smear(cells=240, patients=3, size=side, seed=0)
    rng = np.random.default_rng(0)
    copies, suffix = 0, ".jpg" if jpeg else ".png"
    for number in range(files):
        image = images[number % 240].astype(np.float32)
        if number >= 240:  # another cell: two mixed, moved, in other colours
            other = np.rot90(images[rng.integers(240)], rng.integers(4))
            share = rng.uniform(0.35, 0.65)
            image = np.roll(share * image + (1 - share) * other, rng.integers(-side // 6, side // 6, 2), (0, 1))
            image = image * rng.uniform(0.8, 1.1, 3) + rng.normal(0, 3, image.shape)
        path = folder / table["label"][number % 240] / f"{number:06d}{suffix}"
        path.parent.mkdir(exist_ok=True)
        write(path, image)
        if near and number % near == 1:
            turned = np.rot90(image, number // near % 4) * 0.97 + rng.normal(4, 2, image.shape)
            write(path.with_stem(f"{number:06d}n"), turned)
            copies += 1
    return copies


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, nargs="+", default=[2000, 8000])
    parser.add_argument("--side", type=int, default=64, help="side of the images in px")
    parser.add_argument("--jpeg", action="store_true", help="JPEG instead of PNG")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--near", type=int, default=40, help="every so many files one has a near-duplicate; 0: none")
    options = parser.parse_args()
    per_file = []
    missed = False
    for files in options.files:
        with tempfile.TemporaryDirectory() as folder:
            copies = make_files(Path(folder), files, options.side, options.jpeg, options.near)
            command = [sys.executable, "-c", MEASURED, folder, str(options.workers)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        cells, own, children, peak, found = (float(value) for value in output.split())
        per_file.append(1e3 * (own + children) / cells)
        missed |= found < copies
        print(
            f"{cells:.0f} {'JPEG' if options.jpeg else 'PNG'} files of {options.side} px, {options.workers} processes: "
            f"{own:.1f} + {children:.1f} s of CPU in the command and its processes, {per_file[-1]:.2f} ms per file, so at "
            f"most {1e3 * (own + children / options.workers) / cells:.2f} ms on {options.workers} idle cores; peak "
            f"{peak / 1e6:.2f} GB; {found:.0f} near-duplicates found, {copies} planted",
            flush=True,
        )
    print(f"per file, the largest set takes {per_file[-1] / per_file[0]:.2f} times as long as the smallest; linear: 1")
    print(f"goal on two cores: at most {3.0 if options.jpeg else 1.6} ms per file")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
