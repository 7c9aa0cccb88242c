"""Content fingerprint of a data set: what Snakemake asks to see whether the data changed. Imports nothing heavy."""

from __future__ import annotations

import hashlib
from pathlib import Path

from leuk_lib.data.image_files import Unreadable, open_regular
from leuk_lib.data.listing import list_folder
from leuk_lib.data.smear import VERSION

RENDERED = "smear"


def fingerprint(dataset: str) -> str:
    """SHA-256 (hexadecimal) of a data set's content.

    ``smear``: of the renderer's version. A folder: over the relative path, label, group and bytes of every image and
    mask that would be read (or why it cannot be); so a renamed class or a changed manifest row counts, a moved folder
    does not.
    """
    digest = hashlib.sha256()
    if dataset == RENDERED:
        digest.update(f"rendered smear {VERSION}".encode())
        return digest.hexdigest()
    listing = list_folder(dataset)
    for entry in listing.entries:
        digest.update("\x1f".join([entry.path, entry.label, entry.group, entry.mask, entry.foreign]).encode())
        digest.update(_content(listing.root / entry.path).encode())
        if entry.mask:
            digest.update(_content(listing.root / entry.mask).encode())
    for finding in listing.left:
        digest.update("\x1f".join(finding).encode())
    return digest.hexdigest()


def _content(path: Path) -> str:
    """SHA-256 of a file's bytes, or why it cannot be read."""
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except Unreadable as reason:
        return str(reason)
