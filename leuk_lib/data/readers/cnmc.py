"""C-NMC 2019, preliminary test phase: images ``1.bmp`` … whose class and subject stand in a table.

Source: Gupta and Gupta. ALL Challenge dataset of ISBI 2019; doi:10.7937/tcia.2019.dc64i46r.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from leuk_lib.data.file_names import PATTERNS
from leuk_lib.data.readers.reader import AnnotationReader, Annotations, Options
from leuk_lib.data.readers.table import Statement, annotate, by_name, find, read_rows
from leuk_lib.runs.errors import LeukError

TABLE = "C-NMC_test_prelim_phase_data_labels.csv"
COLUMNS = ("Patient_ID", "new_names", "labels")
CLASSES = {"1": "ALL", "0": "normal"}


class CnmcPhase2(AnnotationReader):
    """Reads the table of the preliminary test phase, also where the training folds lie beside it."""

    name = "cnmc-phase2"
    title = "C-NMC 2019 with its preliminary test phase: class and subject by table"

    def recognises(self, path: Path) -> bool:
        """Return whether the table is there."""
        return bool(find(path, TABLE))

    def sources(self, path: Path, options: Options) -> list[Path]:
        """Return the table."""
        return find(path, TABLE)

    def annotations(self, root: Path, images: Sequence[PurePath], options: Options) -> Annotations:
        """Return class, subject and the part "test"."""
        numbered = [image for image in images if image.stem.isdecimal()]
        # The final test phase has images of the same names and no labels.
        phase = [image for image in numbered if any("prelim" in part.lower() for part in image.parts[:-1])]
        differing = []

        def statements() -> Iterator[Statement]:
            for file in self.sources(root, options):
                for where, row in read_rows(file, COLUMNS):
                    number = row["labels"].removesuffix(".0")
                    if number not in CLASSES:
                        raise LeukError(f"{where}: labels {row['labels']!r} must be 1 (ALL) or 0 (normal)", exit_code=2)
                    original = row["Patient_ID"]
                    stated = PATTERNS["cnmc"].read(PurePath(original)) or {}
                    if stated.get("label", CLASSES[number]) != CLASSES[number]:
                        differing.append(f"{where}: {original} has label {number}")
                    values = {"label": CLASSES[number], "group": stated.get("group", original), "part": "test"}
                    yield Statement(row["new_names"], values, where)

        found = annotate(statements(), images, by_name(phase or numbered), TABLE)
        if differing:
            raise LeukError(
                f"{len(differing)} rows contradict the original file name ({differing[0]}); fetch the table again",
                exit_code=2,
            )
        # The names of the training images say what they are.
        training = {
            image.as_posix(): {key: stated[key] for key in ("label", "group")}
            for image in images
            if (stated := PATTERNS["cnmc"].read(image))
        }
        final = [image.as_posix() for image in numbered if phase and image not in phase]
        notes = [f"{len(training)} training images by their names"] if training else []
        return found._replace(
            rows={**training, **found.rows},
            left_out=dict.fromkeys(final, "final test phase: no labels were published"),
            findings=[f for f in found.findings if not f.finding.startswith("images without a row")],
            notes=notes,
        )


READER = CnmcPhase2()
