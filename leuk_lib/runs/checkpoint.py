"""Checkpoints of a training loop. They are written atomically, and only the same work continues from one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import atomic
from leuk_lib.runs.tensors import read_tensors

FORMAT = 1


class Checkpoint:
    """One file ``state.pt`` in ``folder``, replaced atomically. It holds tensors and plain values only.

    Args:
        folder: Folder of the file.
        identity: Hash of what decides the result, such as ``Stage.identity``.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.path = folder / "state.pt"
        self.identity = identity

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint by ``state``: nested dicts and lists of tensors, numbers and strings."""
        with atomic(self.path) as temporary:
            torch.save({"format": FORMAT, "identity": self.identity, "state": state}, temporary)

    def load(self) -> dict[str, Any] | None:
        """Return the state of the last checkpoint, or None if there is none with the same identity.

        Raises:
            LeukError: If the file is damaged or was not written by this library.
        """
        if not self.path.exists():
            return None
        advice = f"delete {self.path.parent} to start from the beginning"
        content, _ = read_tensors(self.path, "checkpoint", advice)
        if (
            not isinstance(content, dict)
            or content.get("format") != FORMAT
            or not {"identity", "state"} <= set(content)
        ):
            raise LeukError(f"checkpoint {self.path}: not written by this library; {advice}")
        return content["state"] if content["identity"] == self.identity else None
