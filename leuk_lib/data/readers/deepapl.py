"""DeepAPL: folders of patients, whose diagnosis and cohort stand in ``master.csv``.

Source: Sidhom et al. Deep learning for diagnosis of acute promyelocytic leukemia via recognition of genomically
imprinted morphologic features. npj Precision Oncology 5:38, 2021.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import ClassVar

from leuk_lib.data.catalog import plain
from leuk_lib.data.layouts import role_of
from leuk_lib.data.readers.reader import AnnotationReader, Annotations, Options
from leuk_lib.data.readers.table import Index, Statement, annotate, find, given, has_columns, read_rows

TABLE = "master.csv"
COLUMNS = ("Patient_ID", "Diagnosis", "Cohort")
PARTS = {"discovery": "train", "validation": "test"}


class DeepApl(AnnotationReader):
    """Reads diagnosis, patient and cohort of each patient's folder."""

    name = "deepapl"
    title = "DeepAPL master.csv: diagnosis and cohort of each patient"
    options: ClassVar[Mapping[str, str]] = {"label": "diagnosis (default), or cell-type for the folder of the image"}

    def recognises(self, path: Path) -> bool:
        """Return whether ``master.csv`` is there with its columns, or empty."""
        return bool(_tables(path))

    def sources(self, path: Path, options: Options) -> list[Path]:
        """Return the table."""
        return _tables(path)

    def annotations(self, root: Path, images: Sequence[PurePath], options: Options) -> Annotations:
        """Return class, patient and part: the cohort Discovery is "train", Validation is "test"."""
        by_diagnosis = options.one_of("label", ("diagnosis", "cell-type")) == "diagnosis"

        def statements() -> Iterator[Statement]:
            for file in self.sources(root, options):
                for where, row in read_rows(file, COLUMNS):
                    patient = row["Patient_ID"]
                    values = {"group": patient, "part": PARTS.get(row["Cohort"].casefold(), row["Cohort"])}
                    if by_diagnosis:
                        values["label"] = given(row["Diagnosis"])
                    yield Statement(_key(patient), values, where)

        found = annotate(statements(), images, _by_patient(images), TABLE, many=True)
        rows = found.rows
        if not by_diagnosis:
            rows = {name: {**row, "label": PurePath(name).parent.name} for name, row in rows.items()}
        note = f"class: {'the diagnosis' if by_diagnosis else 'the cell type'}; Discovery is train, Validation is test"
        return found._replace(rows=rows, notes=[note])


READER = DeepApl()


def _tables(path: Path) -> list[Path]:
    return [file for file in find(path, TABLE) if has_columns(file, COLUMNS)]


def _key(name: str) -> str:
    """Return a patient's key: "patient 7" for ``Patient_07``, ``Patient 7`` and ``7``."""
    number = re.fullmatch(r"\D*?0*(\d+)", name.strip())
    return f"patient {number[1]}" if number else plain(name)


def _by_patient(images: Sequence[PurePath]) -> Index:
    index: dict[str, list[str]] = defaultdict(list)
    for image in images:
        patient = next((part for part in image.parts[:-1] if role_of(part) == "patient"), "")
        index[_key(patient) if patient else ""].append(image.as_posix())
    index.pop("", None)
    return index
