"""pyproject.toml, requirements.lock and environment.yml agree; the repository holds no large files and no weights."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rattler import MatchSpec


@pytest.fixture(scope="module")
def locked(root: Path) -> dict[str, list[tuple[str, str | None]]]:
    """``{name: [(version, marker), …]}`` of every pin in the lock."""
    pins: dict[str, list[tuple[str, str | None]]] = {}
    for line in (root / "requirements.lock").read_text().splitlines():
        if pin := re.match(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)\s*(?:;\s*([^\\]+?))?\s*\\?$", line):
            pins.setdefault(canonicalize_name(pin[1]), []).append((pin[2], pin[3]))
    return pins


def declared(root: Path) -> list[Requirement]:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return [Requirement(line) for line in lines]


def test_every_declared_dependency_is_locked_within_its_bounds(root: Path, locked: dict):
    for requirement in declared(root):
        pins = locked.get(canonicalize_name(requirement.name))
        assert pins, f"{requirement.name} is not in requirements.lock: run `make lock`"
        assert all(requirement.specifier.contains(version) for version, _ in pins), requirement


@pytest.mark.parametrize("name", ["requirements.lock", ".ci/install.lock", ".ci/audit.lock"])
def test_every_pin_has_hashes_and_no_address_is_named(root: Path, name: str):
    text = (root / name).read_text()
    assert not re.search(r"https?:|index-url|find-links", text)
    blocks = re.split(r"\n(?=\S)", text.strip())
    assert all(re.match(r"[A-Za-z0-9_.-]+==\S+", block) and "--hash=sha256:" in block for block in blocks)


def test_every_install_step_checks_hashes(root: Path):
    steps = re.findall(r"pip install.*", (root / "Makefile").read_text())
    assert len(steps) == 5
    for step in steps:
        own = "--no-deps --no-build-isolation -e ." in step  # the project itself, with the locked build backend
        # PyTorch for the CPU alone is not in the index of the lock; its own index states hashes.
        cpu = "--no-deps --torch-backend cpu" in step
        assert own or cpu or re.search(r"--require-hashes -r \S+\.lock$", step), step
    tools = {line.split("==")[0] for line in (root / ".ci/install.lock").read_text().splitlines() if "==" in line}
    backend = tomllib.loads((root / "pyproject.toml").read_text())["build-system"]["requires"]
    assert {Requirement(line).name for line in backend} | {"uv", "editables"} <= tools


def test_what_is_installed_without_a_lock_is_said_in_the_security_policy(root: Path):
    policy = (root / "SECURITY.md").read_text()
    files = [
        "Dockerfile",
        ".ci/run",
        "Makefile",
        *(str(p.relative_to(root)) for p in (root / ".github").rglob("*.yml")),
    ]
    text = {name: re.sub(r"\\\n", " ", (root / name).read_text()) for name in files}
    for name, content in text.items():
        commands = "\n".join(line for line in content.splitlines() if not line.lstrip().startswith("#"))
        assert not re.search(r"\b(curl|wget|npm|npx|pipx|conda|gem|go install|cargo)\b", commands), name
        assert name == "Makefile" or not re.search(r"\b(uv|pip|python -m) +\S*install", commands), (
            f"{name}: make does it"
        )
    base = re.findall(r"^(?:ARG BASE=|FROM )(\S+)", text["Dockerfile"], re.M)
    assert base[1:] == ["${BASE}"], "one base, which --build-arg can name by digest"
    images = re.findall(r"^ +container: (\S+)", "".join(text.values()), re.M)
    assert images and all(f"`{image}`" in policy for image in [base[0], *images])
    assert base[0] in policy and "imagetools inspect" in text[".github/workflows/audit.yml"]
    for words in re.findall(r"apt-get install ((?:[\w-]+ +)+)", text["Dockerfile"] + text[".ci/run"]):
        assert all(word.startswith("-") or word in policy.lower() for word in words.split()), words


@pytest.mark.parametrize("name", ["environment.yml", "tests/gpu/run.sh"])
def test_other_ways_to_install_use_the_locked_build_backend_too(root: Path, name: str):
    text = (root / name).read_text()
    steps = re.findall(r"pip install[^&\n]* -e \.", text)
    assert steps and all("--no-build-isolation" in step for step in steps)
    assert "--require-hashes -r .ci/install.lock" in text


def test_an_environment_for_the_cpu_leaves_out_torch_and_all_that_it_needs_of_cuda(root: Path, locked: dict):
    left_out = (root / ".ci/cuda.txt").read_text().split()
    assert set(left_out) == {name for name in locked if re.match(r"torch(vision)?$|triton$|(cuda|nvidia)-", name)}
    plan = subprocess.run(
        ["make", "-n", "env", "CPU=1", "VENV=v"], cwd=root, capture_output=True, text=True, check=True
    )
    (rest,) = [line for line in plan.stdout.splitlines() if "-r requirements.lock" in line and "pip install" in line]
    assert "--excludes .ci/cuda.txt" in rest
    pattern = re.search(r"grep -oE '([^']+)' requirements.lock", plan.stdout)
    assert pattern
    pins = re.findall(pattern[1], (root / "requirements.lock").read_text(), re.M)
    assert len(pins) == 2, "torch and torchvision, in the versions of the lock"


def test_the_image_has_what_the_kubernetes_profile_needs(root: Path):
    dockerfile = (root / "Dockerfile").read_text()
    assert "rsync" in dockerfile and "LEUK_ROOT=/project" in dockerfile
    locked = re.search(r"--python-version (\S+)", (root / "Makefile").read_text())
    assert locked and f"ARG BASE=python:{locked[1]}-" in dockerfile
    environment = re.search(r"VENV=(\S+)", dockerfile)
    assert environment and not environment[1].startswith("/project"), "a volume is mounted there"
    assert f"PATH={environment[1]}/bin:" in dockerfile
    kept_out = (root / ".dockerignore").read_text().split()
    assert {".venv", "results", "data/*"} <= set(kept_out)


def test_the_environment_is_the_lock(locked: dict):
    """The packages that results depend on are installed in the versions of the lock."""
    from leuk_lib.runs.card import package_versions

    for name, version in package_versions().items():
        if name != "python":
            assert version.split("+")[0] in {pin for pin, _ in locked[canonicalize_name(name)]}, name


def test_environment_yml_is_conda_for_the_same_python_and_lock(root: Path):
    environment = yaml.safe_load((root / "environment.yml").read_text())
    conda = [MatchSpec(spec) for spec in environment["dependencies"] if isinstance(spec, str)]
    assert {spec.name.normalized for spec in conda} == {"python", "pip"}
    python = next(spec for spec in conda if spec.name.normalized == "python")
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert Requirement(f"python{project['requires-python']}").specifier.contains(str(python.version).strip("=*."))
    (pip,) = (spec["pip"] for spec in environment["dependencies"] if isinstance(spec, dict))
    assert pip == ["-r requirements.lock"]


def tracked(root: Path) -> list[Path]:
    done = subprocess.run(["git", "-C", str(root), "ls-files", "-z"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [root / name for name in done.stdout.split("\0") if name and (root / name).exists()]


def test_no_large_file_no_image_data_no_weights_in_git(root: Path):
    for path in tracked(root):
        assert path.stat().st_size < 1_000_000, path
        assert path.suffix not in {
            ".safetensors",
            ".pt",
            ".pth",
            ".ckpt",
            ".pkl",
            ".npy",
            ".npz",
            ".jpg",
            ".tif",
            ".bmp",
        }, path


def test_import_is_light():
    """The installed package and the command line load no model library until one is needed."""
    heavy = "{'torch', 'torchvision', 'cv2', 'pandas', 'timm', 'sklearn', 'matplotlib'}"
    source = f"import sys, leuk_lib.cli.main, leuk_lib.stages as s; [spec.params_model() for spec in s.STAGES]; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_packages_import_in_one_direction(root: Path):
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(lint), "--no-cache"], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_profiles_cores_are_the_threads_of_the_profile_paper(root: Path):
    threads = yaml.safe_load((root / "notebooks/profiles/paper.yml").read_text())["stages"]
    jobs = yaml.safe_load((root / "notebooks/cluster/slurm/config.yaml").read_text())["set-resources"]
    cores = yaml.safe_load((root / "notebooks/cluster/kubernetes/config.yaml").read_text())["set-threads"]
    for stage, parameters in threads.items():
        wanted = parameters.get("threads", 2)
        assert jobs.get(stage, {}).get("cpus_per_task", 2) == cores.get(stage, 2) == wanted, stage
