"""MedMNIST files, such as ``bloodmnist_64.npz``: arrays of images and labels in published parts.

Source: Yang et al. MedMNIST v2. Scientific Data 10:41, 2023, and MedMNIST+ (Zenodo record 10519652).
"""

from __future__ import annotations

import hashlib
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from leuk_lib.data.findings import Finding
from leuk_lib.data.image_files import IMAGES
from leuk_lib.data.readers.reader import Cell, CellReader, Note, Options
from leuk_lib.runs.errors import LeukError

PARTS = {"train": "train", "val": "validation", "test": "test"}  # as in the file -> as a published part
CLASSES = {
    "bloodmnist": (
        "basophil", "eosinophil", "erythroblast", "immature_granulocyte", "lymphocyte", "monocyte", "neutrophil",
        "platelet",
    )
}  # fmt: skip
# MD5 of the published files by side in pixels (MedMNIST 3.0).
MD5 = {
    "bloodmnist": {
        28: "7053d0359d879ad8a5505303e11de1dc",
        64: "2b94928a2ae4916078ca51e05b6b800b",
        128: "adace1e0ed228fccda1f39692059dd4c",
        224: "b718ff6835fcbdb22ba9eacccd7b2601",
    }
}
BLANK = "blank image: all pixels are 0"
MAX_SIDE = 2048  # pixels
MAX_IMAGES = 5_000_000  # in a part
CHUNK = 1 << 20  # bytes


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class MedMnist(CellReader):
    """Reads ``{train,val,test}_{images,labels}`` of an npz file, image by image."""

    name = "medmnist"
    title = "MedMNIST npz file"
    options: ClassVar[Mapping[str, str]] = {
        "classes": "names of the classes in the order of their numbers, as in blast,lymphocyte"
    }

    def recognises(self, path: Path) -> bool:
        """Return whether the path is an npz file, or a folder that holds such files and no image."""
        if path.is_file():
            return path.suffix.lower() == ".npz"
        files = [file for file in path.iterdir() if not file.name.startswith(".")] if path.is_dir() else []
        if any(file.suffix.lower() in IMAGES or file.is_dir() for file in files):
            return False
        return any(file.suffix.lower() == ".npz" for file in files)

    def sources(self, path: Path, options: Options) -> list[Path]:
        """Return the npz file."""
        return [_file(path)]

    def count(self, path: Path, options: Options) -> int | None:
        """Return the number of images of all parts."""
        with _opened(_file(path)) as archive:
            headers = _headers(archive, path)
        return sum(header.shape[0] for name, header in headers.items() if name.endswith("_images"))

    def cells(self, path: Path, options: Options) -> Iterator[Cell | Finding | Note]:
        """Yield the cells part by part, in the order of the file."""
        file = _file(path)
        with _opened(file) as archive:
            headers = _headers(archive, file)
            labels = {part: _labels(archive, f"{part}_labels", file) for part in PARTS if f"{part}_images" in headers}
            side = next(header.shape[1] for name, header in headers.items() if name.endswith("_images"))
            classes, about = _class_names(file, labels, options)
            yield from about
            yield from _identity(file, side)
            missing = [part for part in PARTS if part not in labels]
            if missing:
                what = f"no part {' and no part '.join(missing)} in the file"
                yield Finding(file.name, what, "warning", "the published split is incomplete; fetch the file again")
            for part, numbers in labels.items():
                blank = 0
                images = _images(archive, f"{part}_images", headers[f"{part}_images"], file)
                for position, (image, number) in enumerate(zip(images, numbers, strict=True)):
                    name = f"{part}/{position:05d}"
                    if not image.any():
                        blank += 1
                        advice = "left out; some mirrors hold zeroed images: fetch the file from its source"
                        yield Finding(name, BLANK, "error", advice)
                        continue
                    yield Cell(
                        name, classes[int(number)], image, f"{file.name} {part} {position}", part=PARTS[part]
                    )  # fmt: skip
                if blank:
                    yield Note(f"{part}: {blank} of {len(numbers)} images are blank (all pixels 0) and left out")


