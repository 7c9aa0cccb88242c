"""Facts of the machine in run cards."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from leuk_lib.runs import hardware
from leuk_lib.runs.records import RunCard
from leuk_lib.runs.stage import Stage

CPUINFO = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC
stepping\t: 1
flags\t\t: fpu avx512f sse4_2 smep avx fma bmi2 amx_tile

processor\t: 1
model name\t: another
"""


def test_the_facts_of_this_machine():
    facts = hardware.hardware_facts()
    assert facts["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert facts["cpu"] and "blas" in facts
    assert all(isinstance(fact, str) and 0 < len(fact) <= hardware.MAX_TEXT for fact in facts.values())
    assert ("cuda" in facts) == torch.cuda.is_available()


def test_a_hypervisors_name_hides_neither_family_nor_instruction_sets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Path, "read_text", lambda path, **options: CPUINFO)
    assert hardware.device_name() == f"AMD EPYC ({os.cpu_count()} cores)"
    facts = hardware.hardware_facts()
    assert facts["cpu"] == "AuthenticAMD family 25 model 17 stepping 1"
    assert facts["cpu_flags"] == "amx_tile avx avx512f fma sse4_2"


def test_a_gpu_brings_its_libraries_and_driver(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91300)
    monkeypatch.setattr(hardware, "driver_version", lambda: "580.159.04")
    facts = hardware.hardware_facts()
    assert {
        "cuda": "13.0",
        "cudnn": "91300",
        "driver": "580.159.04",
        "compute_capability": "9.0",
    }.items() <= facts.items()


def test_the_drivers_version_is_read_from_its_file(monkeypatch: pytest.MonkeyPatch):
    line = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (dvs-builder)\n"
    monkeypatch.setattr(Path, "read_text", lambda path, **options: line)
    assert hardware.driver_version() == "580.159.04"


def test_without_torch_the_rest_is_known_and_torch_stays_unloaded():
    code = (
        "import sys; from leuk_lib.runs.hardware import hardware_facts; facts = hardware_facts(); "
        "assert 'cpu' in facts and 'cpu_capability' not in facts; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_finished_card_holds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from leuk_lib.runs.card import read_card
    from leuk_lib.runs.params import StageParams

    monkeypatch.setenv("LEUK_RESULTS", str(tmp_path))
    with Stage("data", StageParams(run="r")) as stage:
        stage.record("cells", 1)
    card = read_card("r", "data")
    assert card is not None and card["hardware"] == hardware.hardware_facts()
    RunCard.model_validate(
        {key: value for key, value in card.items() if key not in ("hardware", "checksum")}
    )  # as earlier versions wrote
