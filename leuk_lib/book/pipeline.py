"""The pipeline as a clickable figure, drawn from the stages and their inputs; also the figure of the README.

``python -m leuk_lib.book.pipeline`` writes ``book/_static/pipeline.svg``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from leuk_lib.book.diagram import STYLE_FILE, Node, svg
from leuk_lib.runs import paths
from leuk_lib.runs.files import write_text
from leuk_lib.stages import STAGES, StageSpec

README_FIGURE = "book/_static/pipeline.svg"
OPENING = "The pipeline, one box per chapter."
# What each stage does, in lines that fit into a box.
WORDS: Mapping[str, tuple[str, ...]] = {
    "data": ("cells, patients,", "a split that", "does not leak"),
    "alhe": ("local contrast", "for the cell", "alone"),
    "acdb_gan": ("synthetic cells", "for rare classes"),
    "fcmae": ("pretraining", "with masks"),
    "wpat": ("classification", "by windowed", "attention"),
    "comparison": ("baselines,", "each step", "on its own"),
    "leakage": ("what a wrong", "split adds"),
    "trust": ("shifts,", "calibration,", "explanation"),
    "results": ("intervals,", "differences,", "calibration"),
    "claims": ("what holds,", "what does not,", "what is open"),
}


def nodes(stages: Sequence[StageSpec], links: Mapping[str, str] | None = None) -> list[Node]:
    """Return the stages as boxes, numbered like the chapters. ``links`` maps stages to addresses."""
    return [
        Node(
            stage.name,
            f"{position} {stage.title}",
            stage.inputs,
            WORDS.get(stage.name, ()),
            (links or {}).get(stage.name, ""),
        )
        for position, stage in enumerate(stages, 1)
    ]


def page_figure(stages: Sequence[StageSpec], links: Mapping[str, str]) -> str:
    """Return a wide and a narrow form of the figure. The style sheet shows the one that fits the screen."""
    forms = (("across", False), ("upright", True))
    return "".join(
        f'<div class="leuk-diagram leuk-{name}">{svg(nodes(stages, links), OPENING, upright)}</div>' for name, upright in forms
    ) + "\n"  # fmt: skip


def readme_figure(stages: Sequence[StageSpec] = STAGES) -> str:
    """Return the README's figure, which is readable on a light and on a dark background."""
    return svg(nodes(stages), OPENING, style=STYLE_FILE) + "\n"


def write_readme_figure(root: Path) -> Path:
    """Write the README's figure to its place in the repository."""
    return write_text(root / README_FIGURE, readme_figure())


if __name__ == "__main__":
    print(write_readme_figure(paths.project_root()))
