"""Atomic files and their hashes: a reader sees the old file or the new one, never half of either."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from leuk_lib.runs.errors import LeukError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is flushed to disk and renamed, on failure removed.

    A full disk, a missing right or a read-only folder becomes one ``LeukError`` that names the file.
    """
    # The suffix stays last: writers such as Figure.savefig choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except Exception as error:
        refusal = _refusal(error, temporary)
        if refusal in (errno.ENOSPC, errno.EDQUOT):
            raise LeukError(f"{path}: the disk is full; free some space and run again, nothing was lost") from error
        if refusal in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise LeukError(f"{path}: cannot be written ({os.strerror(refusal)}); check the folder's rights") from error
        raise
    finally:
        with suppress(OSError):  # where nothing may be written, nothing can be removed
            temporary.unlink(missing_ok=True)


def _refusal(error: Exception, temporary: Path) -> int:
    """The system's number for a failed write (``errno``), 0 where the system refused nothing.

    safetensors tells it in words only, and torch not at all: then a little more is written to the same file, to see.
    """
    if isinstance(error, OSError):
        return error.errno or 0
    if told := re.search(r"\(os error (\d+)\)", str(error)):
        return int(told[1])
    if isinstance(error, RuntimeError):
        try:
            with temporary.open("ab") as handle:
                handle.write(bytes(1 << 20))
        except OSError as refused:
            return refused.errno or 0
    return 0


def write_text(path: Path, text: str) -> Path:
    """Write ``text`` (UTF-8) atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, value: Any) -> Path:
    """Write ``value`` as indented JSON, keys in their order, no NaN."""
    return write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; a missing or damaged file is one readable line."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LeukError(f"{path}: no such file") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise LeukError(f"{path}: damaged ({error}); delete it and run its stage again") from error


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of a value's canonical JSON (sorted keys)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