READER = MedMnist()


def _file(path: Path) -> Path:
    """Return the one npz file that is meant."""
    if path.is_file():
        return path
    files = sorted(file for file in path.iterdir() if file.suffix.lower() == ".npz" and not file.name.startswith("."))
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise LeukError(f"{path}: one npz file is needed, there are {len(files)} ({names}); name the file", exit_code=2)
    return files[0]


def _opened(file: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError, struct.error, NotImplementedError) as error:
        raise LeukError(f"{file}: not a complete npz file ({error}); fetch it again", exit_code=2) from error


def _headers(archive: zipfile.ZipFile, file: Path) -> dict[str, _Header]:
    """Read shapes and types of all arrays and check that they are images and labels."""
    members = {name.removesuffix(".npy"): name for name in archive.namelist()}
    if not any(f"{part}_images" in members for part in PARTS):
        found = ", ".join(sorted(members)[:8]) or "nothing"
        raise LeukError(
            f"{file}: no train_images, val_images or test_images in it (it holds {found}); the medmnist reader needs "
            "{train,val,test}_{images,labels}",
            exit_code=2,
        )
    headers = {}
    for part in PARTS:
        pair = [f"{part}_images", f"{part}_labels"]
        present = [name for name in pair if name in members]
        if len(present) == 1:
            lacking = next(name for name in pair if name not in members)
            raise LeukError(f"{file}: {present[0]} without {lacking}; fetch the file again", exit_code=2)
        for name in present:
            with _member(archive, members[name], file) as handle:
                headers[name] = _header(handle, name, file)
        if present:
            _check_pair(headers[pair[0]], headers[pair[1]], part, file)
    sizes = {header.shape[1:] for name, header in headers.items() if name.endswith("_images")}
    if len(sizes) > 1:
        raise LeukError(f"{file}: the parts differ in the shape of their images: {sorted(sizes)}", exit_code=2)
    return headers


def _check_pair(images: _Header, labels: _Header, part: str, file: Path) -> None:
    shape = images.shape
    colour = len(shape) == 4 and shape[3] == 3
    if images.dtype != np.uint8 or not (colour or len(shape) == 3) or not 8 <= min(shape[1:3]) <= MAX_SIDE:
        raise LeukError(
            f"{file}: {part}_images is {shape} {images.dtype}, must be (N,S,S,3) or (N,S,S) uint8 with S from 8 to "
            f"{MAX_SIDE}",
            exit_code=2,
        )
    if labels.dtype.kind not in "iu" or not (len(labels.shape) == 1 or labels.shape[1:] == (1,)):
        several = " (several labels per image cannot be read)" if len(labels.shape) == 2 else ""
        raise LeukError(
            f"{file}: {part}_labels is {labels.shape} {labels.dtype}, must be (N,1) or (N,) whole numbers{several}",
            exit_code=2,
        )
    if max(shape[0], labels.shape[0]) > MAX_IMAGES:
        raise LeukError(f"{file}: {shape[0]} {part}_images are more than {MAX_IMAGES}", exit_code=2)
    if shape[0] != labels.shape[0]:
        raise LeukError(
            f"{file}: {shape[0]} {part}_images but {labels.shape[0]} {part}_labels; fetch the file again", exit_code=2
        )


def _member(archive: zipfile.ZipFile, name: str, file: Path) -> closing[IO[bytes]]:
    try:
        return closing(archive.open(name))
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError) as error:
        raise LeukError(f"{file}: {name} cannot be read ({error}); fetch the file again", exit_code=2) from error


