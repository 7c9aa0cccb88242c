"""``leuk``: errors in one line with an exit code, and the main commands on real input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest

from leuk_lib.cli import start
from leuk_lib.cli.main import main
from leuk_lib.data.smear.cohort import smear_cells
from leuk_lib.runs.params import StageParams
from leuk_lib.runs.stage import Stage

COMMANDS = [
    ["data", "check"],
    ["data", "list"],
    ["data", "fetch"],
    ["data", "split"],
    ["run"],
    ["status"],
    ["compare"],
    ["reference"],
    ["predict"],
    ["export"],
    ["study"],
    ["book"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(command: list[str], capsys: pytest.CaptureFixture[str]):
    assert main([*command, "--help"]) == 0
    assert "Example: leuk" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["run", "fcmea"], 1, "unknown stage 'fcmea'; did you mean 'fcmae'?"),
        (["run", "--profile", "smok"], 1, "unknown profile 'smok'; did you mean 'smoke'?"),
        (["run", "--dataset", "nowhere"], 2, "dataset 'nowhere': neither 'smear' nor a folder of images"),
        (["run", "--set", "fcmae.stepz=3"], 1, "unknown parameter 'stepz' (value 3); did you mean 'steps'?"),
        (["run", "--set", "fcmae.mask_ratio=2"], 1, "parameter mask_ratio = 2"),
        (["run", "--set", "steps=3"], 1, "must look like fcmae.steps=3"),
        (
            ["run", "--set", "data.class_map={band: neutrophil"],
            1,
            "class_map={band: neutrophil': the value is not YAML",
        ),
        (["study", "leakage", "--dataset", "smear", "--set", "seeds=[0"], 1, "'seeds=[0': the value is not YAML"),
        (["run", "--seeds", "0 x"], 1, "must be whole numbers"),
        (["run", "--seeds", "1_0"], 1, "must be whole numbers"),
        (["run", "--seeds", "\u0663"], 1, "must be whole numbers"),
        (["run", "--seeds", "010"], 1, "must be whole numbers"),
        (["run", "--seeds", ""], 1, "must be whole numbers"),
        (["run", "--seeds", "1 0 1"], 1, "1 stands twice, but each seed is one run"),
        (["book", "--seeds", "1 1"], 1, "1 stands twice, but each seed is one run"),
        (["run", "--run", ""], 1, "parameter run = ''"),
        (["run", ""], 1, "unknown stage ''"),
        (["status", "--run", ""], 2, "run '': is no name of a run"),
        (["book", "--run", ""], 2, "run '': is no name of a run"),
        (["compare", ""], 2, "run '': is no name of a run"),
        (["run", "--set", "fcmae.steps=3", "--set", "fcmae.steps=4"], 1, "fcmae.steps is given twice"),
        (["run", "--layout", "1", "--set", "data.layout=2"], 1, "data.layout is given twice"),
        (["study", "leakage", "--dataset", "smear", "--set", "seeds=[0]", "--set", "seeds=[1]"], 1, "given twice"),
        (["data", "check", ".", "--map", "a=b", "--map", "a=c"], 1, "class 'a' is given twice"),
        (["data", "fetch", "pbc", "--sha256", "x"], 2, "must be 64 hexadecimal digits"),
        (["run", "--seeds", "0 1", "--run", "mine"], 1, "a run's name can be given for one seed only"),
        (["status"], 1, "no run in results/ yet"),
        (["status", "--run", "gone"], 1, "no such folder"),
        (["predict", "cell.png"], 1, "no trained model in results/"),
        (["predict", "cell.png", "--model", "no.safetensors"], 2, "no.safetensors: no such file"),
        (["export", "--onnx", "m.onnx"], 1, "no trained model in results/"),
        (["export", "no.safetensors", "--onnx", "m.onnx"], 2, "no.safetensors: no such file"),
        (["compare", "gone"], 2, "neither a run's folder nor a reference file"),
        (["reference", "gone"], 1, "chapter 01_data of run 'gone' is missing"),
        (["book", "--run", "gone"], 1, "chapter 01_data of run 'gone' is missing"),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_errors_are_one_line_and_a_code(
    results: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str
):
    assert main(words) == code
    output = capsys.readouterr().err
    assert message in output and len(output.strip().splitlines()) == 1 and output.startswith("leuk: ")


def test_status_shows_every_run_even_if_one_has_lost_its_data(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for name, dataset in [("a", str(tmp_path / "gone")), ("b", "smear")]:
        with Stage.begin("data", StageParams, {"run": name, "dataset": dataset}) as stage:
            stage.use_dataset("abc")
            stage.record("cells", 2)
    capsys.readouterr()
    assert main(["status"]) == 0
    output = capsys.readouterr().out
    assert "the data set cannot be read: data set" in output and "the data set's files changed" in output


def test_status_goes_on_after_a_folder_that_is_no_run(results: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("b copy", "c"):
        with Stage.begin("data", StageParams, {"run": "c"}) as stage:
            stage.record("cells", 2)
        if name != "c":
            (results / "c").rename(results / name)
    capsys.readouterr()
    assert main(["status"]) == 0
    output = capsys.readouterr().out
    assert "b copy\n  no name of a run: rename the folder" in output and "c\n  data       fresh" in output


def test_letters_that_the_terminal_does_not_have_are_shown_as_escapes(root: Path):
    done = subprocess.run(
        [sys.executable, "-m", "leuk_lib.cli.main", "data", "readers"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=True,
    )  # fmt: skip
    assert rb"=\u2026: " in done.stdout and not done.stderr


class Interrupted:
    """Ctrl-C while the modules of the command are being looked for."""

    def find_spec(self, name: str, *_: object) -> None:
        if name == "leuk_lib.cli.main":
            raise KeyboardInterrupt


def test_ctrl_c_while_the_command_is_loaded_is_no_traceback(root: Path, monkeypatch: pytest.MonkeyPatch):
    assert tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"] == {
        "leuk": "leuk_lib.cli.start:main"
    }
    monkeypatch.delitem(sys.modules, "leuk_lib.cli.main")
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    assert start.main() == 130


def test_ctrl_c_in_a_command_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("leuk_lib.data.check.check_folder", interrupted)
    assert main(["data", "check", "."]) == 130
    assert capsys.readouterr().err == "leuk: stopped; run the same command again to continue\n"


def test_debug_shows_the_traceback(results: Path):
    with pytest.raises(ValueError, match="unknown stage"):
        main(["run", "fcmea", "--debug"])


def test_data_check_has_an_exit_code_for_clean_findings_and_unusable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    cells = smear_cells(cells=60, patients=3, size=48, seed=2)
    for index, (image, label) in enumerate(zip(cells.images, cells.table["label"], strict=True)):
        path = tmp_path / "set" / label / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.ascontiguousarray(image.permute(1, 2, 0).numpy()[..., ::-1]))
    assert main(["data", "check", str(tmp_path / "set")]) == 0
    (tmp_path / "set" / label / "broken.png").write_bytes(b"\x89PNG\r\n")
    assert main(["data", "check", str(tmp_path / "set"), "--csv", str(tmp_path / "findings.csv")]) == 1
    assert "broken.png" in capsys.readouterr().out and "broken.png" in (tmp_path / "findings.csv").read_text()
    assert main(["data", "check", str(tmp_path / "nothing")]) == 2


@pytest.mark.notebooks
def test_predict_and_compare_on_the_smoke_run(smoke_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = smoke_run / "wpat" / "model.safetensors"
    image = tmp_path / "a cell.png"
    cv2.imwrite(str(image), np.full((80, 60, 3), 200, np.uint8))
    assert main(["predict", str(image), "--model", str(model), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    (row,) = answer["predictions"]
    probabilities = {name: value for name, value in row.items() if name not in ("file", "predicted")}
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5) and row["predicted"] == max(
        probabilities, key=probabilities.get
    )
    assert "Not a medical device" in answer["research_use"]
    assert main(["predict", str(image), "--model", str(model)]) == 0
    assert "Not a medical device" in capsys.readouterr().out
    (tmp_path / "text.png").write_text("no image")
    assert main(["predict", str(tmp_path / "text.png"), "--model", str(model)]) != 0
    assert "text.png" in capsys.readouterr().err
    assert main(["compare", str(model.parents[1]), str(model.parents[1])]) == 0
    assert "numbers are equal to the bit" in capsys.readouterr().out


def test_closed_streams_are_not_replaced_by_a_file(tmp_path: Path):
    """The lock got the number of the closed standard output, and Snakemake printed into it."""
    command = f'"{sys.executable}" -m leuk_lib.cli.main run data --profile smoke -n'
    environment = {**os.environ, "LEUK_RESULTS": str(tmp_path)}
    for closed in (">&-", "<&- >&-", "<&- >&- 2>&-"):
        subprocess.run(f"{command} {closed}", shell=True, env=environment, check=True, timeout=120)
        assert (tmp_path / ".lock").read_text().startswith("process ")


@pytest.mark.notebooks
def test_a_reference_of_the_smoke_run_agrees_with_it_and_names_what_was_changed(
    smoke_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "reference.json"
    assert main(["reference", smoke_run.name, "--out", str(file)]) == 0
    assert file.stat().st_size < 300_000
    assert main(["compare", smoke_run.name, str(file)]) == 0
    assert "equal to the bit" in capsys.readouterr().out
    record = json.loads(file.read_text())
    record["metrics"]["results"]["accuracy"]["value"] += 5
    record["cards"]["results"]["versions"]["torch"] = "1.0"
    file.write_text(json.dumps(record))
    assert main(["compare", smoke_run.name, str(file)]) == 1
    output = capsys.readouterr().out
    assert "1 outside" in output and "not 1.0" in output
