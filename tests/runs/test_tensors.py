"""Files of tensors are read completely or refused in one line that names the file."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from damage import OTHER_FILES, survives
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.tensors import check_digest, digest, named_tensors, read_tensors

TENSORS = {"a.weight": torch.linspace(-1, 1, 600).reshape(20, 30), "b": torch.arange(7)}
KINDS = ["safetensors", "zip", "legacy"]


def write(folder: Path, kind: str) -> Path:
    path = folder / f"file.{kind}"
    if kind == "safetensors":
        save_file(TENSORS, path, metadata={"from": "here"})
    else:
        torch.save(TENSORS, path, _use_new_zipfile_serialization=kind == "zip")
    return path


def read(path: Path) -> dict[str, torch.Tensor]:
    return named_tensors(read_tensors(path, "file", "get it again")[0], str(path), "get it again")


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(tmp_path: Path, kind: str):
    path = write(tmp_path, kind)
    content = read(path)
    assert set(content) == set(TENSORS) and all(torch.equal(content[name], TENSORS[name]) for name in TENSORS)
    assert read_tensors(path, "file", "")[1] == ({"from": "here"} if kind == "safetensors" else {})


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_bytes_are_one_line_and_checksums_are_checked(tmp_path: Path, kind: str):
    for content in survives(read, write(tmp_path, kind)):
        if kind == "zip":  # the one kind that has checksums
            assert all(torch.equal(content[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("stranger", OTHER_FILES)
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_other_kinds_of_file_are_called_foreign(tmp_path: Path, stranger: str, suffix: str):
    path = tmp_path / f"file.{suffix}"
    path.write_bytes(OTHER_FILES[stranger])
    with pytest.raises(LeukError, match=rf"^file .*file\.{suffix}: damaged or foreign \(.+\); get it again$") as caught:
        read(path)
    assert caught.value.exit_code == 1


def test_a_missing_file_and_a_folder_are_said(tmp_path: Path):
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(LeukError, match="no such file; get it again") as caught:
            read_tensors(path, "file", "get it again", exit_code=2)
        assert caught.value.exit_code == 2


def test_code_is_not_run(tmp_path: Path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Trap()))
    torch.save({"model": Trap()}, tmp_path / "zip.pt")
    for name in ("bare.pt", "zip.pt"):
        with pytest.raises(LeukError, match="not executed"):
            read(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "no state dict"),
        ({"a": 1}, "no state dict"),
        ({0: torch.zeros(1)}, "no state dict"),
        ({"a": torch.tensor([0.0, float("nan")])}, "a has NaN"),
        ({"a": torch.ones(1), "b": torch.tensor(float("inf"))}, "b has NaN or infinite"),
        (
            {"bn.running_mean": -torch.ones(2), "bn.running_var": -torch.ones(2)},
            "bn.running_var, the variances .* negative",
        ),
    ],
)
def test_only_finite_tensors_by_name_are_accepted(content: object, message: str):
    with pytest.raises(LeukError, match=rf"^x\.pt: .*{message}.*; again$"):
        named_tensors(content, "x.pt", "again")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (torch.full((2,), 1e300, dtype=torch.float64), "too large for float32"),
        (torch.tensor([1.0, float("nan")]), "NaN"),
        (torch.tensor([1.0, float("-inf")], dtype=torch.float16), "infinite"),
        (torch.ones(2, dtype=torch.complex64) * float("nan"), "plain real numbers"),
        (torch.ones(2, dtype=torch.complex64), "plain real numbers"),
        (torch.eye(2).to_sparse(), "plain real numbers"),
    ],
)
def test_values_that_no_weight_can_have_are_refused(value: torch.Tensor, reason: str):
    with pytest.raises(LeukError, match=f"^file x: a (has|holds) .*{reason}"):
        named_tensors({"a": value}, "file x", "get it again")


def test_the_digest_sees_every_change():
    first = {"a": torch.arange(6.0), "b": torch.ones(2, dtype=torch.int8)}
    changes = [
        {**first, "a": first["a"].reshape(2, 3)},
        {**first, "a": first["a"].int().view(torch.float32)},
        {**first, "c": first["b"]},
        {"a": first["a"]},
        {**first, "a": first["a"].nextafter(torch.tensor(9.0))},
    ]
    assert len({digest(item) for item in (first, *changes)}) == 6
    assert digest(dict(reversed(first.items()))) == digest(first)
    check_digest(first, None, "file x", "get it again")
    with pytest.raises(LeukError, match=r"^file x: damaged .*checksum"):
        check_digest(changes[4], digest(first), "file x", "get it again")
