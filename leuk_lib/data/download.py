"""Download open data sets: resumed after a break, checked by hash, laid out as class folders."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from leuk_lib.data.archives import arrange
from leuk_lib.data.catalog import KNOWN_SETS, Download, data_root, home
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import read_json, sha256_file, write_json
from leuk_lib.runs.params import nearest

HASHES = "hashes.json"  # archive -> SHA-256 of its first download, if no hash is published
CHUNK = 1 << 16  # bytes
TRIES = 5
TIMEOUT = 30  # seconds without a byte


class ResumingDownloader:
    """A pooch downloader over HTTP that resumes a broken download, in the same call or in a later one.

    The received bytes are in ``part``, beside the server's ETag; a Range request asks for the rest. If the server
    ignores the range or the file has changed, the download restarts.

    Args:
        part: Path of the partial file.
        tries: Attempts without any new byte before the download fails.
        wait: Seconds of waiting after the first failed attempt; longer after the next ones.
        timeout: Seconds without a byte that end an attempt.
    """

    def __init__(self, part: Path, tries: int = TRIES, wait: float = 1.0, timeout: float = TIMEOUT) -> None:
        self.part, self.tries, self.wait, self.timeout = part, tries, wait, timeout

    def __call__(self, url: str, output_file: Any, pooch: Any, check_only: bool = False) -> None:
        """Download ``url`` to the path ``output_file``.

        Raises:
            LeukError: If the server refuses, or if ``tries`` attempts in a row bring no new byte.
        """
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
                    raise LeukError(f"{url}: the server refuses ({problem}); check the address") from error
            except requests.RequestException as error:
                problem = f"{type(error).__name__}: {error}"
            arrived = self.part.stat().st_size if self.part.exists() else 0
            failed = 0 if arrived > before else failed + 1
            time.sleep(self.wait * min(failed, 4))
        raise LeukError(
            f"{url}: no more data after {self.tries} tries ({problem}); the received part is kept in {self.part}, "
            "run the same command again to resume"
        )

    @property
    def _tag(self) -> Path:
        return self.part.with_suffix(".etag")

    def _attempt(self, url: str) -> bool:
        """Send one request; return whether the file is complete."""
        import requests

        have = self.part.stat().st_size if self.part.exists() else 0
        headers = {"Accept-Encoding": "identity"}  # a compressed stream cannot be resumed by position
        if have:
            headers["Range"] = f"bytes={have}-"
            if self._tag.exists():
                headers["If-Range"] = self._tag.read_text()
        with requests.get(url, headers=headers, stream=True, timeout=self.timeout) as response:
            if response.status_code == 416:  # no bytes beyond ours: complete, or another file
                complete = response.headers.get("Content-Range", "").rpartition("/")[2] == str(have)
                if not complete:
                    self.part.unlink()
                return complete
            response.raise_for_status()
            content_range = response.headers.get("Content-Range", "")
            resumed = response.status_code == 206 and content_range.startswith(f"bytes {have}-")
            if not resumed:
                have = 0
            if tag := response.headers.get("ETag"):
                self._tag.write_text(tag)
            response.raw.enforce_content_length = False  # otherwise the bytes before a break are lost
            length = response.headers.get("Content-Length")
            total = have + int(length) if length else None
            bar = tqdm(
                total=total, initial=have, unit="B", unit_scale=True, desc=self.part.stem, disable=None, file=sys.stderr
            )
            with self.part.open("ab" if resumed else "wb") as file, bar:
                for chunk in response.iter_content(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
        return total is None or self.part.stat().st_size == total


def download(source: Download, folder: Path, downloader: ResumingDownloader | None = None) -> Path:
    """Download an archive unless it is in ``folder`` already, and check its hash.

    Without a published hash, that of the first download is saved in ``hashes.json``, and later ones must match it.

    Returns:
        The archive.

    Raises:
        LeukError: If the hash differs (the file is removed), or if the download fails.
    """
    import pooch

    folder.mkdir(parents=True, exist_ok=True)
    saved = _hashes(folder)
    expected = source.sha256 or saved.get(source.file)
    part = folder / f"{source.file}.part"
    pooch.get_logger().setLevel("ERROR")  # our messages say the same
    try:
        archive = Path(
            pooch.retrieve(
                source.url,
                known_hash=None if expected is None else f"sha256:{expected}",
                fname=source.file,
                path=folder,
                downloader=downloader or ResumingDownloader(part),
            )
        )
    except LeukError:
        raise
    except ValueError as error:  # raised by pooch if the hash differs
        raise LeukError(
            f"{source.url}: the SHA-256 of the download is not {expected}: the file was changed or damaged and is not "
            f"used. If the provider has published a new version, delete its line in {folder / HASHES}, or give --sha256"
        ) from error
    if expected is None:
        write_json(folder / HASHES, {**saved, source.file: sha256_file(archive)})
    return archive


def _hashes(folder: Path) -> dict[str, str]:
    return read_json(folder / HASHES) if (folder / HASHES).exists() else {}


def fetch_dataset(
    name: str, url: str | None = None, sha256: str | None = None, keep: bool = True
) -> tuple[Path, list[str]]:
    """Download a known open data set and lay it out as class folders in ``data/<name>/``.

    An existing folder is left alone.

    Args:
        name: Name of the set.
        url: Address to use instead of the known one.
        sha256: Hash of the archive to use instead of the known one.
        keep: Keep the archive.

    Returns:
        The folder, and lines for the user: hash, number of images, licence, citation.

    Raises:
        LeukError: If the set is unknown or cannot be downloaded, with what to do instead.
    """
    known = KNOWN_SETS.get(name)
    if known is None:
        raise LeukError(f"data set {name!r} is not known; {nearest(name, KNOWN_SETS)}")
    if known.download is None:
        raise LeukError(f"data set {name}: {known.advice}. Source: {known.source}")
    target = home(known)
    lines = [f"{known.title}. Licence: {known.licence}.", f"Cite: {known.cite}"]
    if target.exists():
        return target, [f"{target} exists already; delete it to download it again", *lines]
    source = replace(known.download, url=url or known.download.url, sha256=sha256 or known.download.sha256)
    downloads = data_root() / "downloads"
    expected = source.sha256 or _hashes(downloads).get(source.file)
    archive = download(source, downloads)
    count = arrange(archive, target, known, source.layout)
    checked = (
        "as expected" if expected else f"saved in {downloads / HASHES}: none is published; later ones must match it"
    )
    digest = f"SHA-256 of the archive: {sha256_file(archive)} ({checked})"
    if source.images is not None and count != source.images:
        lines.insert(
            0, f"WARNING: {count} images, but the published set has {source.images}: another version, or incomplete"
        )
    if not keep:
        archive.unlink()
    return target, [f"{count} images in {target}", digest, *lines]
