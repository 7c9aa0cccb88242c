"""One writer per folder: a lock of the operating system, which ends with its process, however that ends."""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.paths import real_path

RESULTS_LOCK = ".lock"  # in the results folder; held by `leuk run` and by its Snakemake
# In a stage's folder; held by the process that writes the executed notebook, and by its kernel.
NOTEBOOK_LOCK = ".notebook.lock"
_held: dict[Path, tuple[int, int]] = {}  # lock file -> its descriptor and the process that opened it


def hold(folder: Path, name: str, what: str) -> int:
    """Lock ``folder`` until :func:`release` or the end of this process. A process may hold a lock that it has already.

    Args:
        folder: The folder that will be written to.
        name: Name of the lock file in it.
        what: What is being written, for the error message.

    Returns:
        The lock's descriptor; a child process that inherits it holds the lock too, until its own end.

    Raises:
        LeukError: If another process holds the lock.
    """
    path = real_path(folder) / name
    if _held.get(path, (-1, -1))[1] == os.getpid():
        return _held[path][0]
    try:
        handle = acquire(path)
    except BlockingIOError as error:
        raise LeukError(f"{what} is being written by {owner(path)}; wait for it or end it") from error
    sign(handle)
    _held[path] = (handle, os.getpid())
    return handle


def sign(handle: int, further: str = "") -> str:
    """Write into a lock's file which process holds it, and return what was written; "" if the disk is full."""
    text = f"process {os.getpid()} on {socket.gethostname()}{further}"
    with suppress(OSError):  # the lock holds all the same
        os.ftruncate(handle, 0)
        os.pwrite(handle, text.encode(), 0)
        return text
    return ""


def acquire(path: Path) -> int:
    """Lock a file, which is made if needed, and return its descriptor; a process that inherits it holds the lock too.

    Raises:
        BlockingIOError: If another process holds the lock.
        LeukError: If the file cannot be made or locked.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise LeukError(f"{path}: cannot be written ({error.strerror}); check the folder and its rights") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise
    except OSError as error:  # a file system without locks
        os.close(handle)
        raise LeukError(
            f"{path}: cannot be locked ({error.strerror}); put the results on another file system"
        ) from error
    return handle


def release(folder: Path, name: str) -> None:
    """Unlock ``folder``, if this process locked it."""
    path = real_path(folder) / name
    if _held.get(path, (-1, -1))[1] == os.getpid():
        handle, _ = _held.pop(path)
        fcntl.flock(handle, fcntl.LOCK_UN)  # also for children that inherited the descriptor
        os.close(handle)


def held() -> list[int]:
    """Return the descriptors of the locks that this process holds; a child process that inherits them holds the locks, too."""
    return [handle for handle, process in _held.values() if process == os.getpid()]


def writer(folder: Path, name: str) -> str:
    """Return the other process that holds the lock of ``folder``, such as "process 12 on host", or ""."""
    path = real_path(folder) / name
    if not path.is_file() or path in _held:
        return ""
    with path.open() as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return owner(path)
        except OSError:
            return ""
    return ""


def owner(path: Path) -> str:
    """Return what :func:`sign` wrote last into a lock's file."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:200] or "another process"
    except OSError:
        return "another process"
