"""The catalogue of known data sets as text: a table and details for the terminal, and the table of data/README.md.

``python -m leuk_lib.data.catalog_text`` writes the table into data/README.md.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

from leuk_lib.data.catalog import KNOWN_SETS, KnownSet, home
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.params import nearest
from leuk_lib.runs.paths import project_root

WIDTH = 80
UNKNOWN = "not known"
BEGIN = "<!-- table of leuk_lib.data.catalog_text: begin -->"
END = "<!-- table of leuk_lib.data.catalog_text: end -->"


def find_set(name: str) -> KnownSet:
    """Return a known set.

    Raises:
        LeukError: If there is no set of that name.
    """
    if name not in KNOWN_SETS:
        raise LeukError(f"data set {name!r} is not known; {nearest(name, KNOWN_SETS)}", exit_code=2)
    return KNOWN_SETS[name]


def licence_text(known: KnownSet, doubt: str = " (not confirmed at the source)") -> str:
    """Return the licence, with ``doubt`` behind it if it was not confirmed at the source."""
    return known.licence + (doubt if "licence" in known.unconfirmed and known.licence != UNKNOWN else "")


def _mark(known: KnownSet, fact: str) -> str:
    return "?" if fact in known.unconfirmed else ""


def _number(known: KnownSet, fact: str, value: int | None) -> str:
    if value is None:
        return "?" if fact in known.unconfirmed else "none" if fact == "patients" else "–"
    return f"{value:,}{_mark(known, fact)}"


def list_text(width: int = WIDTH) -> str:
    """Return the table of all sets: images, patients, classes, licence, and whether the set has been fetched."""
    rows = [("name", "images", "patients", "classes", "licence", "here")]
    rows.append(("smear", "rendered", "rendered", "4", "none needed", "yes"))
    for known in KNOWN_SETS.values():
        here = "yes" if home(known).is_dir() else "fetch" if known.downloads else "by hand"
        images, patients = _number(known, "images", known.images), _number(known, "patients", known.patients)
        classes = f"{len(known.classes)}{_mark(known, 'classes')}"
        licence = re.sub(r" \([^)]*\)|;[^?]*", "", licence_text(known, "?"))  # without its remarks
        rows.append((known.name, images, patients, classes, licence, here))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        left = (0, 4, 5)
        cells = [
            cell.ljust(size) if column in left else cell.rjust(size)
            for column, (cell, size) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    legend = (
        "?: not confirmed at the source. patients: people to whom the published files assign images. here: yes; fetch "
        "(leuk data fetch NAME downloads it); by hand. leuk data list NAME says what a set can answer, and how to get it."
    )
    return "\n".join([*lines, "", *textwrap.wrap(legend, width)])


def detail_text(name: str, width: int = WIDTH) -> str:
    """Return all that is known about one set.

    Raises:
        LeukError: If there is no set of that name.
    """
    if name == "smear":
        return "smear: rendered blood cells of rendered patients, with masks.\nNothing to download; it is the default."
    known = find_set(name)
    people = "no image is assigned to a person" if known.patients is None else f"{known.patients:,}"
    if known.patients is None and "patients" in known.unconfirmed:
        people = UNKNOWN
    how = known.advice if known.downloads else known.access
    facts = [
        ("here", str(home(known)) if home(known).is_dir() else f"no; it goes to {home(known)}"),
        ("get it", f"{how} ({known.access})" if known.downloads and known.access != "open" else how),
        ("classes", ", ".join(known.classes)),
        ("images", UNKNOWN if known.images is None else f"{known.images:,}"),
        ("patients", people),
        ("licence", known.licence),
        ("source", known.source),
        ("cite", known.cite),
    ]
    lines = [f"{known.name}: {known.title}", ""]
    for label, text in facts:
        doubt = " (not confirmed at the source)" if label in known.unconfirmed and text != UNKNOWN else ""
        lines += _item(label, f"{text}{doubt}", width)
    for option, choice in known.options.items():
        how = f"--option {option}=… of leuk data check, --set 'data.reader_options={{{option}: …}}' of leuk run"
        text = f"{choice.meaning}: {', '.join(choice.choices)} (default {choice.choices[0]}); {how}"
        lines += _item(option, text, width)
    for old, new in known.class_map.items():
        text = f"{old} counts as {new}; data.class_map={{{old}: {old}}} keeps it, {{{old}: ''}} leaves it out"
        lines += _item("classes", text, width)
    if known.split == "published":
        lines += _item("split", "as published, unless data.split=grouped", width)
    for download in known.downloads:
        digest = f"MD5 {download.md5}" if download.md5 else f"SHA-256 {download.sha256 or 'not published'}"
        lines += _item("archive", f"{download.url} ({digest})", width)
    for title, texts in (
        ("It can answer", known.answers), ("It cannot answer", known.limits), ("Easily misread", known.traps),
    ):  # fmt: skip
        lines += ["", f"{title}:"]
        for text in texts:
            lines += textwrap.wrap(text, width, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)
    if "layout" in known.unconfirmed:
        lines += ["", *textwrap.wrap("The layout of its files is known from descriptions only: check how leuk data check reads them.", width)]  # fmt: skip
    lines += ["", *textwrap.wrap("Confirm licence and terms at the source before you publish.", width)]
    return "\n".join(lines)


def _item(label: str, text: str, width: int) -> list[str]:
    indent = " " * 10
    return textwrap.wrap(
        text, width, initial_indent=f"{label:<9} ", subsequent_indent=indent, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def as_records(name: str | None = None) -> list[dict[str, Any]]:
    """Return the facts about one set or all, for JSON.

    Raises:
        LeukError: If there is no set of that name.
    """
    chosen = [find_set(name)] if name else list(KNOWN_SETS.values())
    return [
        {
            "name": known.name, "title": known.title, "classes": list(known.classes), "images": known.images,
            "patients": known.patients, "licence": known.licence, "unconfirmed": list(known.unconfirmed),
            "here": home(known).is_dir(), "folder": str(home(known)), "source": known.source, "access": known.access,
            "cite": known.cite, "split": known.split, "class_map": dict(known.class_map),
            "options": {option: list(choice.choices) for option, choice in known.options.items()},
            "downloads": [
                {"url": d.url, "file": d.file, "sha256": d.sha256, "md5": d.md5} for d in known.downloads
            ],
            "answers": list(known.answers), "limits": list(known.limits), "traps": list(known.traps),
        }
        for known in chosen
    ]  # fmt: skip


def readme_table() -> str:
    """Return the table of data/README.md, with its two marks."""
    head = ("name", "what", "images", "patients", "classes", "licence", "how to get it", "cite")
    rows = [" | ".join(head), " | ".join(["---"] * len(head))]
    for known in KNOWN_SETS.values():
        classes = ", ".join(known.classes) if len(known.classes) <= 5 else str(len(known.classes))
        rows.append(
            " | ".join(
                (
                    f"`{known.name}`", known.title, _number(known, "images", known.images),
                    _number(known, "patients", known.patients), classes + _mark(known, "classes"),
                    licence_text(known, " (?)"),
                    f"`leuk data fetch {known.name}`" if known.downloads else known.access, known.cite,
                )
            )
        )  # fmt: skip
    return "\n".join([BEGIN, *(f"| {row} |" for row in rows), END])


def write_readme(readme: Path) -> None:
    """Replace the table of data/README.md."""
    text = readme.read_text(encoding="utf-8")
    readme.write_text(text[: text.index(BEGIN)] + readme_table() + text[text.index(END) + len(END) :], encoding="utf-8")


if __name__ == "__main__":
    write_readme(project_root() / "data" / "README.md")
