"""Lay out downloaded archives as class folders; only known images and tables leave the archive."""

from __future__ import annotations

import csv
import errno
import io
import lzma
import shutil
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

import cv2
import numpy as np

from leuk_lib.data.boxes.files import parse_xml
from leuk_lib.data.decode import MAX_BYTES, Unreadable, decode
from leuk_lib.data.image_files import IMAGES
from leuk_lib.data.known_set import KnownSet
from leuk_lib.data.known_sets import WBC_TYPES
from leuk_lib.data.tables import METADATA
from leuk_lib.runs.errors import LeukError

MAX_FILES = 300_000  # in an archive
MAX_RATIO = 200  # unpacked bytes per byte of the archive; images and tables stay far below
MAX_SMALL = 1 << 26  # unpacked bytes that are allowed in any case
MAX_DEPTH = 2  # archives inside the archive
MARGIN = 0.25  # added on each side of a box, as a fraction of its longer side
RAR = b"Rar!\x1a\x07"
UNREADABLE = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, UnicodeDecodeError,
    NotImplementedError, csv.Error,
)  # fmt: skip


@dataclass(frozen=True)
class Archive:
    """The files of an opened archive that may leave it.

    Attributes:
        name: Path of the archive, for messages.
        sizes: Unpacked size of each file in bytes, by path; paths are relative and stay inside.
        read: Returns the content of a file.
        left_out: What was left out, in lines for the user.
    """

    name: str
    sizes: dict[str, int]
    read: Callable[[str], bytes]
    left_out: tuple[str, ...] = ()


@dataclass
class Target:
    """A folder that is being filled. Paths in an archive do not decide where a file goes.

    Attributes:
        folder: The folder.
        images: Number of images written.
        notes: What was left out or renamed, in lines for the user.
    """

    folder: Path
    images: int = 0
    notes: list[str] = field(default_factory=list)

    def write(self, folder: str, name: str, data: bytes, is_image: bool = True) -> str:
        """Write a file by its bare name and return that name; one of equal name and other content gets a number."""
        bare = PurePosixPath(name)
        for number in range(1, MAX_FILES):
            file = self.folder / folder / (bare.name if number == 1 else f"{bare.stem}~{number}{bare.suffix}")
            if not file.exists():
                break
            if file.read_bytes() == data:
                self.notes.append(f"{name} is in the archive twice; one copy was written")
                return file.name
        if number > 1:
            self.notes.append(f"{name} has the name of another image of its class; written as {file.name}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        self.images += is_image
        return file.name


Layout = Callable[[Archive, Target, KnownSet, str], None]


def arrange(archives: Sequence[tuple[Path, str]], target: Path, known: KnownSet) -> tuple[int, list[str]]:
    """Lay out the archives of a set as class folders, all of them or nothing.

    Args:
        archives: Each archive (ZIP or tar) or file, and its layout: a key of ``LAYOUTS``, perhaps with ":" and an
            argument.
        target: Folder to create.
        known: The data set.

    Returns:
        Number of images, and lines about what was left out or renamed.

    Raises:
        LeukError: If an archive is damaged, not to be trusted, or does not hold what it should; for a full disk, and
            for missing rights.
    """
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    filled = Target(unfinished)
    path = target
    try:
        for path, layout in archives:
            kind, _, argument = layout.partition(":")
            if kind == "file":
                unfinished.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, unfinished / path.name)
                continue
            before = filled.images
            with path.open("rb") as file, _open(file, str(path)) as opened:
                _check_room(opened, target)
                LAYOUTS[kind](opened, filled, known, argument)
                filled.notes += opened.left_out
            if filled.images == before and kind != "tables":
                raise LeukError(f"{path}: no image of {known.name} in it; has the provider changed its layout?")
        unfinished.rename(target)
    except UNREADABLE as error:
        raise LeukError(_message(error, path, target)) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return filled.images, _summed(filled.notes)


def is_rar(path: Path) -> bool:
    """Say whether a file is a RAR archive, by its first bytes."""
    with path.open("rb") as file:
        return file.read(8).startswith(RAR)


def _summed(notes: Sequence[str], shown: int = 5) -> list[str]:
    more = [f"and {len(notes) - shown} more of this kind"] if len(notes) > shown else []
    return [*notes[:shown], *more]


