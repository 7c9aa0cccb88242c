"""The commands on the pages are valid, and the recipes run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.main import get_command

from leuk_lib.book.gate import chapter_problem
from leuk_lib.cli.main import app
from leuk_lib.data.smear.cohort import smear_cells
from leuk_lib.runs import paths
from leuk_lib.runs.card import read_card
from leuk_lib.stages import STAGES
from project import copy_stage_files

BIN = Path(sys.executable).parent
PAGES = (
    "use/laptop",
    "use/gpu",
    "use/cluster",
    "use/own_data",
    "use/weights",
    "use/troubleshooting",
    "maintain/extend",
    "reproduce/did_it_reproduce",
)


def blocks(root: Path, page: str) -> list[str]:
    """Return the bash blocks of a page, with continued lines joined."""
    text = (root / "book" / f"{page}.md").read_text(encoding="utf-8")
    return [block.replace("\\\n", " ") for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_shell(root: Path, page: str) -> None:
    for block in blocks(root, page):
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{page}: {done.stderr}\n{block}"


@pytest.mark.parametrize("page", PAGES)
def test_every_leuk_command_exists(root: Path, page: str) -> None:
    """Names and options exist. Nothing is run."""
    lines = [line for block in blocks(root, page) for line in block.splitlines() if line.startswith("leuk ")]
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        command = get_command(app)
        while commands := getattr(command, "commands", None):
            assert words and (words[0] in commands or "run" in commands), line
            command = commands[words.pop(0)] if words[0] in commands else commands["run"]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word.split("=")[0] for word in words if word.startswith("--")} <= known, line


@pytest.fixture
def project(root: Path, tmp_path: Path) -> Path:
    """A copy of the project's notebooks in a folder with a space, next to a folder of images."""
    copy = tmp_path / "my project"
    shutil.copytree(root / "notebooks", copy / "notebooks")
    for name in ("_config.yml", "requirements.lock"):
        shutil.copy(root / name, copy / name)
    copy_stage_files(root, copy)
    cells = smear_cells(cells=60, patients=3, size=40, seed=5)
    for index, (image, label) in enumerate(zip(cells.images, cells.table["label"], strict=True)):
        path = copy / "my_cells" / label / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.ascontiguousarray(image.permute(1, 2, 0).numpy()[..., ::-1]))
    return copy


def shell(project: Path, script: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if name not in ("LEUK_ROOT", "LEUK_RESULTS")}
    environment = {**inherited, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout + done.stderr


def test_the_recipe_for_every_chapter_finds_every_notebook(root: Path) -> None:
    (pattern,) = re.findall(r"for notebook in (\S+);", "".join(blocks(root, "use/own_data")))
    assert sorted(root.glob(pattern)) == sorted((root / "notebooks").glob("[0-9]*_*.ipynb"))


@pytest.mark.notebooks
def test_papermill_recipes_run(root: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEUK_ROOT", str(project))
    monkeypatch.delenv("LEUK_RESULTS", raising=False)
    recipes = [block for block in blocks(root, "use/own_data") if "papermill" in block]
    assert len(recipes) == 3
    shell(project, recipes[0])
    card = read_card("my-run", "data")
    assert card and card["state"] == "finished" and card["params"]["image_size"] == 40 and card["params"]["seed"] == 1
    shell(project, recipes[1])
    finished = {path.parent.name for path in paths.run_folder("my-run").glob("*/metrics.json")}
    assert finished == {"data", "alhe"}
    assert "paper.yml" in recipes[2]  # the same loop over all; hours, so not here
    assert re.search(r"^ +data +fresh$", shell(project, "leuk status --run my-run"), flags=re.MULTILINE)
    refused = shell(project, "leuk adopt my-run out.ipynb || echo refused")  # of the run before, with another seed
    assert "refused" in refused.splitlines() and "leuk: out.ipynb: " in refused
    shell(project, "leuk adopt my-run 0*.out.ipynb")
    assert [chapter_problem("my-run", stage) for stage in STAGES[:2]] == [None, None]


@pytest.mark.notebooks
@pytest.mark.parametrize("cluster", ["slurm", "kubernetes"])
def test_cluster_commands_plan_every_stage(root: Path, project: Path, cluster: str) -> None:
    """The commands of the page as dry runs."""
    (command,) = [
        block for block in blocks(root, "use/cluster") if f"cluster/{cluster}" in block and " -n" not in block
    ]
    command = re.sub(r"dataset=\S+", '"dataset=$PWD/my_cells"', command.strip())
    output = shell(project, f'LEUK_ROOT="$PWD" {command} -n')
    seeds = 5 if 'seeds="0 1 2 3 4"' in command else 1
    for stage in paths.stage_notebooks():
        assert re.search(rf"^{stage}\s+{seeds}$", output, flags=re.MULTILINE), output[-2000:]


def test_the_cell_for_colab_is_shell_and_ends_with_the_book(root: Path) -> None:
    text = (root / "book" / "use" / "gpu.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```text\n(!git clone.*?)```", text, re.DOTALL)
    lines = [line.removeprefix("!") for line in block.splitlines() if not line.startswith("%")]
    done = subprocess.run(["bash", "-n"], input="\n".join(lines), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in lines if line.startswith("leuk ")] == ["run", "book"]
    extras = re.search(r'pip install -q -e "\.\[(\w+)\]"', block)
    assert extras and f"\n{extras[1]} = [" in (root / "pyproject.toml").read_text()


def test_troubleshooting_quotes_the_programs_messages(root: Path) -> None:
    """Each message in quotation marks is in the code; … stands for what varies."""
    text = (root / "book" / "use" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = [
        message for line in text.splitlines() if line.startswith('"') for message in re.findall(r'"([^"]+)"', line)
    ]
    assert len(messages) > 12
    sources = [*(root / "leuk_lib").rglob("*.py"), *(root / "tests" / "book").glob("test_browser.py")]
    code = re.sub(r'"\s*\n\s*f?"', "", "\n".join(path.read_text(encoding="utf-8") for path in sources))
    parts = {part.strip(" .;:") for message in messages for part in message.split("…")} - {""}
    assert {part for part in parts if part not in code} == set()
