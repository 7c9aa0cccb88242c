"""Reading files of tensors, written by safetensors or by torch.save."""

from __future__ import annotations

import argparse
import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import is_unchanged

CHECKSUM = "metadata_sha256"  # entry of a file's metadata


def read_tensors(path: Path, what: str, advice: str, exit_code: int = 1) -> tuple[Any, dict[str, str]]:
    """Read a file of tensors without executing any code in it.

    A checkpoint of training code may hold its command line, an ``argparse.Namespace`` of plain values.

    Args:
        path: A safetensors file, or one that ``torch.save`` wrote.
        what: What the file should be, for the error message.
        advice: How to get such a file, for the error message.
        exit_code: Exit code of the error.

    Returns:
        The tensors of a safetensors file by name, or what ``torch.save`` wrote; and the metadata.

    Raises:
        LeukError: If the file is missing, damaged, or holds anything but tensors and plain values.
    """
    if not path.is_file():
        raise LeukError(f"{what} {path}: no such file; {advice}", exit_code)
    try:
        with path.open("rb") as handle:
            head = handle.read(9)
        if head[8:] == b"{":  # safetensors: the header's length in eight bytes, then the header, JSON
            with safe_open(str(path), framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:  # torch does not check checksums
                if broken := archive.testzip():
                    raise zipfile.BadZipFile(f"the checksum of {broken} is wrong")
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True), {}
    except Exception as error:  # its kind depends on which byte is wrong
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"
        if isinstance(error, pickle.UnpicklingError):  # torch's own message advises to run the code
            reason = "more than plain tensors; it was not executed: save the state dict alone"
        raise LeukError(f"{what} {path}: damaged or foreign ({reason}); {advice}", exit_code) from error


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, without its tensors; empty for other files, also damaged ones."""
    try:
        with safe_open(str(path), framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError):
        return {}


def named_tensors(content: Any, source: str, advice: str, exit_code: int = 1) -> dict[str, Tensor]:
    """Check that ``content`` of the file ``source`` is a state dict, and return it.

    Raises:
        LeukError: If it is not tensors by name, or if a tensor is complex, quantised or sparse, or has NaN, infinite or
            negative (variances of a batch norm) values or such as float32 cannot hold.
    """
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise LeukError(f"{source}: holds no state dict (tensors by name); {advice}", exit_code)
    for name, value in content.items():
        if value.is_complex() or value.is_quantized or value.layout != torch.strided:
            raise LeukError(f"{source}: {name} holds no plain real numbers ({value.dtype}); {advice}", exit_code)
        if value.is_floating_point() and not value.isfinite().all():
            raise LeukError(f"{source}: {name} has NaN or infinite values; {advice}", exit_code)
        if value.dtype == torch.float64 and not value.float().isfinite().all():
            raise LeukError(f"{source}: {name} has values too large for float32; {advice}", exit_code)
        if name.endswith("running_var") and (value < 0).any():
            raise LeukError(
                f"{source}: {name}, the variances of a batch norm, has negative values; {advice}", exit_code
            )
    return dict(content)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values, for the metadata of a file: safetensors has no checksum.

    >>> digest({"a": torch.zeros(2)})[:12]
    'da53f451559f'
    """
    total = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        total.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def check_metadata(entries: dict[str, Any], source: str, advice: str, exit_code: int = 1) -> None:
    """Compare what a file's metadata say, such as the order of the classes, with their checksum, and remove this entry.

    Raises:
        LeukError: If they differ.
    """
    unchanged = is_unchanged(entries, CHECKSUM)
    entries.pop(CHECKSUM, None)
    if not unchanged:
        raise LeukError(f"{source}: damaged or edited (the checksum of its metadata is wrong); {advice}", exit_code)


def check_digest(tensors: Mapping[str, Tensor], stated: object, source: str, advice: str, exit_code: int = 1) -> None:
    """Compare tensors with the digest that their file states, if it states one.

    Raises:
        LeukError: If they differ.
    """
    if stated is not None and stated != digest(tensors):
        raise LeukError(f"{source}: damaged (the checksum of its weights is wrong); {advice}", exit_code)
