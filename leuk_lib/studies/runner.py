"""Run a study: one file per finished job, so that an interrupted study continues where it stopped."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from pydantic import Field

from leuk_lib.data.fingerprint import fingerprint
from leuk_lib.runs import code, paths, progress
from leuk_lib.runs.card import git_state, package_versions
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import sha256_file, sha256_json, write_json
from leuk_lib.runs.hardware import device_name
from leuk_lib.runs.params import check
from leuk_lib.runs.records import Amount, Hash, Inside, Record, read_record
from leuk_lib.studies import STUDIES
from leuk_lib.studies.record import SEEDS, StudyRecord, plain, present, record_name, to_table
from leuk_lib.studies.study import Row, load_class, study_class

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def study_folder(name: str, dataset: str) -> Path:
    """``results/studies/<name>-<data set>``."""
    return paths.results_root() / "studies" / record_name(name, dataset)


def run_study(name: str, values: Mapping[str, Any], parallel: int = 1) -> StudyRecord:
    """Run all unfinished jobs of a study, then its canary.

    A job is finished if its file has the identity of the present parameters (without ``not_of_jobs``), data and code.

    Args:
        name: name of the study.
        values: its parameters.
        parallel: number of jobs at a time; the results do not depend on it.

    Raises:
        LeukError: wrong parameters, before anything runs; or the process of a job died.
    """
    from leuk_lib.studies.canary import canary_numbers  # loads torch, which the process of a job may not need

    study_type = study_class(name)
    params = check(f"study {name}", study_type.params_model, values)
    study = study_type(params)
    folder = study_folder(name, params.dataset)
    hashes = code.hashes_of(code.imported_modules(f"import {study_type.__module__}"))
    settings = params.model_dump(mode="json")
    deciding = {module: digest for module, digest in hashes.items() if not code.is_presentation(module)}
    content = fingerprint(params.dataset)
    identity = sha256_json([name, settings | {"dataset": content}, deciding])[:32]
    of_jobs = {key: value for key, value in settings.items() if key not in study_type.not_of_jobs}
    job_identity = sha256_json([name, of_jobs | {"dataset": content}, deciding])[:32]
    done: dict[str, dict[str, Any]] = {}
    for wave in study.waves():
        missing = []
        for job in wave:
            finished = _finished(_file(folder, job), job_identity)
            if finished is not None:
                done[job] = finished
            else:
                missing.append((STUDIES[name], settings, job, str(folder), job_identity))
        done |= _run_wave(missing, parallel, params.threads)
    tables = study.tables({job: file["rows"] for job, file in done.items()})
    for table, frame in tables.items():
        write_json(folder / f"{table}.json", to_table(frame))
    return StudyRecord(
        study=name, title=study_type.title, dataset=Path(params.dataset).name, content=content,
        params={key: value for key, value in settings.items() if key != "dataset"}, identity=identity,
        cpu_seconds=round(sum(file["cpu_seconds"] for file in done.values()), 1), device=device_name(),
        git=git_state(paths.project_root()), versions=package_versions(), version=study_type.version,
        canary=canary_numbers(name), verified=present(), accepted=[],
        tables={table: to_table(frame) for table, frame in tables.items()}, intervals=SEEDS,
    )  # fmt: skip


class JobFile(Record):
    """``rows.json`` of a finished job: its rows, and the hashes of the files that later jobs read."""

    identity: str
    job: str
    cpu_seconds: Amount
    rows: list[dict[str, str | bool | int | float | list[Any] | None]]
    files: dict[Inside, Hash] = Field(default_factory=dict)


def _file(folder: Path, job: str) -> Path:
    return folder / job / "rows.json"


def _finished(file: Path, identity: str) -> dict[str, Any] | None:
    """Read the file of a job with this identity; None if there is none, or if it or what it lists is damaged."""
    if not file.exists():
        return None
    try:
        content = read_record(file, JobFile, "the rows of a job", "it is done again")
    except LeukError as error:
        print(error, file=sys.stderr, flush=True)
        return None
    if content["identity"] != identity:
        return None
    for name, digest in content.get("files", {}).items():
        path = file.parent / name
        if not path.is_file() or sha256_file(path) != digest:
            print(f"{path}: missing or changed; job {content['job']} is done again", file=sys.stderr, flush=True)
            return None
    return content


def _written(folder: Path) -> dict[str, str]:
    """Hashes of what a job wrote for later jobs, without its checkpoints."""
    files = sorted(path for path in folder.glob("*") if path.is_file() and path.name != "rows.json")
    return {path.name: sha256_file(path) for path in files if not path.name.startswith(".")}


Task = tuple[str, dict[str, Any], str, str, str]


def _run_wave(tasks: Sequence[Task], parallel: int, threads: int) -> dict[str, dict[str, Any]]:
    if not tasks:
        return {}
    for variable in THREADS:  # a child's libraries read them when they are loaded
        os.environ[variable] = str(threads)
    # spawn: a forked child of a process with running threads (torch, OpenCV) may hang. One process per job, so that
    # no job depends on what another left behind or on how many run at a time.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(
            min(parallel, len(tasks)), mp_context=context, initializer=_exit_with_parent, max_tasks_per_child=1
        ) as pool:
            files = progress.track(pool.map(_job, tasks), "jobs", len(tasks), "job")
            return {task[2]: file for task, file in zip(tasks, files, strict=True)}
    except BrokenProcessPool as error:
        raise LeukError("study: a job's process died (memory?); run the same command again to continue") from error


def _exit_with_parent() -> None:
    """End this job's process when its study ends, even by kill -9."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _job(task: Task) -> dict[str, Any]:
    path, settings, job, folder, identity = task
    progress.of_jobs()
    study_type = load_class(path)  # by its path: this process knows only the registered studies
    params = study_type.params_model(**settings)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(params.threads)
    start = time.process_time()
    rows: list[Row] = [
        {key: plain(value) for key, value in row.items()} for row in study_type(params).run(job, Path(folder), identity)
    ]
    file = _file(Path(folder), job)
    whole = {
        "identity": identity, "job": job, "cpu_seconds": round(time.process_time() - start, 1), "rows": rows,
        "files": _written(file.parent),
    }  # fmt: skip
    write_json(file, whole)
    return whole
