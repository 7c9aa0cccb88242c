"""Images per second of each stage on one device, as shares of what the device can copy and multiply, with peak memory.

Run: python tests/benchmarks/bench_gpu.py [--profile gpu] [--device cuda] [--json FILE]; ``--device cpu --tiny`` tries it on
small sizes. Without a GPU it says so and ends with code 0.

Each training is the library's own (``pretrain``, ``train_gan``, ``finetune``), with the profile's sizes and precision, on
random smooth images. After a few steps to warm up, one step is counted and the next ones are timed together, so that the
device works as in a run. Two ceilings are measured first: a large copy (bytes read plus bytes written) and a large matrix
product, each on random numbers. "matmul share" is the counted floating-point operations per second over the product's;
"copy share" the bytes per second over the copy's, where each operation of PyTorch reads its inputs and writes its outputs
once. The larger share says what limits a stage; if both are small, it waits for launches or for the host.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from leuk_lib.runs.hardware import device_name, hardware_facts
from leuk_lib.runs.params import TrainParams, check
from leuk_lib.stages import load_profile, stage
from leuk_lib.training.fabric import make_fabric
from leuk_lib.training.loop import TrainingLoop

CLASSES = 4
TRAININGS = {"fcmae": "pretraining", "acdb_gan": "GAN", "wpat": "fine-tuning"}
STAGES = ("alhe", *TRAININGS, "prediction")
BF16 = "bf16-mixed"


class Counter(TorchDispatchMode):
    """Counts floating-point operations, and bytes of the device's tensors that operations read and write (views: none).

    The operations are those that PyTorch's ``FlopCounterMode`` counts: matrix products, convolutions, attention. That
    class itself follows modules by hooks on their gradients, which a gradient penalty does not allow.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.flop, self.bytes = device, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if count := flop_registry.get(func._overloadpacket):
            self.flop += count(*args, **kwargs, out_val=out)
        aliases = [argument.alias_info for argument in func._schema.arguments if argument.alias_info is not None]
        if not aliases or any(alias.is_write for alias in aliases):
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            self.bytes += sum(t.numel() * t.element_size() for t in tensors if t.device.type == self.device.type)
        return out


@dataclass
class Measurement:
    """What one stage did on the device."""

    images_per_second: float = 0.0
    batch: int = 0
    precision: str = "32-true"
    flop_per_image: float = 0.0
    bytes_per_image: float = 0.0
    peak_mb: float | None = None
    matmul_share: float = 0.0
    copy_share: float = 0.0
    profile_seconds: float = 0.0  # the stage's steps in the profile, at this speed; one network for wpat


@dataclass
class Ceilings:
    """What the device does at most: copied bytes (read plus written) and multiplied floats per second."""

    copy_bytes: float
    matmul_flop: dict[str, float] = field(default_factory=dict)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Median time of ``work``, after two calls to warm up."""
    times = []
    for _ in range(repeats + 2):
        synchronise(device)
        start = time.perf_counter()
        work()
        synchronise(device)
        times.append(time.perf_counter() - start)
    return sorted(times[2:])[repeats // 2]


def ceilings(device: torch.device, tiny: bool) -> Ceilings:
    """Measure the copy and the matrix products in float32 (without TF32) and bfloat16."""
    n, side, repeats = (2**20, 256, 3) if tiny else (2**29, 8192, 9) if device.type == "cuda" else (2**24, 1024, 5)
    source = torch.randn(n, device=device)
    target = torch.empty_like(source)
    result = Ceilings(2 * source.numel() * 4 / seconds(lambda: target.copy_(source), device, repeats))
    for precision, dtype in (("32-true", torch.float32), (BF16, torch.bfloat16)):
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        took = seconds(lambda a=a, b=b: a @ b, device, repeats)
        result.matmul_flop[precision] = 2 * side**3 / took
    return result


def smooth_images(count: int, size: int) -> Tensor:
    """Random blobs (count, 3, size, size) uint8: no zeros, no plain noise."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return (F.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)


