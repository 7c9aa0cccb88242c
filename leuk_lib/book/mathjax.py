"""MathJax for a book that works offline: one script, laid down at install time, checked by its hash.

``python -m leuk_lib.book.mathjax`` (a step of ``make env``) copies ``tex-svg.js`` of MathJax 3.2.2 into
``book/_static/mathjax/``: from the installed package ``sphinx-mathjax-offline`` (it carries the official file, byte
for byte), else with ``npm pack mathjax@3.2.2``. Nothing is downloaded when the file is there already.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from leuk_lib.runs import paths
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import atomic, sha256_file

VERSION = "3.2.2"
SHA256 = "d4295dc33744836935c1399feece5159577b34c5c8ffb9f1c6324cd82e03a882"
PACKAGE = "sphinx-mathjax-offline"
SCRIPT = "tex-svg.js"


def target(root: Path) -> Path:
    """Where the book expects the script."""
    return root / "book" / "_static" / "mathjax" / SCRIPT


def from_installed_package() -> bytes | None:
    """The script of the installed package; None where it is not installed."""
    try:
        listed = importlib.metadata.distribution(PACKAGE).files or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for entry in listed:
        path = Path(str(entry.locate()))
        if entry.name == SCRIPT and path.exists():
            return path.read_bytes()
    return None


def from_npm() -> bytes | None:
    """The script out of the npm package, fetched by ``npm pack``; None where npm or the registry is not at hand."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                ["npm", "pack", f"mathjax@{VERSION}", "--silent", "--pack-destination", folder],
                capture_output=True, timeout=300, cwd=folder,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return None
        archive = Path(folder) / f"mathjax-{VERSION}.tgz"
        if done.returncode != 0 or not archive.exists():
            return None
        with tarfile.open(archive) as content:
            member = content.extractfile(f"package/es5/{SCRIPT}")
            return member.read() if member else None


def is_present(root: Path) -> bool:
    """True where the script lies in its place with the pinned bytes."""
    path = target(root)
    return path.exists() and sha256_file(path) == SHA256


def ensure(root: Path) -> Path:
    """Lay the script down unless it is there; returns its path.

    Raises ``LeukError`` where no source has it, or where the bytes are not the pinned ones.
    """
    path = target(root)
    if is_present(root):
        return path
    for source, fetch in ((f"the package {PACKAGE}", from_installed_package), ("npm", from_npm)):
        data = fetch()
        if data is None:
            continue
        found = hashlib.sha256(data).hexdigest()
        if found != SHA256:
            raise LeukError(
                f"MathJax {VERSION} from {source}: the hash of {SCRIPT} is {found[:12]}…, expected {SHA256[:12]}…; "
                "it was not installed"
            )
        with atomic(path) as temporary:
            temporary.write_bytes(data)
        return path
    raise LeukError(
        f"MathJax {VERSION} cannot be had: neither the package {PACKAGE} is installed nor does `npm pack` work. "
        f"Run `make env` with a network once, or put es5/{SCRIPT} of mathjax@{VERSION} at {path}"
    )


def main() -> int:
    """Command line: lay the script down and say where."""
    try:
        print(f"MathJax {VERSION}: {ensure(paths.project_root())}")
    except LeukError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
