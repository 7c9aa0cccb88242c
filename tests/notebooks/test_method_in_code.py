"""The method in code: excerpts that are the source and fit the page, and toy runs whose numbers are those of paper."""

from __future__ import annotations

import math
import random
import time
from typing import Any

import nbformat
import numpy as np
import pytest
import torch

from leuk_lib.runs import display
from leuk_lib.runs.paths import stage_notebooks

LINES, COLUMNS = 25, 88
CHAPTERS = ("alhe", "acdb_gan", "fcmae", "wpat")


def code_cells(stage: str) -> dict[str, Any]:
    content = nbformat.read(stage_notebooks()[stage], as_version=4)
    return {cell["id"]: cell for cell in content.cells if cell.cell_type == "code"}


def imports(stage: str) -> dict[str, Any]:
    """The names that the notebook imports, without its parameters and its stage."""
    (setup,) = [cell.source for cell in code_cells(stage).values() if "Stage.begin(" in cell.source]
    scope: dict[str, Any] = {}
    exec(setup[: setup.index("stage = Stage.begin(")], scope)
    return scope


def run(stage: str, *ids: str) -> dict[str, Any]:
    """Execute toy cells. They leave the random numbers of the stage alone and take less than a second."""
    scope, cells = imports(stage), code_cells(stage)
    before = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())  # noqa: NPY002
    started = time.process_time()
    for name in ids:
        exec(cells[name].source, scope)
    assert time.process_time() - started < 1
    after = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())  # noqa: NPY002
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
    return scope


@pytest.mark.parametrize("stage", CHAPTERS)
def test_excerpts_are_the_source_and_fit_the_page(stage: str) -> None:
    names = [name for name, cell in code_cells(stage).items() if "display.source(" in cell.source]
    assert names
    for name in names:
        code = code_cells(stage)[name].source
        shown = eval(code[code.index("display.source(") :], imports(stage))
        assert isinstance(shown, display.Source)  # how it is made is tested in tests/runs/test_display.py
        lines = shown.code.split("\n")
        assert len(lines) <= LINES and max(map(len, lines)) <= COLUMNS, name


@pytest.mark.parametrize("stage", CHAPTERS)
def test_each_chapter_of_a_method_has_a_toy_run_after_its_source(stage: str) -> None:
    cells = code_cells(stage)
    order = list(cells)
    toys = [name for name in order if "-toy" in name]
    assert toys and all("method" in cells[name].metadata.tags for name in toys)
    assert min(order.index(name) for name in order if "-source" in name) < order.index(toys[0])


def test_alhe_clips_and_redistributes_four_bins(capsys: pytest.CaptureFixture[str]) -> None:
    run("alhe", "alhe-toy")
    plain, floored = capsys.readouterr().out.splitlines()
    # 4 -> 2; the excess of 2 is shared by three bins, or, above a floor of 1 under the second, by the last two: 1 / 2.
    assert plain.split("slopes ")[1] == "[2.   0.67 0.67 0.67]  tone curve [2.   2.67 3.33 4.  ]"
    assert floored.split("slopes ")[1] == "[2.  1.  0.5 0.5]  tone curve [2.  3.  3.5 4. ]"


def test_gan_loss_and_penalties_of_four_logits(capsys: pytest.CaptureFixture[str]) -> None:
    scope = run("acdb_gan", "gan-toy")
    assert scope["logits"].tolist() == [1, 4, 1, 1] and scope["delta"].tolist() == [0, 3]
    assert scope["r1"].tolist() == [4, 16] and scope["r2"].tolist() == [4, 4]  # (2x)^2
    lost, gained = (math.log(2) + math.log1p(math.exp(-3))) / 2, (math.log(2) + math.log1p(math.exp(3))) / 2
    assert scope["relativistic"].item() == pytest.approx(lost, abs=1e-6)
    assert scope["penalties"].item() == pytest.approx(0.1 / 2 * (10 + 4), abs=1e-6)
    said = capsys.readouterr().out
    assert "L_D = 0.371 + 0.700 = 1.071" in said and f"L_G = {gained:.3f}" in said


