"""Images per second of `leuk predict` after loading: reading, ALHE, network and table, on cells of 64 px.

Run: python tests/benchmarks/bench_predict.py [--model model.safetensors] [--images 640] [--rounds 3]. Without a model, a
WPAT of the laptop profile with random weights, which takes as long as a trained one. Other work on the machine does not
change the processor time of an image by much; two idle cores give two seconds of it per second. Exit code 1 if these would
be fewer than 300 images per second.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from leuk_lib.runs.threads import prepare_libraries

prepare_libraries()  # before torch is loaded, as the command does

import cv2  # noqa: E402
import torch  # noqa: E402
from bench_alhe import toy_smear  # noqa: E402

from leuk_lib.alhe.params import EnhanceParams  # noqa: E402
from leuk_lib.cli.predict import enhancement  # noqa: E402
from leuk_lib.fcmae.encoder import build_encoder  # noqa: E402
from leuk_lib.wpat.model import WPAT  # noqa: E402
from leuk_lib.wpat.params import WpatParams  # noqa: E402
from leuk_lib.wpat.predict import LoadedModel, as_table, describe, predict_batches, save_model  # noqa: E402

SIDE, CORES, REQUIRED = 64, 2, 300.0


def random_model(folder: Path) -> Path:
    """A WPAT of the laptop profile with random weights."""
    torch.manual_seed(0)
    params, classes = WpatParams(), ("ALL", "AML", "CLL", "CML")
    model = WPAT(build_encoder("zepto", 2), len(classes), params)
    return save_model(model, describe(model, classes, params, SIDE, EnhanceParams().model_dump(), 1.0), folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(CORES)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = [folder / f"{number:04d}.png" for number in range(arguments.images)]
        for number, file in enumerate(files):
            cv2.imwrite(str(file), toy_smear(SIDE, number))
        path = arguments.model or random_model(folder)
        loaded = LoadedModel.open(path)
        enhance = enhancement(loaded.card, path)
        best = wall = float("inf")
        for number in range(arguments.rounds + 1):  # the first one warms up
            start, processor = time.perf_counter(), time.process_time()
            for part in predict_batches(files, loaded, enhance, workers=CORES):
                as_table(part, loaded.card.classes)
            if number:
                wall = min(wall, time.perf_counter() - start)
                best = min(best, time.process_time() - processor)
    idle = CORES * len(files) / best
    print(f"{len(files) / wall:.0f} images/s here, now; {1000 * best / len(files):.2f} ms of processor time per image:")
    print(f"{idle:.0f} images/s on {CORES} idle cores (required: {REQUIRED:.0f})")
    return int(idle < REQUIRED)


if __name__ == "__main__":
    sys.exit(main())