@contextmanager
def timed_loop(device: torch.device, warmup: int, steps: int, period: int, result: Measurement) -> Iterator[None]:
    """Count ``period`` steps after ``warmup``, then time ``steps`` of whatever training runs in the body."""
    original = TrainingLoop.__iter__
    counted_until = warmup + period

    def timed(self: TrainingLoop) -> Iterator[int]:
        counter, start = Counter(device), 0.0
        with ExitStack() as counting:
            for step in original(self):
                if step == warmup:
                    counting.enter_context(counter)
                elif step == counted_until:
                    counting.close()
                    images = period * result.batch
                    result.flop_per_image, result.bytes_per_image = counter.flop / images, counter.bytes / images
                    synchronise(device)
                    if device.type == "cuda":
                        torch.cuda.reset_peak_memory_stats(device)
                    start = time.perf_counter()
                elif step == counted_until + steps:
                    synchronise(device)
                    result.images_per_second = steps * result.batch / (time.perf_counter() - start)
                    if device.type == "cuda":
                        result.peak_mb = round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
                yield step

    with mock.patch.object(TrainingLoop, "__iter__", timed):
        yield


def stage_params(name: str, profile: str, **changes: Any) -> Any:
    """The stage's parameters in the profile, with changes."""
    return check(name, stage(name).params_model(), {**load_profile(profile)[name], "profile": profile, **changes})


