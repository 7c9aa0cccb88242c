"""CITATION.cff follows version 1.2.0 of its format, and the bibliography has every cited entry."""

from __future__ import annotations

import datetime
import json
import re
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

# The part of the Citation File Format 1.2.0 that a software project uses.
TEXT = {"type": "string", "minLength": 1}
DATE = {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"}
ORCID = {"type": "string", "pattern": r"^https://orcid\.org/\d{4}-\d{4}-\d{4}-\d{3}[\dX]$"}
PERSON = {
    "type": "object", "additionalProperties": False, "minProperties": 1,
    "properties": {"family-names": TEXT, "given-names": TEXT, "name-particle": TEXT, "name-suffix": TEXT,
                   "affiliation": TEXT, "email": TEXT, "orcid": ORCID, "website": TEXT, "alias": TEXT},
}  # fmt: skip
ENTITY = {
    "type": "object", "additionalProperties": False, "required": ["name"],
    "properties": {"name": TEXT, "email": TEXT, "orcid": ORCID, "website": TEXT, "alias": TEXT, "city": TEXT, "country": TEXT},
}  # fmt: skip
AUTHORS = {"type": "array", "minItems": 1, "items": {"anyOf": [PERSON, ENTITY]}}
REFERENCE_TYPES = ["article", "book", "conference-paper", "data", "dataset", "generic", "software", "unpublished"]
DOI = {"type": "string", "pattern": r"^10\.\d{4,9}(\.\d+)?/[A-Za-z0-9:/_;\-.()\[\]\\]+$"}
REFERENCE = {
    "type": "object", "required": ["authors", "title", "type"],
    "properties": {"type": {"enum": REFERENCE_TYPES}, "title": TEXT, "authors": AUTHORS, "doi": DOI,
                   "date-published": DATE, "year": {"type": "integer"}},
}  # fmt: skip
SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["cff-version", "message", "title", "authors"],
    "properties": {
        "cff-version": {"const": "1.2.0"}, "message": TEXT, "title": TEXT, "authors": AUTHORS, "abstract": TEXT,
        "type": {"enum": ["software", "dataset"]}, "version": TEXT, "date-released": DATE, "doi": DOI, "license": TEXT,
        "keywords": {"type": "array", "items": TEXT, "minItems": 1, "uniqueItems": True}, "commit": TEXT, "contact": AUTHORS,
        "references": {"type": "array", "items": REFERENCE, "minItems": 1}, "repository-code": TEXT, "url": TEXT,
        "preferred-citation": REFERENCE,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def citation(root: Path) -> dict:
    return yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))


def test_citation_file_is_valid(citation: dict) -> None:
    jsonschema.validate(citation, SCHEMA)
    datetime.date.fromisoformat(citation["date-released"])


@pytest.mark.parametrize("change", [{"authors": []}, {"date-released": "2026-1-1"}, {"licence": "MIT"},
                                    {"authors": [{"family-names": "A", "orcid": "0000-0000"}]}])  # fmt: skip
def test_the_check_finds_faults(citation: dict, change: dict) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**citation, **change}, SCHEMA)


def test_citation_agrees_with_the_package(citation: dict, root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"] == "MIT"
    assert "MIT License" in (root / "LICENSE").read_text(encoding="utf-8")


def cited_keys(text: str) -> set[str]:
    return {key.strip() for group in re.findall(r"\{cite(?::[a-z]+)?\}`([^`]+)`", text) for key in group.split(",")}


def test_every_citation_has_an_entry_and_no_entry_appears_twice(root: Path) -> None:
    entries = re.findall(
        r"^@\w+\{([^,]+),", (root / "book" / "references.bib").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(entries) == len(set(entries))
    prose = [path.read_text(encoding="utf-8") for path in (root / "book").rglob("*.md") if "_build" not in path.parts]
    for path in (root / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        prose += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    missing = {key for text in prose for key in cited_keys(text)} - set(entries)
    assert not missing
