"""The documented command on a real SLURM cluster of one node on the loopback: resources, failure, scancel, time limit."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from notebooks import slurm

pytestmark = [
    pytest.mark.long,
    pytest.mark.notebooks,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(bool(slurm.missing()), reason=slurm.missing()),
]
CHECKPOINT = "checkpoints/pretrain/state.safetensors"


@pytest.fixture(scope="module")
def login(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a login node."""
    with slurm.cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


class Site:
    """A login node: submits the workflow as the book says, with quick checks of its jobs."""

    def __init__(self, root: Path, results: Path, login: dict[str, str]) -> None:
        self.root, self.stage = root, results / "smear-smoke-s0" / "fcmae"
        self.results = results
        self.environment = {**login, "LEUK_ROOT": str(root), "LEUK_RESULTS": str(results), "OMP_NUM_THREADS": "1"}
        self.log = results / "snakemake.log"
        self.workflows: list[subprocess.Popen[bytes]] = []

    def submit(self, *options: str, stage: str = "fcmae", settings: str = "[]") -> subprocess.Popen[bytes]:
        self.results.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable, "-m", "snakemake", "--snakefile", "notebooks/Snakefile", "--workflow-profile", "notebooks/cluster/slurm",
            "--slurm-init-seconds-before-status-checks", "5", "--config", "profile=smoke", f"stage={stage}", f"set={settings}",
            "--default-resources", "slurm_account=lab", "slurm_partition=main", *options,
        ]  # fmt: skip
        with self.log.open("wb") as log:
            workflow = subprocess.Popen(
                command, cwd=self.root, env=self.environment, stdout=log, stderr=log,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored if tests run in the background
            )  # fmt: skip
        self.workflows.append(workflow)
        return workflow

    def finish(self, *options: str, stage: str = "fcmae", settings: str = "[]") -> int:
        return self.submit(*options, stage=stage, settings=settings).wait(1500)

    def output(self, *command: str) -> str:
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout

    def jobs(self) -> list[dict[str, str]]:
        """The cluster's jobs since it began, the latest last."""
        names = ("JobID", "State", "Timelimit", "ReqTRES")
        lines = self.output("sacct", "-X", "-n", "-P", f"--format={','.join(names)}").splitlines()
        return [dict(zip(names, line.split("|"), strict=True)) for line in lines]

    def wait_for(self, condition: Callable[[], object], seconds: float = 1500) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.log.read_text()[-3000:]
            time.sleep(0.5)

    def trains(self) -> bool:
        return (self.stage / CHECKPOINT).exists()

    def encoder(self) -> dict:
        return load_file(self.stage / "encoder.safetensors")


@pytest.fixture
def site(root: Path, tmp_path: Path, login: dict[str, str]) -> Iterator[Site]:
    site = Site(root, tmp_path / "results", login)
    yield site
    for workflow in site.workflows:  # of a test that failed
        workflow.kill()
    site.output("scancel", "--user", "root")


def test_each_stage_is_a_job_with_the_resources_of_the_profile(site: Site):
    before = len(site.jobs())
    assert site.finish() == 0, site.log.read_text()[-3000:]
    data, *_, fcmae = site.jobs()[before:]
    assert data["State"] == fcmae["State"] == "COMPLETED"
    assert (data["Timelimit"], fcmae["Timelimit"]) == ("01:00:00", "12:00:00")
    assert {"cpu=2", "mem=8000M"} <= set(data["ReqTRES"].split(",")) and "gpu" not in data["ReqTRES"]
    assert {"cpu=8", "mem=32000M", "gres/gpu=1"} <= set(fcmae["ReqTRES"].split(","))


def test_a_failing_stage_ends_the_workflow_and_says_where_to_look(site: Site):
    assert site.finish("--retries", "0", stage="data", settings='["data.cells=30"]') == 1
    messages = site.log.read_text()
    assert "status is: 'FAILED'" in messages
    (log,) = (site.results / ".snakemake" / "slurm_logs").rglob("*.log")
    assert str(log) in messages and "LeukError: rendered smear: of 30 cells only" in log.read_text()


def test_a_cancelled_training_is_saved_ends_snakemake_and_goes_on_to_the_same_weights(site: Site, root: Path, login: dict, tmp_path: Path):  # fmt: skip
    settings = '["fcmae.steps=60"]'
    workflow = site.submit("--retries", "0", settings=settings)
    site.wait_for(site.trains)
    site.output("scancel", site.jobs()[-1]["JobID"])
    assert workflow.wait(600) == 1 and "status is: 'CANCELLED'" in site.log.read_text()
    logs = "".join(log.read_text() for log in (site.results / ".snakemake" / "slurm_logs").rglob("*.log"))
    assert "saved; the same command continues from there" in logs
    assert site.finish(settings=settings) == 0, site.log.read_text()[-3000:]
    straight = Site(root, tmp_path / "straight", login)
    assert straight.finish(settings=settings) == 0
    ours, theirs = site.encoder(), straight.encoder()
    assert ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)


def test_a_job_at_its_time_limit_continues_and_ctrl_c_cancels_it(site: Site):
    workflow = site.submit("--set-resources", "fcmae:runtime=3", settings='["fcmae.steps=200000"]')
    try:
        site.wait_for(site.trains)
        first = site.jobs()[-1]["JobID"]
        site.wait_for(lambda: site.jobs()[-1]["JobID"] != first)
        assert [job["State"] for job in site.jobs() if job["JobID"] == first] == ["TIMEOUT"]
        progress = site.stage / "progress.json"
        site.wait_for(
            lambda: site.jobs()[-1]["State"] == "RUNNING" and progress.exists() and progress.stat().st_size > 0
        )
        assert "Trying to restart" in site.log.read_text()
    finally:
        workflow.send_signal(signal.SIGINT)
        workflow.wait(600)
    site.wait_for(lambda: not site.output("squeue", "-h", "-t", "R,CG"))
    assert site.jobs()[-1]["State"].startswith("CANCELLED")
    reached = [log.read_text() for log in (site.results / ".snakemake" / "slurm_logs").rglob("*.log")]
    steps = [int(text.split("FCMAE at step ")[1].split()[0]) for text in reached if "FCMAE at step " in text]
    assert len(steps) == 2 and max(steps) > min(steps) > 0
