"""A GPU that is not there: what a training allocates on it, and where it makes the host wait, counted without one.

Tensors on "cuda" have shapes, types and devices but no values (PyTorch's fake tensors); those on the CPU are real. So the
training loops of this library run as they are, at any size, in seconds.
"""

from __future__ import annotations

import sys
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import leuk_lib
from leuk_lib.training import transfer
from leuk_lib.training.fabric import fabric_class
from training.python_autograd import python_autograd

if TYPE_CHECKING:
    from leuk_lib.training.fabric import Fabric

GPU = torch.device("cuda", 0)
BLOCK = 512  # bytes; PyTorch's allocator rounds up to multiples of it
LIBRARY = str(Path(leuk_lib.__file__).parent)

aten = torch.ops.aten
#: Operations whose result the host reads, or whose shape depends on it.
WAITING = {
    aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default, aten.bincount.default,
    aten.masked_select.default, aten._unique2.default, aten.is_nonzero.default, aten.repeat_interleave.Tensor,
}  # fmt: skip
#: Matrix products and convolutions, which mixed precision makes in bfloat16.
PRODUCTS = {
    aten.convolution.default, aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default,
    aten.convolution_backward.default,
}  # fmt: skip


class Enough(Exception):
    """Ends a training after a number of steps."""


@dataclass
class Usage:
    """What was counted.

    Attributes:
        live: Bytes allocated now.
        peak: Most bytes allocated at once.
        waits: Step and place, ``file:line``, of what made the host wait for the GPU; step -1 is before the first.
        wide: Products and convolutions of steps that were not made in bfloat16, by name and place.
    """

    live: int = 0
    peak: int = 0
    waits: list[tuple[int, str]] = field(default_factory=list)
    wide: Counter[str] = field(default_factory=Counter)

    def waits_of(self, step: int) -> list[str]:
        """Places that made the host wait in a step."""
        return [place for at, place in self.waits if at == step]


class FakeGPU(TorchDispatchMode):
    """Run operations on "cuda" without values, and count. Use `fake_gpu`.

    Attributes:
        usage: What was counted.
        step: Present step of the training.
    """

    def __init__(self) -> None:
        super().__init__()
        self.usage, self.step = Usage(), -1
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Run one operation."""
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        given = any(isinstance(tensor, FakeTensor) for tensor in tensors)
        target = kwargs.get("device")
        target = None if target is None else torch.device(target)
        if not given and (target is None or target.type != "cuda"):
            return func(*args, **kwargs)
        if func is aten._to_copy.default and target is not None and target.type != args[0].device.type:
            return self._transfer(args[0], target, kwargs)
        if func is aten.copy_.default and args[0].device.type != args[1].device.type:
            return self._copy(args)
        if func in WAITING:
            return self._waiting(func, args, kwargs)
        if any(tensor.device.type == "cpu" and tensor.ndim for tensor in tensors):
            self._wait()  # such as an index on the CPU
        if func in PRODUCTS and self.step >= 0 and any(t.dtype != torch.bfloat16 for t in tensors if t.ndim > 1):
            self.usage.wide[f"{func.overloadpacket.__name__} {place()}"] += 1
        with self._fake:
            result = func(*args, **kwargs)
        self._track(result)
        return result

    def _empty(self, like: Tensor, dtype: torch.dtype, memory_format: torch.memory_format | None) -> Tensor:
        with self._fake:
            if memory_format in (None, torch.preserve_format):
                result = torch.empty_strided(like.shape, like.stride(), dtype=dtype, device=GPU)
            else:
                result = torch.empty(like.shape, dtype=dtype, device=GPU, memory_format=memory_format)
        self._track(result)
        return result

    def _transfer(self, source: Tensor, target: torch.device, kwargs: dict[str, Any]) -> Tensor:
        dtype = kwargs.get("dtype") or source.dtype
        if target.type == "cuda":
            if not kwargs.get("non_blocking"):
                self._wait()
            return self._empty(source, dtype, kwargs.get("memory_format"))
        self._wait()
        return torch.zeros(source.shape, dtype=dtype)

    def _copy(self, args: tuple[Any, ...]) -> Tensor:
        into = args[0]
        if into.device.type == "cpu" or not (len(args) > 2 and args[2]):
            self._wait()
        return into.zero_() if into.device.type == "cpu" else into

    def _waiting(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._wait()
        source = args[0]
        if func is aten._local_scalar_dense.default:
            return 1.0 if source.is_floating_point() else source.dtype == torch.bool or 1
        if func is aten.equal.default or func is aten.is_nonzero.default:
            return True
        if func is aten.bincount.default:
            size = int(kwargs.get("minlength", args[2] if len(args) > 2 else 0))
            with self._fake:
                result = torch.empty(size, dtype=torch.long, device=GPU)
            self._track(result)
            return result
        raise RuntimeError(f"{func} on a GPU: the shape of its result depends on values")

    def _wait(self) -> None:
        self.usage.waits.append((self.step, place()))

    def _track(self, result: Any) -> None:
        for tensor in tree_leaves(result):
            if not isinstance(tensor, FakeTensor) or tensor.fake_device.type != "cuda":
                continue
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in self._sizes:
                continue
            size = -(-storage.nbytes() // BLOCK) * BLOCK
            self._sizes[key] = size
            self.usage.live += size
            self.usage.peak = max(self.usage.peak, self.usage.live)
            weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.usage.live -= self._sizes.pop(key)


def place() -> str:
    """Innermost line of this library that is being executed, as ``package/file.py:line``."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(LIBRARY) and name != __file__:
            return f"{Path(name).relative_to(LIBRARY).as_posix()}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "elsewhere"


