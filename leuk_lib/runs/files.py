"""Atomic files and their hashes. A reader sees the old file or the new one, never a part."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.numbers import parse_json

AGAIN = "delete it and run its stage again"
MAX_NAME = 255  # bytes of a file's name
TEMPORARY = re.compile(r"\..*\.\d+\.tmp(\.[^.]*)?", re.DOTALL)  # names that `atomic` gives
_PLACES = {  # what a refusal says about the place, and the remedy
    errno.ENOTDIR: "a file stands where a folder is needed; move it away",
    errno.EEXIST: "a file stands where a folder is needed; move it away",
    errno.EISDIR: "a folder stands where the file is needed; move it away",
    errno.ENOTEMPTY: "a folder stands where the file is needed; move it away",
    errno.ENOENT: "its folder was removed meanwhile; run again",
    errno.ESTALE: "its folder was removed meanwhile; run again",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "a link leads to itself; remove it",
    errno.EIO: "the disk fails; use another",
    errno.EFBIG: "files of this size are not allowed there; use another disk, or raise `ulimit -f`",
}


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path``. On success it is flushed to disk and renamed, on failure removed.

    Raises:
        LeukError: If the system refuses to write: a full disk, a folder that is read-only, gone or a file, a name that is
            too long; or for a pipe or a device, which the new file would replace.
    """
    # The suffix stays last because writers such as Figure.savefig choose the format by it. A name may have 255 bytes.
    end = f".{os.getpid()}.tmp{path.suffix}"
    stem = os.fsdecode(os.fsencode(path.stem)[: MAX_NAME - len(os.fsencode(end)) - 1])
    _refuse_no_file(path)
    temporary = path.with_name(f".{stem}{end}")
    try:
        with refusals(path, temporary):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb+") as handle:
                os.fsync(handle.fileno())
            temporary.replace(path)
    finally:
        with suppress(OSError):  # in a read-only folder nothing can be removed
            temporary.unlink(missing_ok=True)


@contextmanager
def refusals(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Turn a refusal of the system to write ``path`` into one line.

    Args:
        path: What is written, for the error message.
        temporary: The file that is written instead, if any; more is written to it where an error has no number.

    Raises:
        LeukError: If the system refuses to write (see :func:`atomic`).
    """
    try:
        yield
    except Exception as error:
        refusal = _refusal(error, temporary)
        if refusal in (errno.ENOSPC, errno.EDQUOT):
            raise LeukError(f"{path}: the disk is full; free some space and run again, nothing was lost") from error
        if refusal in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise LeukError(
                f"{path}: cannot be written ({os.strerror(refusal)}); check the folder's permissions"
            ) from error
        if refusal in _PLACES:
            raise LeukError(f"{path}: cannot be written ({os.strerror(refusal)}); {_PLACES[refusal]}") from error
        raise


def need_space(folder: Path, least: int) -> None:
    """Check that the disk of ``folder``, which may not exist yet, has ``least`` bytes free.

    Raises:
        LeukError: If it has less.
    """
    place = next(part for part in (folder.absolute(), *folder.absolute().parents) if part.exists())
    free = shutil.disk_usage(place).free
    if free < least:
        raise LeukError(
            f"{folder}: the disk has {free / 1e6:.1f} MB left, and at least {least / 1e6:.0f} MB are needed; free some space"
        )


def _refusal(error: Exception, temporary: Path | None) -> int:
    """Return the ``errno`` of a failed write, or 0 if the system refused nothing.

    safetensors gives it only in its message, and torch not at all; then writing a little more to the file shows it.
    """
    if isinstance(error, LeukError):
        return 0
    if isinstance(error, OSError):
        return error.errno or 0
    if match := re.search(r"\(os error (\d+)\)", str(error)):
        return int(match[1])
    if isinstance(error, RuntimeError) and temporary is not None:
        try:
            with temporary.open("ab") as handle:
                handle.write(bytes(1 << 20))
        except OSError as write_error:
            return write_error.errno or 0
    return 0


def remove_temporaries(folder: Path) -> None:
    """Remove the temporary files that killed processes have left in a folder into which no other process writes."""
    for path in folder.rglob(".*.tmp*"):
        if TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> Path:
    """Write ``text`` (UTF-8) atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, value: Any) -> Path:
    """Write ``value`` as indented JSON with its keys in order. NaN raises ``ValueError``."""
    return write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _refuse_no_file(path: Path) -> None:
    """Raise ``LeukError`` for a path without a name, such as that of an unset variable, and for a pipe or a device."""
    if not path.name:
        raise LeukError(f"{str(path)!r}: is no name of a file to write; name one", exit_code=2)
    with refusals(path):
        if path.absolute().parent == Path("/dev") or (path.exists() and not (path.is_file() or path.is_dir())):
            raise LeukError(f"{path}: a pipe or a device, which a file would replace; name a file", exit_code=2)


def keep_inputs(outputs: Iterable[Path | None], inputs: Iterable[Path]) -> None:
    """Refuse to write over what a command reads, and to where no file can be, before hours of work are lost.

    Args:
        outputs: Files that a person named for the command to write; None where one is not wanted.
        inputs: Files that it reads, and folders whose files it reads.

    Raises:
        LeukError: An output is one of the inputs, an existing file in one of the folders, named twice, a folder, a pipe or
            a device, or has no name; exit code 2.
    """
    named = [path for path in outputs if path is not None]
    for path in named:
        _refuse_no_file(path)
        if path.is_dir():
            raise LeukError(f"{path}: a folder stands where the file is needed; name another", exit_code=2)
    places = [Path(os.path.realpath(path)) for path in named]
    if len(set(places)) < len(places):
        raise LeukError(f"{named[0]}: named for two files; give each its own name", exit_code=2)
    existing = {place: path for place, path in zip(places, named, strict=True) if path.exists()}
    if not existing:
        return
    read = {Path(os.path.realpath(path)) for path in inputs}
    for place, path in existing.items():
        if read & {place, *place.parents}:
            raise LeukError(f"{path}: is one of the files that are read; name another file to write", exit_code=2)


def refuse_pipe(path: Path) -> None:
    """Raise ``OSError`` for a pipe or a device in place of a file: reading it would not end."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "a pipe or a device")


def read_json(path: Path, advice: str = AGAIN) -> Any:
    """Read JSON.

    Args:
        path: The file.
        advice: What to do if it is damaged, for the error message.

    Raises:
        LeukError: If the file is missing or damaged.
    """
    try:
        refuse_pipe(path)
        return parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LeukError(f"{path}: no such file") from error
    except OSError as error:
        raise LeukError(f"{path}: cannot be read ({error.strerror}); check what it is and its rights") from error
    except ValueError as error:  # no UTF-8, no JSON, or a number that is not finite or has thousands of digits
        raise LeukError(f"{path}: damaged ({error}); {advice}") from error


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of a value's JSON with sorted keys.

    >>> sha256_json({"a": 1, "b": 2}) == sha256_json({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def with_checksum(entries: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return entries with the hash of the others as the last one, ``name``, which :func:`is_unchanged` compares.

    >>> is_unchanged(with_checksum({"a": 1}, "sum") | {"a": 2}, "sum")
    False
    """
    others = {key: value for key, value in entries.items() if key != name}
    return {**others, name: sha256_json(others)}


def is_unchanged(entries: Mapping[str, Any], name: str) -> bool:
    """Whether entries are those of :func:`with_checksum`; True without a checksum, as files of earlier versions are."""
    return entries.get(name) is None or entries[name] == with_checksum(entries, name)[name]
