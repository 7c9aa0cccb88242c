"""A tiny project with executed chapters: what the book needs to be built, without running a pipeline."""

from __future__ import annotations

import base64
import json
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

from pydantic import Field

from leuk_lib.runs import card as cards
from leuk_lib.runs import files, paths
from leuk_lib.runs.params import StageParams
from leuk_lib.stages import StageSpec

REPOSITORY = Path(__file__).resolve().parents[2]
RUN = "smear-smoke-s0"


class FakeParams(StageParams):
    """Parameters of a made-up stage."""

    steps: int = Field(3, ge=1, le=100, description="optimiser steps | with a pipe")
    rate: float = Field(1e-3, gt=0, description="learning rate")


def spec(name: str, inputs: tuple[str, ...] = ()) -> StageSpec:
    """A stage whose parameters are :class:`FakeParams`."""
    return StageSpec(name, f"Title of {name}", "book.toys:FakeParams", inputs)


def code_cell(source: str, outputs: list[dict[str, Any]], count: int | None, **metadata: Any) -> dict[str, Any]:
    """A code cell with outputs."""
    return {"cell_type": "code", "id": f"c{abs(hash(source)) % 10**8}", "source": source, "outputs": outputs,
            "execution_count": count, "metadata": metadata}  # fmt: skip


def glued(name: str, value: float) -> dict[str, Any]:
    """The output that ``leuk_lib.runs.display.glue`` leaves."""
    mime = "application/papermill.record/"
    return {"output_type": "display_data", "data": {f"{mime}text/plain": repr(value)},
            "metadata": {"scrapbook": {"name": name, "mime_prefix": mime}}}  # fmt: skip


def png(side: int = 24) -> bytes:
    """A small grey PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(range(100, 100 + side)) for _ in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def notebook(name: str, executed: bool, metrics: dict[str, float] | None = None) -> dict[str, Any]:
    """A chapter: a title, the parameters, a figure with alt text, a table, glued numbers."""
    picture = {"output_type": "display_data", "metadata": {},
               "data": {"image/png": base64.b64encode(png()).decode(), "text/plain": "<figure>"}}  # fmt: skip
    table = {"output_type": "execute_result", "execution_count": 3, "metadata": {}, "data": {
        "text/html": '<div class="leuk-table" tabindex="0" role="region" aria-label="t"><table class="table"><caption>t</caption>'
        '<thead><tr><th scope="col">a</th></tr></thead><tbody><tr><td>1</td></tr></tbody></table></div>',
        "text/plain": "a\n1"}}  # fmt: skip
    noise = {"output_type": "stream", "name": "stderr", "text": "chatter\n"}
    progress = {"output_type": "stream", "name": "stdout", "text": "0%\r50%\r100%\nend\n"}
    numbers = [glued(f"{name}.{key}", value) for key, value in (metrics or {}).items()]
    alt = {"mystnb": {"figure": {"caption": f"A figure of {name}.", "name": f"fig-{name}-a"},
                      "image": {"alt": f"A grey ramp for {name}"}}}  # fmt: skip
    cells = [
        {
            "cell_type": "markdown",
            "id": "m0",
            "metadata": {},
            "source": f"# Chapter {name}\n\nWords about {name}, $x^2$.",
        },
        code_cell("seed = 0", [], 1, tags=["parameters"]),
        code_cell(f"figure('{name}')", [noise, progress, picture] if executed else [], 2, **alt),
        code_cell(f"table('{name}')", [table] if executed else [], 3),
        code_cell("stage.finish()", numbers if executed else [], 4),
    ]
    if not executed:
        for cell in cells:
            if cell["cell_type"] == "code":
                cell["execution_count"] = None
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata: dict[str, Any] = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells}


def finish_stage(
    stage: StageSpec, run: str = RUN, metrics: dict[str, float] | None = None, **changes: Any
) -> dict[str, Any]:
    """Write card, metrics and executed notebook of a stage as a finished run leaves them; returns the card."""
    params = stage.params_model()(run=run, profile="smoke").model_dump(mode="json")
    folder = paths.stage_folder(run, stage.name)
    table = files.write_text(folder / "numbers.csv", f"a\n{stage.name}\n")
    entries = {
        key: {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 64}
        for key, value in (metrics or {}).items()
    }
    written = files.write_json(folder / "metrics.json", {
        "stage": stage.name, "run": run, "profile": "smoke", "dataset": "smear", "metrics": entries})  # fmt: skip
    card = cards.new_card(stage.name, params)
    upstream = {name: cards.results_of(cards.read_card(run, name) or {"outputs": {}}) for name in stage.inputs}
    card.update(
        state="finished", identity="0123456789abcdef" * 2, seconds=12.5, peak_rss_mb=812.4, peak_gpu_mb=0.0,
        finished=card["started"], device="A processor (2 cores)", inputs=upstream, notes=["test part opened"],
        outputs={path.name: files.sha256_file(path) for path in (table, written)}, **changes,
    )  # fmt: skip
    files.write_json(folder / "card.json", card)
    glue = {f"{key}{part}": value + shift for key, value in (metrics or {}).items()
            for part, shift in (("", 0.0), (".low", -0.1), (".high", 0.1), (".n", 64 - value))}  # fmt: skip
    executed = files.write_json(folder / "notebook.ipynb", notebook(stage.name, executed=True, metrics=glue))
    cards.seal(run, stage.name, executed)
    return card


def make_notebooks(root: Path, stages: tuple[StageSpec, ...]) -> None:
    """The sources of the stages' notebooks (no outputs) in ``notebooks/``."""
    for position, stage in enumerate(stages, 1):
        text = json.dumps(notebook(stage.name, executed=False))
        files.write_text(root / "notebooks" / f"{position:02d}_{stage.name}.ipynb", text)


def make_project(root: Path, stages: tuple[StageSpec, ...], book: bool = False) -> Path:
    """A project root with notebooks; with ``book`` also this repository's prose and settings."""
    root.mkdir(parents=True, exist_ok=True)
    if book:
        skip = shutil.ignore_patterns("_build", "chapters", "generated", "__pycache__")
        shutil.copytree(REPOSITORY / "book", root / "book", ignore=skip, dirs_exist_ok=True)
        shutil.copytree(REPOSITORY / "notebooks" / "cluster", root / "notebooks" / "cluster", dirs_exist_ok=True)
        for name in ("_config.yml", "_toc.yml", "CITATION.cff"):
            shutil.copy(REPOSITORY / name, root / name)
    else:
        files.write_text(root / "_config.yml", "title: fake\n")
    make_notebooks(root, stages)
    return root
