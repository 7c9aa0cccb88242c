"""Lay out downloaded archives as class folders; only known images and tables leave the archive."""

from __future__ import annotations

import csv
import errno
import io
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import cv2
import numpy as np

from leuk_lib.data.catalog import WBC_TYPES, KnownSet
from leuk_lib.data.decode import MAX_BYTES, Unreadable, decode
from leuk_lib.data.listing import IMAGES
from leuk_lib.data.tables import METADATA
from leuk_lib.runs.errors import LeukError

MAX_FILES = 200_000  # in an archive
MARGIN = 0.25  # added on each side of a box, as a fraction of its longer side

Members = dict[str, zipfile.ZipInfo]
Layout = Callable[[zipfile.ZipFile, Members, Path, KnownSet], int]


def arrange(archive: Path, target: Path, known: KnownSet, layout: str) -> int:
    """Lay out an archive as class folders, all or nothing.

    Args:
        archive: ZIP file.
        target: Folder to create.
        known: The data set.
        layout: Key of ``LAYOUTS``.

    Returns:
        Number of images.

    Raises:
        LeukError: If the archive is damaged or does not hold what it should, for a full disk, and for missing rights.
    """
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            count = LAYOUTS[layout](opened, _members(opened), unfinished, known)
        if not count:
            raise LeukError(f"{archive}: no image of {known.name} in it; has the provider changed its layout?")
        unfinished.rename(target)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise LeukError(_message(error, archive, target)) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return count


def _message(error: Exception, archive: Path, target: Path) -> str:
    """Say what to do; only a damaged archive has to be downloaded again."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{target}: the disk is full; free some space and run again, nothing was lost"
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.filename or target}: cannot be read or written ({error.strerror}); check the folder's rights"
    return f"{archive}: not a complete ZIP archive ({error}); delete it and download it again"


def _members(opened: zipfile.ZipFile) -> Members:
    """List the archive's files by path, without links, hidden files and files of more than 512 MiB."""
    infos = opened.infolist()
    if len(infos) > MAX_FILES:
        raise LeukError(f"{opened.filename}: {len(infos)} files are too many for this set")
    return {
        info.filename: info
        for info in infos
        if not info.is_dir()
        and info.file_size <= MAX_BYTES
        and not any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(info.filename).parts)
        and (info.external_attr >> 28) != 0xA  # a symbolic link
    }


def _write(target: Path, label: str, name: str, data: bytes) -> None:
    """Write a file by class and bare name: paths in the archive do not decide where it goes."""
    file = target / label / PurePosixPath(name).name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def _folders(opened: zipfile.ZipFile, members: Members, target: Path, known: KnownSet) -> int:
    """Extract class folders at any depth, also from archives inside the archive."""
    count = 0
    for name, info in members.items():
        path = PurePosixPath(name)
        if path.suffix.lower() == ".zip":
            with zipfile.ZipFile(io.BytesIO(opened.read(info))) as inner:
                count += _folders(inner, _members(inner), target, known)
            continue
        label = next(filter(None, map(known.class_of, reversed(path.parts[:-1]))), "")
        if label and path.suffix.lower() in IMAGES:
            _write(target, label, name, opened.read(info))
            count += 1
    return count


def _segmentation_wbc(opened: zipfile.ZipFile, members: Members, target: Path, known: KnownSet) -> int:
    """Extract ``Dataset 1/001.bmp`` with its mask ``001.png``; a table holds the classes 1 to 5."""
    table = next((n for n in members if PurePosixPath(n).name == "Class Labels of Dataset 1.csv"), None)
    if table is None:
        raise LeukError(f"{opened.filename}: no table of class labels in it; has the provider changed its layout?")
    # 1 neutrophil, 2 lymphocyte, 3 monocyte, 4 eosinophil, 5 basophil.
    names = dict(zip("12345", (WBC_TYPES[4], WBC_TYPES[2], WBC_TYPES[3], WBC_TYPES[1], WBC_TYPES[0]), strict=True))
    rows = csv.reader(io.StringIO(opened.read(table).decode("utf-8-sig")))
    labels = {row[0].strip(): names[row[1].strip()] for row in rows if len(row) > 1 and row[1].strip() in names}
    count = 0
    for name, info in members.items():
        path = PurePosixPath(name)
        label = labels.get(path.stem.lstrip("0"))
        if path.parent.name != "Dataset 1" or label is None:
            continue
        if path.suffix.lower() == ".bmp":
            _write(target, label, f"tecom_{path.stem}.bmp", opened.read(info))
            count += 1
        elif path.suffix.lower() == ".png":
            _write(target, "masks", f"tecom_{path.stem}.png", opened.read(info))
    return count


def _voc_boxes(opened: zipfile.ZipFile, members: Members, target: Path, known: KnownSet) -> int:
    """Cut each box of a Pascal VOC annotation out as a square image; its group is the field of view."""
    fields = {PurePosixPath(n).stem: n for n in members if PurePosixPath(n).suffix.lower() in IMAGES}
    groups = []
    for name in sorted(members):
        path = PurePosixPath(name)
        if path.suffix.lower() != ".xml" or path.stem not in fields:
            continue
        try:
            image = decode(opened.read(fields[path.stem])).image
        except Unreadable as error:
            raise LeukError(f"{opened.filename}: {fields[path.stem]}: {error}") from error
        for number, (label, box) in enumerate(_boxes(opened.read(name))):
            cut = _cut(image, box)
            if known.class_of(label) and min(cut.shape[:2]) >= 24:
                file = f"{path.stem}_{number:02d}.png"
                _write(target, known.class_of(label), file, cv2.imencode(".png", cut[..., ::-1])[1].tobytes())
                groups.append((file, path.stem))
    if groups:
        with (target / METADATA).open("w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows([("file", "slide"), *groups])
    return len(groups)


def _boxes(annotation: bytes) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    if b"<!DOCTYPE" in annotation or b"<!ENTITY" in annotation:
        raise LeukError(
            "an annotation holds a document type, which no VOC annotation needs; the archive is not trusted"
        )
    try:
        for element in ElementTree.fromstring(annotation).iter("object"):
            box = element.find("bndbox")
            if box is not None:
                sides = [int(float(box.findtext(side, "0"))) for side in ("xmin", "ymin", "xmax", "ymax")]
                yield element.findtext("name", "").strip(), (sides[0], sides[1], sides[2], sides[3])
    except (ElementTree.ParseError, ValueError) as error:
        raise LeukError(f"an annotation cannot be read ({error})") from error


def _cut(image: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Cut out a square around the box with a margin, moved inwards at the border."""
    left, top, right, bottom = box
    side = min(round(max(right - left, bottom - top) * (1 + 2 * MARGIN)), *image.shape[:2])
    x = int(np.clip((left + right - side) // 2, 0, image.shape[1] - side))
    y = int(np.clip((top + bottom - side) // 2, 0, image.shape[0] - side))
    return image[y : y + max(side, 0), x : x + max(side, 0)]


LAYOUTS: dict[str, Layout] = {"folders": _folders, "segmentation_wbc": _segmentation_wbc, "voc_boxes": _voc_boxes}
