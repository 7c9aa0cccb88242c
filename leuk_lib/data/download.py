"""Download open data sets: resumed after a break, checked by hash, laid out as class folders."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import ConfigDict, RootModel

from leuk_lib import quoting
from leuk_lib.data.archives import arrange, is_rar
from leuk_lib.data.catalog import Download, KnownSet, data_root, home
from leuk_lib.data.catalog_text import find_set, licence_text
from leuk_lib.runs import progress
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import sha256_file, write_json
from leuk_lib.runs.paths import user_path
from leuk_lib.runs.records import read_record

HASHES = "hashes.json"  # archive -> SHA-256 of its first download, if no hash is published
CHUNK = 1 << 16  # bytes
TRIES = 5
TIMEOUT = 30  # seconds without a byte


class Hashes(RootModel[dict[str, str]]):
    """``hashes.json``."""

    model_config = ConfigDict(strict=True)


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
            counted = progress.counted(f"{self.part.stem} (MB)", total or 0, "B", have, per=1_000_000)
            with self.part.open("ab" if resumed else "wb") as file, counted as update:
                for chunk in response.iter_content(CHUNK):
                    file.write(chunk)
                    update(len(chunk))
        return total is None or self.part.stat().st_size == total


def download(source: Download, folder: Path, downloader: ResumingDownloader | None = None) -> Path:
    """Download an archive unless it is in ``folder`` already, and check its hash.

    Without a published hash, that of the first download is saved in ``hashes.json``, and later ones must match it.

    Args:
        source: What to download. Its address may also be a path or a ``file:`` address on this computer.
        folder: Where the archive is kept.
        downloader: Only for tests.

    Returns:
        The archive.

    Raises:
        LeukError: If the hash differs (the file is removed), or if the download fails.
    """
    import pooch

    folder.mkdir(parents=True, exist_ok=True)
    saved = _hashes(folder)
    method, expected = _expected(source, saved)
    pooch.get_logger().setLevel("ERROR")  # our messages say the same
    local = _local(source.url)
    try:
        archive = Path(
            pooch.retrieve(
                source.url,
                known_hash=f"{method}:{expected}" if expected else None,
                fname=source.file,
                path=folder,
                downloader=downloader or (_copy if local else ResumingDownloader(folder / f"{source.file}.part")),
            )
        )
    except LeukError:
        raise
    except ValueError as error:  # raised by pooch if the hash differs
        name = {"sha256": "SHA-256", "md5": "MD5"}[method]
        raise LeukError(
            f"{source.url}: the {name} of the download is not {expected}: the file was changed or damaged and is not "
            f"used. If the provider has published a new version, delete its line in {folder / HASHES}, or give --sha256"
        ) from error
    if expected is None:
        write_json(folder / HASHES, {**saved, source.file: sha256_file(archive)})
    return archive


def _expected(source: Download, saved: dict[str, str]) -> tuple[str, str | None]:
    """Return the hash that the file must have, with its method: a published one, else that of the first download."""
    if source.sha256 or not source.md5:
        return "sha256", source.sha256 or saved.get(source.file)
    return "md5", source.md5


def _local(url: str) -> Path | None:
    """Return the file that an address on this computer means, or None."""
    if url.startswith("file:"):
        return Path(unquote(urlsplit(url).path))
    return None if "://" in url else user_path(url)


def _copy(url: str, output_file: Any, pooch: Any, check_only: bool = False) -> None:
    """Copy a file of this computer; a downloader for pooch."""
    path = _local(url)
    if path is None or not path.is_file():
        raise LeukError(f"{url}: no such file, and not an address (https://…)", exit_code=2)
    shutil.copyfile(path, output_file)


def _hashes(folder: Path) -> dict[str, str]:
    path = folder / HASHES
    if not path.exists():
        return {}
    return read_record(
        path, Hashes, "hashes of archives by name", "restore it, or delete it to trust the next download"
    )


def fetch_dataset(
    name: str,
    url: str | Sequence[str] | None = None,
    sha256: str | Sequence[str] | None = None,
    keep: bool = True,
) -> tuple[Path, list[str]]:
    """Download a known open data set and lay it out in ``data/<name>/``.

    An existing folder is left alone. Archives of a kind that Python cannot unpack (RAR) are downloaded and checked; the
    lines say how to unpack them.

    Args:
        name: Name of the set.
        url: Addresses, or paths on this computer, to use instead of the known ones: one per archive, in their order.
        sha256: Hashes of the archives to use instead of the known ones, in the same order.
        keep: Keep the archives.

    Returns:
        The folder, and lines for the user: hashes, number of images, licence, citation.

    Raises:
        LeukError: If the set is unknown or cannot be downloaded, with what to do instead.
    """
    known = find_set(name)
    if not known.downloads:
        raise LeukError(f"data set {name}: {known.advice}. Source: {known.source}", exit_code=2)
    target = home(known)
    lines = [f"{known.title}. Licence: {licence_text(known)}.", f"Cite: {known.cite}"]
    if target.exists():
        return target, [f"{target} exists already; delete it to download it again", *lines]
    sources = _sources(known, url, sha256)
    folder = data_root() / "downloads"
    saved = _hashes(folder)
    expected = [_expected(source, saved) for source in sources]
    archives = [download(source, folder) for source in sources]
    readable = [
        (path, source.layout)
        for path, source in zip(archives, sources, strict=True)
        if path.suffix.lower() != ".rar" and not is_rar(path)
    ]
    if len(readable) < len(archives):
        lines = [*_by_hand(archives, sources, target), *lines]
    else:
        count, notes = arrange(readable, target, known)
        if count:
            lines = [f"{count} images in {target}", *notes, *lines]
            if known.images not in (None, count) and "images" not in known.unconfirmed:
                lines.insert(
                    0,
                    f"WARNING: {count} images, but the published set has {known.images}: another version, or incomplete",
                )
    saved = _hashes(folder)
    for source, path, (method, value) in zip(sources, archives, expected, strict=True):
        state = f"saved in {folder / HASHES}: none is published; later ones must match it"
        if value:
            state = f"{'MD5' if method == 'md5' else 'SHA-256'} as expected"
        digest = sha256_file(path) if method == "md5" else _expected(source, saved)[1]  # compared by ``download``
        lines.append(f"SHA-256 of {path.name}: {digest} ({state})")
    if not keep and len(readable) == len(archives):
        for path in archives:
            path.unlink()
    return target, lines


def _sources(known: KnownSet, url: str | Sequence[str] | None, sha256: str | Sequence[str] | None) -> list[Download]:
    """Return the downloads of a set, with other addresses and hashes where they are given."""
    sources = list(known.downloads)
    for option, given in (("--url", url), ("--sha256", sha256)):
        values = [given] if isinstance(given, str) else list(given or ())
        if values and len(values) != len(sources):
            files = ", ".join(source.file for source in known.downloads)
            raise LeukError(
                f"{option}: given {len(values)} times, but {known.name} has {len(sources)} archive(s), in this order: "
                f"{files}",
                exit_code=2,
            )
        for position, value in enumerate(values):
            if option == "--sha256" and not re.fullmatch("[0-9a-fA-F]{64}", value):
                raise LeukError(f"--sha256 {value[:80]!r}: must be 64 hexadecimal digits", exit_code=2)
            changed = {"url": value} if option == "--url" else {"sha256": value.lower(), "md5": None}
            sources[position] = replace(sources[position], **changed)
    return sources


def _by_hand(archives: Sequence[Path], sources: Sequence[Download], target: Path) -> list[str]:
    """Say how to unpack archives that Python cannot read."""
    lines = ["Downloaded, but not unpacked: Python cannot read RAR archives. Unpack them with bsdtar (package libarchive-tools), 7z x or unar:"]  # fmt: skip
    for path, source in zip(archives, sources, strict=True):
        folder = target / source.layout.partition(":")[2]
        lines.append(f"  mkdir -p {quoting.shell(str(folder))} && bsdtar -xf {quoting.shell(str(path))} -C {quoting.shell(str(folder))}")  # fmt: skip
    return [*lines, f"Then: leuk data check {target.name}"]
