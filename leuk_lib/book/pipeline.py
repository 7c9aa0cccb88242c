"""The pipeline as one clickable figure, drawn from the stages and what they read; the same figure for the README.

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
OPENING = "The pipeline, one chapter a box."
# What a stage does, in lines that fit a box.
WORDS: Mapping[str, tuple[str, ...]] = {
    "data": ("cells, patients,", "a split that", "does not leak"),
    "alhe": ("local contrast,", "background", "spared"),
    "acdb_gan": ("synthetic cells", "for rare classes"),
    "fcmae": ("learning from", "hidden patches"),
    "wpat": ("attention in", "windows gives", "a cell its class"),
    "results": ("intervals,", "plain rivals,", "calibration"),
    "claims": ("what holds,", "what does not,", "what is open"),
}


def nodes(stages: Sequence[StageSpec], links: Mapping[str, str] | None = None) -> list[Node]:
    """The stages as boxes, numbered as the chapters are; ``links`` maps stages to addresses."""
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
    """Both forms for a page of the book; the style sheet shows the one that fits the screen."""
    forms = (("across", False), ("upright", True))
    return "".join(
        f'<div class="leuk-diagram leuk-{name}">{svg(nodes(stages, links), OPENING, upright)}</div>' for name, upright in forms
    ) + "\n"  # fmt: skip


def readme_figure(stages: Sequence[StageSpec] = STAGES) -> str:
    """The picture in the README: a file of its own, readable on light and dark ground."""
    return svg(nodes(stages), OPENING, style=STYLE_FILE) + "\n"


def write_readme_figure(root: Path) -> Path:
    """Write the README's picture where it is committed."""
    return write_text(root / README_FIGURE, readme_figure())


if __name__ == "__main__":
    print(write_readme_figure(paths.project_root()))
