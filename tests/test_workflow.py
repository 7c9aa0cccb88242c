"""Only one run at a time writes into a results folder, even if the command that started it was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from fcmae.toys import encoder
from leuk_lib.fcmae.weights import save_backbone
from leuk_lib.runs.errors import LeukError
from leuk_lib.stages import parse_overrides
from leuk_lib.workflow import check_networks, fetched_weights, results_lock, run_stages
from processes import is_running, soon

PROGRAM = """
import sys
from leuk_lib import workflow
child = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(300)"
workflow.snakemake_command = lambda *_: [sys.executable, "-c", child, sys.argv[1]]
workflow.run_stages("smear", "smoke", [0])
"""


def test_a_second_run_is_refused_until_the_lock_is_free(tmp_path: Path):
    with results_lock(tmp_path), pytest.raises(LeukError, match="another run is writing"), results_lock(tmp_path):
        pass
    with results_lock(tmp_path):
        pass


def test_the_child_of_a_killed_run_still_holds_the_lock(results: Path, tmp_path: Path):
    pid_file = tmp_path / "process.txt"
    run = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(pid_file)], env={**os.environ, "LEUK_RESULTS": str(results)}
    )
    soon(lambda: pid_file.exists() and pid_file.read_text())
    run.kill()
    run.wait()
    child = int(pid_file.read_text())
    try:
        with pytest.raises(LeukError, match="another run is writing"), results_lock(results):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
    soon(lambda: not is_running(child))
    with results_lock(results):
        pass


STOPPABLE = """
import os, signal, sys, time
from pathlib import Path
from leuk_lib.workflow import run_until_stopped
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with it ignored
stop, pid, heeds = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
child = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid()))\\n" \\
    "while not (sys.argv[2] == 'True' and os.path.exists(os.environ['LEUK_STOP'])): time.sleep(0.05)"
command = [sys.executable, "-c", child, str(pid), heeds]
sys.exit(run_until_stopped(command, os.environ | {"LEUK_STOP": str(stop)}, stop, os.open(os.devnull, os.O_RDONLY)))
"""


@pytest.mark.parametrize("heeds", [True, False])
def test_the_first_interrupt_asks_for_a_stop_and_the_second_kills(tmp_path: Path, heeds: bool):
    stop, pid_file = tmp_path / "stop", tmp_path / "pid"
    command = [sys.executable, "-c", STOPPABLE, str(stop), str(pid_file), str(heeds)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    soon(lambda: pid_file.exists() and pid_file.read_text())
    process.send_signal(signal.SIGINT)
    if not heeds:
        soon(stop.exists)
        process.send_signal(signal.SIGTERM)  # a cluster may send it to a run that is stopping
        time.sleep(0.3)
        assert process.poll() is None and is_running(int(pid_file.read_text()))
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors and "stopping after the present step" in errors
    soon(lambda: not is_running(int(pid_file.read_text())))
    assert not stop.exists()


@pytest.mark.parametrize("name", ["{file}", "convnextv2_atto.fcmae@{file}"])
def test_weights_are_read_before_the_first_stage_and_a_file_gets_its_absolute_path(
    tmp_path: Path, monkeypatch, name: str
):
    monkeypatch.chdir(tmp_path)
    path = save_backbone(encoder("atto", 4), tmp_path / "my # weights.safetensors")
    values = {"weights": name.format(file=path.name), "steps": 0}
    (setting,) = fetched_weights(values)
    assert parse_overrides([setting]) == {"fcmae": {"weights": name.format(file=path)}}
    assert fetched_weights({}) == []
    path.write_bytes(b"")
    with pytest.raises(LeukError, match="damaged or foreign"):
        fetched_weights(values)


def test_a_run_with_unknown_weights_starts_no_stage(results: Path):
    with pytest.raises(LeukError, match="no such file"):
        run_stages("smear", "smoke", [0], overrides=["fcmae.weights=none.pth"])
    assert not results.exists()


@pytest.mark.parametrize(
    ("networks", "named"),
    [
        ("comparison.baselines=[resnet10x]", "did you mean 'resnet10t'"),
        ("comparison.baselines=[majority, 'resnet10t@missing.safetensors']", "no such file missing.safetensors"),
        ("comparison.baselines=['knn:resnet10t']", "knn:resnet10t@pretrained"),
        ("comparison.baselines=['last:resnet10t@missing.safetensors']", "no attention blocks"),
        ("wpat.backbones=[inception_v3]", "backbone 'inception_v3': .* images of"),
        ("comparison.baselines=[crossvit_tiny_240]", "baseline 'crossvit_tiny_240': .* images of"),
        ("comparison.baselines=['resnet10t@{file}']", "do not fit resnet10t"),
        ("wpat.backbones=['resnet10t@{file}']", "do not fit resnet10t"),
        ("wpat.backbones=[fcmea]", "unknown backbone 'fcmea'; did you mean 'fcmae'"),
        ("wpat.backbones=[fcmae, 'resnet10t@missing.safetensors']", "no such file missing.safetensors"),
    ],
)
def test_networks_are_looked_up_before_any_stage_starts(results: Path, tmp_path: Path, networks: str, named: str):
    other = tmp_path / "other.safetensors"
    save_file({"conv1.weight": torch.zeros(2)}, str(other))
    with pytest.raises(LeukError, match=named) as caught:
        run_stages("smear", "smoke", [0], overrides=[networks.format(file=other)])
    assert not results.exists() and caught.value.exit_code == 2


def test_files_of_networks_get_absolute_paths_and_missing_packages_are_left_to_the_stage(tmp_path: Path, monkeypatch):
    state = timm.create_model("test_resnet").state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, str(tmp_path / "r.safetensors"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("leuk_lib.training.pretrained._package_folder", lambda package: None)
    baselines = ["colour", "efficientnet_lite0@pretrained", "knn:test_resnet@r.safetensors"]
    settings = check_networks(["fcmae", "test_resnet@r.safetensors"], baselines, 32)
    assert parse_overrides(settings) == {
        "wpat": {"backbones": ["fcmae", f"test_resnet@{tmp_path}/r.safetensors"]},
        "comparison": {"baselines": [*baselines[:2], f"knn:test_resnet@{tmp_path}/r.safetensors"]},
    }
    assert check_networks(["fcmae"], ["colour"], 32) == [] == check_networks(None, None, 32)


def test_default_networks_are_not_worth_loading_timm() -> None:
    script = (
        "import sys; from leuk_lib.workflow import check_networks; "
        "check_networks(['fcmae', 'efficientnet_lite0@pretrained'], ['colour', 'resnet10t'], 64); "
        "sys.exit('timm' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