def train(
    name: str, profile: str, device: torch.device, size: int, warmup: int, steps: int, **changes: Any
) -> Measurement:
    """Time one training of the profile, with changed parameters."""
    full = stage_params(name, profile)
    period = full.penalty_every if name == "acdb_gan" else 1
    steps = -(-steps // period) * period
    total = warmup + period + steps + 1  # the last step is not timed: evaluations and snapshots follow it
    settings = {
        "accelerator": device.type, "steps": total, "checkpoint_every": 10**6,
        **({"evaluations": 1} if name == "wpat" else {}), **changes,
    }  # fmt: skip
    params = stage_params(name, profile, **settings)
    result = Measurement(batch=params.batch_size, precision=params.precision)
    images = smooth_images(max(64, 2 * params.batch_size), size)
    labels = torch.arange(len(images)) % CLASSES
    fabric = make_fabric(params)
    with tempfile.TemporaryDirectory() as folder, timed_loop(device, warmup, steps, period, result):
        where = (Path(folder), "bench", fabric)
        if name == "fcmae":
            from leuk_lib.fcmae.pretrain import pretrain

            pretrain(images, params, *where)
        elif name == "acdb_gan":
            from leuk_lib.gan import train as gan

            with mock.patch.object(gan, "SNAPSHOTS", (1.0,)):
                gan.train_gan(images, labels, CLASSES, params, *where)
        else:
            from leuk_lib.wpat.finetune import finetune

            part = slice(0, 4 * CLASSES)
            finetune(images, labels, images[part], labels[part], _encoder(profile), params, *where, n_classes=CLASSES)
    result.profile_seconds = full.steps * full.batch_size / result.images_per_second
    return result


def _encoder(profile: str) -> Any:
    from leuk_lib.fcmae.encoder import build_encoder

    params = stage_params("fcmae", profile)
    return build_encoder(params.variant, params.stem_stride)


def apply(work: Callable[[], Any], device: torch.device, batch: int, repeats: int) -> Measurement:
    """Time a function that handles ``batch`` images."""
    with Counter(device) as counter:
        work()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    result = Measurement(batch / seconds(work, device, repeats), batch)
    result.flop_per_image, result.bytes_per_image = counter.flop / batch, counter.bytes / batch
    if device.type == "cuda":
        result.peak_mb = round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return result


def measure(name: str, profile: str, device: torch.device, tiny: bool) -> Measurement:
    """Time one entry of ``STAGES``."""
    size = stage_params("data", profile).image_size
    warmup, steps = (1, 2) if tiny else (10, 30)
    if name in TRAININGS:
        return train(name, profile, device, size, warmup, steps, **({"threads": 1} if tiny else {}))
    if name == "alhe":
        from leuk_lib.alhe.torch_alhe import alhe_batch

        images = smooth_images(8 if tiny else 256, size).to(device)
        return apply(lambda: alhe_batch(images), device, len(images), 3 if tiny else 9)
    from leuk_lib.training.augment import normalise
    from leuk_lib.wpat.model import WPAT

    model = WPAT(_encoder(profile), CLASSES, stage_params("wpat", profile)).to(device).eval()
    images = normalise(smooth_images(8 if tiny else 256, size).to(device).float() / 255)
    return apply(torch.no_grad()(lambda: model(images)), device, len(images), 3 if tiny else 9)


def bench(profile: str, device: torch.device, names: list[str], tiny: bool, file: Path | None) -> dict[str, Any]:
    """All measurements as one record, written to ``file`` after each; a stage that fails does not stop the others."""
    threads = {"threads": 1} if tiny else {}
    make_fabric(TrainParams(accelerator=device.type, **threads))  # determinism, TF32
    limits = ceilings(device, tiny)
    record: dict[str, Any] = {
        "device": device_name() if device.type == "cuda" else "CPU", "profile": profile, "tiny": tiny,
        "torch": torch.__version__, "hardware": hardware_facts(), "ceilings": asdict(limits), "stages": {}, "failed": {},
    }  # fmt: skip
    print(f"{record['device']}, torch {torch.__version__}, profile {profile}")
    multiplied = ", ".join(f"{name} {rate / 1e12:.3g} TFLOP/s" for name, rate in limits.matmul_flop.items())
    print(f"ceilings: copy {limits.copy_bytes / 1e9:.3g} GB/s; matrix product {multiplied}\n", flush=True)
    print(
        f"{'stage':<11} {'precision':<10} {'images/s':>9} {'GFLOP/im':>9} {'MB/im':>8} {'matmul':>7} {'copy':>7} {'peak MB':>8}"
    )
    for name in names:
        save(record, file)
        try:
            row = measure(name, profile, device, tiny)
        except Exception as error:  # noqa: BLE001  one stage must not stop the others
            record["failed"][name] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
            print(f"{name:<11} failed: {record['failed'][name]}", flush=True)
            continue
        row.matmul_share = row.flop_per_image * row.images_per_second / limits.matmul_flop[row.precision]
        row.copy_share = row.bytes_per_image * row.images_per_second / limits.copy_bytes
        record["stages"][name] = asdict(row)
        print(
            f"{name:<11} {row.precision:<10} {row.images_per_second:9.0f} {row.flop_per_image / 1e9:9.2f} "
            f"{row.bytes_per_image / 1e6:8.1f} {row.matmul_share:7.1%} {row.copy_share:7.1%} "
            f"{'–' if row.peak_mb is None else format(row.peak_mb, '.0f'):>8}", flush=True,
        )  # fmt: skip
    save(record, file)
    return record


def save(record: dict[str, Any], file: Path | None) -> None:
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto")
    parser.add_argument("--profile", default="gpu")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), metavar="STAGE")
    parser.add_argument(
        "--tiny", action="store_true", help="few steps and small ceilings: tries the program, measures nothing"
    )
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args()
    if options.device != "cpu" and not torch.cuda.is_available():
        print("bench_gpu: no CUDA device; --device cpu --tiny --profile smoke tries the program")
        return int(options.device == "cuda")
    device = torch.device("cpu" if options.device == "cpu" else "cuda")
    record = bench(options.profile, device, options.stages, options.tiny, options.json)
    return int(bool(record["failed"]))


if __name__ == "__main__":
    sys.exit(main())
