"""``leuk data``: check a folder, list and download known sets, write splits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from leuk_lib import quoting
from leuk_lib.runs import progress
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.paths import user_path

app = typer.Typer(no_args_is_help=True, help="Check, download and split image folders.")

ClassMap = Annotated[
    list[str] | None, typer.Option("--map", help="OLD=NEW renames or merges a class, OLD= drops it; repeatable.")
]


SplitOption = Annotated[
    Literal["", "grouped", "published"],
    typer.Option("--split", help="published: the parts of the data set as published; grouped: split by groups."),
]

LayoutOption = Annotated[
    str,
    typer.Option("--layout", help="Roles of the folder levels, as in part/class/patient, or the class level's number."),
]


ReaderOption = Annotated[
    str, typer.Option("--reader", help="Reader of the files (see `leuk data readers`), or folders for class folders.")
]
ReaderOptions = Annotated[list[str] | None, typer.Option("--option", help="NAME=VALUE for the reader; repeatable.")]
PatternOption = Annotated[
    str,
    typer.Option("--pattern", help="What file names state: a named pattern, or an expression with (?P<patient>…)."),
]


QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Do not show the progress.")]
JobsOption = Annotated[
    int, typer.Option("--jobs", min=0, help="Processes that read images; 0: one per core that this command may use.")
]


def reader_options(options: list[str] | None) -> dict[str, str]:
    """Return the values of ``--option NAME=VALUE``.

    Raises:
        LeukError: For another form, and for an option that is given twice.
    """
    out: dict[str, str] = {}
    for option in options or []:
        name, equals, value = option.partition("=")
        if not name.strip() or not equals or name.strip() in out:
            problem = "is given twice" if name.strip() in out else "must look like NAME=VALUE, as in classes=AML,CML"
            raise LeukError(f"--option {option!r}: {problem}", exit_code=2)
        out[name.strip()] = value
    return out


def _class_map(options: list[str] | None) -> dict[str, str]:
    out: dict[str, str] = {}
    for option in options or []:
        old, equals, new = option.partition("=")
        if not old or not equals:
            raise LeukError(f"--map {option!r}: must look like OLD=NEW, as in --map band=neutrophil")
        if old in out:
            raise LeukError(f"--map {option!r}: class {old!r} is given twice; keep the right one")
        out[old] = new
    return out


@app.command("check")
def check_images(
    folder: Annotated[str, typer.Argument(help="Folder, file of a reader, or the name of a known set.")],
    csv: Annotated[Path | None, typer.Option(help="Write the findings to this CSV file.")] = None,
    page: Annotated[Path | None, typer.Option("--html", help="Write a page with thumbnails to this HTML file.")] = None,
    map_: ClassMap = None,
    layout: LayoutOption = "",
    split: SplitOption = "",
    reader: ReaderOption = "",
    option: ReaderOptions = None,
    pattern: PatternOption = "",
    jobs: JobsOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Check an image folder. Exit code 0: clean, 1: findings, 2: unusable.

    With --split published it also says what a run on the published split would train and test on.

    Example: leuk data check my_images --csv findings.csv --html findings.html
    """
    from leuk_lib.data.check import check_folder, exit_code
    from leuk_lib.data.report import render_page, render_text
    from leuk_lib.runs.files import atomic, keep_inputs, write_text

    keep_inputs([csv, page], [user_path(folder)])
    with progress.of_command(f"data check {folder}", quiet):
        findings = check_folder(
            folder, jobs, class_map=_class_map(map_), layout=layout, reader=reader,
            reader_options=reader_options(option), pattern=pattern, split=split,
        )  # fmt: skip
    if csv:
        with atomic(csv) as temporary:
            quoting.cells(findings).to_csv(temporary, index=False)
    if page:
        write_text(page, render_page(findings))
    print(render_text(findings))
    raise typer.Exit(exit_code(findings))


