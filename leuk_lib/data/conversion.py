"""Convert data that are not one image file per cell into an ordinary data folder, once."""

from __future__ import annotations

import csv
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from leuk_lib.data.catalog import data_root
from leuk_lib.data.findings import SEVERITIES, Finding
from leuk_lib.data.image_files import Unreadable, check_size, hash_of, is_inside
from leuk_lib.data.readers.reader import Cell, CellReader, Note, Options
from leuk_lib.data.tables import MANIFEST, is_plain
from leuk_lib.quoting import terminal
from leuk_lib.runs import progress
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import sha256_json
from leuk_lib.runs.records import Record, read_record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FOLDER, ABOUT, FINDINGS = ".converted", "source.json", "findings.csv"
COLUMNS = ("path", "label", "group", "part", "external", "label2", "um_per_px", "source")
TAKEN = frozenset((*COLUMNS, "mask", "label3", "foreign"))  # columns of a manifest with a meaning
FORM = 1  # of the converted folder; a change makes new ones


class Source(Record):
    """What a converted folder's ``source.json`` must state for its reader."""

    cells: int = Field(ge=0)
    notes: list[str]


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, or of the names and bytes of all files in a folder that are not hidden."""
    if not path.is_dir():
        return hash_of(path)
    digest = hashlib.sha256()
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            file = Path(folder) / name
            digest.update(f"{os.fsencode(file.relative_to(path))!r}\x1f{hash_of(file)}\x1e".encode())
    return digest.hexdigest()


def converted(source: Path, reader: CellReader, options: Options) -> Path:
    """Return the folder of the converted cells; write it if these files were not converted with these options before.

    The folder lies in ``.converted/`` below the folder of the known sets. It holds lossless PNGs in class folders, a
    manifest, the reader's findings and ``source.json``. It appears complete or not at all.

    Args:
        source: The data, a file or folder.
        reader: The reader of the data.
        options: The reader's options.

    Raises:
        LeukError: As the reader does; for data without a usable cell, a full disk and missing rights.
    """
    content = content_hash(source)
    about = {"form": FORM, "reader": reader.name, "version": reader.version, "options": dict(options.values)}
    key = sha256_json({**about, "name": source.name, "sha256": content})[:16]
    target = data_root() / FOLDER / f"{_safe(source.stem or source.name)}-{key}"
    if (target / ABOUT).is_file():
        return target
    about |= {"title": reader.title, "source": source.name, "sha256": content}
    unfinished = target.with_name(f"{target.name}.unfinished")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lock(target.with_name(f"{target.name}.lock")):
            if (target / ABOUT).is_file():  # another process converted it meanwhile
                return target
            shutil.rmtree(unfinished, ignore_errors=True)
            try:
                _write(unfinished, source, reader, options, about)
                shutil.rmtree(target, ignore_errors=True)  # without source.json: not ours, or damaged
                unfinished.rename(target)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = f"{target}: the disk is full; free some space and run again, nothing was lost"
        else:
            text = f"{error.filename or target}: cannot be read or written ({error.strerror}); check its rights"
        raise LeukError(text, exit_code=2) from error
    return target


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _write(folder: Path, source: Path, reader: CellReader, options: Options, about: dict[str, Any]) -> None:
    folder.mkdir()
    notes: list[str] = []
    used: set[str] = set()
    labels: Counter[str] = Counter()
    table: list[tuple[tuple[str, ...], Mapping[str, str]]] = []
    attributes: dict[str, None] = {}  # names in the order in which they appear
    first, worst = "", len(SEVERITIES)
    pixels = _Pixels(source)
    with (
        progress.counted(f"converting {source.name}", reader.count(source, options) or 0, "cell") as update,
        (folder / MANIFEST).open("w", newline="", encoding="utf-8") as manifest,
        (folder / FINDINGS).open("w", newline="", encoding="utf-8") as findings,
    ):
        problems = csv.writer(findings)
        problems.writerow(Finding._fields)
        for item in reader.cells(source, options):
            if isinstance(item, Note):
                notes.append(terminal(item.text))  # as UTF-8, which names in JSON need not be
                continue
            problem = item if isinstance(item, Finding) else None
            if isinstance(item, Cell) and (strange := _strange(item)):
                what = f"{strange!r} holds a line break, a control character or no text"
                problem = Finding(ascii(item.name), ascii(what), "error", "left out; rename it in the source")
            elif isinstance(item, Cell):
                update(1)
                path = _path_of(item, used, reader.name)
                try:
                    _save(folder / path, pixels.of(item))
                except Unreadable as reason:
                    problem = Finding(item.source or item.name, str(reason), "error", "left out; restore the source")
                else:
                    labels[item.label] += 1
                    scale = "" if item.um_per_px is None else f"{item.um_per_px:g}"
                    row = (path, item.label, item.group, item.part, item.external, item.label2, scale, item.source)
                    table.append((row, item.attributes))
                    attributes |= dict.fromkeys(item.attributes)
            if problem:
                rank = SEVERITIES.index(problem.severity)
                if rank < worst:
                    worst, first = rank, f"{problem.path}: {problem.finding}"
                problems.writerow(text if is_plain(text) else ascii(text) for text in problem)
        rows = csv.writer(manifest)
        rows.writerow([*COLUMNS, *(f"attribute_{name}" if name in TAKEN else name for name in attributes)])
        rows.writerows([*row, *(extra.get(name, "") for name in attributes)] for row, extra in table)
        for handle in (manifest, findings):
            handle.flush()
            os.fsync(handle.fileno())
    if not labels:
        raise LeukError(
            f"{source}: reader {reader.name} found no usable cell" + (f" ({first})" if first else ""), exit_code=2
        )
    with (folder / ABOUT).open("w", encoding="utf-8") as handle:
        json.dump({**about, "cells": sum(labels.values()), "notes": notes}, handle, indent=1, ensure_ascii=False)
        handle.flush()
        os.fsync(handle.fileno())


def _strange(cell: Cell) -> str:
    """Return the first text of a cell that cannot stand in a table, or ""."""
    texts = [cell.name, cell.label, cell.group, cell.part, cell.external, cell.label2, cell.source]
    texts += [*map(str, cell.attributes), *map(str, cell.attributes.values())]
    return next((text for text in texts if not is_plain(text)), "")


def _path_of(cell: Cell, used: set[str], reader: str) -> str:
    """Return the path of a cell's PNG; the manifest, not the folder, holds the class."""
    if not cell.label.strip():
        raise LeukError(f"reader {reader}: cell {cell.name!r} has no class; yield a finding instead", exit_code=2)
    path = "/".join([_safe(cell.label), *(_safe(part) for part in cell.name.split("/"))]) + ".png"
    if path.casefold() in used:
        raise LeukError(f"reader {reader}: two cells are called {cell.name!r} ({cell.label})", exit_code=2)
    used.add(path.casefold())
    return path


