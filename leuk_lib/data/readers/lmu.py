"""AML-Cytomorphology_LMU: ``annotations.dat`` with the label of each image and, for some, two re-annotations.

Source: Matek et al. Nature Machine Intelligence 1:538, 2019; doi:10.7937/tcia.2019.36f5o9ld.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath, PurePosixPath

from leuk_lib.data.image_files import IMAGES
from leuk_lib.data.readers.reader import AnnotationReader, Annotations, Options
from leuk_lib.data.readers.table import Statement, annotate, by_name, find, given, read_rows

TABLE = "annotations.dat"
BETWEEN = r"(?<=\S)[\s,;]+(?=\S)"  # words
COLUMNS = ("name", "label", "label2", "label3")


class Lmu(AnnotationReader):
    """Reads image, first label and two re-annotations, separated by blanks; no header."""

    name = "lmu"
    title = "AML-Cytomorphology_LMU annotations.dat: label and two re-annotations"

    def recognises(self, path: Path) -> bool:
        """Return whether the first line of ``annotations.dat`` begins with an image, or is empty."""
        return any(_begins_with_image(file) for file in find(path, TABLE))

    def sources(self, path: Path, options: Options) -> list[Path]:
        """Return the table."""
        return find(path, TABLE)

    def annotations(self, root: Path, images: Sequence[PurePath], options: Options) -> Annotations:
        """Return the label as the class, and the re-annotations as label2 and label3."""

        def statements() -> Iterator[Statement]:
            for file in self.sources(root, options):
                for where, row in read_rows(file, COLUMNS, header=False, separator=BETWEEN):
                    values = {column: given(row[column]) for column in COLUMNS[1:]}
                    yield Statement(PurePosixPath(row["name"]).name, values, where)  # unique in the set

        found = annotate(statements(), images, by_name(images), TABLE)
        again = sum(bool(row.get("label2") or row.get("label3")) for row in found.rows.values())
        return found._replace(notes=[f"{TABLE}: {again} images have re-annotations (label2, label3)"])


READER = Lmu()


def _begins_with_image(file: Path) -> bool:
    try:
        with file.open(encoding="utf-8-sig") as handle:
            words = handle.readline(4096).replace(",", " ").replace(";", " ").split()
    except (OSError, UnicodeDecodeError):
        return False
    return not words or (PurePath(words[0]).suffix.lower() in IMAGES and len(words) > 1)
