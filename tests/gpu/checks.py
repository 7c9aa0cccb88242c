"""Every method on a GPU against the CPU: outputs, gradients, whole trainings, resumption, bf16, and two processes.

``checks.py methods|training|processes --device cuda --json FILE``. Each check is a number with a stated bound; a check that
fails or raises does not stop the others. With ``--device cpu`` the device is the CPU itself: this tries the program, and
what it compares is then equal. The relative error is the norm of the difference over the norm of the CPU's value.

Bounds: float32 sums in another order differ by about 1e-6 per value, and a gradient through a deep network by up to 1e-3;
bfloat16 keeps eight bits, so that outputs differ by up to some per cent and gradients, penalties included, by more. Trained
networks drift apart, because Adam divides small gradients by their size: the first losses are bounded closely, the last
loosely.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tests/

from gpu.parts import SKIPPED
from leuk_lib.runs.params import TrainParams
from leuk_lib.runs.tensors import digest
from leuk_lib.training import loop as loops
from leuk_lib.training.fabric import make_fabric
from training import train_one

if TYPE_CHECKING:
    from leuk_lib.training.fabric import Fabric

FLOAT32 = 1e-4  # outputs in float32
GRADIENT = 2e-3  # gradients in float32
BF16_OUTPUT = 0.05
BF16_GRADIENT = 0.25
METHODS = ("fcmae", "gan", "wpat")
EARLY, EARLY_BOUND, LATE_BOUND = 4, 2e-3, 0.1  # steps, and largest relative differences of losses
BF16_LOSS = 0.15  # largest relative difference of the mean of a training's last losses
STOP_AT = 9  # step at whose end SIGTERM comes

Result = dict[str, Any]


class Checks:
    """Collects results: name, value, bound, verdict; writes them after each check, in case the next is killed.

    Args:
        file: JSON file, or None.
        facts: What else it holds.
    """

    def __init__(self, file: Path | None = None, **facts: Any) -> None:
        self.rows: list[Result] = []
        self.file, self.facts = file, facts

    def add(self, name: str, work: Callable[[], dict[str, tuple[float, float]]]) -> None:
        """Run ``work``, which returns ``{what: (value, bound)}``; NaN never passes."""
        start = time.perf_counter()
        try:
            found = work()
        except Exception as error:  # noqa: BLE001  one check must not stop the others
            text = f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
            self.rows.append({"check": name, "passed": False, "error": text})
            self.save()
            print(f"FAILED {name}: {text}", flush=True)
            return
        for what, (value, bound) in found.items():
            row = {"check": f"{name}: {what}", "value": value, "bound": bound, "passed": bool(value <= bound)}
            self.rows.append(row)
            print(f"{'ok    ' if row['passed'] else 'FAILED'} {row['check']} {value:.2e} <= {bound:.0e}", flush=True)
        self.save()
        print(f"       {name} took {time.perf_counter() - start:.1f} s", flush=True)

    @property
    def failed(self) -> list[str]:
        return [row["check"] for row in self.rows if not row["passed"]]

    def save(self) -> None:
        if self.file:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text(
                json.dumps({**self.facts, "failed": self.failed, "checks": self.rows}, indent=1) + "\n"
            )

    @property
    def passed(self) -> bool:
        return bool(self.rows) and all(row["passed"] for row in self.rows)


def error_of(ours: Tensor, reference: Tensor) -> float:
    """Relative error, in float64 on the CPU."""
    ours, reference = ours.detach().cpu().double(), reference.detach().cpu().double()
    return float((ours - reference).norm() / reference.norm().clamp_min(1e-30))


def gradients(model: nn.Module) -> Tensor:
    """All gradients as one vector, on the CPU."""
    parts = [parameter.grad.detach().flatten().cpu() for parameter in model.parameters() if parameter.grad is not None]
    return torch.cat(parts).double()


def fabric_on(device: torch.device, precision: str = "32-true") -> Fabric:
    accelerator = "cuda" if device.type == "cuda" else "cpu"
    return make_fabric(TrainParams(accelerator=accelerator, threads=torch.get_num_threads(), precision=precision))


# -- methods ---------------------------------------------------------------------------------------------------

Step = Callable[[nn.Module, torch.device], tuple[Tensor, Tensor]]  # output and loss


def compare(build: Callable[[], nn.Module], step: Step, device: torch.device) -> dict[str, tuple[float, float]]:
    """Output and gradient of one step on the device, in float32 and with bf16, against the CPU in float32."""

    def run(where: torch.device, context: AbstractContextManager[Any]) -> tuple[Tensor, Tensor]:
        model = build().to(where)
        with context:
            output, loss = step(model, where)
        loss.backward()
        return output.detach().cpu(), gradients(model)

    output, gradient = run(torch.device("cpu"), nullcontext())
    single, single_gradient = run(device, nullcontext())
    half, half_gradient = run(device, torch.autocast(device.type, dtype=torch.bfloat16))
    return {
        "output": (error_of(single, output), FLOAT32),
        "gradient": (error_of(single_gradient, gradient), GRADIENT),
        "output, bf16": (error_of(half, output), BF16_OUTPUT),
        "gradient, bf16": (error_of(half_gradient, gradient), BF16_GRADIENT),
    }


@functools.cache
def images(count: int, size: int) -> Tensor:
    """Rendered cells (count, 3, size, size) uint8, from all over a cohort."""
    from leuk_lib.data.smear.cohort import smear_cells

    cells = smear_cells(cells=48, patients=3, size=size, seed=2).images
    return cells[:: len(cells) // count][:count].clone()


def check_alhe(device: torch.device, size: int) -> dict[str, tuple[float, float]]:
    from leuk_lib.alhe.torch_alhe import alhe_batch

    cells = images(16, size)
    difference = (alhe_batch(cells.to(device)).cpu().int() - alhe_batch(cells).int()).abs()
    return {
        "largest difference, grey levels": (float(difference.max()), 1.0),
        "share of pixels that differ": (float((difference > 0).float().mean()), 1e-3),
    }


def check_augmentation(device: torch.device, size: int) -> dict[str, tuple[float, float]]:
    from leuk_lib.training import augment

    cells = images(16, size).float() / 255

    def all_of(x: Tensor) -> Tensor:
        draw = [torch.Generator().manual_seed(seed) for seed in range(4)]
        x = augment.dihedral(x, draw[0])
        x = augment.random_resized_crop(x, draw[1], (0.5, 1.0))
        return augment.light_jitter(augment.stain_jitter(x, draw[2], 0.15), draw[3], 0.15)

    return {"images": (error_of(all_of(cells.to(device)), all_of(cells)), FLOAT32)}


def check_fcmae(device: torch.device, size: int) -> dict[str, tuple[float, float]]:
    from leuk_lib.fcmae.masking import random_masks
    from leuk_lib.fcmae.params import FcmaeParams
    from leuk_lib.fcmae.pretrain import build_autoencoder, mask_grid

    params = FcmaeParams(variant="zepto", stem_stride=1 if size < 64 else 2)
    cells = images(8, size).float() / 255
    visible = random_masks(len(cells), mask_grid(size, params), params.mask_ratio, torch.Generator().manual_seed(3))

    def step(model: nn.Module, where: torch.device) -> tuple[Tensor, Tensor]:
        out = model(cells.to(where), visible.to(where))
        return out.patch_loss.float(), out.loss

    return compare(lambda: build_autoencoder(params), step, device)


def check_gan(device: torch.device, size: int, part: str) -> dict[str, tuple[float, float]]:
    from leuk_lib.gan import losses
    from leuk_lib.gan.generate import resize
    from leuk_lib.gan.params import AcdbGanParams
    from leuk_lib.gan.train import build

    params = AcdbGanParams(gan_size=16 if size < 64 else 32)
    draw = torch.Generator().manual_seed(4)
    y, z = torch.arange(8) % 4, torch.randn(8, params.latent, generator=draw)
    groups = torch.zeros(8, dtype=torch.long)
    real = resize(images(8, size), params.gan_size).float() / 127.5 - 1

    def generate(model: nn.Module, where: torch.device) -> tuple[Tensor, Tensor]:
        out = model(z.to(where), y.to(where), 1.0).float()
        return out, (out - real.to(where)).square().mean()

    def judge(model: nn.Module, where: torch.device) -> tuple[Tensor, Tensor]:
        context = (torch.cat([y, y]).to(where), 1.0, torch.cat([groups, -1 - groups]).to(where))
        fake = real.flip(0).to(where)
        delta, r1, r2 = losses.discriminator_terms(model, lambda x: x, real.to(where), fake, True, *context)
        assert r1 is not None and r2 is not None
        return delta, losses.discriminator_loss(delta) + losses.penalty(r1, r2, 1.0)

    position = ("generator", "discriminator").index(part)
    return compare(lambda: build(params, 4)[position], (generate, judge)[position], device)


def check_wpat(device: torch.device, size: int) -> dict[str, tuple[float, float]]:
    from leuk_lib.fcmae.encoder import build_encoder
    from leuk_lib.training.augment import normalise
    from leuk_lib.wpat.model import WPAT
    from leuk_lib.wpat.params import WpatParams

    cells, y = images(8, size).float() / 255, torch.arange(8) % 4

    def build() -> nn.Module:
        torch.manual_seed(5)
        model = WPAT(build_encoder("zepto", 1 if size < 64 else 2), 4, WpatParams())
        for parameter in model.parameters():  # layers that start at zero would hide what comes before them
            if not parameter.detach().any():
                nn.init.normal_(parameter, std=0.05)
        return model.eval()

    def step(model: nn.Module, where: torch.device) -> tuple[Tensor, Tensor]:
        logits = model(normalise(cells.to(where))).float()
        return logits, F.cross_entropy(logits, y.to(where))

    return compare(build, step, device)


def check_baseline(device: torch.device, size: int) -> dict[str, tuple[float, float]]:
    import timm

    cells, y = images(8, size).float() / 255, torch.arange(8) % 4

    def build() -> nn.Module:
        torch.manual_seed(6)
        return timm.create_model("resnet10t", num_classes=4).eval()

    def step(model: nn.Module, where: torch.device) -> tuple[Tensor, Tensor]:
        logits = model(cells.to(where)).float()
        return logits, F.cross_entropy(logits, y.to(where))

    found = compare(build, step, device)
    # On a CPU already it differs by 60 % between bf16 and float32, so no bound would show a fault.
    del found["gradient, bf16"]
    return found


def methods(checks: Checks, device: torch.device, tiny: bool) -> None:
    """Outputs and gradients."""
    size = 32 if tiny else 64
    fabric_on(device)
    checks.add("ALHE", lambda: check_alhe(device, size))
    checks.add("augmentation", lambda: check_augmentation(device, size))
    checks.add("FCMAE", lambda: check_fcmae(device, size))
    checks.add("generator", lambda: check_gan(device, size, "generator"))
    checks.add("discriminator with penalties", lambda: check_gan(device, size, "discriminator"))
    checks.add("WPAT", lambda: check_wpat(device, size))
    checks.add("ResNet-10-T", lambda: check_baseline(device, size))


# -- trainings -------------------------------------------------------------------------------------------------


@contextmanager
def stopped_at(step: int | None) -> Iterator[None]:
    """Send SIGTERM to this process in a training's step ``step``."""
    plain = loops.TrainingLoop.__iter__

    def steps(self: loops.TrainingLoop) -> Iterator[int]:
        for current in plain(self):
            if current == step:
                os.kill(os.getpid(), signal.SIGTERM)
            yield current

    with mock.patch.object(loops.TrainingLoop, "__iter__", steps):
        yield