def _safe(name: str) -> str:
    """Make one component of a path from any text: letters, digits and a few signs; no reserved or hidden name.

    Example:
        >>> _safe("../AML: M3"), _safe("masks")
        ('_AML_ M3', 'masks_')
    """
    text = re.sub(r"[^\w .+()#=-]+", "_", unicodedata.normalize("NFC", name)).strip(" .")
    text = re.sub(r"\.\.+", "_", text)[:80] or "_"
    return f"{text}_" if text.casefold() in ("masks", "licenses", "__macosx") else text


class _Pixels:
    """The pixels of cells. The last source image is kept, since the cells of a field of view follow each other."""

    def __init__(self, root: Path) -> None:
        self._root = (root if root.is_dir() else root.parent).resolve()
        self._last: tuple[str, NDArray[np.uint8]] | None = None

    def of(self, cell: Cell) -> NDArray[np.uint8]:
        """Return the pixels of a cell, (H,W,3) RGB or (H,W), uint8.

        Raises:
            Unreadable: For pixels of another type or shape, a source that cannot be read, and a box outside of it.
        """
        import numpy as np

        image = cell.image
        if image is None:
            image = self._field(cell.source)
            if cell.box is not None:
                height, width = image.shape[:2]
                left, top, right, bottom = cell.box
                image = image[max(0, top) : max(0, min(height, bottom)), max(0, left) : max(0, min(width, right))]
                if not image.size:
                    raise Unreadable(f"box {tuple(cell.box)} lies outside of the image ({width} x {height} pixels)")
        shape = image.shape
        if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and shape[2] == 3)):
            raise Unreadable(f"pixels must be (H,W,3) or (H,W) uint8, got {shape} {image.dtype}")
        check_size(shape[1], shape[0])
        return image

    def _field(self, source: str) -> NDArray[np.uint8]:
        from leuk_lib.data.decode import decode_file

        if self._last is None or self._last[0] != source:
            path = self._root / source
            if not is_inside(path, self._root):
                raise Unreadable("lies outside of the data folder")
            self._last = (source, decode_file(path).image)
        return self._last[1]


def _save(path: Path, image: NDArray[np.uint8]) -> None:
    import cv2
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    ordered = image if image.ndim == 2 else np.ascontiguousarray(image[..., ::-1])
    path.write_bytes(cv2.imencode(".png", ordered, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes())


def about(folder: Path) -> dict[str, Any]:
    """Return the content of a converted folder's ``source.json``: reader, options, source, sha256, cells, notes."""
    return read_record(folder / ABOUT, Source, "the description of a converted data set", f"delete the folder {folder}")


def findings_of(folder: Path) -> list[Finding]:
    """Return the reader's findings about a converted folder.

    Raises:
        LeukError: If the table is missing or damaged.
    """
    file = folder / FINDINGS
    try:
        with file.open(newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
        found = [Finding(*(row[name] for name in Finding._fields)) for row in rows]  # type: ignore[arg-type]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
        raise LeukError(f"{file}: damaged ({error}); delete the folder {folder}", exit_code=2) from error
    if any(row.severity not in SEVERITIES for row in found):
        raise LeukError(f"{file}: damaged; delete the folder {folder}", exit_code=2)
    return found
