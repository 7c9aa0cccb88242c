"""Run cards: how and where a stage ran, and whether its result is still up to date."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from leuk_lib.runs import code, files, paths
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import AGAIN
from leuk_lib.runs.records import CHECKSUM, RunCard, read_record

PACKAGES = (
    "torch", "torchvision", "lightning-fabric", "lightning", "numpy", "scipy", "pandas", "scikit-learn", "scikit-image",
    "opencv-python-headless", "timm", "safetensors", "torch-fidelity", "piqa", "captum", "statsmodels", "papermill",
)  # fmt: skip


def git_state(root: Path) -> dict[str, Any]:
    """Return ``{"commit": hash, "dirty": bool}`` of the project. Both are None outside a git checkout."""

    def git(*arguments: str) -> str | None:
        try:
            process = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return process.stdout.strip() if process.returncode == 0 else None

    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


@functools.lru_cache(maxsize=1)
def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def peak_rss_mb() -> float:
    """Return the peak resident memory of this process or its largest finished child, MB."""
    unit = 1024 if sys.platform != "darwin" else 1024**2
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return round(max(peaks) / unit, 1)


def peak_gpu_mb() -> float:
    """Return the peak GPU memory of this process, MB; 0 without a GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return 0.0
    return round(torch.cuda.max_memory_allocated() / 1024**2, 1)


def present_hashes(stage: str) -> dict[str, Any]:
    """Return the hashes of what a stage depends on besides its inputs: notebook, lock file, code."""
    notebook = paths.stage_notebooks().get(stage)
    lock = paths.project_root() / "requirements.lock"
    return {
        "notebook": code.notebook_hash(notebook) if notebook else None,
        "lock": files.sha256_file(lock) if lock.exists() else None,
        "code": code.code_hashes(stage),
    }


def new_card(stage: str, params: dict[str, Any]) -> dict[str, Any]:
    """Return a card in state "running"."""
    return {
        "stage": stage, "run": params["run"], "profile": params["profile"], "dataset": Path(params["dataset"]).name,
        "state": "running", "params": params, "identity": None,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "finished": None, "seconds": None,
        "peak_rss_mb": None, "peak_gpu_mb": None, "device": None, "hardware": {}, "process": {"host": socket.gethostname(), "pid": os.getpid()},
        "git": git_state(paths.project_root()), "versions": package_versions(), "hashes": present_hashes(stage),
        "inputs": {}, "outputs": {}, "measured": {}, "notes": [], "error": None, "executed": None, CHECKSUM: None,
    }  # fmt: skip


def results_of(card: dict[str, Any]) -> dict[str, str]:
    """Return ``{file: hash}`` of the outputs that other stages read: all but figures, which may be redrawn."""
    return {name: digest for name, digest in card["outputs"].items() if not name.startswith("figures/")}


def read_card(run: str, stage: str) -> dict[str, Any] | None:
    """Return the card of a stage, or None if it never ran.

    Raises:
        LeukError: If the file is damaged, or is not the card of this stage.
    """
    path = paths.stage_folder(run, stage) / "card.json"
    if not path.exists():
        return None
    card = read_record(path, RunCard, "a run card", AGAIN)
    if card["stage"] != stage:
        raise LeukError(f"{path}: is the card of stage {card['stage']!r}; {AGAIN}", exit_code=2)
    return card


def write_card(run: str, stage: str, card: dict[str, Any]) -> None:
    """Write the card of a stage with its checksum, which finds what is changed afterwards."""
    files.write_json(paths.stage_folder(run, stage) / "card.json", files.with_checksum(card, CHECKSUM))


def seal(run: str, stage: str, notebook: Path) -> None:
    """Put the hash of the executed notebook into the card of its finished stage."""
    card = read_card(run, stage)
    if card is not None:
        card["executed"] = files.sha256_file(notebook)
        write_card(run, stage, card)


def other_dataset(run: str, dataset: str) -> str:
    """Return the other data set that stages of ``run`` were made from, or "".

    A folder that is no longer there was moved: then the content decides (:func:`stale_reasons`).
    """
    for path in sorted(paths.run_folder(run).glob("*/card.json")):
        try:
            card = read_card(run, path.parent.name)
        except LeukError:  # it will be written again
            continue
        before = card["params"]["dataset"] if card else dataset
        if card and card["state"] != "failed" and not _same_place(before, dataset) and not _moved(before):
            return str(before)
    return ""


