"""Files of an annotated folder: the images by name, and bounded reading of JSON and XML."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

from leuk_lib.data.findings import Finding
from leuk_lib.data.image_files import IMAGES, Unreadable, is_inside, open_regular
from leuk_lib.data.layouts import part_of
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.numbers import load_json

MAX_JSON = 1 << 29  # bytes of one annotation file
MAX_SMALL = 1 << 24  # bytes of one XML or text file
MAX_FILES = 2_000_000
ENCODINGS = {"utf-8", "utf8", "ascii", "us-ascii", "iso-8859-1", "latin-1", "windows-1252"}


def same_name(name: str) -> str:
    r"""Reduce a file name to what stays the same between file systems: Unicode form C, lower case, "/".

    Example:
        >>> same_name("Images\\A.PNG")
        'images/a.png'
    """
    return unicodedata.normalize("NFC", name.replace("\\", "/")).strip().casefold()


def part_of_path(path: PurePosixPath) -> str:
    """Return the published part that a path's innermost folder or its own name states, or ""."""
    for name in (path.stem, *reversed(path.parts[:-1])):
        if part := part_of(name):
            return part
    return ""


def part_of_folders(path: PurePosixPath) -> str:
    """Return the published part of an image: what its innermost folder states, else its own name without a number."""
    stated = next((part for name in reversed(path.parts[:-1]) if (part := part_of(name))), "")
    return stated or part_of(path.stem).split(" ")[0]


class FolderFiles:
    """The files below a folder, without hidden ones and links that lead out of it.

    Attributes:
        root: The folder, resolved.
        paths: Relative to it, sorted.
        images: Those with the suffix of an image.
        unnamed: Files that are not used, as their names cannot be printed.
    """

    def __init__(self, root: Path, subset: str = "") -> None:
        self.root = root.resolve()
        self.unnamed: list[str] = []
        found: list[PurePosixPath] = []
        for folder, folders, names in os.walk(self.root):
            folders[:] = sorted(f for f in folders if not f.startswith((".", "__MACOSX")))
            inside = Path(folder).relative_to(self.root)
            for name in sorted(names):
                file = Path(folder) / name
                if name.startswith(".") or (file.is_symlink() and not is_inside(file, self.root)):
                    continue
                if not name.isprintable():
                    self.unnamed.append(ascii(file.name))
                    continue
                found.append(PurePosixPath((inside / name).as_posix()))
            if len(found) > MAX_FILES:
                raise LeukError(f"{root}: more than {MAX_FILES} files", exit_code=2)
        wanted = same_name(subset)
        self.paths = tuple(p for p in sorted(found) if not subset or wanted in map(same_name, p.parts[:-1]))
        if subset and not self.paths:
            raise LeukError(f"{root}: no folder {subset!r} in it (subset)", exit_code=2)
        self.images = tuple(path for path in self.paths if path.suffix.lower() in IMAGES)
        self._by_name: dict[str, list[PurePosixPath]] = defaultdict(list)
        self._by_stem: dict[str, list[PurePosixPath]] = defaultdict(list)
        for path in self.images:
            self._by_name[same_name(path.name)].append(path)
            self._by_stem[same_name(path.stem)].append(path)

    def with_suffix(self, *suffixes: str) -> list[PurePosixPath]:
        """Return the files with one of these suffixes (lower case), sorted."""
        return [path for path in self.paths if path.suffix.lower() in suffixes]

    def image(self, name: str, annotation: PurePosixPath, part: str = "") -> tuple[PurePosixPath | None, str]:
        """Find the image that an annotation names.

        Of several images with the name, the one at the very path wins, then the one whose path ends as the name does,
        the one in the same letter case, the one in the nearest folder, and the one in the annotation's published part.

        Args:
            name: File name or path; without a known suffix the stem.
            annotation: File that names it.
            part: Published part that the annotation states.

        Returns:
            The image, or None and why: "missing" or "ambiguous".
        """
        wanted = PurePosixPath(same_name(name))
        hits = self._by_name.get(wanted.name, [])
        if not hits:
            stem = wanted.stem if wanted.suffix in IMAGES else wanted.name
            hits = self._by_stem.get(stem, [])
        if not hits:
            return None, "missing"
        stated = PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/")).strip())
        exact = {stated, annotation.parent / stated}
        for rank in (
            lambda path: path in exact,
            lambda path: same_name(path.as_posix()).endswith(wanted.as_posix().lstrip("./")),
            lambda path: unicodedata.normalize("NFC", path.name) == stated.name,
            lambda path: _shared_folders(path, annotation),
            lambda path: part_of_folders(path) == part,
        ):
            if len(hits) > 1:
                best = max(map(rank, hits))
                hits = [path for path in hits if rank(path) == best]
        return (hits[0], "") if len(hits) == 1 else (None, "ambiguous")

    def read(self, path: PurePosixPath, limit: int) -> bytes:
        """Return the bytes of a file.

        Raises:
            LeukError: If it cannot be read or has more than ``limit`` bytes.
        """
        try:
            with open_regular(self.root / path) as file:
                data = file.read(limit + 1)
        except Unreadable as error:
            raise LeukError(f"{path}: {error}", exit_code=2) from error
        if len(data) > limit:
            raise LeukError(f"{path}: more than {limit >> 20} MiB, too large for an annotation", exit_code=2)
        return data

    def head(self, path: PurePosixPath, size: int = 65536) -> bytes:
        """Return the first bytes of a file, b"" if it cannot be read."""
        try:
            with open_regular(self.root / path) as file:
                return file.read(size)
        except Unreadable:
            return b""

    def read_json(self, path: PurePosixPath) -> Any:
        """Parse a JSON file; a name that stands twice in one object is an error, as one of the two would be lost.

        Raises:
            LeukError: If it cannot be read or is not JSON.
        """
        try:
            return load_json(self.read(path, MAX_JSON).decode("utf-8-sig"))
        except (ValueError, MemoryError) as error:
            raise LeukError(f"{path}: cannot be read as JSON ({error})", exit_code=2) from error

    def read_text(self, path: PurePosixPath) -> str:
        """Return a small text file.

        Raises:
            LeukError: If it cannot be read or is not UTF-8.
        """
        try:
            return self.read(path, MAX_SMALL).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise LeukError(f"{path}: is not UTF-8 text; save it as UTF-8", exit_code=2) from error

    def read_xml(self, path: PurePosixPath) -> ElementTree.Element:
        """Parse an XML file without a document type, in which entities could be declared.

        Raises:
            LeukError: If it cannot be read, declares a document type, or is not XML.
        """
        data = self.read(path, MAX_SMALL)
        try:
            return parse_xml(data)
        except ValueError as error:
            raise LeukError(f"{path}: {error}", exit_code=2) from error


