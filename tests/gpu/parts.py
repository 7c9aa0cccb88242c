"""Runs the parts of ``run.sh`` one after the other, each within its time. Needs nothing but Python's library itself."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SKIPPED = 77  # exit code of a part that this machine cannot run, as in Automake
UNFINISHED = 130  # exit code of a part that goes on when it is called again
GRACE = 45.0  # s between SIGTERM, on which a training writes its checkpoint, and SIGKILL
LAST = 20.0  # s kept for the end
LEAST = 5.0  # s without which no part is begun
LIMITS = {"environment": 60, "methods": 120, "training": 240, "processes": 180, "bench": 180, "reference": 10**6}  # s
NOT_NEEDED = ("jupyter", "snakemake", "papermill", "myst", "sphinx", "nb", "ipy")  # beginnings of names
Record = dict[str, Any]


class Log:
    """Prints, and keeps what it prints in a file."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()

    def line(self, text: str) -> None:
        with self._lock:
            print(text, flush=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(text + "\n")


def run_limited(
    command: list[str], seconds: float, say: Callable[[str], None], environment: dict[str, str]
) -> tuple[int, bool]:
    """Run a command; after ``seconds`` SIGTERM, then SIGKILL, to it and its children. Returns exit code and "in time"."""
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, errors="replace", start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    lines = process.stdout

    def follow() -> None:
        for line in filter(str.strip, lines):
            say(f"  {line.rstrip()}")

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    in_time = True
    try:
        process.wait(max(seconds, 1.0))
    except subprocess.TimeoutExpired:
        in_time = False
        say(f"  time is up after {seconds:.0f} s")
        for number in (signal.SIGTERM, signal.SIGKILL):
            # First the part alone, which ends its children itself; then whatever is left of them.
            (os.kill if number == signal.SIGTERM else os.killpg)(process.pid, number)
            try:
                process.wait(GRACE)
                break
            except subprocess.TimeoutExpired:
                continue
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    reader.join(5)
    return process.returncode, in_time


def code_hash() -> str:
    """Hash of the code that the parts run."""
    digest = hashlib.sha256()
    folders = ("leuk_lib", "tests/gpu", "tests/benchmarks", "tests/training", "notebooks")
    files = [
        file for folder in folders for kind in ("*.py", "*.ipynb", "*.yml") for file in (ROOT / folder).rglob(kind)
    ]
    for file in sorted(files):
        digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def missing_packages() -> list[str]:
    """Packages of pyproject.toml that this Python lacks or has in an older version."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *project.get("optional-dependencies", {}).get("book", [])]
    wanted = {}
    for line in lines:
        found = re.match(r"([A-Za-z0-9_.-]+)(?:\[.*?\])?\s*(?:>=\s*([\d.]+))?", line)
        if found and not line.startswith("leuk"):
            wanted[found.group(1).lower()] = found.group(2) or ""
    lacking = []
    for name, least in sorted(wanted.items()):
        if name.startswith(NOT_NEEDED):
            continue
        names = [name, "lightning"] if name == "lightning-fabric" else [name]
        versions = [version for each in names if (version := installed(each))]
        if not versions:
            lacking.append(f"{name}{'>=' if least else ''}{least}")
        elif least and numbers(versions[0]) < numbers(least):
            lacking.append(f"{name}>={least} (has {versions[0]})")
    return lacking


def installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def numbers(version: str) -> tuple[int, ...]:
    """The release of a version: (2, 11, 0) of "2.11.0+cu130"."""
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[+a-z]", version)[0]))


def environment_part(log: Log) -> Record:
    """What is installed and what is missing; no part is refused because of it."""
    record: Record = {"python": platform.python_version(), "missing": missing_packages()}
    record["versions"] = {
        name: installed(name) for name in ("torch", "torchvision", "numpy", "timm", "lightning-fabric", "lightning")
    }
    log.line(f"  Python {record['python']} ({sys.executable}), torch {record['versions']['torch'] or 'missing'}")
    log.line(f"  missing: {', '.join(record['missing']) or 'nothing'}")
    if program := shutil.which("nvidia-smi"):
        query = ["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        done = subprocess.run([program, *query], capture_output=True, text=True, check=False)
        record["gpus"] = done.stdout.strip().splitlines()
        log.line(f"  {'; '.join(record['gpus']) or 'nvidia-smi names no GPU'}")
    return record


def unpacked_wheels(work: Path, log: Log) -> None:
    """Unpack wheels that were carried along (.wheels) and put them on the path of all parts."""
    wheels = sorted((ROOT / ".wheels").glob("*.whl"))
    if not wheels:
        return
    site = work / "site"
    if not site.is_dir():
        log.line(f"unpacking {len(wheels)} wheels of .wheels into {site}")
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--target"]
        done = subprocess.run([*command, str(site), *map(str, wheels)], capture_output=True, text=True, check=False)
        if done.returncode:
            log.line(f"  that failed: {done.stderr.strip()[-300:]}")
    sys.path.insert(0, str(site))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))


def commands(options: argparse.Namespace, device: str, work: Path) -> dict[str, Callable[[float], list[str]]]:
    """The command of each part, given the seconds that it has."""
    python, tiny = sys.executable, ["--tiny"] if options.tiny or options.cheapest else []
    profile = "smoke" if tiny else "gpu"

    def check(part: str) -> Callable[[float], list[str]]:
        file = str(work / f"{part}.json")
        return lambda seconds: [python, str(HERE / "checks.py"), part, "--device", device, "--json", file, *tiny]

    def bench(seconds: float) -> list[str]:
        script, stages = (
            ROOT / "tests" / "benchmarks" / "bench_gpu.py",
            ["--stages", "alhe", "wpat"] if options.cheapest else [],
        )
        words = ["--device", device, "--profile", profile, "--json", str(work / "bench.json")]
        return [python, str(script), *words, *tiny, *stages]

    def reference(seconds: float) -> list[str]:
        seconds = max(LEAST, seconds - GRACE)  # it ends by itself before its time is up, with a checkpoint
        words = [
            "--device",
            device,
            "--profile",
            profile,
            "--seconds",
            f"{seconds:.0f}",
            "--bench",
            str(work / "bench.json"),
        ]
        last = ["--last", "data"] if options.cheapest else []
        return [
            python,
            str(HERE / "reference.py"),
            *words,
            *last,
            "--json",
            str(work / "reference.json"),
            "--work",
            str(work),
        ]

    return {
        **{part: check(part) for part in ("methods", "training", "processes")}, "bench": bench, "reference": reference,
    }  # fmt: skip


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests/gpu/run.sh", description="Checks, benchmark and reference run on a GPU."
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="time for everything (default 10)")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto")
    parser.add_argument("--tiny", action="store_true", help="small sizes and the profile smoke: tries the script")
    parser.add_argument(
        "--cheapest", action="store_true", help="the least of everything, in seconds: for the test suite"
    )
    parser.add_argument("--parts", default=" ".join(LIMITS), help="parts to run (default: all)")
    parser.add_argument("--out", type=Path, help="folder of the small results (default: $OUT, else results/gpu/out)")
    parser.add_argument("--work", type=Path, default=ROOT / "results" / "gpu", help="folder of the large ones")
    parser.add_argument("--fresh", action="store_true", help="repeat what passed, and start the reference run again")
    options = parser.parse_args()
    options.parts = options.parts.replace(",", " ").split()
    if unknown := sorted(set(options.parts) - set(LIMITS)):
        parser.error(f"unknown part {unknown[0]!r}; there are {', '.join(LIMITS)}")
    if options.minutes <= 0:
        parser.error("--minutes: must be positive")
    return options


def has_cuda() -> bool:
    command = [sys.executable, "-c", "import sys, torch; sys.exit(not torch.cuda.is_available())"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def read(path: Path) -> Record:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write(path: Path, record: Record) -> None:
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def main() -> int:
    start = time.monotonic()
    options = parsed()
    end = start + 60 * options.minutes
    work = options.work.resolve()
    out = (options.out or Path(os.environ.get("OUT") or work / "out")).resolve()
    if options.fresh:
        shutil.rmtree(work, ignore_errors=True)
    for folder in (work, out):
        folder.mkdir(parents=True, exist_ok=True)
    log = Log(out / "run.log")
    unpacked_wheels(work, log)
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])),
        "LEUK_ROOT": str(ROOT), "LEUK_RESULTS": str(work / "runs"), "PYTHONUNBUFFERED": "1", "TQDM_DISABLE": "1",
        "MPLBACKEND": "agg", "OMP_WAIT_POLICY": "passive", "KINETO_LOG_LEVEL": "99",
    }  # fmt: skip
    device = options.device if options.device != "auto" else "cuda" if has_cuda() else "cpu"
    if options.device == "auto" and device == "cpu" and not (options.tiny or options.cheapest):
        log.line("no CUDA device: nothing was run (--device cpu --tiny tries the script)")
        return 2
    size = "cheapest" if options.cheapest else "tiny" if options.tiny else "full"
    key = f"{code_hash()} {device} {size} {installed('torch')}"
    state = read(work / "state.json")
    if state.get("key") != key:
        state = {"key": key, "parts": {}}
    summary: Record = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "device": device, "size": size, "minutes": options.minutes,
        "key": key, "parts": {},
    }  # fmt: skip
    log.line(f"device {device}, {options.minutes:g} minutes, results in {out}")
    table = commands(options, device, work)

    for part in (name for name in LIMITS if name in options.parts):
        earlier = state["parts"].get(part, {})
        if earlier.get("state") == "passed" and part != "environment":
            log.line(f"{part}: passed earlier, {earlier['seconds']} s")
            summary["parts"][part] = {**earlier, "earlier": True}
        else:
            left = end - time.monotonic() - LAST
            summary["parts"][part] = entry = attempt(part, min(LIMITS[part], left), table, log, environment)
            state["parts"][part] = entry
            write(work / "state.json", state)
        if (work / f"{part}.json").exists():
            shutil.copy(work / f"{part}.json", out / f"{part}.json")
        finish(summary, start, out)

    log.line("")
    for part, entry in summary["parts"].items():
        log.line(f"{part:<12} {entry['state']:<12} {entry['seconds']:7.1f} s  {entry.get('said', '')}".rstrip())
    log.line(f"{'passed' if summary['passed'] else 'not everything passed'}: {out / 'summary.json'}")
    return int(not summary["passed"])


def attempt(
    part: str, seconds: float, table: dict[str, Callable[[float], list[str]]], log: Log, environment: dict[str, str]
) -> Record:
    """Run one part and say how it ended: passed, failed, out of time, skipped, unfinished, no time."""
    if seconds < LEAST:
        log.line(f"{part}: no time left")
        return {"state": "no time", "seconds": 0.0}
    start = time.monotonic()
    log.line(f"{part}: at most {seconds:.0f} s")
    if part == "environment":
        try:
            return {"state": "passed", "record": environment_part(log), "seconds": round(time.monotonic() - start, 1)}
        except Exception as error:  # noqa: BLE001  one part must not stop the others
            log.line(f"  {type(error).__name__}: {error}")
            return {"state": "failed", "seconds": round(time.monotonic() - start, 1), "said": str(error)[:300]}
    last = ""

    def say(text: str) -> None:
        nonlocal last
        last = text.strip() or last
        log.line(text)

    code, in_time = run_limited(table[part](seconds), seconds, say, environment)
    states = {0: "passed", SKIPPED: "skipped", UNFINISHED: "unfinished"}
    state = states.get(code, "failed" if in_time else "out of time")
    return {"state": state, "seconds": round(time.monotonic() - start, 1), "code": code, "said": last[:300]}


def finish(summary: Record, start: float, out: Path) -> None:
    """Write the summary after each part, so that a machine that is taken away has left it."""
    states = {entry["state"] for entry in summary["parts"].values()}
    summary["passed"] = states <= {"passed", "skipped", "unfinished"}
    summary["seconds"] = round(time.monotonic() - start, 1)
    write(out / "summary.json", summary)


if __name__ == "__main__":
    sys.exit(main())
