"""Reading the YAML files of ``book/`` that hold claims and published figures."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.yaml_files import read_yaml


class BookModel(BaseModel):
    """Content of such a file or a part of it: frozen, without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Model = TypeVar("Model", bound=BookModel)


def read_book_file(path: Path, model: type[Model]) -> Model:
    """Read a YAML file as a model.

    Raises:
        LeukError: a file that cannot be read, or an unknown or invalid field.
    """
    try:
        return model(**read_yaml(path))
    except (OSError, yaml.YAMLError, TypeError) as error:
        raise LeukError(f"{path}: cannot be read ({error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise LeukError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
