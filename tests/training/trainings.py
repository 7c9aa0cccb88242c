"""A training that another process can be given: a toy with a loop, and what may happen to it there."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from leuk_lib.runs.errors import LeukError
from leuk_lib.training.loop import TrainingLoop

if TYPE_CHECKING:
    from leuk_lib.training.fabric import Fabric


def train(
    folder: Path, steps: int = 12, pause: float = 0.0, fault: str = "", *, fabric: Fabric
) -> tuple[int, float, int]:
    """Return the process that trained last, a weight, and the steps done in this call.

    With the fault "refused" step 5 raises, with "killed" it kills its process unless that has the file's name.
    """
    weight = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.SGD([weight], lr=0.1)
    log = folder / "log"
    loop = TrainingLoop(fabric, folder / "checkpoint", "id", steps, seed=0, label="toy", every=4)
    loop.register(optimiser=optimiser, weight=_State(weight))
    done = 0
    for step in loop:
        if step == 5 and fault == "refused":
            raise LeukError("toy: refused")
        if step == 5 and fault == "killed" and str(os.getpid()) != os.environ["SPARED"]:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(pause)
        optimiser.zero_grad()
        (weight + torch.randn(1, generator=loop.generator(step, "noise"))).pow(2).sum().backward()
        optimiser.step()
        loop.log(loss=float(weight.detach()))
        with log.open("a") as file:
            file.write(f"{os.getpid()} {step}\n")
        done += 1
    return os.getpid(), float(weight.detach()), done


class _State:
    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weight

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"weight": self.weight.detach().clone()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            self.weight.copy_(state["weight"])
