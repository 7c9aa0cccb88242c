"""Checkpoints of a training loop. They are written atomically, and only the same work continues from one."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import atomic
from leuk_lib.runs.tensors import read_tensors

FORMAT = 2
KEY = "leuk_lib"
EARLIER = "state.pt"  # format 1, written by torch.save


class Checkpoint:
    """One file ``state.safetensors`` in ``folder``, replaced atomically. It holds tensors and plain values only.

    Nested values are JSON in the file's metadata, in which each tensor stands as a reference. Both have checksums, which
    safetensors itself lacks.

    Args:
        folder: Folder of the file.
        identity: Hash of what decides the result, such as ``Stage.identity``.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.path = folder / "state.safetensors"
        self.identity = identity

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint by ``state``: nested dicts, lists and tuples of tensors, numbers and strings.

        Raises:
            TypeError: For any other value.
        """
        tensors: dict[str, Tensor] = {}
        text = json.dumps({"format": FORMAT, "identity": self.identity, "state": _written(state, tensors)})
        with atomic(self.path) as temporary:
            save_file(tensors, temporary, metadata={KEY: text, "crc": str(zlib.crc32(text.encode()))})
        self.path.with_name(EARLIER).unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """Return the state of the last checkpoint, or None if there is none with the same identity.

        Raises:
            LeukError: If the file is damaged or was not written by this library.
        """
        if not self.path.exists():
            return None
        advice = f"delete {self.path.parent} to start from the beginning"
        tensors, metadata = read_tensors(self.path, "checkpoint", advice)
        try:
            text = metadata[KEY]
            if str(zlib.crc32(text.encode())) != metadata.get("crc"):
                raise LeukError(f"checkpoint {self.path}: damaged (its checksum is wrong); {advice}")
            content = json.loads(text)
            if content["format"] != FORMAT:
                raise LeukError(f"checkpoint {self.path}: of another format ({content['format']!r}); {advice}")
            return _read(content["state"], tensors) if content["identity"] == self.identity else None
        except LeukError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise LeukError(f"checkpoint {self.path}: not written by this library ({error!r}); {advice}") from error


def _written(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return ``value`` as JSON, and put its tensors into ``tensors``. Only a list of JSON with a kind stands for others."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        name = f"t{len(tensors)}"
        kept = value.detach().cpu()
        tensors[name] = kept.contiguous() if not kept.is_contiguous() else kept.clone()  # safetensors shares no memory
        stride = None if kept.is_contiguous() else list(kept.stride())
        return ["tensor", name, str(kept.dtype), list(kept.shape), stride, _checksum(tensors[name])]
    if isinstance(value, Mapping):
        return ["dict", *([_key(key), _written(item, tensors)] for key, item in value.items())]
    if isinstance(value, list | tuple):
        return ["list" if isinstance(value, list) else "tuple", *(_written(item, tensors) for item in value)]
    raise TypeError(f"a checkpoint holds tensors, numbers, texts, dicts, lists and tuples, not {type(value).__name__}")


def _key(key: Any) -> str | int:
    if isinstance(key, str) or (isinstance(key, int) and not isinstance(key, bool)):
        return key
    raise TypeError(f"a checkpoint's dicts have texts or whole numbers as keys, not {type(key).__name__}")


def _read(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, list):
        return value
    kind, *items = value
    if kind == "dict":
        return {key: _read(item, tensors) for key, item in items}
    if kind in ("list", "tuple"):
        read = [_read(item, tensors) for item in items]
        return read if kind == "list" else tuple(read)
    if kind != "tensor":
        raise ValueError(f"unknown kind {kind!r}")
    name, dtype, shape, stride, checksum = items
    tensor = tensors[name]
    if str(tensor.dtype) != dtype or list(tensor.shape) != shape or _checksum(tensor) != checksum:
        raise ValueError(f"the checksum of {name} is wrong")
    if stride is None:
        return tensor
    return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype).copy_(tensor)


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data) if tensor.numel() else 0
