"""MathJax for offline use: pinned bytes, clear words when it cannot be had."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from leuk_lib.book import mathjax
from leuk_lib.runs.errors import LeukError


def test_script_is_laid_down_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mathjax, "SHA256", hashlib.sha256(b"script").hexdigest())
    monkeypatch.setattr(mathjax, "from_installed_package", lambda: None)
    monkeypatch.setattr(mathjax, "from_npm", lambda: b"script")
    path = mathjax.ensure(tmp_path)
    assert path.read_bytes() == b"script" and mathjax.is_present(tmp_path)
    monkeypatch.setattr(mathjax, "from_npm", lambda: pytest.fail("asked again"))
    assert mathjax.ensure(tmp_path) == path


def test_other_bytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mathjax, "from_installed_package", lambda: b"something else")
    with pytest.raises(LeukError, match="expected d4295dc33744"):
        mathjax.ensure(tmp_path)
    assert not mathjax.target(tmp_path).exists()


def test_no_source_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mathjax, "from_installed_package", lambda: None)
    monkeypatch.setattr(mathjax, "from_npm", lambda: None)
    with pytest.raises(LeukError, match=r"cannot be had.*make env"):
        mathjax.ensure(tmp_path)


def test_a_machine_without_npm_has_no_npm_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert mathjax.from_npm() is None
