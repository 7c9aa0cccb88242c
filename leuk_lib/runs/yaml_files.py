"""Reading YAML with bounds on its size, its nesting and what its aliases expand to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

MAX_CHARACTERS = 1 << 20
MAX_VALUES = 50_000  # with every alias written out


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with a count of values.

    Ten lines of aliases to aliases ("billion laughs") stand for 10^9 values: they are loaded in no time, and then
    validated, printed or written one by one.
    """

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


def parse_yaml(text: str) -> Any:
    r"""Parse YAML.

    Raises:
        yaml.YAMLError: In one line, if the text is not YAML, has more than 2^20 characters or 50,000 values, is nested too deeply, or
            holds a date that does not exist.

    >>> parse_yaml("a: &x [1, 2]\nb: *x")
    {'a': [1, 2], 'b': [1, 2]}
    """
    if len(text) > MAX_CHARACTERS:
        raise yaml.YAMLError(f"{len(text)} characters; at most {MAX_CHARACTERS} are read")
    try:
        return yaml.load(text, Loader=_Loader)
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
    with path.open("rb") as file:
        data = file.read(4 * MAX_CHARACTERS + 1)  # not all of a file of any size
    try:
        return parse_yaml(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise yaml.YAMLError(f"not UTF-8 ({error})") from error
