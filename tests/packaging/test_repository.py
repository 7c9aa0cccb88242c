"""README, contributing, changelog, workflows and hooks agree with the project."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
TARGET = re.compile(r"\bmake ([a-z-]+)")


def targets(root: Path) -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), flags=re.MULTILINE))


def steps(root: Path, workflow: str) -> list[dict]:
    content = yaml.safe_load((root / ".github" / "workflows" / workflow).read_text())
    return [step for job in content["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("page", PAGES)
def test_links_and_files_exist(root: Path, page: str) -> None:
    text = (root / page).read_text(encoding="utf-8")
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
    named = re.findall(r"`((?:book|leuk_lib|notebooks|data|tests)/[\w./-]+)`", text)
    assert [name for name in [*links, *named] if name and not (root / name).exists()] == []


@pytest.mark.parametrize(
    "page",
    [
        *PAGES,
        *(f"book/{page}.md" for page in ("use/laptop", "use/own_data", "use/gpu", "use/weights", "maintain/extend")),
    ],
)
def test_commands_that_are_named_exist(root: Path, page: str) -> None:
    text = (root / page).read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL) + re.findall(r"`([^`\n]+)`", text))
    assert set(TARGET.findall(code)) <= targets(root)
    variables = set(re.findall(r"\b([A-Z]{3,})=", code)) - {"LEUK", "NAME"}  # NAME=VALUE: the form of an option
    known = set(re.findall(r"^([A-Z]+)\s*\?=", (root / "Makefile").read_text(), flags=re.MULTILINE))
    known |= set(re.findall(r"^ARG ([A-Z]+)=", (root / "Dockerfile").read_text(), flags=re.MULTILINE))
    assert variables <= known, "make would silently ignore it"


def test_the_changelog_speaks_of_the_present_version(root: Path) -> None:
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    heading = next(line for line in (root / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert version in heading


def test_workflows_call_the_same_targets_as_a_person(root: Path) -> None:
    targets = {"tests.yml": ["test"], "pages.yml": ["book"], "nightly.yml": ["test-long", "coverage"]}
    for workflow, called in targets.items():
        runs = [step["run"] for step in steps(root, workflow) if "run" in step]
        made = [target for run in runs for target in TARGET.findall(run)]
        assert made == called, workflow
        assert not any(re.search(r"\bpip install|pytest|jupyter-book", run) for run in runs), "make does it"


def test_the_audit_is_scheduled(root: Path) -> None:
    made = [target for step in steps(root, "audit.yml") for target in TARGET.findall(step.get("run", ""))]
    workflow = yaml.safe_load((root / ".github" / "workflows" / "audit.yml").read_text())
    assert made == ["sbom", "audit"] and workflow[True]["schedule"]  # YAML 1.1 reads the key "on" as True


LOCKS = ["requirements.lock", ".ci/install.lock", ".ci/audit.lock"]


@pytest.mark.parametrize("vulnerable", ["", *LOCKS])
def test_an_audit_looks_at_every_lock_file_and_fails_if_one_of_them_does(
    root: Path, tmp_path: Path, vulnerable: str
) -> None:
    tool = tmp_path / "audit" / "bin" / "pip-audit"
    tool.parent.mkdir(parents=True)
    (tmp_path / ".ready").touch()
    # It refuses a package that stands twice, and lock files share some; without --strict it is content with packages
    # that it could not look up.
    tool.write_text(
        f'#!/bin/bash\necho "$@" >> {tmp_path}/log\n[[ "$*" = *--strict* && "$*" != *" -r "*" -r "* ]] || exit 2\n'
        f'{f"""[[ "$*" != *" {vulnerable}" ]]""" if vulnerable else "true"}\n'
    )
    tool.chmod(0o755)
    done = subprocess.run(["make", "audit", f"VENV={tmp_path}"], cwd=root, capture_output=True, check=False)
    assert bool(done.returncode) == bool(vulnerable), done.stderr
    called = [line.split()[-1] for line in (tmp_path / "log").read_text().splitlines()]
    assert called == LOCKS[: LOCKS.index(vulnerable) + 1 if vulnerable else None]


@pytest.mark.parametrize(("docker", "code"), [("echo sha256:1", 0), ("exit 1", 1), ("true", 1)])
def test_digests_that_cannot_be_had_fail_the_workflow(root: Path, tmp_path: Path, docker: str, code: int) -> None:
    (script,) = [step["run"] for step in steps(root, "audit.yml") if "docker" in step.get("run", "")]
    (tmp_path / "docker").write_text(f"#!/bin/bash\n{docker}\n")
    (tmp_path / "docker").chmod(0o755)
    (tmp_path / "Dockerfile").write_text((root / "Dockerfile").read_text())
    done = subprocess.run(
        ["bash", "-e", "-c", script], cwd=tmp_path, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert min(done.returncode, 1) == code
    if not code:
        assert done.stdout == "python:3.11-slim-bookworm sha256:1\ndebian:12 sha256:1\n"


def test_workflows_pin_actions_and_take_only_the_rights_they_need(root: Path) -> None:
    for path in sorted((root / ".github" / "workflows").glob("*.yml")):
        workflow = yaml.safe_load(path.read_text())
        assert workflow["permissions"]["contents"] == "read"
        assert all("timeout-minutes" in job for job in workflow["jobs"].values())
        actions = [step["uses"] for step in steps(root, path.name) if "uses" in step]
        assert all(re.fullmatch(r"\S+@[0-9a-f]{40}", action) for action in actions), path.name


def test_the_oldest_python_of_the_tests_is_that_of_the_lock(root: Path) -> None:
    locked = re.search(r"--python-version (\S+)", (root / "Makefile").read_text())
    workflow = yaml.safe_load((root / ".github" / "workflows" / "tests.yml").read_text())
    assert locked and workflow["jobs"]["test"]["strategy"]["matrix"]["python"][0] == locked[1]


def test_hooks_cover_what_lint_checks(root: Path) -> None:
    lint = (root / "Makefile").read_text().split("\nlint:")[1].split("\n\n")[0]
    tools = set(re.findall(r"\$\(BIN\)/([\w-]+)", lint))
    config = (root / ".pre-commit-config.yaml").read_text()
    assert {tool for tool in tools if tool not in config} == set()


def test_the_hooks_configuration_is_valid(root: Path) -> None:
    command = [
        str(Path(sys.executable).with_name("pre-commit")),
        "validate-config",
        str(root / ".pre-commit-config.yaml"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
