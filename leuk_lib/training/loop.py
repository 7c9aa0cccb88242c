"""Training loop: steps, checkpoints, random streams, shards, progress. The step itself belongs to the method.

All randomness is a function of (seed, label, step), so that a run that was killed and resumed draws the same numbers as
one that was not. It is drawn for the global batch and then sharded, so that it does not depend on the number of
processes.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from pydantic import ConfigDict, Field
from torch import Tensor
from tqdm import tqdm

from leuk_lib.runs import parent, progress
from leuk_lib.runs.checkpoint import Checkpoint
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.records import Record, check_record
from leuk_lib.runs.seeds import derive, torch_generator
from leuk_lib.training import ahead
from leuk_lib.training.transfer import on_device

if TYPE_CHECKING:
    from leuk_lib.training.fabric import Fabric


class Stateful(Protocol):
    """Models, optimisers, averages, controllers."""

    def state_dict(self) -> dict[str, Any]:
        """State as plain values and tensors."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Restore `state_dict`."""
        ...


class LoopState(Record):
    """The part of a checkpoint that the loop itself reads. A diverged training has losses that are not finite."""

    model_config = ConfigDict(allow_inf_nan=True)

    step: int = Field(ge=0)
    objects: dict[str, Any]
    history: list[dict[str, int | float]]
    stopped: bool


Sharded = TypeVar("Sharded", Tensor, list)
Row = Callable[[Mapping[str, list[float]]], dict[str, float]]

AGREE_EVERY = 8  # steps between two agreements of several GPUs on whether to end
READ_EVERY = 20  # steps between two transfers from a GPU of the numbers of `TrainingLoop.record`


