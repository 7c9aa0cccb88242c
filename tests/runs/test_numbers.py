"""Numbers in texts from outside: read as they were meant, or refused."""

from __future__ import annotations

import json
import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from leuk_lib.runs.numbers import parse_json, parse_number
from leuk_lib.runs.yaml_files import parse_yaml


@pytest.mark.parametrize("text", ["1_0", "\u0663", "\uff11", "1\u00a0", "0x10", "", "1,5", "1e", "one"])
def test_what_only_python_takes_for_a_number_is_none(text: str):
    with pytest.raises(ValueError):
        parse_number(text)


@given(st.floats())
def test_every_float_is_read_as_it_was_written(value: float):
    for text in (repr(value), f" {value!r} ", value):
        read = parse_number(text)
        assert read == value or (math.isnan(read) and math.isnan(value))


@pytest.mark.parametrize(
    "text", ["NaN", "[Infinity]", '{"x": -Infinity}', "1e999", "[-1e400]", "[" * 100_000, "1" * 5000, "1" + "0" * 400]
)
def test_json_without_finite_numbers_is_refused_with_one_kind_of_error(text: str):
    with pytest.raises(ValueError):
        parse_json(text)


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '[{"b": {"a": 1, "a": 1}}]'])
def test_a_name_that_stands_twice_is_refused(text):
    with pytest.raises(ValueError, match="'a' stands twice"):
        parse_json(text)


@pytest.mark.parametrize("text", ['"\\ud800"', '{"\\uDFFF": 1}', '["\\udc00\\ud83d"]'])
def test_half_a_character_is_refused(text: str):
    with pytest.raises(ValueError, match="half a character"):
        parse_json(text)
    with pytest.raises(yaml.YAMLError, match="half a character"):
        parse_yaml(text)


def test_a_character_that_is_written_as_two_halves_is_read():
    assert parse_json('"\\ud83d\\ude00 \\\\ud800"') == "\U0001f600 \\ud800"


def test_a_whole_number_that_no_float_holds_is_named_by_its_length():
    with pytest.raises(ValueError, match="a whole number of 6000 digits"):
        parse_json("[" + "9" * 6000 + "]")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_other_json_is_read_as_python_reads_it(value: object):
    assert parse_json(json.dumps(value)) == value
