"""Folder layouts: which class and which external test set the folders of a path name.

A layout is a function from a file's relative path to a ``Place``. To read another published layout, add its function
here and choose it in ``layout_of``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePath
from typing import NamedTuple

from leuk_lib.data.catalog import KnownSet


class Place(NamedTuple):
    """Class and external test set of an image; "" for none."""

    label: str
    external: str


Layout = Callable[[PurePath], Place]


def layout_of(known: KnownSet | None) -> Layout:
    """Choose the layout of a data set: that of a known set, or class folders."""
    return class_folders if known is None else known_folders(known)


def class_folders(file: PurePath) -> Place:
    """Read ``CLASS/…/image.png``: the first folder is the class.

    Example:
        >>> class_folders(PurePath("AML/slide 1/0001.png"))
        Place(label='AML', external='')
    """
    return Place(file.parts[0] if len(file.parts) > 1 else "", "")


def known_folders(known: KnownSet) -> Layout:
    """Return the layout of a known set: its class names, in any spelling and at any depth, and its test sets."""

    def layout(file: PurePath) -> Place:
        folders = file.parts[:-1]
        labels = [label for folder in folders if (label := known.class_of(folder))]
        tests = [test for folder in folders if (test := known.test_of(folder))]
        return Place(labels[-1] if labels else "", tests[0] if tests else "")

    return layout