class TrainingLoop:
    """Iterates over optimiser steps up to ``total_steps`` - 1, from the last checkpoint of the same identity.

    Only rank 0 writes checkpoints and shows progress. Callbacks of the Fabric get ``on_step(step)`` before each step.

    Args:
        fabric: From `make_fabric`.
        folder: Where the checkpoint is kept.
        identity: A checkpoint with another identity is ignored.
        total_steps: Number of optimiser steps.
        seed: Seed of all random streams.
        label: Name of the training, for random streams, progress and messages.
        every: Steps between checkpoints. One more is written at the end, and before the process ends on SIGTERM (code
            143; the end of a kernel's parent counts as one), on SIGINT (``KeyboardInterrupt``), or when a stop is requested
            (code 130, see ``runs.progress``). Several processes end after the same step.

    Attributes:
        history: One dict per call of `log` or `record`.
        step: Number of finished steps.
    """

    def __init__(
        self, fabric: Fabric, folder: Path, identity: str, total_steps: int, seed: int, label: str, every: int = 50
    ) -> None:
        self.fabric, self.total_steps, self.seed, self.label, self.every = fabric, total_steps, seed, label, every
        self.history: list[dict[str, Any]] = []
        self.step = 0
        self.stopped = False
        self._checkpoint = Checkpoint(folder, identity)
        self._objects: dict[str, Stateful] = {}
        self._signal = 0
        self._bar: tqdm | None = None
        self._shown: dict[str, float] = {}
        self._unread: list[tuple[int, dict[str, Tensor], Row]] = []

    def register(self, **objects: Stateful) -> None:
        """Add objects to the checkpoint, by name; call before iterating."""
        self._objects.update(objects)

    def __iter__(self) -> Iterator[int]:
        ahead.wait(self._checkpoint.path.parent)
        self._restore()
        if self.stopped or self.step >= self.total_steps:
            return
        previous = self._catch_signals()
        silent = self.fabric.global_rank != 0 or progress.IN_COMMAND in os.environ
        self._bar = tqdm(
            total=self.total_steps, initial=self.step, desc=self.label, disable=silent, file=sys.stderr,
            mininterval=1.0 if sys.stderr.isatty() else 10.0, leave=True,
        )  # fmt: skip
        try:
            with parent.end_is_sigterm():
                progress.report(self.label, self.step, self.total_steps, at_once=True)  # the first step may be long
                while self.step < self.total_steps and not self.stopped:
                    self.fabric.call("on_step", step=self.step)
                    torch.manual_seed(derive(self.seed, self.label, self.step))
                    yield self.step
                    self.step += 1
                    self._bar.update()
                    ended = self._end()
                    progress.report(self.label, self.step, self.total_steps, at_once=bool(ended), **self._shown)
                    if self.step % self.every == 0 or self.step == self.total_steps or ended or self.stopped:
                        self._save()
                    if ended == signal.SIGINT:
                        raise KeyboardInterrupt
                    if ended:
                        raise SystemExit(143 if ended == signal.SIGTERM else 130)
        finally:
            self._bar.close()
            for number, handler in previous.items():
                signal.signal(number, handler)

    # -- inside a step -----------------------------------------------------------------------------------------

    def generator(self, step: int, *keys: object) -> torch.Generator:
        """Return the CPU generator of the random stream ``keys`` at ``step``."""
        return torch_generator(self.seed, self.label, step, *keys)

    def batch(self, step: int, n_items: int, batch_size: int, key: str = "order") -> Tensor:
        """Positions (batch_size,) int64 of the global batch at ``step``.

        Every epoch is a new permutation, without its last partial batch. With fewer items than ``batch_size`` the
        permutations of successive epochs are concatenated.

        Raises:
            LeukError: There is no item.
        """
        if n_items < 1:
            raise LeukError(f"{self.label}: there is no image to train on")
        if n_items >= batch_size:
            epoch, position = divmod(step, n_items // batch_size)
            return self._permutation(epoch, n_items, key)[position * batch_size : (position + 1) * batch_size]
        first, last = step * batch_size, (step + 1) * batch_size - 1
        epochs = range(first // n_items, last // n_items + 1)
        joined = torch.cat([self._permutation(epoch, n_items, key) for epoch in epochs])
        offset = first - epochs[0] * n_items
        return joined[offset : offset + batch_size]

    @functools.lru_cache(maxsize=4)  # noqa: B019  a loop lives as long as its training
    def _permutation(self, epoch: int, n_items: int, key: str) -> Tensor:
        return torch.randperm(n_items, generator=torch_generator(self.seed, self.label, key, epoch))

    def shard(self, whole: Sharded) -> Sharded:
        """This process's part of the global batch, along the first dimension.

        Raises:
            LeukError: The batch does not divide into equal parts.
        """
        world, rank = self.fabric.world_size, self.fabric.global_rank
        if world == 1:
            return whole
        size, rest = divmod(len(whole), world)
        if rest:
            raise LeukError(
                f"{self.label}: a batch of {len(whole)} cannot be divided among {world} processes; make it a multiple"
            )
        return whole[rank * size : (rank + 1) * size]

    def stop(self) -> None:
        """End after the present step (early stopping); the checkpoint keeps this."""
        self.stopped = True

    def log(self, **values: float) -> None:
        """Add a row to ``history``, which is part of the checkpoint, and show it in the progress bar."""
        self._add_row(self.step, values)

    def record(self, numbers: Mapping[str, Tensor], row: Row) -> None:
        """Add a row to ``history`` from numbers of this step that a GPU may still be computing.

        The host would wait for the GPU if it read them, so they are read every ``READ_EVERY`` steps, before a checkpoint
        and by `read`; on the CPU at once.

        Args:
            numbers: Tensors by name, of a few numbers each.
            row: Makes the row from the numbers, which are flat lists; it may raise for some that are not finite.
        """
        self._unread.append((self.step, {name: tensor.detach() for name, tensor in numbers.items()}, row))
        if len(self._unread) >= READ_EVERY or all(tensor.device.type == "cpu" for tensor in numbers.values()):
            self.read()

    def read(self) -> None:
        """Add the rows of all earlier calls of `record`: one transfer from the GPU."""
        unread, self._unread = self._unread, []
        if not unread:
            return
        tensors = [tensor.reshape(-1) for _, numbers, _ in unread for tensor in numbers.values()]
        device = next((tensor.device for tensor in tensors if tensor.device.type != "cpu"), tensors[0].device)
        values = iter(torch.cat([on_device(tensor.double(), device) for tensor in tensors]).tolist())
        for step, numbers, row in unread:
            lists = {name: [next(values) for _ in range(tensor.numel())] for name, tensor in numbers.items()}
            self._add_row(step, row(lists))

    def _add_row(self, step: int, values: Mapping[str, float]) -> None:
        self.history.append({"step": step, **{key: float(value) for key, value in values.items()}})
        if self._bar is not None:
            self._bar.set_postfix({key: f"{value:.3g}" for key, value in values.items()}, refresh=False)
        self._shown = {"loss": float(values["loss"])} if "loss" in values else {}

    # -- checkpoints -------------------------------------------------------------------------------------------

    def _restore(self) -> None:
        state = self._checkpoint.load()
        if state is None:
            return
        check_record(
            state, LoopState, self._checkpoint.path, "the state of a training", "delete its folder to start again"
        )
        if set(state["objects"]) != set(self._objects):
            raise LeukError(
                f"{self._checkpoint.path}: holds {sorted(state['objects'])} but {self.label} registered "
                f"{sorted(self._objects)}; delete its folder to start again"
            )
        if state["step"] > self.total_steps:
            raise LeukError(
                f"{self._checkpoint.path}: holds step {state['step']} of {self.total_steps}; delete its folder to start again"
            )
        for name, target in self._objects.items():
            try:
                target.load_state_dict(state["objects"][name])
            except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
                raise LeukError(
                    f"{self._checkpoint.path}: the state of {name} does not fit ({reason}); delete its folder to start again"
                ) from error
        self.step, self.history, self.stopped = state["step"], state["history"], state["stopped"]

    def _save(self) -> None:
        self.read()
        if self.fabric.global_rank == 0:
            objects = {name: target.state_dict() for name, target in self._objects.items()}
            self._checkpoint.save(
                {"step": self.step, "objects": objects, "history": self.history, "stopped": self.stopped}
            )
        self.fabric.barrier()

    def _end(self) -> int:
        """Why to end after this step: SIGTERM, SIGINT, 1 for a request (``runs.progress``); 0 to go on.

        A signal reaches the processes of a training in different steps. They end after the same one, or those that went
        on would wait for the others without end. On GPUs they agree every few steps only, because that takes a
        synchronisation.
        """
        own = self._signal or int(progress.stop_requested())
        if self.fabric.world_size == 1:
            return own
        if self.fabric.device.type != "cpu" and self.step % AGREE_EVERY and self.step < self.total_steps:
            return 0
        agreed: Any = self.fabric.all_reduce(torch.tensor(float(own), device=self.fabric.device), reduce_op="max")
        return int(agreed)

    def _catch_signals(self) -> dict[int, Any]:
        """Let the first SIGTERM or SIGINT end the training after its present step; a second SIGINT ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            return {}

        def handler(number: int, frame: FrameType | None) -> None:
            if self._signal == number == signal.SIGINT:
                raise KeyboardInterrupt
            self._signal = number

        return {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
