"""YAML files of any kind are read within bounds or refused at once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from leuk_lib.audit.claims import read_claims
from leuk_lib.audit.reference import read_rules
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.script import read_parameters
from leuk_lib.runs.yaml_files import MAX_VALUES, parse_yaml, read_yaml

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]\n" for k in range(1, 40)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "aliases written out"),
        ("a: &a [*a]", "contains itself"),
        ("[" * 3000, "nested too deeply"),
        ("x: 2001-13-45", "cannot be read"),
        ("- 1\n" * (MAX_VALUES + 1), "more than"),
        ("[" + "1," * 500_000 + "]", "more than"),  # took 12 s
        ("# " + "x" * (1 << 20), "characters"),
        ("a: [1", "expected .* in line 1"),
        ("a:\n  b: 1\n  b: 2", "'b' stands twice"),
        ("a: \x01", "unacceptable character"),
        ("!!python/object/apply:os.system [ls]", "constructor"),
    ],
)
def test_refused_within_a_second(tmp_path: Path, text: str, reason: str):
    file = tmp_path / "x.yml"
    file.write_text(text)
    start = time.process_time()
    with pytest.raises(yaml.YAMLError, match=reason) as caught:
        read_yaml(file)
    assert "\n" not in str(caught.value)
    assert time.process_time() - start < 10  # 60 and more without the bound; less than one of this process


def test_aliases_and_empty_files_are_read(tmp_path: Path):
    assert parse_yaml("a: &a {x: 1}\nb:\n  <<: *a\n  y: 2") == {"a": {"x": 1}, "b": {"x": 1, "y": 2}}
    assert parse_yaml("") is None
    file = tmp_path / "x.yml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(yaml.YAMLError, match="UTF-8"):
        read_yaml(file)


@pytest.mark.parametrize("read", [read_claims, read_rules, lambda file: read_parameters(file, [])])
def test_every_door_names_the_file(tmp_path: Path, read):
    file = tmp_path / "bomb.yml"
    for text in (BOMB, "[" * 3000):
        file.write_text(text)
        with pytest.raises(LeukError, match=r"bomb\.yml") as caught:
            read(file)
        assert len(str(caught.value)) < 600