def train(method: str, folder: Path, fabric: Fabric, stop: int | None = None) -> tuple[str, list[dict[str, float]]]:
    """Hash of the trained weights, and the losses of each step."""
    with stopped_at(stop):
        weights, history = train_one.train(method, folder, fabric)
    return digest(weights), history


def loss_errors(ours: list[dict[str, float]], reference: list[dict[str, float]]) -> tuple[float, float]:
    """Largest relative difference of the losses: of the first ``EARLY`` steps, and of all."""
    worst = [0.0, 0.0]
    for position, (row, other) in enumerate(zip(ours, reference, strict=True)):
        for key in (key for key in other if key.startswith("loss")):
            error = abs(row[key] - other[key]) / max(abs(other[key]), 1e-3)
            worst = [max(worst[0], error) if position < EARLY else worst[0], max(worst[1], error)]
    return worst[0], worst[1]


def check_training(method: str, device: torch.device) -> dict[str, tuple[float, float]]:
    """A training on the device: its losses against the CPU's, twice the same, and the same after SIGTERM."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, reference = train(method, folder / "cpu", fabric_on(torch.device("cpu")))
        weights, losses = train(method, folder / "device", fabric_on(device))
        again, _ = train(method, folder / "again", fabric_on(device))
        try:
            train(method, folder / "stopped", fabric_on(device), stop=STOP_AT)
        except SystemExit as error:
            assert error.code == 143, error.code
        else:
            raise AssertionError("SIGTERM did not end the training")
        resumed, _ = train(method, folder / "stopped", fabric_on(device))
        _, half = train(method, folder / "half", fabric_on(device, "bf16-mixed"))
    early, late = loss_errors(losses, reference)
    key = next(key for key in losses[-1] if key.startswith("loss"))
    last = [sum(row[key] for row in rows[-5:]) / 5 for rows in (half, losses)]
    return {
        f"losses of the first {EARLY} steps": (early, EARLY_BOUND),
        "losses of all steps": (late, LATE_BOUND),
        "trained twice, other weights": (float(again != weights), 0.0),
        "stopped and resumed, other weights": (float(resumed != weights), 0.0),
        "bf16, mean of the last losses": (abs(last[0] - last[1]) / max(abs(last[1]), 1e-3), BF16_LOSS),
    }


def training(checks: Checks, device: torch.device, tiny: bool) -> None:
    """Whole small trainings of all methods; one only if ``tiny``."""
    for method in METHODS[-1:] if tiny else METHODS:
        checks.add(f"training of {method}", lambda method=method: check_training(method, device))


# -- two processes ---------------------------------------------------------------------------------------------


def worker(method: str, folder: Path, device: torch.device) -> None:
    """One of two processes; the first writes the losses."""
    accelerator = "cuda" if device.type == "cuda" else "cpu"
    fabric = make_fabric(TrainParams(accelerator=accelerator, devices=2, threads=1))
    _, history = train(method, folder / "checkpoints", fabric)
    if fabric.global_rank == 0:
        (folder / "losses.json").write_text(json.dumps(history))


def check_processes(method: str, device: torch.device) -> dict[str, tuple[float, float]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, single = train(method, folder / "single", fabric_on(device))
        command = [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d",
            "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1", str(Path(__file__).resolve()), "worker",
            "--method", method, "--folder", str(folder), "--device", device.type,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"two processes ended with {done.returncode}: {done.stderr[-1500:]}")
        double = json.loads((folder / "losses.json").read_text())
    early, late = loss_errors(double, single)
    return {f"losses of the first {EARLY} steps": (early, EARLY_BOUND), "losses of all steps": (late, LATE_BOUND)}


def two_processes(checks: Checks, device: torch.device, tiny: bool) -> bool:
    """Two processes against one; False where the machine has one GPU only."""
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        print(f"skipped: {torch.cuda.device_count()} GPU on this machine, two are needed")
        return False
    for method in METHODS[-1:] if tiny else METHODS:
        checks.add(f"two processes, {method}", lambda method=method: check_processes(method, device))
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["methods", "training", "processes", "worker"])
    parser.add_argument("--device", choices=["cuda", "cpu"], required=True)
    parser.add_argument("--tiny", action="store_true", help="small images, one method where each takes seconds")
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--method", choices=METHODS, help="of the part worker")
    parser.add_argument("--folder", type=Path, help="of the part worker")
    options = parser.parse_args()
    torch.set_num_threads(1 if options.tiny else max(1, min(8, (os.cpu_count() or 1) // 2)))
    device = torch.device(options.device)
    if options.part == "worker":
        worker(options.method, options.folder, device)
        return 0
    checks, ran = Checks(options.json, part=options.part, device=options.device), True
    if options.part == "processes":
        ran = two_processes(checks, device, options.tiny)
    else:
        {"methods": methods, "training": training}[options.part](checks, device, options.tiny)
    if not ran:
        return SKIPPED
    print(f"{len(checks.rows) - len(checks.failed)} of {len(checks.rows)} checks passed")
    return int(not checks.passed)


if __name__ == "__main__":
    sys.exit(main())
