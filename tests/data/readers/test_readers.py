"""The registry of readers, and the reader that the documentation shows."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.toys import picture
from leuk_lib.cli.main import main
from leuk_lib.data import readers
from leuk_lib.data.decode import decode_file
from leuk_lib.data.listing import list_folder
from leuk_lib.data.readers.reader import AnnotationReader, CellReader, Options
from leuk_lib.runs.errors import LeukError


def test_every_module_with_a_reader_is_registered_under_its_own_name():
    assert {"medmnist", "table", "wbcatt", "lmu", "cnmc-phase2", "deepapl"} <= set(readers.readers())
    for name, reader in readers.readers().items():
        assert reader.name == name and reader.title and isinstance(reader, CellReader | AnnotationReader)
        assert all(reader.options.values()), f"{name}: an option without a description"


@pytest.mark.parametrize("name", readers.readers())
def test_no_reader_recognises_plain_folders_or_breaks_on_odd_paths(tmp_path, name):
    """Every folder of images passes by all readers."""
    reader = readers.readers()[name]
    (tmp_path / "AML").mkdir()
    (tmp_path / "AML" / "0.png").write_bytes(b"")
    for file in ("master.csv", "labels.json", "notes.txt", "annotations.dat", "classes.txt", "findings.csv"):
        (tmp_path / file).write_bytes(b"\xff\xfe1")
    (tmp_path / "link.csv").symlink_to("link.csv")
    (tmp_path / "a.csv").mkdir()
    assert not reader.recognises(tmp_path)
    assert not reader.recognises(tmp_path / "none") and not reader.recognises(tmp_path / "notes.txt")


def test_the_reader_in_the_documentation_works(tmp_path, root: Path, monkeypatch, capsys):
    page = (root / "book" / "maintain" / "extend.md").read_text()
    code = re.search(r"```python\n(.*?READER = .*?)```", page, re.DOTALL)[1]
    assert len(code.splitlines()) <= 25
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "stacks_of_the_page.py").write_text(code)
    monkeypatch.setenv("LEUK_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(readers, "__path__", [*readers.__path__, str(modules)])
    readers.readers.cache_clear()
    try:
        folder = tmp_path / "set"
        folder.mkdir()
        for k, label in enumerate(("AML", "CML")):
            pages = [Image.fromarray(picture(10 * k + i)) for i in range(3)]
            pages[0].save(folder / f"{label}.stack.tif", save_all=True, append_images=pages[1:])
        assert main(["data", "check", str(folder)]) == 0
        out = capsys.readouterr().out
        assert "AML 3, CML 3" in out and "reader stacks" in out
        listing = list_folder(folder)
        entry = next(e for e in listing.entries if e.source == "CML.stack.tif page 2")
        np.testing.assert_array_equal(decode_file(listing.root / entry.path).image, picture(12))
    finally:
        readers.readers.cache_clear()


def test_options_are_checked():
    options = Options("r", {"a": "", "mode": ""}, {"a": " 1.5 ", "mode": "x, y,"})
    assert options.number("a", 0, 0, 2) == 1.5 and options.names("mode") == ["x", "y"] and options.text("z", "d") == "d"
    for wrong in (lambda: options.number("a", 0, 2, 3), lambda: options.number("mode", 0, 0, 1),
                  lambda: options.one_of("mode", ("u", "v")), lambda: Options("r", {}, {"b": "1"})):  # fmt: skip
        with pytest.raises(LeukError, match="reader r") as error:
            wrong()
        assert error.value.exit_code == 2
