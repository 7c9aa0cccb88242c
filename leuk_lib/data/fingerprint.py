"""Content hash of a data set, which shows the workflow whether the data changed. Imports nothing heavy."""

from __future__ import annotations

import hashlib
from pathlib import Path

from leuk_lib.data.image_files import Unreadable, open_regular
from leuk_lib.data.listing import list_folder
from leuk_lib.data.smear import VERSION

RENDERED = "smear"


def fingerprint(dataset: str) -> str:
    """Compute the SHA-256 of a data set's content, in hexadecimal.

    For ``smear`` it is that of the renderer's version. For a folder it covers the path, label, group, mask and external
    test set of each image, the bytes of images and masks (or why they cannot be read), and what was left out. A renamed
    class or a changed manifest row changes it; moving the folder does not.

    Args:
        dataset: "smear", the name of a known set, or a folder.

    Raises:
        LeukError: As ``listing.list_folder`` does.
    """
    digest = hashlib.sha256()
    if dataset == RENDERED:
        digest.update(f"rendered smear {VERSION}".encode())
        return digest.hexdigest()
    # The outermost folder stands for the class here, whatever the layout: a path is hashed whole.
    listing = list_folder(dataset, layout="1")
    for entry in listing.entries:
        digest.update("\x1f".join([entry.path, entry.label, entry.group, entry.mask, entry.external]).encode())
        digest.update(_content(listing.root / entry.path).encode())
        if entry.mask:
            digest.update(_content(listing.root / entry.mask).encode())
    for finding in listing.left_out:
        digest.update("\x1f".join(finding).encode())
    return digest.hexdigest()


def _content(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, or why it cannot be read."""
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except Unreadable as reason:
        return str(reason)