def _header(handle: IO[bytes], name: str, file: Path) -> _Header:
    """Read the header of an array; never an object array, whose content could be any code."""
    try:
        version = npy.read_magic(handle)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(handle)
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise LeukError(f"{file}: {name} is no array ({error}); fetch the file again", exit_code=2) from error
    if dtype.hasobject:
        raise LeukError(f"{file}: {name} holds Python objects, which are not read; save it as numbers", exit_code=2)
    if fortran and len(shape) > 1 and min(shape) > 1:
        raise LeukError(f"{file}: {name} is stored column by column; save it again in C order", exit_code=2)
    return _Header(tuple(shape), dtype)


def _images(archive: zipfile.ZipFile, name: str, header: _Header, file: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield the images of an array without reading all of it."""
    size = int(np.prod(header.shape[1:]))
    with _member(archive, f"{name}.npy", file) as handle:
        _header(handle, name, file)
        for position in range(header.shape[0]):
            data = _read(handle, size, f"{name}[{position}]", file)
            yield np.frombuffer(data, np.uint8).reshape(header.shape[1:])
        _read(handle, 0, name, file)


def _labels(archive: zipfile.ZipFile, name: str, file: Path) -> NDArray[np.int64]:
    with _member(archive, f"{name}.npy", file) as handle:
        header = _header(handle, name, file)
        data = _read(handle, header.shape[0] * header.dtype.itemsize, name, file)
    return np.frombuffer(data, header.dtype).astype(np.int64)


def _read(handle: IO[bytes], size: int, name: str, file: Path) -> bytes:
    """Read ``size`` bytes; 0: the end of the member, which its checksum guards."""
    try:
        data = handle.read(size or CHUNK)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise LeukError(f"{file}: {name} is damaged ({error}); fetch the file again", exit_code=2) from error
    if len(data) != size:
        raise LeukError(f"{file}: {name} does not have the length that its header states; fetch it again", exit_code=2)
    return data


def _class_names(
    file: Path, labels: dict[str, NDArray[np.int64]], options: Options
) -> tuple[dict[int, str], list[Finding | Note]]:
    """Return the name of each label, and findings about them."""
    present = np.unique(np.concatenate(list(labels.values()))).tolist()
    known = next((names for start, names in CLASSES.items() if file.stem.lower().startswith(start)), ())
    names = options.names("classes") or known
    if len(set(names)) != len(names):
        raise LeukError(f"reader medmnist: option classes={options.text('classes')} names a class twice", exit_code=2)
    if not names:
        what = f"names of the classes unknown; they are called by their numbers ({', '.join(map(str, present))})"
        advice = "--option classes=NAME,NAME,… gives them, in the order of the numbers"
        return {k: str(k) for k in present}, [Finding(file.name, what, "warning", advice)]
    for part, numbers in labels.items():
        wrong = np.flatnonzero((numbers < 0) | (numbers >= len(names)))
        if len(wrong):
            raise LeukError(
                f"{file}: {len(wrong)} of the {part}_labels are not from 0 to {len(names) - 1} (the first is "
                f"{numbers[wrong[0]]} at {wrong[0]}), but there are {len(names)} classes ({', '.join(names)})",
                exit_code=2,
            )
    lacking = [name for k, name in enumerate(names) if k not in present]
    found: list[Finding | Note] = [
        Finding(file.name, f"no image of class {name}", "warning", "check the names of the classes") for name in lacking
    ]
    return dict(enumerate(names)), found


def _identity(file: Path, side: int) -> Iterator[Finding | Note]:
    """Compare a published file with its MD5."""
    published = next((sums for start, sums in MD5.items() if file.stem.lower().startswith(start)), None)
    if published is None:
        return
    with file.open("rb") as handle:
        found = hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if side not in published:
        what = f"no file of {side} px was published (published: {', '.join(map(str, published))} px)"
        yield Finding(file.name, what, "warning", "its images were made from another size; say so with every figure")
    elif found == published[side]:
        yield Note(f"{file.name} is the published file of {side} px (MD5 {found})")
    else:
        what = f"unknown copy: MD5 {found}, published {published[side]} ({side} px)"
        yield Finding(
            file.name, what, "warning", "figures may not compare with published ones; fetch it from its source"
        )
