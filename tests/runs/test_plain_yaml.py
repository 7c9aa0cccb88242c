"""Settings and profiles: values mean what they look like, and nothing else gets in."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.yaml_files import parse_plain, read_plain


@pytest.mark.parametrize("text", ["1:30", "010", "0x10", "1_000", "no", "on", "2001-13-45", "2001-12-14", "=", "<<"])
def test_what_yaml_1_1_would_turn_into_something_else_stays_text(text):
    assert parse_plain(text) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("-3", -3), ("1e-3", 1e-3), (".5", 0.5), ("2.", 2.0), ("true", True), ("null", None), ("", None), ("-.inf", -math.inf)],
)  # fmt: skip
def test_plain_values(text, value):
    assert parse_plain(text) == value and type(parse_plain(text)) is type(value)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False)
    | st.text("abc xyz", max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(plain)
def test_what_was_written_is_read(value):
    assert parse_plain(yaml.safe_dump(value)) == value


BOMB = "a: &a [x, x]\n" + "\n".join(f"{b}: &{b} [*{a}, *{a}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (BOMB, "aliases"), ("a: 1\na: 2", "stands twice"), ("[", "cannot be read"), ("- 1", "names and values"), ("5", "names"),
        ("1: 2", "names and values"), ("!!python/object:os.system x", "cannot be read"), ("[" * 5000, "nested too deeply|cannot be read"),
        ("x: " + "9" * 5000, "cannot be read"), ("\x07", "cannot be read"),
    ],
)  # fmt: skip
def test_files_of_another_shape_are_one_line(tmp_path: Path, text, why):
    (tmp_path / "p.yml").write_text(text)
    with pytest.raises(LeukError, match=why):
        read_plain(tmp_path / "p.yml")


def test_bytes_folders_and_size_are_one_line(tmp_path: Path):
    (tmp_path / "p.yml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "big.yml").write_bytes(b"# x\n" * 300_000)
    for name in ("p.yml", "big.yml", ".", "none.yml"):
        with pytest.raises(LeukError):
            read_plain(tmp_path / name)
    (tmp_path / "empty.yml").write_text("# nothing\n")
    assert read_plain(tmp_path / "empty.yml") == {}
