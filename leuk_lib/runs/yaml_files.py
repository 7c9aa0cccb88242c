"""Reading YAML with bounds on its size, its nesting and what its aliases expand to.

What people type as settings and profiles (``parse_plain``, ``read_plain``) is read by the rules of YAML 1.2 and has no
aliases. PyYAML follows YAML 1.1, in which ``1:30`` is 90, ``010`` is 8, ``no`` is False and ``1e-3`` is a text.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from leuk_lib.runs.errors import LeukError

MAX_CHARACTERS = 1 << 20
MAX_VALUES = 50_000  # with every alias written out


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with a count of values.

    Ten lines of aliases to aliases ("billion laughs") stand for 10^9 values: they are loaded in no time, and then
    validated, printed or written one by one.
    """

    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse more than ``MAX_VALUES`` values as soon as they are met: a megabyte takes ten seconds and 350 MB."""
        self.nodes += 1
        if self.nodes > MAX_VALUES:
            raise yaml.YAMLError(f"more than {MAX_VALUES} values")
        return super().compose_node(parent, index)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        r"""Refuse unpaired surrogates (``"\ud800"``), which UTF-8 cannot encode."""
        if isinstance(node, yaml.ScalarNode) and any("\ud800" <= character <= "\udfff" for character in node.value):
            raise yaml.constructor.ConstructorError(
                None, None, f"an unpaired surrogate (half a character), {node.value!r}", node.start_mark
            )
        return super().construct_scalar(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that stands twice, of which PyYAML would keep the last."""
        names = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := [name for name, count in names.items() if count > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)

    def get_single_data(self) -> Any:
        node = self.get_single_node()
        if node is None:
            return None
        if _count(node, {}) > MAX_VALUES:
            raise yaml.YAMLError(f"more than {MAX_VALUES} values with its aliases written out")
        return self.construct_document(node)


def _count(node: yaml.Node, known: dict[int, int | None]) -> int:
    """Number of values below a node, aliases written out."""
    if id(node) in known:
        count = known[id(node)]
        if count is None:
            raise yaml.YAMLError("an alias that contains itself")
        return count
    known[id(node)] = None
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        children = [child for pair in node.value for child in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    known[id(node)] = count = 1 + sum(_count(child, known) for child in children)
    return count


class _PlainLoader(_Loader):
    """Loads null, booleans, integers, floats, texts, lists and mappings by the rules of YAML 1.2."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  as PyYAML declares it

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not allowed", mark)
        return super().compose_node(parent, index)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _PlainLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def parse_plain(text: str) -> Any:
    """Parse what a person typed.

    Raises:
        yaml.YAMLError: As ``parse_yaml`` does, and for aliases.

    >>> parse_plain("[3, 1e-3, 1:30, 010, no, 2001-13-45]")
    [3, 0.001, '1:30', '010', 'no', '2001-13-45']
    """
    return _parse(text, _PlainLoader)


def read_plain(path: Path) -> dict[str, Any]:
    """Read a file of names and values that a person wrote; an empty file is an empty mapping.

    Raises:
        LeukError: If the file cannot be read or is something else.
    """
    try:
        content = parse_plain(_text(path))
    except (OSError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LeukError(f"{path}: cannot be read ({reason})", exit_code=2) from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise LeukError(f"{path}: must hold names and values, as in 'profile: smoke'", exit_code=2)
    return content


def parse_yaml(text: str) -> Any:
    r"""Parse YAML.

    Raises:
        yaml.YAMLError: In one line, if the text is not YAML, has more than 2^20 characters or 50,000 values, is nested too deeply, has
            a key twice, or holds a date that does not exist.

    >>> parse_yaml("a: &x [1, 2]\nb: *x")
    {'a': [1, 2], 'b': [1, 2]}
    """
    return _parse(text, _Loader)


def _parse(text: str, loader: type[_Loader]) -> Any:
    if len(text) > MAX_CHARACTERS:
        raise yaml.YAMLError(f"{len(text)} characters; at most {MAX_CHARACTERS} are read")
    try:
        return yaml.load(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise yaml.YAMLError(f"{error.problem or error.context}{line}") from error
    except yaml.reader.ReaderError as error:
        raise yaml.YAMLError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply") from error
    except (ValueError, TypeError, AttributeError) as error:  # PyYAML's, about dates and numbers
        raise yaml.YAMLError(f"a value that cannot be read ({error})") from error


def read_yaml(path: Path) -> Any:
    """Parse a YAML file.

    Raises:
        OSError: If the file cannot be read.
        yaml.YAMLError: If it is not UTF-8, or as ``parse_yaml`` does.
    """
    return parse_yaml(_text(path))


def _text(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(4 * MAX_CHARACTERS + 1)  # not all of a file of any size
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise yaml.YAMLError(f"not UTF-8 ({error})") from error
