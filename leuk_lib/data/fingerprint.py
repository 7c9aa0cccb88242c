"""Content fingerprint of a data set: what Snakemake asks to see whether the data changed. Imports nothing heavy."""

from __future__ import annotations

import hashlib

from leuk_lib.data.files import list_folder
from leuk_lib.data.smear import VERSION
from leuk_lib.runs.files import sha256_file

RENDERED = "smear"


def fingerprint(dataset: str) -> str:
    """SHA-256 (hexadecimal) of a data set's content.

    ``smear``: of the renderer's version. A folder: over the relative path, label, group and bytes of every image and
    mask that would be read; so a renamed class or a changed manifest row counts, a moved folder does not.
    """
    digest = hashlib.sha256()
    if dataset == RENDERED:
        digest.update(f"rendered smear {VERSION}".encode())
        return digest.hexdigest()
    listing = list_folder(dataset)
    for entry in listing.entries:
        digest.update("\x1f".join([entry.path, entry.label, entry.group, entry.mask, entry.foreign]).encode())
        digest.update(sha256_file(listing.root / entry.path).encode())
        mask = listing.root / entry.mask
        if entry.mask and mask.is_file():
            digest.update(sha256_file(mask).encode())
    for finding in listing.left:
        digest.update("\x1f".join(finding).encode())
    return digest.hexdigest()
