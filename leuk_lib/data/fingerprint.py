"""Content hash of a data set, which shows the workflow whether the data changed. Imports nothing heavy."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from leuk_lib.data.catalog import KNOWN_SETS, home
from leuk_lib.data.conversion import content_hash
from leuk_lib.data.image_files import hash_of
from leuk_lib.data.listing import MISSING, NO_CLASS, list_content
from leuk_lib.data.readers import choose, recognised
from leuk_lib.data.smear import VERSION
from leuk_lib.data.tables import EXTRA
from leuk_lib.runs.paths import real_path, user_path

RENDERED = "smear"


def fingerprint(dataset: str) -> str:
    """Compute the SHA-256 of a data set's content, in hexadecimal.

    For ``smear`` it is that of the renderer's version. For a folder it covers the path, label, group, mask and external
    test set of each image, the bytes of images and masks (or why they cannot be read), and what was left out. A renamed
    class or a changed manifest row changes it; moving the folder does not. Where a reader recognises the data, it
    covers the names and bytes of all files.

    Args:
        dataset: "smear", the name of a known set, a folder, or a file that a reader recognises.

    Raises:
        LeukError: As ``listing.list_content`` does.
    """
    digest = hashlib.sha256()
    if dataset == RENDERED:
        digest.update(f"rendered smear {VERSION}".encode())
        return digest.hexdigest()
    path = _path_of(dataset)
    if path.is_file() or recognised(path):  # what a reader makes of it depends on all files
        return content_hash(path)
    listing = list_content(dataset)
    for entry in listing.entries:
        digest.update("\x1f".join([entry.path, entry.label, entry.group, entry.mask, entry.external]).encode())
        extra = {name: value for name in EXTRA if name != "source" and (value := getattr(entry, name))}
        digest.update(f"{extra}".encode() if extra else b"")
        digest.update(hash_of(listing.root / entry.path).encode())
        if entry.mask:
            digest.update(hash_of(listing.root / entry.mask).encode())
    for finding in listing.left_out:
        digest.update("\x1f".join(finding).encode())
        if finding[1].startswith(NO_CLASS):  # a table or a pattern of names may give it one
            digest.update(hash_of(listing.root / finding[0]).encode())
    for name in listing.missing:
        digest.update("\x1f".join([name, *MISSING]).encode())
    return digest.hexdigest()


def named_sources(dataset: str, reader: str, options: Mapping[str, str]) -> list[Path]:
    """List the tables of a reader that was named, which the fingerprint does not know."""
    if dataset == RENDERED or not reader:
        return []
    path = _path_of(dataset)
    chosen = choose(path, reader, options)
    return chosen[0].sources(path, chosen[1]) if chosen else []


def _path_of(dataset: str) -> Path:
    known = KNOWN_SETS.get(dataset)
    return real_path(home(known) if known else user_path(dataset))