@app.command("list")
def list_sets(
    name: Annotated[str | None, typer.Argument(help="Name of a set: all that is known about it.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the known data sets with their sizes, licences and whether they have been fetched; or describe one of them.

    Example: leuk data list leukemia-attri
    """
    from leuk_lib.data.catalog_text import as_records, detail_text, list_text

    if json_:
        print(quoting.terminal_json(as_records(name)))
    else:
        print(detail_text(name) if name else list_text())


@app.command("readers")
def list_readers() -> None:
    """List the readers of published layouts with their options, and the named patterns of file names.

    Example: leuk data readers
    """
    from leuk_lib.data.file_names import PATTERNS
    from leuk_lib.data.readers import readers

    for reader in readers().values():
        print(f"--reader {reader.name}: {reader.title}")
        for name, meaning in reader.options.items():
            print(f"  --option {name}=…: {meaning}")
    for pattern in PATTERNS.values():
        how = "read without being asked where all names fit" if pattern.unmistakable else "only when asked for"
        print(f"--pattern {pattern.name}: {pattern.title}, as in {pattern.example}; {how}")


@app.command("fetch")
def fetch_set(
    name: Annotated[str, typer.Argument(help="Name of an open set: see `leuk data list`.")],
    url: Annotated[
        list[str] | None,
        typer.Option(help="Address or path of an archive, instead of the known one; once per archive, in their order."),
    ] = None,
    sha256: Annotated[
        list[str] | None, typer.Option(help="SHA-256 that an archive must have; once per archive, in their order.")
    ] = None,
    keep: Annotated[bool, typer.Option(help="Keep the archives in data/downloads/.")] = True,
    quiet: QuietOption = False,
) -> None:
    """Download an open data set to data/NAME/; a broken download is resumed.

    Example: leuk data fetch segmentation-wbc
    """
    from leuk_lib.data.download import fetch_dataset

    with progress.of_command(f"data fetch {name}", quiet):
        folder, lines = fetch_dataset(name, url, sha256, keep)
    print("\n".join(lines))
    print(quoting.terminal(folder))


@app.command("split")
def split_folder(
    folder: Annotated[str, typer.Argument(help="Folder, file of a reader, or the name of a known set.")],
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("folds.json"),
    folds: Annotated[int, typer.Option(min=0, help="k of k-fold; 0: repeated 70/10/20 splits.")] = 5,
    repeats: Annotated[int, typer.Option(min=1, help="Number of repetitions.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed.")] = 0,
    map_: ClassMap = None,
    layout: LayoutOption = "",
    reader: ReaderOption = "",
    option: ReaderOptions = None,
    pattern: PatternOption = "",
    jobs: JobsOption = 0,
    quiet: QuietOption = False,
) -> None:
    """Write k folds or repeated splits of a folder to a JSON file: stratified, by groups, with a hash.

    Example: leuk data split my_images --folds 5 --repeats 3 --out folds.json
    """
    from leuk_lib.data.folder import read_folder
    from leuk_lib.data.splits import folds_record, k_folds, repeated_splits
    from leuk_lib.runs.files import keep_inputs, write_json

    keep_inputs([out], [user_path(folder)])
    with progress.of_command(f"data split {folder}", quiet):
        read = read_folder(
            folder, 16, jobs, class_map=_class_map(map_), layout=layout, reader=reader,
            reader_options=reader_options(option), pattern=pattern,
        )  # fmt: skip
    table = read.table
    table = table[table["external"] == ""]
    labels, groups = table["label"].to_numpy(dtype=str), table["group"].to_numpy(dtype=str)
    if folds:
        parts = k_folds(labels, groups, folds, seed, repeats)
    else:
        parts = repeated_splits(labels, groups, repeats, seed=seed)
    record = folds_record(parts, groups, seed, f"{folds}-fold" if folds else "70/10/20")
    print(f"{len(table)} cells, {len(set(groups))} groups, {len(parts)} x {record['kind']}, sha256 {record['sha256']}")
    print(quoting.terminal(write_json(out, record)))
