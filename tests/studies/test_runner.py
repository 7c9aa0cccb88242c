"""A study is resumable, the same however many jobs run side by side, and its record says where it comes from."""

from __future__ import annotations

import json
import math
import os
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from leuk_lib import studies
from leuk_lib.cli.main import main
from leuk_lib.runs.errors import LeukError
from leuk_lib.studies import record as records
from leuk_lib.studies.runner import run_study, study_folder
from leuk_lib.studies.study import parse_settings
from processes import is_running, soon


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


def test_other_parameters_or_data_run_anew(folder: str):
    run_study("toy", {"dataset": folder, "seeds": [1]})
    assert run_study("toy", {"dataset": folder, "seeds": [1], "factor": 5}).table("values")["value"].max() == 5
    assert runs(folder, "seed-1") == 2
    cv2.imwrite(str(Path(folder) / "a" / "1.png"), np.full((16, 16, 3), 77, np.uint8))
    run_study("toy", {"dataset": folder, "seeds": [1], "factor": 5})
    assert runs(folder, "seed-1") == 3


def test_what_no_job_depends_on_runs_nothing_anew(folder: str):
    first = run_study("toy", {"dataset": folder, "seeds": [1]})
    other = run_study("toy", {"dataset": folder, "seeds": [1], "resamples": 9})
    assert runs(folder, "seed-1") == 1 and other.tables == first.tables
    assert other.params["resamples"] == 9 and other.identity != first.identity


def test_a_job_whose_process_dies_is_said_and_the_rest_is_kept(folder: str):
    values = {"dataset": folder, "seeds": [1, 2], "die_at": "sum"}
    with pytest.raises(LeukError, match="process died"):
        run_study("toy", values)
    assert run_study("toy", values).table("values")["value"].tolist() == [2, 4, 6]
    assert runs(folder, "seed-1") == 1


def test_jobs_end_with_a_study_that_is_killed(folder: str, results: Path):
    program = (
        "from leuk_lib import studies; from leuk_lib.studies.runner import run_study; "
        "studies.STUDIES['toy'] = 'studies.toys:Toy'; "
        f"run_study('toy', {{'dataset': {folder!r}, 'seeds': [1], 'linger': 300}})"
    )
    search = os.pathsep.join(filter(None, sys.path))
    study = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": search})
    told = study_folder("toy", folder) / "seed-1" / "process.txt"
    soon(lambda: told.exists() and told.read_text())
    study.kill()
    study.wait()
    soon(lambda: not is_running(int(told.read_text())))


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


def test_a_record_keeps_tables_and_provenance(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    outcome = run_study("toy", {"dataset": folder, "seeds": [3]})
    monkeypatch.setattr(records.paths, "project_root", lambda: tmp_path)
    path = outcome.save()
    assert path == tmp_path / records.record_file("toy", folder)
    assert str(tmp_path) not in path.read_text()  # no path of the machine it ran on
    read = records.load_record(path)
    assert read == outcome
    about = read.provenance().set_index("item")["value"]
    assert about["to repeat it"] == (
        "leuk study toy --dataset …/cells --set 'seeds=[3]' --set threads=1 --set factor=2 --set resamples=1 --set linger=0.0 --set 'die_at=\"\"'"
    )
    settings = shlex.split(about["to repeat it"])[6::2]
    assert parse_settings("toy", settings) == outcome.params
    assert about["code since then"] == "unchanged"


def test_a_record_tells_that_its_code_has_changed(folder: str):
    outcome = run_study("toy", {"dataset": folder, "seeds": [3]})
    outcome.code.update({"leuk_lib.runs.seeds": "another", "leuk_lib.gone": "was there once"})
    assert outcome.changed_since() == ["leuk_lib.gone", "leuk_lib.runs.seeds"]
    assert "changed since in 2 of 2 modules" in outcome.provenance().set_index("item").at["code since then", "value"]


@pytest.mark.parametrize("content", ["{", "{}", json.dumps({"study": "toy", "what": 1})])
def test_a_damaged_or_foreign_record_is_one_line(tmp_path: Path, content: str):
    path = tmp_path / "record.json"
    path.write_text(content)
    with pytest.raises(LeukError, match=r"record\.json: (damaged|not a study's record)"):
        records.load_record(path)


def test_every_registered_study_can_be_loaded_and_names_its_jobs():
    from leuk_lib.studies.study import study_class

    for path in studies.STUDIES.values():
        given = study_class(path)
        waves = given(given.params_model(dataset="cells")).waves()
        names = [job for wave in waves for job in wave]
        assert names and len(set(names)) == len(names)
        assert all("/" not in job for job in names)


def test_the_command_prints_tables_and_records_only_when_asked(folder: str, capsys: pytest.CaptureFixture[str]):
    assert main(["study", "toy", "--dataset", folder, "--set", "seeds=[1, 2]", "--set", "factor=3"]) == 0
    printed = capsys.readouterr().out
    assert "values" in printed and "not recorded" in printed
    assert main(["study", "toy", "--dataset", folder, "--set", "seeds"]) == 1
    assert "setting 'seeds' must look like seeds=[0,1]" in capsys.readouterr().err