def refuse_other_dataset(run: str, dataset: str) -> None:
    """Raise ``LeukError`` if stages of ``run`` were made from another data set, which a new stage would replace."""
    if before := other_dataset(run, dataset):
        raise LeukError(
            f"run {run!r} holds the results of another data set, {before!r}, not of {dataset!r}; choose another name "
            f"(--run NAME, or -p run NAME with papermill), or delete {paths.run_folder(run)}",
            exit_code=2,
        )


def _same_place(one: str, other: str) -> bool:
    return one == other or (Path(one).exists() and Path(other).exists() and Path(one).samefile(other))


def _moved(dataset: str) -> bool:
    return Path(dataset).is_absolute() and not Path(dataset).exists()


def is_interrupted(card: dict[str, Any]) -> bool:
    """Return whether a card is in state "running" although its process is gone."""
    process = card.get("process") or {}
    if card["state"] != "running" or process.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(process["pid"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def stale_reasons(card: dict[str, Any], fingerprint: Callable[[str], str] | None = None) -> list[str]:
    """Return why a finished stage is out of date: one reason per hash that has changed.

    Args:
        card: The stage's card; its inputs and outputs are looked for in the folder of ``card["run"]``.
        fingerprint: Maps a data set (name or folder) to its content hash. Without it the data set is not checked.

    Returns:
        The reasons; empty if the stage is fresh.
    """
    reasons = []
    stage, run = card["stage"], card["run"]
    reasons += _other_run(card)
    now = present_hashes(stage)
    recorded = card["hashes"]
    if now["notebook"] != recorded["notebook"]:
        reasons.append("its notebook changed")
    if now["lock"] != recorded["lock"]:
        reasons.append("requirements.lock changed")
    before = recorded["code"]
    changed = sorted(name for name in {*before, *now["code"]} if before.get(name) != now["code"].get(name))
    if changed:
        reasons.append(
            f"code changed: {', '.join(changed[:3])}" + (f" and {len(changed) - 3} more" if changed[3:] else "")
        )
    for upstream, hashes in card["inputs"].items():
        if upstream == "dataset":
            try:
                if fingerprint and fingerprint(card["params"]["dataset"]) != hashes["content"]:
                    reasons.append("the data set's files changed")
            except (ValueError, OSError) as error:  # a LeukError, or a path that no disk has
                reasons.append(f"the data set cannot be read: {error}")
            continue
        if upstream == "files":
            root = paths.project_root()
            reasons += [f"{name} changed" for name, digest in hashes.items() if _difference(root / name, digest)]
            continue
        try:
            other = read_card(run, upstream)
        except LeukError as error:
            reasons.append(f"its input {upstream} is damaged: {error}")
            continue
        if other is None or other["state"] != "finished":
            reasons.append(f"its input {upstream} is {'missing' if other is None else other['state']}")
        elif results_of(other) != hashes:
            reasons.append(f"its input {upstream} changed")
    folder = paths.stage_folder(run, stage)
    for name, digest in card["outputs"].items():
        if difference := _difference(folder / name, digest):
            reasons.append(f"its output {name} {difference}")
    return reasons


def _other_run(card: dict[str, Any]) -> list[str]:
    """Say in which shared parameter a stage differs from the first stage of its run: one of the two was copied."""
    for stage in paths.stage_notebooks():
        try:
            first = read_card(card["run"], stage)
        except LeukError:  # a reason of its own
            continue
        if first is not None:
            return [
                f"its {key} is {card['params'][key]!r}, but that of stage {stage} {first['params'][key]!r}"
                for key in ("profile", "seed")
                if card["params"][key] != first["params"][key]
            ]
    return []


def _difference(path: Path, digest: str) -> str:
    """Say what is the matter with a file that had this hash, or return ""."""
    try:
        if not path.is_file():
            return "is missing"
        return "" if files.sha256_file(path) == digest else "was changed"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def stage_state(run: str, stage: str, fingerprint: Callable[[str], str] | None = None) -> tuple[str, list[str]]:
    """Return the state of a stage (missing, damaged, running, interrupted, failed, stale or fresh) and the reasons."""
    try:
        card = read_card(run, stage)
    except LeukError as error:
        return "damaged", [str(error)]
    if card is None:
        return "missing", ["it never ran"]
    if is_interrupted(card):
        return "interrupted", ["its process is gone; run it again to continue"]
    if card["state"] != "finished":
        return card["state"], [card["error"]] if card["error"] else []
    reasons = stale_reasons({**card, "run": run}, fingerprint)  # a copied or renamed run has its own files
    return ("stale", reasons) if reasons else ("fresh", [])
