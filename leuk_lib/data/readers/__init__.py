"""Readers of published layouts. Each module with an instance in ``READER`` is one; nothing else registers it.

Reading order in ``listing.list_folder``: a ``CellReader`` that recognises the data converts them once
(``conversion``); an ``AnnotationReader`` adds labels, groups and parts to the image files of a folder; otherwise the
folders themselves are read (``layouts``).
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path

from leuk_lib.data.readers.reader import AnnotationReader, Options, Reader
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.params import nearest

FOLDERS = "folders"  # as --reader: class folders, whatever else lies beside them


@functools.cache
def readers() -> dict[str, Reader]:
    """Return all readers by name, in the order of their names."""
    modules = (importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    found = [module.READER for module in modules if isinstance(getattr(module, "READER", None), Reader)]
    return {reader.name: reader for reader in sorted(found, key=lambda reader: reader.name)}


def recognised(path: Path) -> list[Reader]:
    """Return the readers that recognise a file or folder, by name."""

    def fits(reader: Reader) -> bool:
        try:
            return reader.recognises(path)
        except OSError:  # what cannot be listed or opened is a finding of whoever reads the folder
            return False

    return [reader for reader in readers().values() if fits(reader)]


def choose(path: Path, name: str = "", options: Mapping[str, str] | None = None) -> tuple[Reader, Options] | None:
    """Return the reader of a file or folder with its checked options; None for folders of images.

    Args:
        path: A file or folder, resolved.
        name: A reader's name, "folders", or "" for the one that recognises the data.
        options: Options of the reader.

    Raises:
        LeukError: For an unknown name, an unknown option, options without a reader, a file that no reader recognises,
            and data that several readers recognise.
    """
    if name and name != FOLDERS and name not in readers():
        raise LeukError(f"no reader {name!r}; {nearest(name, [*readers(), FOLDERS])}", exit_code=2)
    found = [readers()[name]] if name in readers() else [] if name else recognised(path)
    if len(found) > 1:
        which = "; ".join(f"--reader {reader.name}: {reader.title}" for reader in found)
        raise LeukError(
            f"{path}: several readers fit; say which ({which}; --reader {FOLDERS}: class folders)", exit_code=2
        )
    if found and path.is_file() and isinstance(found[0], AnnotationReader):
        raise LeukError(f"{path}: reader {found[0].name} needs the folder of the images, not a file", exit_code=2)
    if found:
        return found[0], Options(found[0].name, found[0].options, dict(options or {}))
    if options:
        raise LeukError(
            f"{path}: no reader recognises it, so options ({', '.join(options)}) mean nothing; name one with --reader "
            f"({', '.join(readers())})",
            exit_code=2,
        )
    if path.is_file():
        raise LeukError(
            f"data set {str(path)!r} is a file that no reader recognises ({', '.join(readers())}); give the folder that "
            "holds the class folders",
            exit_code=2,
        )
    return None
