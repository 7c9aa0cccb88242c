"""The rungs of the leakage ladder: how a model can be scored, rightly and wrongly, and what is compared with what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

GROUPED, RANDOM = "grouped split", "random split"


@dataclass(frozen=True)
class Arm:
    """How a model is scored. ``random``: cells are dealt out without regard to groups. ``sees``: which cells the
    generator is trained on (training, all), or none; ``pooled``: its cells are dealt out with the real ones."""

    name: str
    random: bool = False
    generator: str = ""
    sees: str = ""
    pooled: bool = False


def arms_of(generators: Sequence[str]) -> list[Arm]:
    """The ladder: both splits without synthetic cells, then for every generator one right use and two wrong ones."""
    found = [Arm(GROUPED), Arm(RANDOM, random=True)]
    for name in generators:
        found += [
            Arm(f"{name} of training cells", generator=name, sees="training"),
            Arm(f"{name} of all cells", generator=name, sees="all"),
            Arm(f"{name} before the split", random=True, generator=name, sees="all", pooled=True),
        ]
    return found


def steps_of(generators: Sequence[str]) -> list[tuple[str, str]]:
    """What is compared with what: every mistake with the same thing done right, and honest synthetic cells with none."""
    found = [(RANDOM, GROUPED)]
    for name in generators:
        right = f"{name} of training cells"
        found += [
            (right, GROUPED), (f"{name} of all cells", right), (f"{name} before the split", RANDOM),
            (f"{name} before the split", right),
        ]  # fmt: skip
    return found
