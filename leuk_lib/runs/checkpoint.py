"""Checkpoints of a training loop: whole or not at all, and only ever continued by the same work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import atomic
from leuk_lib.runs.tensors import read_tensors

FORMAT = 1


class Checkpoint:
    """One file ``state.pt`` in ``folder``, replaced atomically; tensors and plain values only."""

    def __init__(self, folder: Path, identity: str) -> None:
        self.path = folder / "state.pt"
        self.identity = identity

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint by ``state`` (nested dicts and lists of tensors, numbers, strings)."""
        with atomic(self.path) as temporary:
            torch.save({"format": FORMAT, "identity": self.identity, "state": state}, temporary)

    def load(self) -> dict[str, Any] | None:
        """The state of the last checkpoint, or None where there is none of the same identity.

        Raises ``LeukError`` for a damaged or foreign file.
        """
        if not self.path.exists():
            return None
        advice = f"delete {self.path.parent} to start anew"
        whole, _ = read_tensors(self.path, "checkpoint", advice)
        if not isinstance(whole, dict) or whole.get("format") != FORMAT or not {"identity", "state"} <= set(whole):
            raise LeukError(f"checkpoint {self.path}: not one of this library; {advice}")
        return whole["state"] if whole["identity"] == self.identity else None
