"""``leuk``: check data, run the notebooks, see what is fresh, compare runs, predict, build the book."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leuk_lib import workflow
from leuk_lib.runs import card, paths
from leuk_lib.runs.errors import LeukError
from leuk_lib.stages import STAGES

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
data_app = typer.Typer(no_args_is_help=True, help="Look after image folders.")
app.add_typer(data_app, name="data")

Dataset = Annotated[str, typer.Option(help="'smear' (rendered cells) or a folder of images.")]
Profile = Annotated[str, typer.Option(help="smoke, laptop or paper.")]
Seeds = Annotated[str, typer.Option(help='One seed or several: "0 1 2".')]
RunName = Annotated[str | None, typer.Option("--run", help="A run's name (default: from data set, profile, seed).")]


def _seeds(text: str) -> list[int]:
    try:
        return [int(word) for word in text.replace(",", " ").split()] or [0]
    except ValueError as error:
        raise LeukError(f'seeds {text!r}: must be whole numbers, as in --seeds "0 1 2"') from error


def _latest_run() -> str:
    cards = sorted(paths.results_root().glob("*/*/card.json"), key=lambda path: path.stat().st_mtime)
    if not cards:
        raise LeukError("no run in results/ yet: `make book` or `leuk run` makes one")
    return cards[-1].parents[1].name


Mapped = Annotated[
    list[str] | None, typer.Option("--map", help="OLD=NEW renames or merges a class, OLD= drops it; repeatable.")
]


def _class_map(words: list[str] | None) -> dict[str, str]:
    pairs = [word.partition("=") for word in words or []]
    for old, equals, new in pairs:
        if not old or not equals:
            raise LeukError(f"--map {old + new!r}: must look like OLD=NEW, as in --map band=neutrophil")
    return {old: new for old, _, new in pairs}


@data_app.command("check")
def data_check(
    folder: Annotated[str, typer.Argument(help="Folder of class folders, or a known set's name.")],
    csv: Annotated[Path | None, typer.Option(help="Write the findings to this CSV file.")] = None,
    page: Annotated[Path | None, typer.Option("--html", help="Write a page with thumbnails to this file.")] = None,
    map_: Mapped = None,
) -> None:
    """Find what is wrong with an image folder. Exit code 0: clean, 1: findings, 2: unusable.

    Example: leuk data check my_images --csv findings.csv --html findings.html
    """
    from leuk_lib.data.check import check_folder, exit_code, render_report
    from leuk_lib.runs.files import atomic, write_text

    findings = check_folder(folder, class_map=_class_map(map_))
    if csv:
        with atomic(csv) as temporary:
            findings.to_csv(temporary, index=False)
    if page:
        from leuk_lib.data.check_page import render_page

        write_text(page, render_page(findings))
    print(render_report(findings))
    raise typer.Exit(exit_code(findings))


@data_app.command("list")
def data_list() -> None:
    """List the known data sets: whether they are here, how to get them, under which licence.

    Example: leuk data list
    """
    from leuk_lib.data.sets import SETS, home

    print("smear: rendered cells; nothing to fetch")
    for known in SETS.values():
        state = f"in {home(known)}" if home(known).is_dir() else f"not here: {known.advice}"
        print(
            f"{known.name}: {known.title}\n  classes: {', '.join(known.classes)}\n  {state}\n  licence: {known.licence}"
        )


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="A known open set: see `leuk data list`.")],
    url: Annotated[str | None, typer.Option(help="Another address of the archive.")] = None,
    sha256: Annotated[str | None, typer.Option(help="The SHA-256 that the archive must have.")] = None,
    keep: Annotated[bool, typer.Option(help="Keep the archive in data/downloads/.")] = True,
) -> None:
    """Download an open data set into data/NAME/; a broken download goes on where it ended.

    Example: leuk data fetch segmentation-wbc
    """
    from leuk_lib.data.fetch import fetch

    folder, lines = fetch(name, url, sha256, keep)
    print("\n".join(lines))
    print(folder)


@data_app.command("split")
def data_split(
    folder: Annotated[str, typer.Argument(help="Folder of class folders, or a known set's name.")],
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("folds.json"),
    folds: Annotated[int, typer.Option(min=0, help="k of k-fold; 0: repeated 70/10/20 splits.")] = 5,
    repeats: Annotated[int, typer.Option(min=1, help="How many times.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed.")] = 0,
    map_: Mapped = None,
) -> None:
    """Write repeated splits or k folds of a folder, by groups, stratified, as JSON with a hash.

    Example: leuk data split my_images --folds 5 --repeats 3 --out folds.json
    """
    from leuk_lib.data.manifest import read_folder
    from leuk_lib.data.splits import folds_record, k_folds, repeated_splits
    from leuk_lib.runs.files import write_json

    table = read_folder(folder, size=16, class_map=_class_map(map_)).table
    table = table[table["foreign"] == ""]
    labels, groups = table["label"].to_numpy(dtype=str), table["group"].to_numpy(dtype=str)
    if folds:
        parts = k_folds(labels, groups, folds, seed, repeats)
    else:
        parts = repeated_splits(labels, groups, repeats, seed=seed)
    record = folds_record(parts, groups, seed, f"{folds}-fold" if folds else "70/10/20")
    print(f"{len(table)} cells, {len(set(groups))} groups, {len(parts)} x {record['kind']}, sha256 {record['sha256']}")
    print(write_json(out, record))


@app.command()
def run(
    stage: Annotated[str | None, typer.Argument(help="Run up to this stage (default: all).")] = None,
    dataset: Dataset = "smear",
    profile: Profile = "laptop",
    seeds: Annotated[str, typer.Option("--seeds", "--seed", help='One seed or several: "0 1 2".')] = "0",
    jobs: Annotated[int, typer.Option(min=1, help="Notebooks that run side by side.")] = 1,
    run: RunName = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="fcmae.epochs=3, repeatable.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Show what would run.")] = False,
) -> None:
    """Run the notebooks in order; only what is missing or changed is run.

    Example: leuk run fcmae --profile smoke --seeds "0 1" --jobs 2
    """
    extra = ["--dry-run", "--quiet", "progress"] if dry_run else []
    for name in workflow.run_stages(dataset, profile, _seeds(seeds), jobs, stage, run, set_ or [], extra):
        print(paths.run_folder(name))


@app.command()
def status(run: RunName = None) -> None:
    """Print every stage of every run as fresh, stale (and why), failed, interrupted or missing.

    Example: leuk status --run smear-laptop-s0
    """
    from leuk_lib.data.fingerprint import fingerprint

    runs = [run] if run else sorted({path.parents[1].name for path in paths.results_root().glob("*/*/card.json")})
    if not runs:
        raise LeukError("no run in results/ yet: `make book` or `leuk run` makes one")
    for name in runs:
        if not paths.run_folder(name).is_dir():
            raise LeukError(f"run {name!r}: no such folder in {paths.results_root()}")
        print(name)
        for spec in STAGES:
            state, reasons = card.stage_state(name, spec.name, fingerprint)
            print(f"  {spec.name:<9} {state:<11} {'; '.join(reasons)}".rstrip())


@app.command()
def compare(
    run: Annotated[str, typer.Argument(help="A run's name or folder.")],
    reference: Annotated[
        str | None,
        typer.Argument(help="Another run, or a reference file (default: that of the run's data and profile)."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Print the equal numbers too.")] = False,
) -> None:
    """Set a run's numbers beside a reference's. Exit code 0: all within tolerance, 1: some outside or missing.

    Example: leuk compare smear-laptop-s0
    """
    from leuk_lib.evaluation import compare as comparing
    from leuk_lib.evaluation.reference import load_run, reference_file

    def folder(name: str) -> Path:
        return Path(name) if Path(name).exists() else paths.run_folder(name)

    if reference is None:
        first = next(iter(load_run(folder(run))["cards"].values()))
        other = reference_file(first["dataset"], first["profile"])
        if not other.exists():
            raise LeukError(
                f"no reference {other.name} in {other.parent}: name another run or file to compare with, "
                f"or make one from a run that you trust: leuk reference RUN"
            )
    else:
        other = folder(reference)
    frame = comparing.compare_runs(folder(run), other)
    shown = frame if everything else frame[frame["verdict"] != "equal"]
    if len(shown):
        print(shown.drop(columns="cause").to_string(index=False, float_format=lambda value: f"{value:.6g}"), end="\n\n")
    print(comparing.by_stage(frame).to_string(index=False), end="\n\n")
    print(comparing.sentence(frame))
    raise typer.Exit(int(frame["verdict"].isin(["outside", "missing"]).any()))


@app.command()
def reference(
    run: Annotated[str, typer.Argument(help="A finished run's name.")],
    out: Annotated[Path | None, typer.Option(help="File to write (default: book/reference/DATA-PROFILE.json).")] = None,
) -> None:
    """Write the reference record of a finished run: its numbers, cards and tolerances, no images.

    A run that is missing, failed or stale in one stage is refused. Example: leuk reference smear-smoke-s0
    """
    from leuk_lib.book.gate import check_run
    from leuk_lib.data.fingerprint import fingerprint
    from leuk_lib.evaluation.reference import write_reference

    check_run(run, STAGES, fingerprint)
    cards = [card.read_card(run, spec.name) for spec in STAGES]
    if any((row or {}).get("git", {}).get("dirty") for row in cards):
        print(
            f"note: run {run} was made with uncommitted changes; its commit alone does not tell its code",
            file=sys.stderr,
        )
    print(write_reference(paths.run_folder(run), out))


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    model: Annotated[Path | None, typer.Option(help="model.safetensors (default: of the latest run).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Print class probabilities of image files. Research use only.

    Example: leuk predict cell.png --model results/smear-laptop-s0/wpat/model.safetensors
    """
    from leuk_lib.runs.display import RESEARCH_USE

    if model is None:
        found = sorted(paths.results_root().glob("*/wpat/model.safetensors"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise LeukError("no trained model in results/: `leuk run wpat` makes one, or name a file with --model")
        model = found[-1]
    frame = _predict(images, model)
    if as_json:
        rows = frame.to_dict(orient="records")
        print(json.dumps({"model": str(model), "research_use": RESEARCH_USE, "predictions": rows}, indent=1))
        return
    print(frame.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    print(RESEARCH_USE)


def _predict(images: list[Path], model: Path) -> pd.DataFrame:
    """Probabilities of image files; a model that was trained on enhanced cells gets enhanced cells."""
    from leuk_lib.alhe.enhance import alhe
    from leuk_lib.alhe.params import EnhanceParams
    from leuk_lib.wpat.predict import predict_files, read_card

    trained = read_card(model)
    if not trained.enhanced:
        return predict_files(images, model)
    settings = EnhanceParams(**trained.alhe_settings)
    return predict_files(images, model, lambda image: alhe(image, settings))


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="A study's name.")],
    dataset: Annotated[str, typer.Option(help="Folder of images.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="A parameter, as in seeds=[0,1]; may be repeated.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Jobs that run side by side.")] = 1,
    record: Annotated[bool, typer.Option("--record", help="Write the outcome to book/reference/studies/.")] = False,
) -> None:
    """Run an experiment that is too long for a chapter; what is done stays done, so that a killed study goes on.

    Example: leuk study pretraining --dataset data/PBC --jobs 2 --record
    """
    from leuk_lib.studies.runner import run_study
    from leuk_lib.studies.study import parse_settings

    values = {**parse_settings(name, set_ or []), "dataset": workflow.resolve_dataset(dataset)}
    with workflow.only_one(paths.results_root() / "studies"):
        outcome = run_study(name, values, jobs)
    for title in outcome.tables:
        print(f"\n{title}\n{outcome.table(title).to_string(index=False)}")
    print(outcome.save() if record else "\nnot recorded: --record writes it for the book")


@app.command()
def book(
    dataset: Dataset = "smear",
    profile: Profile = "laptop",
    seeds: Seeds = "0",
    run: RunName = None,
    out: Annotated[Path | None, typer.Option(help="Folder that gets _build/html (default: book).")] = None,
) -> None:
    """Build the book from a finished run (of several seeds: the first, with all of them in the seeds table).

    A chapter that is missing, failed or stale stops it by name. Example: leuk book --run smear-laptop-s0
    """
    from leuk_lib.book.build import build_book
    from leuk_lib.data.fingerprint import fingerprint

    name = run or paths.run_name(workflow.resolve_dataset(dataset), profile, _seeds(seeds)[0])
    page = build_book(paths.project_root(), name, out, fingerprint=fingerprint)
    print(workflow.summary(name))
    print(page)


def main(arguments: list[str] | None = None) -> int:
    """Entry point: errors are one readable line and an exit code; ``--debug`` (anywhere) shows the traceback."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    try:
        code = app(arguments, prog_name="leuk", standalone_mode=False)
    except LeukError as error:
        if debug:
            raise
        print(f"leuk: {error}", file=sys.stderr)
        return error.exit_code
    except typer.Exit as done:
        return done.exit_code
    except (typer.Abort, KeyboardInterrupt):
        print("leuk: stopped; run the same command again to continue", file=sys.stderr)
        return 130
    except Exception as error:
        if debug or not hasattr(error, "format_message"):
            raise
        print(f"leuk: {error.format_message()}", file=sys.stderr)
        return 2
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
