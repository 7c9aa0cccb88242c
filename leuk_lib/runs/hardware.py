"""Facts of a machine that decide the last digits of a result: processor, GPU, and the libraries that add numbers."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

# Instruction sets for which torch, NumPy, MKL, oneDNN or OpenBLAS have code of their own.
NUMERIC_FLAGS = re.compile(
    r"sse4_[12]|avx.*|fma|f16c|amx_.*|bf16|i8mm|asimd|asimdhp|asimddp|asimdfhm|s[mv]e(?!p).*|vsx.*|vx.*"
)
MAX_TEXT = 1000


def device_name() -> str:
    """Return the name of the GPU if torch is loaded and sees one, else of the processor."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    first = _cpuinfo().get("model name")
    return f"{first or platform.processor() or platform.machine()} ({os.cpu_count()} cores)"


def hardware_facts() -> dict[str, str]:
    """Return the facts by name; what cannot be known is left out.

    - ``cpu``: vendor, family, model and stepping. A hypervisor may hide the name of a processor, but not these.
    - ``cpu_flags``: its numeric instruction sets.
    - ``cpu_capability``: the instruction set that torch chose (``torch.backends.cpu.get_cpu_capability``).
    - ``blas``: the BLAS of torch and of NumPy and SciPy, with versions and the microarchitecture for which each runs.
    - ``cuda``, ``cudnn``, ``driver``, ``compute_capability``: only where torch sees a GPU, because nothing else uses them.

    torch's facts are known only if torch is loaded; this function does not load it.
    """
    info = _cpuinfo()
    facts = {"cpu": _cpu(info), "cpu_flags": _flags(info), "blas": _blas(), **_torch_facts()}
    return {name: fact[:MAX_TEXT] for name, fact in facts.items() if fact}


def _cpuinfo() -> dict[str, str]:
    """The entries of the first processor in /proc/cpuinfo; empty where there is none."""
    try:
        block = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in block.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _cpu(info: Mapping[str, str]) -> str:
    # x86, then Arm; elsewhere the platform's word.
    names = {
        "vendor_id": "", "cpu family": "family ", "model": "model ", "stepping": "stepping ",
        "CPU implementer": "implementer ", "CPU part": "part ", "CPU variant": "variant ",
    }  # fmt: skip
    known = [f"{word}{info[name]}" for name, word in names.items() if info.get(name)]
    return " ".join(known) or platform.processor() or platform.machine()


def _flags(info: Mapping[str, str]) -> str:
    flags = (info.get("flags") or info.get("Features") or "").split()
    return " ".join(sorted(flag for flag in flags if NUMERIC_FLAGS.fullmatch(flag)))


def _blas() -> str:
    """The loaded BLAS libraries, such as "mkl 2024.2; openblas 0.3.30 (SkylakeX)"."""
    try:
        from threadpoolctl import threadpool_info
    except ModuleNotFoundError:
        return ""
    found = {
        f"{library['internal_api']} {library.get('version') or ''}".strip()
        + (f" ({library['architecture']})" if library.get("architecture") else "")
        for library in threadpool_info()
        if library.get("user_api") == "blas"
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        built = re.findall(
            r"(?:MKL-DNN v[\d.]+|Math Kernel Library Version [\w.]+(?: Update \d+)?)", torch.__config__.show()
        )
        found |= {text.replace("Math Kernel Library Version", "mkl").replace("MKL-DNN v", "onednn ") for text in built}
    return "; ".join(sorted(found))


def _torch_facts() -> dict[str, str]:
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    facts = {"cpu_capability": torch.backends.cpu.get_cpu_capability()}
    if torch.cuda.is_available():
        facts |= {
            "cuda": str(torch.version.cuda or ""),
            "cudnn": str(torch.backends.cudnn.version() or ""),
            "driver": driver_version(),
            "compute_capability": ".".join(map(str, torch.cuda.get_device_capability())),
        }
    return facts


def driver_version() -> str:
    """Return the version of NVIDIA's driver, or ""."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
        if found := re.search(r"\s(\d+\.\d+(?:\.\d+)*)\s", text):
            return found.group(1)
    except OSError:  # in a container the file may be hidden
        pass
    if not (program := shutil.which("nvidia-smi")):
        return ""
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.split()[0] if done.returncode == 0 and done.stdout.split() else ""
