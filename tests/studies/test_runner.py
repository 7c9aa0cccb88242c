"""A study is resumable, does not depend on the number of parallel jobs, and leaves a record."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from damage import TIMES, fuzz_json
from leuk_lib import studies
from leuk_lib.cli.main import main
from leuk_lib.runs.errors import LeukError
from leuk_lib.studies import runner
from leuk_lib.studies.runner import run_study, study_folder
from leuk_lib.studies.study import study_class
from processes import is_running, soon
from studies.toys import ToyParams


@pytest.fixture
def folder(tmp_path: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Two class folders with an image each, and the toy among the studies."""
    for number, name in enumerate(("a", "b")):
        (tmp_path / "cells" / name).mkdir(parents=True)
        image = np.full((16, 16, 3), 40 * number + 20, np.uint8)
        image[4:9, 4:9] = 200 - 90 * number
        cv2.imwrite(str(tmp_path / "cells" / name / "0.png"), image)
    monkeypatch.setitem(studies.STUDIES, "toy", "studies.toys:Toy")
    return str(tmp_path / "cells")


def runs(dataset: str, job: str) -> int:
    return len((study_folder("toy", dataset) / job / "runs.txt").read_text().splitlines())


def test_waves_run_in_order_and_finished_jobs_once(folder: str):
    first = run_study("toy", {"dataset": folder, "seeds": [1, 2, 3]}, parallel=2)
    assert first.table("values")["value"].tolist() == [2, 4, 6, 12]
    assert math.isnan(first.table("values")["gap"].iloc[-1])
    again = run_study("toy", {"dataset": folder, "seeds": [1, 2, 3]}, parallel=1)
    assert again.tables == first.tables
    assert again.cpu_seconds == first.cpu_seconds
    assert [runs(folder, job) for job in ("seed-1", "seed-2", "seed-3", "sum")] == [1, 1, 1, 1]


def test_other_parameters_or_data_run_again(folder: str):
    run_study("toy", {"dataset": folder, "seeds": [1]})
    assert run_study("toy", {"dataset": folder, "seeds": [1], "factor": 5}).table("values")["value"].max() == 5
    assert runs(folder, "seed-1") == 2
    cv2.imwrite(str(Path(folder) / "a" / "1.png"), np.full((16, 16, 3), 77, np.uint8))
    run_study("toy", {"dataset": folder, "seeds": [1], "factor": 5})
    assert runs(folder, "seed-1") == 3


def test_a_parameter_that_no_job_depends_on_runs_nothing_again(folder: str):
    first = run_study("toy", {"dataset": folder, "seeds": [1]})
    other = run_study("toy", {"dataset": folder, "seeds": [1], "resamples": 9})
    assert runs(folder, "seed-1") == 1 and other.tables == first.tables
    assert other.params["resamples"] == 9 and other.identity != first.identity


def test_a_job_whose_process_dies_is_reported_and_the_rest_is_kept(folder: str):
    values = {"dataset": folder, "seeds": [1, 2], "die_at": "sum"}
    with pytest.raises(LeukError, match="process died"):
        run_study("toy", values)
    assert run_study("toy", values).table("values")["value"].tolist() == [2, 4, 6]
    assert runs(folder, "seed-1") == 1


@pytest.mark.parametrize("times", TIMES)
def test_a_job_whose_files_are_damaged_is_done_again(folder: str, results: Path, times: int, capfd):
    """Jobs are done in this process; what is done is decided by their files alone."""
    values = {"dataset": folder, "seeds": [1]}
    task = ("studies.toys:Toy", ToyParams(**values).model_dump(), "seed-1", str(results), "identity")
    whole = runner._job(task)
    file = results / "seed-1" / "rows.json"
    assert runner._finished(file, "identity") == whole and runner._finished(file, "other") is None
    assert set(whole["files"]) == {"process.txt", "runs.txt", "value.txt"}
    fuzz_json(file, lambda: runner._finished(file, "identity"), times)
    capfd.readouterr()
    (file.parent / "value.txt").write_text("5")
    assert runner._finished(file, "identity") is None
    assert "value.txt: missing or changed; job seed-1 is done again" in capfd.readouterr().err
    file.write_text("[")
    assert runner._finished(file, "identity") is None and "rows.json: damaged" in capfd.readouterr().err


def test_jobs_end_with_a_study_that_is_killed(folder: str, results: Path):
    program = (
        "from leuk_lib import studies; from leuk_lib.studies.runner import run_study; "
        "studies.STUDIES['toy'] = 'studies.toys:Toy'; "
        f"run_study('toy', {{'dataset': {folder!r}, 'seeds': [1], 'linger': 300}})"
    )
    search = os.pathsep.join(filter(None, sys.path))
    study = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": search})
    process = study_folder("toy", folder) / "seed-1" / "process.txt"
    soon(lambda: process.exists() and process.read_text())
    study.kill()
    study.wait()
    soon(lambda: not is_running(int(process.read_text())))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("toyy", {}, "unknown study 'toyy'; did you mean 'toy'?"),
        ("toy", {"factr": 2}, "study toy: unknown parameter 'factr' (value 2); did you mean 'factor'?"),
        ("toy", {"factor": 0}, "study toy: parameter factor = 0: input should be greater than or equal to 1"),
        ("toy", {"seeds": []}, "study toy: parameter seeds = []"),
    ],
)
def test_wrong_parameters_are_one_line_before_anything_runs(folder: str, name: str, values: dict, message: str):
    with pytest.raises(LeukError) as error:
        run_study(name, {"dataset": folder, **values})
    assert message in str(error.value)
    assert not study_folder("toy", folder).exists()


@pytest.mark.parametrize("name", sorted(studies.STUDIES))
def test_every_registered_study_names_its_jobs_and_has_a_version(name: str):
    study_type = study_class(name)
    waves = study_type(study_type.params_model(dataset="cells")).waves()
    names = [job for wave in waves for job in wave]
    assert names and len(set(names)) == len(names) and all("/" not in job for job in names)
    assert study_type.version >= 1


def test_the_command_prints_tables_and_records_only_when_asked(folder: str, capsys: pytest.CaptureFixture[str]):
    assert main(["study", "toy", "--dataset", folder, "--set", "seeds=[1, 2]", "--set", "factor=3"]) == 0
    printed = capsys.readouterr().out
    assert "values" in printed and "not recorded" in printed
    assert main(["study", "toy", "--dataset", folder, "--set", "seeds"]) == 1
    assert "setting 'seeds' must look like seeds=[0,1]" in capsys.readouterr().err
