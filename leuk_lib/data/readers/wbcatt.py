"""WBCAtt: five cell types of PBC in a published split, with eleven attributes per cell.

Source: Tsutsui, Pang and Wen. WBCAtt: a white blood cell dataset annotated with detailed morphological attributes.
NeurIPS 2023.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from leuk_lib.data.layouts import part_of
from leuk_lib.data.readers.reader import AnnotationReader, Annotations, Options
from leuk_lib.data.readers.table import Statement, annotate, by_name, find, given, has_columns, read_rows

TABLES = "pbc_attr_v1_*.csv"
COLUMNS = ("img_name", "label", "path")


class WbcAtt(AnnotationReader):
    """Reads ``pbc_attr_v1_{train,val,test}.csv`` beside the images of PBC; images in no table are left out."""

    name = "wbcatt"
    title = "WBCAtt tables beside PBC images"

    def recognises(self, path: Path) -> bool:
        """Return whether the tables are there, with their columns or empty."""
        return any(has_columns(file, COLUMNS) for file in find(path, TABLES))

    def sources(self, path: Path, options: Options) -> list[Path]:
        """Return the tables of the parts."""
        return [file for file in find(path, TABLES) if part_of(file.stem)]

    def annotations(self, root: Path, images: Sequence[PurePath], options: Options) -> Annotations:
        """Return class and published part."""
        files = self.sources(root, options)

        def statements() -> Iterator[Statement]:
            for file in files:
                for where, row in read_rows(file, COLUMNS):
                    values = {"label": given(row["label"]), "part": part_of(file.stem)}
                    yield Statement(row["img_name"], values, where)

        table = ", ".join(file.name for file in files) or TABLES
        return annotate(statements(), images, by_name(images), table, complete=True)


READER = WbcAtt()
