"""Snakemake runs what depends on a change, and nothing else.

The tests change modules, notebooks and images in a copy of the project, with the smoke run that `make test` makes first.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import nbformat
import numpy as np
import pytest

from leuk_lib.runs import paths
from leuk_lib.stages import STAGES
from project import copy_stage_files

pytestmark = pytest.mark.notebooks
ALL = [spec.name for spec in STAGES]
FROM_WPAT = ["wpat", "comparison", "trust", "results", "claims"]
RUN = "smear-smoke-s0"


class Copy:
    """A copy of the project whose path has a space, with results of its own."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root = folder / "a copy"
        self.results = self.root / "results"
        self.root.mkdir(parents=True)
        for name in ("leuk_lib", "notebooks"):
            shutil.copytree(root / name, self.root / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("_config.yml", "requirements.lock"):
            shutil.copy2(root / name, self.root / name)
        copy_stage_files(root, self.root)

    def leuk(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ, "PYTHONPATH": str(self.root), "LEUK_ROOT": str(self.root), "LEUK_RESULTS": str(self.results),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "leuk_lib.cli.main", *words],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done


def planned(output: str) -> list[str]:
    """Stages that Snakemake's dry run names."""
    jobs = set(re.findall(r"^(?:local)?rule (\w+):", output, flags=re.MULTILINE))
    return [name for name in ALL if name in jobs]


def copy_results(root: Path, smoke_run: Path, copy: Copy) -> None:
    shutil.copytree(
        root / "results", copy.results, copy_function=shutil.copy2, ignore=lambda folder, names: [
            name for name in names if name == "checkpoints" or (Path(folder) == root / "results" and name not in (smoke_run.name, ".snakemake"))
        ]
    )  # fmt: skip


# A process with the libraries loaded, a fork of which is `leuk run` and Snakemake for each line of arguments.
PLANS = """
import json, os, sys
from pathlib import Path
import snakemake.cli
from leuk_lib import workflow
from leuk_lib.cli.main import main
from leuk_lib.runs import code

for path in Path("leuk_lib").rglob("*.py"):
    code.source_hash(path)  # takes a second for all; a file of other content is read again

def snakemake_here(command, environment, stop, handle):
    os.environ.update(environment)
    try:
        snakemake.cli.main(command[3:])
    except SystemExit as end:
        return end.code

workflow.run_until_stopped = snakemake_here
for line in sys.stdin:
    if not (process := os.fork()):
        code = 1
        try:
            out = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1), os.dup2(out, 2)
            code = main(json.loads(line))
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


class Plans(Copy):
    """A copy with the finished smoke run, where many changes are made and undone one after the other."""

    def start(self) -> subprocess.Popen[str]:
        environment = {
            **os.environ, "PYTHONPATH": str(self.root), "LEUK_ROOT": str(self.root), "LEUK_RESULTS": str(self.results),
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-c", PLANS], cwd=self.root, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )  # fmt: skip
        return self.process

    def ask(self, *words: str) -> str:
        """Return what a command prints that changes nothing, in a fork of the process."""
        assert self.process.stdin and self.process.stdout
        print(json.dumps(words), file=self.process.stdin, flush=True)
        code, said = self.process.stdout.readline(), (self.root / "said.txt").read_text()
        assert code == "0\n", said
        return said

    def would_run(self, *words: str) -> list[str]:
        return planned(self.ask("run", "--profile", "smoke", "--dry-run", *words))

    @contextmanager
    def edited(self, file: str, line: str) -> Iterator[None]:
        path = self.root / file
        before = path.read_text()
        path.write_text(f"{before}\n{line}\n")
        try:
            yield
        finally:
            path.write_text(before)


@pytest.fixture(scope="module")
def plans(root: Path, smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plans]:
    copy = Plans(root, tmp_path_factory.mktemp("plans"))
    copy_results(root, smoke_run, copy)
    with copy.start() as process:
        yield copy
        process.stdin.close()


def test_nothing_changed_runs_nothing(plans: Plans):
    assert plans.would_run() == []
    for path in plans.root.rglob("*.py"):
        path.touch()
    assert plans.would_run() == []


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("leuk_lib/gan/losses.py", ["acdb_gan", "wpat", "comparison", "leakage", "trust", "results", "claims"]),
        ("leuk_lib/chapters/wpat.py", FROM_WPAT),
        ("leuk_lib/figures/comparison.py", ["comparison", "trust", "results", "claims"]),
        ("leuk_lib/studies/leakage.py", ["leakage", "results", "claims"]),
        ("leuk_lib/figures/trust.py", ["trust", "results", "claims"]),
        ("leuk_lib/figures/claims.py", ["claims"]),
        ("leuk_lib/runs/stage.py", ALL),
        ("leuk_lib/cli/main.py", []),
    ],
)
def test_a_changed_module_runs_what_depends_on_it(plans: Plans, module: str, expected: list[str]):
    with plans.edited(module, "planted = True"):
        assert plans.would_run() == expected


def test_a_comment_runs_nothing(plans: Plans):
    with plans.edited("leuk_lib/runs/stage.py", "# a comment"):
        assert plans.would_run() == []


def test_a_changed_parameter_runs_its_stage_and_what_follows(plans: Plans):
    assert plans.would_run("--set", "wpat.checkpoint_every=49") == FROM_WPAT
    assert plans.would_run("--set", "trust.shifted_cells=9") == ["trust", "results", "claims"]
    assert plans.would_run("--set", "claims.threads=1") == ["claims"]


def test_copied_results_run_again_with_other_parameters(plans: Plans):
    notes = plans.results / ".snakemake"
    notes.rename(kept := plans.root / "notes")
    try:
        assert plans.would_run() == []
        assert plans.would_run("--set", "trust.shifted_cells=9") == ["trust", "results", "claims"]
    finally:
        shutil.rmtree(notes, ignore_errors=True)
        kept.rename(notes)


def test_a_changed_notebook_runs_its_stage_and_what_follows(plans: Plans):
    path = plans.root / "notebooks" / "09_results.ipynb"
    before = path.read_text()
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].source += "\nOne more line."
    nbformat.write(notebook, path)
    assert plans.would_run() == ["results", "claims"]
    path.write_text(before)
    assert plans.would_run() == []


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda run: (run / "acdb_gan" / "synthetic.safetensors").unlink(), ["acdb_gan", *FROM_WPAT]),
        (lambda run: (run / "results" / "notebook.ipynb").write_text("{"), ["results", "claims"]),
        (
            lambda run: (run / "data" / "card.json").unlink(),
            [name for name in ALL if name != "leakage"],
        ),  # reads records only
        (lambda run: change(run / "claims" / "card.json", finished="2099-01-01T00:00:00+0000"), ["claims"]),
    ],
    ids=["missing", "notebook", "no card", "by hand"],
)
def test_a_damaged_stage_runs_again_and_what_follows(
    plans: Plans, tmp_path: Path, damage: Callable[[Path], object], expected: list[str]
):
    run = plans.results / RUN
    names = ("acdb_gan/synthetic.safetensors", "results/notebook.ipynb", "data/card.json", "claims/card.json")
    kept = {name: shutil.copy2(run / name, tmp_path / name.replace("/", "-")) for name in names}
    damage(run)
    before = contents(run)
    assert plans.would_run() == expected
    assert contents(run) == before
    for name, copy in kept.items():
        shutil.copy2(copy, run / name)


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of class folders with small rendered cells as PNG files."""
    from leuk_lib.data.smear.cohort import smear_cells

    cells = smear_cells(cells=60, patients=3, size=40, seed=5)
    for index, (image, label) in enumerate(zip(cells.images, cells.table["label"], strict=True)):
        path = tmp_path / "my images" / label / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.ascontiguousarray(image.permute(1, 2, 0).numpy()[..., ::-1]))
    return tmp_path / "my images"


