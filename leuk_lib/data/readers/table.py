"""Any table that states labels, groups or parts of image files by name; and what readers of published tables share."""

from __future__ import annotations

import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, ClassVar, NamedTuple

from leuk_lib.data.findings import Finding, Severity
from leuk_lib.data.layouts import part_of
from leuk_lib.data.readers.reader import AnnotationReader, Annotations, Options
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.params import nearest
from leuk_lib.runs.paths import user_path

STATED = ("label", "group", "part", "external", "label2", "label3", "um_per_px")
MISSING = frozenset({"", "nan", "na", "n/a", "none", "null", "-", "?"})
DEPTH = 2  # folders below the data folder in which a published table is looked for

Row = Mapping[str, str]
Index = Mapping[str, Sequence[str]]  # key of a row -> images


class Statement(NamedTuple):
    """What one row of a table states.

    Attributes:
        key: The image, by file name or path, or whatever the index of the reader knows.
        values: Column of ``STATED`` -> value.
        where: Table and row number, for messages.
    """

    key: str
    values: Mapping[str, str]
    where: str


def find(root: Path, *names: str) -> list[Path]:
    """Find files by their names, which may hold wildcards, in a folder and up to two levels below."""
    if not root.is_dir():
        return []
    found = {
        path.resolve()
        for name in names
        for depth in range(DEPTH + 1)
        for path in root.glob("/".join([*["*"] * depth, name]))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)
    }
    return sorted(found)