def parse_xml(data: bytes) -> ElementTree.Element:
    """Parse an annotation in XML without a document type, in which entities could be declared.

    Raises:
        ValueError: If it states an unusual encoding, declares a document type, or is not XML.
    """
    stated = re.match(rb"(?:\xef\xbb\xbf)?\s*<\?xml[^>]*?encoding\s*=\s*[\"']([\w.-]+)[\"']", data)
    encoding = stated[1].decode().lower() if stated else "utf-8"
    if encoding not in ENCODINGS:
        raise ValueError(f"encoding {encoding}; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig" if encoding in ("utf-8", "utf8") else encoding)
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise ValueError("declares a document type, which no annotation needs; not read")
        return ElementTree.fromstring(text)
    except (UnicodeDecodeError, ElementTree.ParseError, RecursionError) as error:
        raise ValueError(f"cannot be read as XML ({error})") from error


def without_image(annotation: PurePosixPath, boxes: int, name: str, why: str) -> Finding:
    """Return the finding about an annotation of one image which is not in the folder, or which several images may be."""
    what = f"boxes without their image: {boxes} boxes, {name} ({why})"
    return Finding(str(annotation), what, "error", "add the image, or give each image a name of its own")


def _shared_folders(first: PurePosixPath, second: PurePosixPath) -> int:
    """Count the outer folders that two paths share."""
    number = 0
    for a, b in zip(first.parts[:-1], second.parts[:-1], strict=False):
        if a != b:
            break
        number += 1
    return number