def test_seeds_run_in_parallel_and_a_changed_image_runs_them_again_touching_it_does_not(plans: Plans, images: Path):
    words = ("data", "--dataset", str(images), "--seeds", "0 1")
    assert plans.would_run(*words) == ["data"]
    plans.leuk("run", *words, "--profile", "smoke", "--jobs", "2")
    folders = [plans.results / paths.run_name(str(images), "smoke", seed) / "data" for seed in (0, 1)]
    assert (folders[0] / "cells.csv").read_text() != (folders[1] / "cells.csv").read_text()  # other splits
    assert "How the data were read" in (folders[0] / "notebook.ipynb").read_text(encoding="utf-8")
    assert plans.would_run(*words) == []
    one = sorted(images.rglob("*.png"))[0]
    one.touch()
    assert plans.would_run(*words) == []
    cv2.imwrite(str(one), cv2.imread(str(one)) // 2)
    assert plans.would_run(*words) == ["data"]


def test_odd_names_of_folders_and_runs_are_kept(root: Path, tmp_path: Path, images: Path):
    copy = Copy(root, tmp_path)
    odd = images.rename(tmp_path / "a: b #2")
    done = copy.leuk("run", "data", "--dataset", str(odd), "--profile", "smoke", "--run", "007", "--dry-run")
    assert "output: 007/data/notebook.ipynb" in done.stdout + done.stderr


def test_a_failed_stage_keeps_its_partial_notebook_and_the_rerun_repairs_it(plans: Plans):
    folder = plans.results / RUN
    lost = folder / "claims" / "verdicts.csv"
    before = lost.read_bytes()
    lost.unlink()
    assert plans.would_run("alhe") == []  # a stage that is not requested is not repaired
    assert "its output verdicts.csv is missing" in plans.ask("status", "--run", RUN)
    path = plans.root / "notebooks" / "10_claims.ipynb"
    good = path.read_text()
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(-1, nbformat.v4.new_code_cell("raise RuntimeError('planted')"))
    nbformat.write(notebook, path)
    done = plans.leuk("run", "--profile", "smoke", check=False)
    assert done.returncode == 1 and "stage claims failed: RuntimeError: planted" in done.stderr
    partial = nbformat.read(folder / "claims" / "partial.ipynb", as_version=4)
    assert any("planted" in str(cell.get("outputs")) for cell in partial.cells)
    assert '"state": "failed"' in (folder / "claims" / "card.json").read_text()
    assert (folder / "results" / "notebook.ipynb").exists() and not (folder / "claims" / "notebook.ipynb").exists()
    path.write_text(good)
    assert plans.would_run() == ["claims"]
    plans.leuk("run", "--profile", "smoke")
    assert (folder / "claims" / "notebook.ipynb").exists() and not (folder / "claims" / "partial.ipynb").exists()
    assert lost.read_bytes() == before and plans.would_run() == []
    assert len(re.findall(r" fresh$", plans.ask("status", "--run", RUN), flags=re.MULTILINE)) == len(ALL)


def test_a_dry_run_on_slurm_plans_all_stages(root: Path, tmp_path: Path):
    copy = Copy(root, tmp_path)
    environment = {
        **os.environ,
        "PYTHONPATH": str(copy.root),
        "LEUK_ROOT": str(copy.root),
        "LEUK_RESULTS": str(copy.results),
    }
    done = subprocess.run(
        [
            sys.executable, "-m", "snakemake", "--snakefile", "notebooks/Snakefile", "--workflow-profile", "notebooks/cluster/slurm",
            "--dry-run", "--config", "profile=paper", "seeds=0 1",
        ],
        cwd=copy.root, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert all(re.search(rf"^{name}\s+2$", output, flags=re.MULTILINE) for name in ALL), output


def papermill(root: Path, results: Path, notebook: str, name: str, value: str) -> str:
    """Return what plain papermill writes to stderr for a notebook that must fail."""
    done = subprocess.run(
        [
            sys.executable, "-m", "papermill", f"notebooks/{notebook}.ipynb", str(results / "out.ipynb"),
            "-f", "notebooks/profiles/smoke.yml", "-p", name, value, "-k", "python3",
        ],
        cwd=root, env={**os.environ, "LEUK_RESULTS": str(results)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    return done.stderr


def test_plain_papermill_run_too_early_says_what_to_run_first(root: Path, tmp_path: Path):
    message = papermill(root, tmp_path, "04_fcmae", "run", "early")
    assert "LeukError: stage fcmae needs stage data, which has not run in run 'early'" in message
    assert "run notebooks/01_data.ipynb first" in message


def test_plain_papermill_refuses_an_unknown_parameter(root: Path, tmp_path: Path):
    message = papermill(root, tmp_path, "01_data", "image_sise", "40")
    assert "unknown parameter 'image_sise' (value 40); did you mean 'image_size'?" in message
    assert not (tmp_path / "default").exists()
