"""A run of all stages whose trainings are cut down to the time there is, and its reference record.

``reference.py --profile gpu --seconds 400 --bench bench.json --json reference.json --work FOLDER``. How long the profile's
trainings take follows from the benchmark's images per second; if they need more than ``SHARE`` of the time, all numbers of
steps are multiplied by one factor, which the first call chooses and later calls keep. Factor 1 gives the profile itself,
whose record can be committed as ``book/reference/smear-gpu.json``.

The cells of the notebooks run without papermill (``leuk_lib.runs.script``). After SIGTERM, or when the time is up, the
training writes its checkpoint and the exit code is 130; the next call continues.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

from leuk_lib.audit.reference import read_rules, reference_of, write_reference
from leuk_lib.evaluation.baselines import BASELINES, FROZEN, split_kind
from leuk_lib.runs import card, paths
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.processes import STOPPED
from leuk_lib.stages import load_profile, needed, stage

SHARE = 0.5  # share of the time that the trainings may take: rendering, baselines and evaluation need the rest
STEPS = {"acdb_gan": ("steps", "feature_steps", "verifier_steps"), "fcmae": ("steps",), "wpat": ("steps",)}
LEAST_STEPS = 8
WHILE_STOPPING = 40.0  # s for a checkpoint after SIGTERM


def training_seconds(bench: dict[str, Any], profile: str, stages: Iterable[str]) -> dict[str, float]:
    """How long the trainings of each of ``stages`` take with all steps of the profile.

    The benchmark trains one network of stage ``wpat``; further backbones and trained baselines are about as fast.
    """
    seconds = {name: entry["profile_seconds"] for name, entry in bench["stages"].items()}
    wpat, comparison = (stage(name).params_model()(**load_profile(profile)[name]) for name in ("wpat", "comparison"))
    trained = [name for name in comparison.baselines if name not in BASELINES and split_kind(name)[0] not in FROZEN]
    network = seconds.get("wpat", 0.0)
    seconds |= {"wpat": network * len(wpat.backbones), "comparison": network * len(trained)}
    return {name: seconds[name] for name in stages if name in seconds}


def factor(bench: dict[str, Any], profile: str, seconds: float, stages: Iterable[str]) -> float:
    """Share of the profile's steps that fits into ``seconds``; 1 if all do, or if nothing is known."""
    if bench.get("profile") != profile or bench.get("tiny"):
        return 1.0
    need = sum(training_seconds(bench, profile, stages).values())
    return min(1.0, SHARE * seconds / need) if need > 0 else 1.0


def settings(name: str, profile: str, share: float) -> dict[str, int]:
    """The stage's numbers of steps, multiplied by ``share``."""
    params = stage(name).params_model()(**load_profile(profile)[name])
    return {key: max(LEAST_STEPS, math.ceil(share * getattr(params, key))) for key in STEPS.get(name, ()) if share < 1}


class Stopped(Exception):
    """SIGTERM came, or the time is up."""


def run_stage(name: str, words: list[str], seconds: float) -> None:
    """Run a stage's cells in a process of its own."""
    command = [sys.executable, "-m", "leuk_lib.runs.script", name, *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        code = process.wait(max(seconds, 1.0))
    except (subprocess.TimeoutExpired, Stopped) as error:
        process.terminate()
        try:
            process.wait(WHILE_STOPPING)
        except subprocess.TimeoutExpired:
            process.kill()
        raise Stopped from error
    if code:
        raise LeukError(f"stage {name} ended with code {code}; its message is above")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="gpu")
    parser.add_argument("--device", choices=["cuda", "cpu"], required=True)
    parser.add_argument("--seconds", type=float, required=True, help="time for this call")
    parser.add_argument("--bench", type=Path, help="what bench_gpu.py wrote")
    parser.add_argument("--last", default="claims", help="last stage")
    parser.add_argument("--work", type=Path, required=True, help="folder of the plan")
    parser.add_argument("--json", type=Path, required=True, help="record to write")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds

    def terminate(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Stopped

    signal.signal(signal.SIGTERM, terminate)
    os.environ.setdefault("LEUK_RESULTS", str(options.work / "runs"))
    plan_file = options.work / "plan.json"
    bench = json.loads(options.bench.read_text()) if options.bench and options.bench.exists() else {}
    plan = json.loads(plan_file.read_text()) if plan_file.exists() else {}
    if plan.get("profile") != options.profile:
        share = factor(bench, options.profile, options.seconds, [spec.name for spec in needed(options.last)])
        run = paths.run_name("smear", options.profile, 0) + (f"-x{share:.3f}" if share < 1 else "")
        plan = {"profile": options.profile, "factor": share, "run": run}
        plan_file.parent.mkdir(parents=True, exist_ok=True)
        plan_file.write_text(json.dumps(plan) + "\n")
    run, share = plan["run"], plan["factor"]
    print(f"run {run}, {share:.0%} of the steps of profile {options.profile}", flush=True)
    stages = needed(options.last)
    try:
        for spec in stages:
            if card.stage_state(run, spec.name)[0] == "fresh":
                continue
            words = ["-f", str(paths.profile_file(options.profile)), "-p", "profile", options.profile, "-p", "run", run]
            if spec.name in STEPS:
                words += ["-p", "accelerator", options.device]
            for key, steps in settings(spec.name, options.profile, share).items():
                words += ["-p", key, str(steps)]
            start = time.monotonic()
            run_stage(spec.name, words, end - time.monotonic())
            print(f"{spec.name} done in {time.monotonic() - start:.0f} s", flush=True)
        unfinished = False
    except Stopped:
        unfinished = True
    folder = paths.run_folder(run)
    done = [spec.name for spec in stages if card.stage_state(run, spec.name)[0] == "fresh"]
    if done:
        write_reference(folder, options.json, read_rules())
    if unfinished:
        print(f"unfinished: {len(done)} of {len(stages)} stages; call it again to continue", flush=True)
        return STOPPED
    numbers = sum(len(entries) for entries in reference_of(folder, read_rules())["metrics"].values())
    print(f"{numbers} numbers of {len(done)} stages, {share:.0%} of the profile's steps", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LeukError as problem:
        print(problem, file=sys.stderr)
        sys.exit(1)