def _message(error: Exception, archive: Path, target: Path) -> str:
    """Say what to do; only a damaged archive has to be downloaded again."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{target}: the disk is full; free some space and run again, nothing was lost"
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.filename or target}: cannot be read or written ({error.strerror}); check the folder's rights"
    return f"{archive}: not a complete ZIP or tar archive ({error}); delete it and download it again"


@contextmanager
def _open(file: BinaryIO, name: str, depth: int = 0) -> Iterator[Archive]:
    """Open a ZIP or tar archive and check the paths, the number and the declared size of its files.

    Raises:
        LeukError: For RAR, an encrypted archive, a path that leaves the archive's folder, and a decompression bomb.
    """
    start = file.read(8)
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if start.startswith(RAR):
        raise LeukError(f"{name}: a RAR archive; unpack it by hand, for example with bsdtar -xf, unar or 7z x")
    if depth > MAX_DEPTH:
        raise LeukError(f"{name}: more than {MAX_DEPTH} archives inside each other; the archive is not trusted")
    if start.startswith(b"PK"):
        with zipfile.ZipFile(file) as zipped:
            yield _checked(name, size, _zip_members(zipped, name), _zip_reader(zipped, name))
        return
    if not tarfile.is_tarfile(file):
        raise zipfile.BadZipFile(f"it begins with {start[:8]!r}")
    file.seek(0)
    with tarfile.open(fileobj=file) as tarred:
        yield _checked(name, size, _tar_members(tarred), _tar_reader(tarred))


Members = Iterable[tuple[str, int, bool]]  # path, unpacked bytes, is it a plain file?


def _zip_members(zipped: zipfile.ZipFile, name: str) -> Members:
    out = []
    for info in zipped.infolist():
        if info.flag_bits & 1:
            raise LeukError(f"{name}: it is encrypted; unpack it by hand with the provider's password")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if not info.is_dir():
            out.append((info.filename, info.file_size, kind in (0, stat.S_IFREG)))
    return out


def _tar_members(tarred: tarfile.TarFile) -> Members:
    return ((info.name, info.size, info.isreg()) for info in tarred if not info.isdir())


def _zip_reader(zipped: zipfile.ZipFile, archive: str) -> Callable[[str], bytes]:
    def read(name: str) -> bytes:
        try:
            return zipped.read(name)
        except NotImplementedError as error:
            raise LeukError(f"{archive}: {name} is packed by a method that Python lacks; unpack it by hand") from error

    return read


def _tar_reader(tarred: tarfile.TarFile) -> Callable[[str], bytes]:
    def read(name: str) -> bytes:
        content = tarred.extractfile(name)
        if content is None:
            raise tarfile.ReadError(f"{name} is no file")
        return content.read()

    return read


def _checked(name: str, size: int, members: Members, read: Callable[[str], bytes]) -> Archive:
    """Check the members; leave out links, devices, hidden files and files of more than 512 MiB."""
    sizes: dict[str, int] = {}
    names: dict[str, str] = {}
    left_out = []
    total = 0
    for number, (member, length, is_plain) in enumerate(members, start=1):
        total += length
        if number > MAX_FILES:
            raise LeukError(f"{name}: more than {MAX_FILES} files are too many for this set")
        if total > max(MAX_SMALL, MAX_RATIO * size):
            raise LeukError(
                f"{name}: its {size} bytes would unpack to {total} or more, over {MAX_RATIO} times as many; "
                "the archive is not trusted"
            )
        path = member.replace("\\", "/")
        parts = PurePosixPath(path).parts
        leaves = path.startswith("/") or ".." in parts or PureWindowsPath(member).drive
        if leaves or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in path):
            raise LeukError(
                f"{name}: the path {member!r} in it leads out of its folder; the archive is not trusted: "
                "delete it before you fetch another one"
            )
        if any(len(part.encode()) > 255 for part in parts):
            raise LeukError(f"{name}: a name in it is longer than 255 bytes ({path[:60]}…); unpack it by hand")
        if any(part.startswith((".", "__MACOSX")) for part in parts):
            continue
        if not is_plain:
            left_out.append(f"{path} is a link or a device; left out")
        elif length > MAX_BYTES:
            left_out.append(f"{path} has {length} bytes, more than {MAX_BYTES}; left out")
        elif path in sizes:
            raise LeukError(f"{name}: two files in it have the path {path}; the archive is not trusted")
        else:
            sizes[path], names[path] = length, member
    return Archive(name, sizes, lambda path: read(names[path]), tuple(left_out))


def _check_room(archive: Archive, target: Path) -> None:
    """Raise the error of a full disk before anything is written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if sum(archive.sizes.values()) > shutil.disk_usage(target.parent).free:
        raise OSError(errno.ENOSPC, "No space left on device")


def _folders(archive: Archive, target: Target, known: KnownSet, into: str, depth: int = 0) -> None:
    """Extract class folders at any depth into the folder ``into``, also from archives inside the archive."""

    def class_of(path: PurePosixPath) -> str:
        return next(filter(None, map(known.class_of, reversed(path.parts[:-1]))), "")

    _extract(archive, target, class_of, into, depth)


def _one_class(archive: Archive, target: Target, known: KnownSet, label: str) -> None:
    """Extract every image as one of the class ``label``."""
    _extract(archive, target, lambda path: label, "", 0)


