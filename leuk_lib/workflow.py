"""Call Snakemake on ``notebooks/Snakefile``: one lock a results folder, resumable after any death."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leuk_lib.book.gate import chapter_problem, executed_notebook
from leuk_lib.data.catalog import KNOWN_SETS, home
from leuk_lib.runs import card, files, paths
from leuk_lib.runs.errors import LeukError
from leuk_lib.stages import STAGES, StageSpec, load_profile, needed, parse_overrides, stage, stage_parameters


@contextmanager
def only_one(folder: Path) -> Iterator[int]:
    """Hold ``folder/.lock``, and give its file descriptor: a child that inherits it holds the lock as long as it lives.

    The system frees it even after kill -9. Raises ``LeukError`` where another run holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LeukError(f"another run is writing into {folder}; wait for it or set LEUK_RESULTS") from error
        yield handle.fileno()


def resolve_dataset(dataset: str) -> str:
    """``smear`` and the known sets as they are, a folder as its absolute path.

    Raises ``LeukError`` where there is no such folder, and where a known set is not here yet.
    """
    if dataset == "smear":
        return dataset
    if known := KNOWN_SETS.get(dataset):
        if not home(known).is_dir():
            raise LeukError(f"dataset {dataset!r}: nothing in {home(known)}; {known.advice}", exit_code=2)
        return dataset
    path = Path(dataset).expanduser()
    if not path.is_dir():
        raise LeukError(
            f"dataset {dataset!r}: neither 'smear' nor a folder of images (nor a known set: see `leuk data list`)",
            exit_code=2,
        )
    return str(path.resolve())


def not_whole(runs: Sequence[str], last: str) -> list[str]:
    """Kept notebooks up to stage ``last`` that the book would refuse: an output is damaged, say, or the card another's.

    Snakemake sees that a notebook is there, not what was written beside it.
    """

    def is_refused(run: str, spec: StageSpec) -> bool:
        try:
            return chapter_problem(run, spec) is not None
        except LeukError:
            return True

    there = [(run, spec) for run in runs for spec in needed(last) if executed_notebook(run, spec).exists()]
    return [str(executed_notebook(*one).relative_to(paths.results_root())) for one in there if is_refused(*one)]


def snakemake_command(config: Path, jobs: int, extra: Sequence[str] = ()) -> list[str]:
    """The Snakemake call; ``config`` is the JSON file of the values that the Snakefile reads."""
    return [
        sys.executable, "-m", "snakemake", "--snakefile", str(paths.project_root() / "notebooks" / "Snakefile"),
        "--cores", str(jobs), "--keep-going", "--rerun-incomplete", "--nolock",
        "--rerun-triggers", "params", "input", "code",
        "--configfile", str(config), "--quiet", "all", *extra,
    ]  # fmt: skip


def run_stages(
    dataset: str, profile: str, seeds: Sequence[int], jobs: int = 1, last: str | None = None,
    run: str | None = None, overrides: Sequence[str] = (), extra: Sequence[str] = (),
) -> list[str]:  # fmt: skip
    """Run all stages up to ``last`` for every seed; returns the runs' names.

    All parameters of all stages are checked before the first starts. Raises ``LeukError`` if a stage failed; what
    finished stays, and the next call starts where this one ended.
    """
    dataset = resolve_dataset(dataset)
    load_profile(profile)
    if run and len(seeds) > 1:
        raise LeukError("a run's name can be given for one seed only; leave it out and the seeds name their runs")
    runs = [run or paths.run_name(dataset, profile, seed) for seed in seeds]
    settings = parse_overrides(list(overrides))
    for spec in STAGES:
        for name, seed in zip(runs, seeds, strict=True):
            stage_parameters(spec.name, dataset, profile, seed, name, settings)
    config: dict[str, Any] = {"dataset": dataset, "profile": profile, "seeds": " ".join(map(str, seeds))}
    if overrides:
        config["set"] = list(overrides)
    if last:
        config["stage"] = stage(last).name
    if run:
        config["run"] = run
    environment = {**os.environ, "LEUK_ROOT": str(paths.project_root()), "LEUK_RESULTS": str(paths.results_root())}
    with only_one(paths.results_root()) as lock, tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "config.json"  # Snakemake's --config would cut "cells #2" short and make 7 of "007"
        given.write_text(json.dumps(config))
        again = not_whole(runs, last or STAGES[-1].name)
        command = snakemake_command(given, jobs, [*extra, *(["--forcerun", *again] if again else [])])
        done = subprocess.run(command, env=environment, check=False, pass_fds=[lock])
    if done.returncode:
        raise LeukError(f"not all stages finished in {', '.join(runs)}: see the lines above, or `leuk status`")
    return runs


def summary(run: str) -> str:
    """The closing words of a run: how long each stage took, and the headline figures with their intervals."""
    rows = [(spec, card.read_card(run, spec.name)) for spec in STAGES]
    seconds = {spec.name: row["seconds"] or 0.0 for spec, row in rows if row}
    lines = [
        f"run {run}: notebooks took {sum(seconds.values()):.0f} s ("
        + ", ".join(f"{name} {value:.0f}" for name, value in seconds.items())
        + ")"
    ]
    metrics = files.read_json(paths.stage_folder(run, "results") / "metrics.json")["metrics"]
    for key in ("accuracy", "balanced_accuracy", "macro_f1", "macro_auc"):
        if entry := metrics.get(key):
            interval = f" [{entry['low']:.3f}, {entry['high']:.3f}]" if "low" in entry else ""
            count = f", n = {entry['n']}" if "n" in entry else ""
            lines.append(f"  {key.replace('_', ' ')}: {entry['value']:.3f}{interval}{count}")
    for spec, row in rows:
        lines += [f"  note ({spec.name}): {note}" for note in (row or {}).get("notes", [])]
    return "\n".join(lines)