def read_rows(file: Path, needed: Sequence[str], header: bool = True, separator: str = "") -> Iterator[tuple[str, Row]]:
    """Read a table with pandas, all values as text without blanks around them.

    Args:
        file: CSV file; commas, semicolons and tabs are recognised by the first line.
        needed: Columns that must be there. Without a header, the names of the columns; the last ones may be missing.
        header: Whether the first row names the columns.
        separator: Regular expression; "" to recognise it.

    Yields:
        Where the row stands, for messages, and its values by column.

    Raises:
        LeukError: For a file that cannot be read, a table without rows, and missing columns (the message names those
            that there are).
    """
    import pandas as pd

    try:
        first = next((line for line in file.open(encoding="utf-8-sig") if line.strip()), "")
        if not first:
            raise LeukError(f"{file}: the table is empty; fetch it again from its source", exit_code=2)
        separator = separator or max((",", ";", "\t"), key=first.count)
        how: dict[str, Any] = {"header": 0} if header else {"header": None, "names": list(needed)}
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # values beyond the last column would be lost
            table = pd.read_csv(
            file, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True,
            index_col=False, engine="python", **how,
        ).fillna("")  # fmt: skip
    except LeukError:
        raise
    except (OSError, UnicodeDecodeError, ValueError, pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise LeukError(f"{file}: cannot be read as a table ({str(error).splitlines()[0]})", exit_code=2) from error
    table.columns = [str(name).strip() for name in table.columns]
    for name in needed:
        if name not in table:
            raise LeukError(f"{file}: no column {name!r}; {nearest(name, map(str, table.columns))}", exit_code=2)
    if table.empty:
        raise LeukError(
            f"{file}: the table has a header but no rows, as in some copies of published sets; fetch it from its source",
            exit_code=2,
        )
    for number, row in enumerate(table.to_dict(orient="records"), start=2 if header else 1):
        yield f"{file.name} row {number}", {str(key): str(value).strip() for key, value in row.items()}


def header_of(file: Path) -> set[str]:
    """Return the column names in the first line of a table; nothing where it cannot be read."""
    try:
        with file.open(encoding="utf-8-sig") as handle:
            first = handle.readline(65_536)
    except (OSError, UnicodeDecodeError):
        return set()
    separator = max((",", ";", "\t"), key=first.count)
    return {name.strip().strip('"') for name in first.split(separator)}


def has_columns(file: Path, columns: Collection[str]) -> bool:
    """Whether a table has these columns, or is empty, which its reader refuses with advice."""
    return header_of(file).issuperset(columns) or not file.stat().st_size


def given(value: str) -> str:
    """Return a value, "" where it says that there is none."""
    return "" if value.casefold() in MISSING else value


def by_name(images: Iterable[PurePath]) -> Index:
    """Index images by the ends of their paths, with and without suffix."""
    index: dict[str, list[str]] = defaultdict(list)
    for image in images:
        parts = [unicodedata.normalize("NFC", part) for part in image.parts]
        stem = unicodedata.normalize("NFC", image.stem)
        for depth in range(1, len(parts) + 1):
            index["/".join(parts[-depth:])].append(image.as_posix())
            index["/".join([*parts[-depth:-1], stem, ""])].append(image.as_posix())  # "/" at the end: without suffix
    return index


def look_up(index: Index, key: str) -> Sequence[str]:
    """Return the images that a row's key may mean: one of the two paths must be the end of the other one.

    A suffix may be missing on one side or differ, as after a conversion to PNG.
    """
    path = PurePosixPath(unicodedata.normalize("NFC", key.replace("\\", "/")))
    parts = [part for part in path.parts if part not in ("/", "..")]
    for name in (path.name, f"{path.name}/", f"{path.stem}/"):
        for start in range(len(parts)):
            tail = "/".join([*parts[start:-1], name])
            found = index.get(tail, ())
            if start:  # the row's path is longer: the image's whole path must be its end
                found = [image for image in found if image.count("/") == len(parts) - start - 1]
            if found:
                return found
    return ()


def annotate(
    statements: Iterable[Statement],
    images: Sequence[PurePath],
    index: Index,
    table: str,
    *,
    complete: bool = False,
    many: bool = False,
    notes: Sequence[str] = (),
) -> Annotations:
    """Give the rows of a table to the images that they are about.

    Args:
        statements: The rows.
        images: All images of the folder.
        index: Key of a row -> images, as from ``by_name``.
        table: Name of the table, for findings.
        complete: The table says which images belong to the set; the others are left out.
        many: One row may be about several images, as that of a patient is.
        notes: Lines for a person.

    Returns:
        Rows by image. Rows that fit no image or several, rows without a class, repeated rows, and images without a row
        are findings with counts.

    Raises:
        LeukError: If two rows about one image contradict each other, or if no row fits any image.
    """
    rows: dict[str, dict[str, str]] = {}
    origin: dict[str, str] = {}
    lost, ambiguous, repeated, total = [], [], [], 0
    for statement in statements:
        total += 1
        found = look_up(index, statement.key)
        if not found:
            lost.append(f"{statement.key} ({statement.where})")
            continue
        if len(found) > 1 and not many:
            ambiguous.append(f"{statement.key}: {', '.join(found[:3])}")
            continue
        for name in found:
            values = {key: value for key, value in statement.values.items() if value}
            if name in rows and rows[name] != values:
                column = next(k for k in STATED if rows[name].get(k, "") != values.get(k, ""))
                raise LeukError(
                    f"{table}: {origin[name]} and {statement.where} contradict each other about {name} ({column} "
                    f"{rows[name].get(column, '')!r} and {values.get(column, '')!r}); keep the right one",
                    exit_code=2,
                )
            if name in rows and not many:
                repeated.append(f"{name} ({statement.where})")
            rows[name], origin[name] = values, statement.where
    if not rows:
        raise LeukError(
            f"{table}: none of its {total} rows fits one of the {len(images)} images (the first is about "
            f"{(lost or ambiguous or ['nothing'])[0]}); does it belong to this folder?",
            exit_code=2,
        )
    others = [image.as_posix() for image in images if image.as_posix() not in rows]
    kinds: tuple[tuple[str, list[str], int, Severity, str], ...] = (
        ("rows that fit no image", lost, total, "warning", "the files are missing, or have other names here"),
        ("rows that fit several images", ambiguous, total, "warning", "not used; give the path in the table"),
        ("rows that are repeated", repeated, total, "info", "nothing to do"),
        ("images without a row", [] if complete else others, len(images), "info", "read as their folders say"),
    )
    findings = [
        Finding(table, f"{what}: {len(names)} of {of}, such as {names[0]}", severity, advice)
        for what, names, of, severity, advice in kinds
        if names
    ]
    left_out = dict.fromkeys(others, f"not in {table}, which says what belongs to the set") if complete else {}
    return Annotations(rows, left_out, findings, notes)


class Table(AnnotationReader):
    """Reads any table by a mapping of its columns that the options declare."""

    name = "table"
    title = "any table with a row per image"
    options: ClassVar[Mapping[str, str]] = {
        "table": "file, relative to the data folder; several by a wildcard, as in labels_*.csv",
        "name": "column with the image's file name or path",
        "label": "column with the class; images without a row are then left out",
        "group": "column with the patient, slide or subject",
        "part": "column with the published part; without it, the parts that the names of several tables state",
        "external": "column with the name of an external test set",
        "label2": "column with the class according to a second expert",
        "label3": "column with a third reading",
        "um_per_px": "column with micrometres per pixel",
    }

    def sources(self, path: Path, options: Options) -> list[Path]:
        """Return the tables."""
        wanted = options.text("table")
        if not wanted:
            raise LeukError("reader table: name the file with --option table=FILE", exit_code=2)
        file = path / user_path(wanted)
        found = [file] if file.is_file() else sorted(file for file in path.glob(wanted.lstrip("/")) if file.is_file())
        if not found:
            raise LeukError(f"reader table: no file {wanted!r} in {path}", exit_code=2)
        return [file.resolve() for file in found]

    def annotations(self, root: Path, images: Sequence[PurePath], options: Options) -> Annotations:
        """Return what the declared columns state."""
        files = self.sources(root, options)
        columns = {column: name for column in STATED if (name := options.text(column))}
        if not options.text("name") or not columns:
            raise LeukError(
                f"reader table: --option name=COLUMN and one of {', '.join(STATED)} are needed, as in "
                "--option name=file --option label=diagnosis",
                exit_code=2,
            )
        parts = [part_of(file.stem) for file in files] if "part" not in columns and len(files) > 1 else []
        parts = parts if parts and all(parts) else [""] * len(files)

        def statements() -> Iterator[Statement]:
            for file, part in zip(files, parts, strict=True):
                for where, row in read_rows(file, [options.text("name"), *columns.values()]):
                    values = {column: given(row[name]) for column, name in columns.items()}
                    values["part"] = part_of(values.get("part", "")) or values.get("part", "") or part
                    yield Statement(row[options.text("name")], values, where)

        table = ", ".join(file.name for file in files)
        notes = [f"{table}: " + ", ".join(f"{column} from column {name}" for column, name in columns.items())]
        return annotate(statements(), images, by_name(images), table, complete="label" in columns, notes=notes)


READER = Table()
