"""Bring an open data set: download that resumes, a hash that is demanded, an archive that is opened with care."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from leuk_lib.data.archives import arrange
from leuk_lib.data.catalog import SETS, Download, data_root, home
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import read_json, sha256_file, write_json
from leuk_lib.runs.params import nearest

HASHES = "hashes.json"  # file of the archive -> SHA-256 of the first download, where nobody has told one
CHUNK = 1 << 16
TRIES = 5
TIMEOUT = 30  # seconds without a byte


class ResumingDownloader:
    """pooch's downloader over HTTP that goes on where it broke off, in this call or in a later one.

    What has arrived lies beside the target as ``<name>.part`` with the server's ETag; a Range request asks for the rest.
    A server that ignores it, or whose file has changed, is read from the start. Raises ``LeukError`` when ``tries``
    attempts have brought nothing more.
    """

    def __init__(self, part: Path, tries: int = TRIES, wait: float = 1.0, timeout: float = TIMEOUT) -> None:
        self.part, self.tries, self.wait, self.timeout = part, tries, wait, timeout

    def __call__(self, url: str, output_file: Any, pooch: Any, check_only: bool = False) -> None:
        """Download ``url`` to ``output_file`` (a path, as pooch gives it)."""
        import requests

        failed, problem = 0, ""
        while failed < self.tries:
            before = self.part.stat().st_size if self.part.exists() else 0
            try:
                if self._attempt(url):
                    shutil.move(self.part, output_file)
                    self._tag.unlink(missing_ok=True)
                    return
                problem = "the connection ended early"
            except requests.HTTPError as error:
                problem = str(error)
                code = 0 if error.response is None else error.response.status_code
                if code < 500 and code not in (408, 429):
                    raise LeukError(f"{url}: the server refuses ({problem}); is the address right?") from error
            except requests.RequestException as error:
                problem = f"{type(error).__name__}: {error}"
            arrived = self.part.stat().st_size if self.part.exists() else 0
            failed = 0 if arrived > before else failed + 1
            time.sleep(self.wait * min(failed, 4))
        raise LeukError(
            f"{url}: no more data after {self.tries} tries ({problem}); what has arrived is kept in {self.part}, "
            "run the same command again to go on"
        )

    @property
    def _tag(self) -> Path:
        return self.part.with_suffix(".etag")

    def _attempt(self, url: str) -> bool:
        """One request; True when the file is whole."""
        import requests

        have = self.part.stat().st_size if self.part.exists() else 0
        headers = {"Accept-Encoding": "identity"}  # a packed stream cannot be resumed by position
        if have:
            headers["Range"] = f"bytes={have}-"
            if self._tag.exists():
                headers["If-Range"] = self._tag.read_text()
        with requests.get(url, headers=headers, stream=True, timeout=self.timeout) as answer:
            if answer.status_code == 416:  # nothing behind what we have: whole, or another file
                whole = answer.headers.get("Content-Range", "").rpartition("/")[2] == str(have)
                if not whole:
                    self.part.unlink()
                return whole
            answer.raise_for_status()
            resumed = answer.status_code == 206 and _starts_at(answer.headers.get("Content-Range", ""), have)
            if not resumed:
                have = 0
            if tag := answer.headers.get("ETag"):
                self._tag.write_text(tag)
            answer.raw.enforce_content_length = False  # else what arrived before a break is thrown away
            length = answer.headers.get("Content-Length")
            total = have + int(length) if length else None
            bar = tqdm(
                total=total, initial=have, unit="B", unit_scale=True, desc=self.part.stem, disable=None, file=sys.stderr
            )
            with self.part.open("ab" if resumed else "wb") as file, bar:
                for chunk in answer.iter_content(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
        return total is None or self.part.stat().st_size == total


def _starts_at(content_range: str, have: int) -> bool:
    return content_range.startswith(f"bytes {have}-")


def download(source: Download, folder: Path, downloader: ResumingDownloader | None = None) -> Path:
    """The archive of ``source`` in ``folder``, downloaded unless it is there already, its hash checked.

    Without a told hash the first download's is written to ``hashes.json`` in ``folder`` and demanded from then on.
    Raises ``LeukError`` for a hash that differs (the wrong file is removed) and for a download that does not succeed.
    """
    import pooch

    folder.mkdir(parents=True, exist_ok=True)
    known = _hashes(folder)
    demanded = source.sha256 or known.get(source.file)
    part = folder / f"{source.file}.part"
    pooch.get_logger().setLevel("ERROR")  # what it logs, our own lines say
    try:
        archive = Path(
            pooch.retrieve(
                source.url,
                known_hash=None if demanded is None else f"sha256:{demanded}",
                fname=source.file,
                path=folder,
                downloader=downloader or ResumingDownloader(part),
            )
        )
    except LeukError:
        raise
    except ValueError as error:  # pooch's word for a hash that does not match
        raise LeukError(
            f"{source.url}: what arrived has another SHA-256 than {demanded}: the file was changed or damaged and is not "
            f"used. If the provider has published a new version, delete its line in {folder / HASHES}, or tell the hash"
        ) from error
    if demanded is None:
        write_json(folder / HASHES, {**known, source.file: sha256_file(archive)})
    return archive


def _hashes(folder: Path) -> dict[str, str]:
    return read_json(folder / HASHES) if (folder / HASHES).exists() else {}


def fetch(name: str, url: str | None = None, sha256: str | None = None, keep: bool = True) -> tuple[Path, list[str]]:
    """Download the known open set ``name`` and lay it out as class folders in ``data/<name>/``.

    ``url`` and ``sha256`` replace the address and the hash that we know; ``keep`` keeps the archive. Returns the folder
    and lines that a person should read (hash, number of images, licence, citation). A folder that is there already
    is left alone. Raises ``LeukError`` for a name that cannot be fetched, with what to do instead.
    """
    known = SETS.get(name)
    if known is None:
        raise LeukError(f"data set {name!r} is not known; {nearest(name, SETS)}")
    if known.download is None:
        raise LeukError(f"data set {name} cannot be fetched: {known.advice}. Source: {known.source}")
    target = home(known)
    lines = [f"{known.title}. Licence: {known.licence}.", f"Cite: {known.cite}"]
    if target.exists():
        return target, [f"{target} is there already; delete it to fetch it anew", *lines]
    source = replace(known.download, url=url or known.download.url, sha256=sha256 or known.download.sha256)
    downloads = data_root() / "downloads"
    demanded = source.sha256 or _hashes(downloads).get(source.file)
    archive = download(source, downloads)
    count = arrange(archive, target, known, source.layout)
    said = (
        "as demanded" if demanded else f"written to {downloads / HASHES}, as nobody had told one; demanded from now on"
    )
    told = f"SHA-256 of the archive: {sha256_file(archive)} ({said})"
    if source.images is not None and count != source.images:
        lines.insert(
            0, f"LOOK: {count} images, but the published set has {source.images}: another version, or not whole"
        )
    if not keep:
        archive.unlink()
    return target, [f"{count} images in {target}", told, *lines]