def test_fcmae_grn_on_a_grid_of_sixteen_sites(capsys: pytest.CaptureFixture[str]) -> None:
    scope = run("fcmae", "fcmae-toy-grn")
    visible = scope["visible"][0]
    assert visible.sum() == round(0.4 * 16) == 6
    sites = torch.arange(1.0, 17).view(4, 4)
    y, gradient = scope["y"][0, ..., 0], scope["gradient"][0, ..., 0]
    assert torch.allclose(y, torch.where(visible, 3 * sites, 0.0), rtol=1e-5)  # N = G / (G / 2) = 2, y = 2x + x
    assert (gradient[~visible] == 0).all() and torch.allclose(gradient[visible], torch.tensor(3.0), rtol=1e-5)
    assert (scope["y"][..., 1] == 0).all()
    assert capsys.readouterr().out.startswith("6 of 16 sites are visible")


def test_fcmae_hidden_pixels_have_gradient_0_in_the_whole_encoder(capsys: pytest.CaptureFixture[str]) -> None:
    scope = run("fcmae", "fcmae-toy-grn", "fcmae-toy-encoder")
    hidden = ~scope["visible"][0].repeat_interleave(8, 0).repeat_interleave(8, 1)
    gradient = scope["gradient"][0]
    assert (gradient[:, hidden] == 0).all() and (gradient[:, ~hidden] != 0).any()
    assert ((scope["per_patch"] > 0) == scope["visible"][0]).all()
    assert capsys.readouterr().out.endswith("exactly 0 where hidden, and only there: True\n")


def softmax(scores: list[float]) -> list[float]:
    total = sum(map(math.exp, scores))
    return [math.exp(score) / total for score in scores]


def test_wpat_cosine_attention_in_one_window(capsys: pytest.CaptureFixture[str]) -> None:
    scope = run("wpat", "wpat-toy-window")
    diagonal = 16 * 49 / 130
    assert scope["bias"].numpy() == pytest.approx(
        np.array([[8, 7, 7, diagonal], [7, 8, diagonal, 7], [7, diagonal, 8, 7], [diagonal, 7, 7, 8]]), abs=1e-4
    )
    assert (scope["q"] @ scope["k"].T)[0].tolist() == pytest.approx([1, 1, 0, -1], abs=1e-6)
    with_bias = softmax([1 + 8, 1 + 7, 0 + 7, -1 + diagonal])
    assert scope["weights"][0].tolist() == pytest.approx(with_bias, abs=1e-5)
    assert scope["out"][0].item() == pytest.approx(np.dot(with_bias, [1, 2, 3, 4]), abs=1e-5)
    without = softmax([1, 1, 0, -1])
    line = capsys.readouterr().out.splitlines()[1]
    assert line.startswith("without bias") and line.endswith(f"output {np.dot(without, [1, 2, 3, 4]):.2f}")


def test_wpat_a_latent_carries_a_signal_to_another_window(capsys: pytest.CaptureFixture[str]) -> None:
    run("wpat", "wpat-toy-latent")
    # Read: half of A. Self-attention: plus the norm (1, -1). Write back: plus (1, -1) in both windows.
    assert capsys.readouterr().out.splitlines() == [
        "A [ 1. -1.], B [0. 0.], then latent [ 1.5 -1.5], A [ 2. -2.], B [ 1. -1.]",
        "A [-1.  1.], B [0. 0.], then latent [-1.5  1.5], A [-2.  2.], B [-1.  1.]",
    ]


@pytest.mark.parametrize("stage", CHAPTERS)
def test_the_equation_stands_before_the_code(stage: str) -> None:
    cells = nbformat.read(stage_notebooks()[stage], as_version=4).cells
    heading = next(n for n, cell in enumerate(cells) if "### The method in code" in cell.source)
    assert "$$" in cells[heading - 1].source
