"""The glossary: every word of the methods says where it is explained and which code it is."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import nbformat
import pytest

from leuk_lib.runs.paths import stage_notebooks

ROLE = re.compile(r"\{py:(?P<kind>func|class)\}`~(?P<module>leuk_lib[\w.]*)\.(?P<name>\w+)`")
TERM = re.compile(r"\{term\}`(?:[^`<]*<)?(?P<entry>[^`<>]+)>?`")
CHAPTER = re.compile(r"\[Chapter (?P<number>\d)\]\(chapters/(?P<name>\w+)\.ipynb\)")
METHOD_WORDS = (
    "kappa", "activity", "contrast floor", "gain", "optical density", "relativistic loss", "R1", "R2", "k-NN ball", "gate",
    "effective number", "quota", "ADA", "GRN", "mask", "two views", "window", "latent token", "cosine attention",
    "position bias", "class attention", "linear head", "stain jitter", "light jitter", "weight average",
)  # fmt: skip


@pytest.fixture(scope="module")
def entries(root: Path) -> list[tuple[list[str], str]]:
    """Terms and definition of each entry."""
    text = (root / "book" / "glossary.md").read_text(encoding="utf-8").split("```{glossary}\n")[1].split("\n```")[0]
    heads = [entry.split("\n  ", 1) for entry in re.split(r"\n\n(?=\S)", text)]
    return [(terms.split("\n"), definition) for terms, definition in heads]


@pytest.fixture(scope="module")
def definitions(entries: list[tuple[list[str], str]]) -> dict[str, str]:
    return {term: definition for terms, definition in entries for term in terms}


def test_the_words_of_the_methods_name_their_chapter_and_code(definitions: dict[str, str]):
    for word in METHOD_WORDS:
        assert CHAPTER.search(definitions[word]) and ROLE.search(definitions[word]), word


def test_all_links_lead_somewhere(definitions: dict[str, str], root: Path):
    roles = [match for text in definitions.values() for match in ROLE.finditer(text)]
    assert len(roles) == sum(text.count("{py:") for text in definitions.values()) >= len(METHOD_WORDS) - 2
    for match in roles:
        target = getattr(importlib.import_module(match["module"]), match["name"])
        assert target.__module__ == match["module"]  # documented there
        assert isinstance(target, type) == (match["kind"] == "class")
    for text in definitions.values():
        for match in CHAPTER.finditer(text):
            assert (root / "notebooks" / f"{match['name']}.ipynb").exists() and int(match["name"][:2]) == int(
                match["number"]
            )


def test_terms_are_in_order_and_each_once(entries: list[tuple[list[str], str]]):
    first = [terms[0] for terms, _ in entries]
    assert first == sorted(first, key=str.casefold)
    every = [term for terms, _ in entries for term in terms]
    assert len(every) == len(set(every))


@pytest.mark.parametrize("stage", stage_notebooks())
def test_each_term_of_a_chapter_is_an_entry_and_a_link_once(stage: str, definitions: dict[str, str]):
    cells = nbformat.read(stage_notebooks()[stage], as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    terms = [match["entry"] for match in TERM.finditer(text)]
    assert len(terms) == text.count("{term}") and len(terms) == len(set(terms))
    assert [term for term in terms if term not in definitions] == []


def test_each_term_of_a_page_is_an_entry(definitions: dict[str, str], root: Path):
    text = "\n".join(path.read_text(encoding="utf-8") for path in (root / "book").glob("*/*.md"))
    terms = [match["entry"] for match in TERM.finditer(text)]
    assert len(terms) > 3 and [term for term in terms if term not in definitions] == []


def test_the_pattern_reads_both_forms_of_a_term():
    assert [m["entry"] for m in TERM.finditer("a {term}`blast`, {term}`more blasts <blast>`")] == ["blast", "blast"]
