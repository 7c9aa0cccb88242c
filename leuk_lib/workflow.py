"""Call Snakemake on ``notebooks/Snakefile``, with one lock per results folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from leuk_lib import quoting
from leuk_lib.book.gate import chapter_problem, executed_notebook
from leuk_lib.data.catalog import KNOWN_SETS, home
from leuk_lib.data.listing import list_folder
from leuk_lib.data.params import DataParams
from leuk_lib.runs import card, execute, lock, paths, progress, schedule
from leuk_lib.runs import stage as stage_contract
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.execute import STOPPED
from leuk_lib.runs.files import need_space, write_json
from leuk_lib.runs.params import check
from leuk_lib.runs.records import read_metrics
from leuk_lib.stages import (
    STAGES,
    StageSpec,
    card_parameters,
    load_profile,
    needed,
    parse_overrides,
    stage,
    stage_parameters,
)

RUN_SPACE = 350_000_000  # bytes; the default run writes 550 MB, its largest stage 320 MB


@contextmanager
def results_lock(folder: Path) -> Iterator[int]:
    """Lock ``folder`` by its file ``.lock`` and yield the file descriptor.

    A child process that inherits the descriptor holds the lock as long as it lives. The system frees the lock even
    after ``kill -9``.

    Raises:
        LeukError: If another process holds the lock.
    """
    try:
        handle = lock.acquire(folder / lock.RESULTS_LOCK)
    except BlockingIOError as error:
        raise LeukError(f"another run is writing into {folder}; wait for it or set LEUK_RESULTS") from error
    try:
        yield handle
    finally:
        os.close(handle)


def resolve_dataset(dataset: str) -> str:
    """Return a known name as it is, and a folder or a file as an absolute path.

    Raises:
        LeukError: If there is no such folder or file, or if a known data set has not been fetched.
    """
    if dataset == "smear":
        return dataset
    if not dataset.strip():
        raise LeukError("dataset '': is empty; name 'smear', a known data set or a folder of images", exit_code=2)
    if known := KNOWN_SETS.get(dataset):
        if not home(known).is_dir():
            raise LeukError(f"dataset {dataset!r}: nothing in {home(known)}; {known.advice}", exit_code=2)
        return dataset
    path = paths.user_path(dataset)
    if not path.exists():
        raise LeukError(
            f"dataset {dataset!r}: neither 'smear' nor a folder of images (nor a known set: see `leuk data list`)",
            exit_code=2,
        )
    return str(path.resolve())


def understood(dataset: str, values: Mapping[str, Any]) -> list[str]:
    """Return how a data folder will be read, one line per level of folders; nothing for rendered cells.

    Args:
        dataset: ``smear``, a known data set, or a folder of images.
        values: Parameters of stage ``data`` that differ from its defaults.

    Raises:
        LeukError: If the folder can be read in two ways (the line names the option that decides), has fewer than two
            classes, or if the published split is asked for and there is none.
    """
    params = check("stage data", DataParams, {**values, "dataset": dataset})
    if dataset == "smear" and params.split != "published":
        return []
    from leuk_lib.data.published import announce  # takes as long to import as this module

    if dataset == "smear":
        return announce(params, {})
    listing = list_folder(
        dataset, values.get("class_map"), values.get("layout", ""), reader=values.get("reader", ""),
        reader_options=values.get("reader_options"), pattern=values.get("pattern", ""),
    )  # fmt: skip
    classes = Counter(entry.label for entry in listing.entries)
    groups = len({entry.group for entry in listing.entries if entry.group})
    counts = ", ".join(f"{name} {n}" for name, n in sorted(classes.items()))
    if len({entry.label for entry in listing.entries if not entry.external}) < 2:
        raise LeukError(
            f"data set {listing.root}: {len(classes)} class ({counts}); at least 2 class folders are needed "
            "(`leuk data check` lists what was left out)",
            exit_code=2,
        )
    known = f"{groups} patients or slides" if groups else "no patients or slides known"
    unused = len(listing.left_out) + len(listing.missing)
    left_out = f"; {unused} files not used" if unused else ""
    lines = [f"{listing.root}: {counts}; {known}{left_out}", *(f"  {line}" for line in listing.understood)]
    parts = Counter(entry.part for entry in listing.entries if entry.part and not entry.external)
    return [*lines, *announce(params, parts)]


def fetched_weights(values: Mapping[str, Any]) -> list[str]:
    """Fetch and check the weights that stage ``fcmae`` starts from, so that hours of other stages are not lost.

    Args:
        values: Parameters of stage ``fcmae`` that differ from its defaults.

    Returns:
        A setting with the absolute path of a file, because notebooks run in the project's folder; else nothing.

    Raises:
        LeukError: If there are no such weights, or if they cannot be fetched or read.
    """
    given = values.get("weights")
    if not given:
        return []
    from leuk_lib.fcmae.params import FcmaeParams
    from leuk_lib.fcmae.start import load_start
    from leuk_lib.training.pretrained import find_file

    load_start(check("stage fcmae", FcmaeParams, values))
    name, at, file = ("", "", given) if find_file(given) else given.partition("@")
    path = find_file(file) if file else None
    return [f"fcmae.weights={json.dumps(f'{name}{at}{path.absolute()}')}"] if path else []


def check_networks(backbones: Sequence[str] | None, baselines: Sequence[str] | None, image_size: int) -> list[str]:
    """Check networks and their weights before any stage starts; the defaults exist and are not worth loading timm.

    A network whose weights are in a Python package that is not installed will be left out by its stage.

    Args:
        backbones: Parameter ``backbones`` of stage ``wpat``; None for the default.
        baselines: Parameter ``baselines`` of stage ``comparison``; None for the default.
        image_size: Parameter of stage ``data``.

    Returns:
        Settings with the absolute paths of files, because notebooks run in the project's folder.

    Raises:
        LeukError: For a baseline or backbone that does not exist, lacks weights or a package, or does not take the images
            or the weights.
    """
    given = (("wpat", "backbones", backbones), ("comparison", "baselines", baselines))
    if all(set(names or ()) <= set(stage(of).params_model().model_fields[key].default) for of, key, names in given):
        return []
    from leuk_lib.chapters.wpat import check_backbone
    from leuk_lib.evaluation.baselines import check_name, split_kind
    from leuk_lib.training.pretrained import missing_package, with_absolute_file

    settings = []
    for key, names, check_it in (
        ("wpat.backbones", backbones, check_backbone),
        ("comparison.baselines", baselines, check_name),
    ):
        for name in names or ():
            if not missing_package(split_kind(name)[1]):
                check_it(name, image_size)
        absolute = [with_absolute_file(name) for name in names or ()]
        settings += [f"{key}={json.dumps(absolute)}"] if absolute != list(names or ()) else []
    return settings


def _replaced(settings: Sequence[str], others: Sequence[str]) -> list[str]:
    """Return ``settings`` with those of the same parameters in ``others`` in their place."""
    names = {other.partition("=")[0] for other in others}
    return [*(setting for setting in settings if setting.partition("=")[0] not in names), *others]


def refused_notebooks(runs: Sequence[str], last: str, asked: Callable[[str, str], dict[str, Any]]) -> list[str]:
    """Return the notebooks up to stage ``last`` that the book would refuse, or whose parameters are not those asked for.

    Snakemake sees only that a notebook exists, not what was written next to it. It compares parameters with notes of its
    own, which a copied folder of results does not have.

    Args:
        runs: Names of the runs.
        last: Name of the last stage.
        asked: Maps a run and a stage to its parameters. The data set may have been moved: its content decides elsewhere.
    """

    def is_refused(run: str, spec: StageSpec) -> bool:
        try:
            if chapter_problem(run, spec) is not None:
                return True
            made = card.read_card(run, spec.name)
            return made is None or {**made["params"], "dataset": ""} != {**asked(run, spec.name), "dataset": ""}
        except LeukError:
            return True

    return [
        str(executed_notebook(run, spec).relative_to(paths.results_root()))
        for run in runs
        for spec in needed(last)
        if executed_notebook(run, spec).exists() and is_refused(run, spec)
    ]


def refuse_second_writer(runs: Sequence[str], stages: Iterable[StageSpec]) -> None:
    """Raise ``LeukError`` if a process of an earlier call, which itself may have been killed, still writes a stage."""
    for run in runs:
        for spec in stages:
            folder = paths.stage_folder(run, spec.name)
            for name in (stage_contract.LOCK, lock.NOTEBOOK_LOCK):
                if owner := lock.writer(folder, name):
                    raise LeukError(
                        f"stage {spec.name} of run {run!r} is still being written by {owner}; wait for it or end it"
                    )


def _log() -> str:
    logs = sorted((paths.results_root() / ".snakemake" / "log").glob("*.log"))
    return f", or {logs[-1]}" if logs else ""


def snakemake_command(config: Path, jobs: int, extra: Sequence[str] = ()) -> list[str]:
    """Return the Snakemake command. ``config`` is a JSON file with the values that the Snakefile reads."""
    return [
        sys.executable, "-m", "leuk_lib.runs.local_snakemake",
        "--snakefile", str(paths.project_root() / "notebooks" / "Snakefile"),
        "--cores", str(jobs), "--keep-going", "--rerun-incomplete", "--nolock",
        "--rerun-triggers", "params", "input", "code",
        "--configfile", str(config), "--quiet", "all", *extra,
    ]  # fmt: skip


def run_stages(
    dataset: str, profile: str, seeds: Sequence[int], jobs: int = 1, last: str | None = None,
    run: str | None = None, overrides: Sequence[str] = (), extra: Sequence[str] = (),
) -> list[str]:  # fmt: skip
    """Run all stages up to ``last`` for every seed, and return the names of the runs.

    All parameters of all stages are checked before the first stage starts. Finished stages are kept if a later one
    fails, and the next call continues from there.

    Args:
        dataset: ``smear``, a known data set, or a folder of images.
        profile: ``smoke``, ``laptop``, ``gpu`` or ``paper``.
        seeds: One run per seed.
        jobs: Number of notebooks that run in parallel.
        last: Last stage; all by default.
        run: Name of the run, for one seed only.
        overrides: Settings such as ``fcmae.steps=3``.
        extra: Further arguments of Snakemake.

    Raises:
        LeukError: If a parameter is wrong, weights cannot be had, another run holds the results folder, or a stage fails.
    """
    dataset = resolve_dataset(dataset)
    sections = load_profile(profile)
    if run is not None and len(seeds) > 1:
        raise LeukError("a run's name can be given for one seed only; without it each seed names its run")
    runs = [paths.run_name(dataset, profile, seed) if run is None else run for seed in seeds]
    settings = parse_overrides(list(overrides))
    given = {name: {**section, **settings.get(name, {})} for name, section in sections.items()}
    wanted = needed(STAGES[-1].name if last is None else last)
    names = {spec.name for spec in wanted}
    for spec in STAGES:
        for name, seed in zip(runs, seeds, strict=True):
            stage_parameters(spec.name, dataset, profile, seed, name, settings)
    for name in runs:
        card.refuse_other_dataset(name, dataset)
    for line in understood(dataset, given["data"]):
        print(quoting.terminal(line), flush=True)
    if "fcmae" in names:
        overrides = _replaced(overrides, fetched_weights(given["fcmae"]))
    overrides = _replaced(
        overrides,
        check_networks(
            given["wpat"].get("backbones") if "wpat" in names else None,
            given["comparison"].get("baselines") if "comparison" in names else None,
            given["data"].get("image_size", DataParams.model_fields["image_size"].default),
        ),
    )
    config: dict[str, Any] = {"dataset": dataset, "profile": profile, "seeds": " ".join(map(str, seeds))}
    if overrides:
        config["set"] = list(overrides)
    if last:
        config["stage"] = stage(last).name
    if run:
        config["run"] = run
    need_space(paths.results_root(), RUN_SPACE)
    inputs = {spec.name: list(spec.inputs) for spec in wanted}
    plan = schedule.Plan(runs, inputs, schedule.reference_seconds(dataset, profile), jobs, time.time())
    environment = {
        **os.environ, "LEUK_ROOT": str(paths.project_root()), "LEUK_RESULTS": str(paths.results_root()), **plan.to_environment(),
    }  # fmt: skip
    with results_lock(paths.results_root()) as handle:
        # First the signature, then the search (see `execute._refuse_second_writer`).
        environment[execute.CALLER] = lock.sign(handle, f", call {uuid.uuid4().hex}")
        refuse_second_writer(runs, wanted)
        plan.forget()
        # Snakemake's --config would cut "cells #2" short and turn "007" into 7.
        config_file = write_json(paths.results_root() / ".config.json", config)
        settings, seed_of = parse_overrides(overrides), dict(zip(runs, seeds, strict=True))
        again = refused_notebooks(
            runs, wanted[-1].name,
            lambda name, of: card_parameters(
                of, stage_parameters(of, dataset, profile, seed_of[name], name, settings)
            ),
        )  # fmt: skip
        command = snakemake_command(config_file, jobs, [*extra, *(["--forcerun", *again] if again else [])])
        with schedule.drawn(plan):
            returncode = run_until_stopped(command, environment, paths.results_root() / ".stop", handle)
    if returncode == STOPPED:
        raise LeukError(f"stopped; the same command continues {', '.join(runs)}", STOPPED)
    if returncode:
        raise LeukError(f"not all stages finished in {', '.join(runs)}: see the lines above, `leuk status`{_log()}")
    return runs


def run_until_stopped(command: Sequence[str], environment: Mapping[str, str], stop: Path, handle: int) -> int:
    """Run Snakemake; Ctrl-C or SIGTERM asks its stages to stop, a second Ctrl-C kills them.

    Snakemake gets a session of its own, so that the terminal's Ctrl-C reaches only this process. Stages that have not
    started end at once when they see the file ``stop``.

    Args:
        command: Snakemake's command.
        environment: Its environment.
        stop: File whose existence requests the stop.
        handle: Descriptor of the results' lock, which Snakemake inherits.

    Returns:
        Snakemake's exit code, or 130 after a stop.
    """
    stop.unlink(missing_ok=True)
    process = subprocess.Popen(
        command, env={**environment, progress.STOP: str(stop)}, pass_fds=[handle], start_new_session=True
    )

    def terminate(number: int, frame: FrameType | None) -> None:
        if not stop.exists():  # a cluster may send it twice
            raise KeyboardInterrupt

    previous = None
    if threading.current_thread() is threading.main_thread():
        previous = signal.signal(signal.SIGTERM, terminate)
    try:
        while True:
            try:
                returncode = process.wait()
                return STOPPED if stop.exists() else returncode
            except KeyboardInterrupt:
                if stop.exists():
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    return STOPPED
                stop.touch()
                progress.say("\nstopping after the present step; Ctrl-C again: at once")
    finally:
        stop.unlink(missing_ok=True)
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def summary(run: str) -> str:
    """Return a summary of a run: the time of each stage, the main numbers with their intervals, and the notes."""
    rows = [(spec, card.read_card(run, spec.name)) for spec in STAGES]
    seconds = {spec.name: row["seconds"] or 0.0 for spec, row in rows if row}
    lines = [
        f"run {run}: notebooks took {sum(seconds.values()):.0f} s ("
        + ", ".join(f"{name} {value:.0f}" for name, value in seconds.items())
        + ")"
    ]
    metrics = read_metrics(paths.stage_folder(run, "results"))
    for key in ("accuracy", "balanced_accuracy", "macro_f1", "macro_auc"):
        if entry := metrics.get(key):
            interval = f" [{entry['low']:.3f}, {entry['high']:.3f}]" if "low" in entry else ""
            count = f", n = {entry['n']}" if "n" in entry else ""
            lines.append(f"  {key.replace('_', ' ')}: {entry['value']:.3f}{interval}{count}")
    for spec, row in rows:
        lines += [f"  note ({spec.name}): {note}" for note in (row or {}).get("notes", [])]
    return "\n".join(quoting.terminal(line) for line in lines)