def _extract(archive: Archive, target: Target, class_of: Callable[[PurePosixPath], str], into: str, depth: int) -> None:
    for name in archive.sizes:
        path = PurePosixPath(name)
        if path.suffix.lower() == ".zip":
            content = io.BytesIO(archive.read(name))
            with _open(content, f"{archive.name}: {name}", depth + 1) as inner:
                _extract(inner, target, class_of, into, depth + 1)
                target.notes += inner.left_out
        elif path.suffix.lower() in IMAGES and (label := class_of(path)):
            target.write(f"{into}/{label}" if into else label, name, archive.read(name))


def _tables(archive: Archive, target: Target, known: KnownSet, start: str) -> None:
    """Extract the CSV tables whose names begin with ``start``."""
    for name in archive.sizes:
        path = PurePosixPath(name)
        if path.suffix.lower() == ".csv" and path.name.startswith(start):
            target.write("", name, archive.read(name), is_image=False)


def _segmentation_wbc(archive: Archive, target: Target, known: KnownSet, argument: str) -> None:
    """Extract ``Dataset 1/001.bmp`` with its mask ``001.png``; a table holds the classes 1 to 5."""
    table = next((n for n in archive.sizes if PurePosixPath(n).name == "Class Labels of Dataset 1.csv"), None)
    if table is None:
        raise LeukError(f"{archive.name}: no table of class labels in it; has the provider changed its layout?")
    # 1 neutrophil, 2 lymphocyte, 3 monocyte, 4 eosinophil, 5 basophil.
    names = dict(zip("12345", (WBC_TYPES[4], WBC_TYPES[2], WBC_TYPES[3], WBC_TYPES[1], WBC_TYPES[0]), strict=True))
    rows = csv.reader(io.StringIO(archive.read(table).decode("utf-8-sig")))
    labels = {row[0].strip(): names[row[1].strip()] for row in rows if len(row) > 1 and row[1].strip() in names}
    for name in archive.sizes:
        path = PurePosixPath(name)
        label = labels.get(path.stem.lstrip("0"))
        if path.parent.name != "Dataset 1" or label is None:
            continue
        if path.suffix.lower() == ".bmp":
            target.write(label, f"tecom_{path.stem}.bmp", archive.read(name))
        elif path.suffix.lower() == ".png":
            target.write("masks", f"tecom_{path.stem}.png", archive.read(name), is_image=False)


def _voc_boxes(archive: Archive, target: Target, known: KnownSet, argument: str) -> None:
    """Cut each box of a Pascal VOC annotation out as a square image; its group is the field of view."""
    fields = {PurePosixPath(n).stem: n for n in archive.sizes if PurePosixPath(n).suffix.lower() in IMAGES}
    groups = []
    for name in sorted(archive.sizes):
        path = PurePosixPath(name)
        if path.suffix.lower() != ".xml" or path.stem not in fields:
            continue
        try:
            image = decode(archive.read(fields[path.stem])).image
        except Unreadable as error:
            raise LeukError(f"{archive.name}: {fields[path.stem]}: {error}") from error
        try:
            boxes = list(_boxes(archive.read(name)))
        except (ValueError, OverflowError) as error:
            raise LeukError(f"{archive.name}: {name}: {error}") from error
        for number, (label, box) in enumerate(boxes):
            cut = _cut(image, box)
            if known.class_of(label) and min(cut.shape[:2]) >= 24:
                file = f"{path.stem}_{number:02d}.png"
                file = target.write(known.class_of(label), file, cv2.imencode(".png", cut[..., ::-1])[1].tobytes())
                groups.append((file, path.stem))
    if groups:
        with (target.folder / METADATA).open("w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows([("file", "slide"), *groups])


def _boxes(annotation: bytes) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    """Read category and xmin, ymin, xmax, ymax of the boxes of a VOC annotation, in pixels."""
    for element in parse_xml(annotation).iter("object"):
        box = element.find("bndbox")
        if box is not None:
            sides = [int(float(box.findtext(side, "0"))) for side in ("xmin", "ymin", "xmax", "ymax")]
            yield element.findtext("name", "").strip(), (sides[0], sides[1], sides[2], sides[3])


def _cut(image: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Cut out a square around the box with a margin, moved inwards at the border."""
    left, top, right, bottom = box
    side = min(round(max(right - left, bottom - top) * (1 + 2 * MARGIN)), *image.shape[:2])
    x = int(np.clip((left + right - side) // 2, 0, image.shape[1] - side))
    y = int(np.clip((top + bottom - side) // 2, 0, image.shape[0] - side))
    return image[y : y + max(side, 0), x : x + max(side, 0)]


LAYOUTS: dict[str, Layout] = {
    "folders": _folders,
    "into": _folders,
    "class": _one_class,
    "tables": _tables,
    "segmentation_wbc": _segmentation_wbc,
    "voc_boxes": _voc_boxes,
}