class _Steps:
    """Callback of Fabric that tells a fake GPU the step, and ends the training after some steps."""

    def __init__(self, gpu: FakeGPU, count: int) -> None:
        self.gpu, self.count = gpu, count

    def on_step(self, step: int) -> None:
        """Called by `TrainingLoop` before each step."""
        self.gpu.step += 1
        if self.gpu.step >= self.count:
            raise Enough


def fake_fabric(gpu: FakeGPU, precision: Any, steps: int) -> Fabric:
    """A Fabric on the fake GPU, which writes no checkpoint and raises `Enough` after ``steps`` steps."""
    fabric = fabric_class()(accelerator="cpu", precision=precision, callbacks=[_Steps(gpu, steps)])
    strategy: Any = fabric._strategy
    strategy._root_device = GPU
    if precision == "bf16-mixed":
        strategy.precision.device = "cuda"
    strategy.accelerator.setup_device = lambda device: None
    strategy.global_rank = 1
    return fabric


@contextmanager
def fake_gpu() -> Iterator[FakeGPU]:
    """Run the body with a GPU that is not there."""
    gpu = FakeGPU()
    swapping = torch.__future__.get_swap_module_params_on_conversion()
    # Parameters that optimisers know must stay the same objects when a network moves to the fake GPU.
    torch.__future__.set_swap_module_params_on_conversion(True)
    lifting = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device="cuda") makes a tensor on the CPU and copies it
    try:
        with (
            warnings.catch_warnings(action="ignore", category=UserWarning),  # the fake tensors' own, of each copy
            mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
            mock.patch("torch.cuda.is_bf16_supported", lambda: True),
            mock.patch("torch.cuda._lazy_init", torch.cuda._lazy_init if torch.cuda.is_available() else lambda: None),
            mock.patch.object(transfer, "free_memory", lambda device: 80 << 30),
            mock.patch.object(Tensor, "pin_memory", lambda tensor: tensor),
            # The fake mode has weak references to fake parameters, for which torch refuses to exchange them.
            mock.patch.object(torch.utils, "weakref", SimpleNamespace(getweakrefs=lambda tensor: [])),
            python_autograd(),
            gpu,
        ):
            yield gpu
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swapping)
        torch._C._set_only_lift_cpu_tensors(lifting)


def used(train: Callable[[Fabric], object], precision: str, steps: int = 2) -> Usage:
    """Count what a training uses on a GPU in its first steps.

    Args:
        train: Called with a Fabric on a fake GPU; it runs a `TrainingLoop` of more than ``steps`` steps.
        precision: As for `Fabric`.
        steps: Number of steps; the optimiser's state exists from the first one's end on.
    """
    with fake_gpu() as gpu, suppress(Enough):
        train(fake_fabric(gpu, precision, steps))
    return gpu.usage
