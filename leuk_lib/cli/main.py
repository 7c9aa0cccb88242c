"""Check data, run the notebooks, compare runs, predict, build the book. Add --debug for the traceback of an error."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from leuk_lib import quoting, workflow
from leuk_lib.cli import data as data_commands
from leuk_lib.runs import card, paths, progress
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import keep_inputs
from leuk_lib.runs.processes import keep_standard_streams
from leuk_lib.runs.threads import prepare_libraries
from leuk_lib.stages import STAGES

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(data_commands.app, name="data")

SEED = re.compile(r"(?:0|[1-9][0-9]{0,18})")
Dataset = Annotated[str, typer.Option(help="'smear' (rendered cells), a known data set, or a folder or file.")]
Profile = Annotated[str, typer.Option(help="smoke, laptop, gpu or paper.")]
Seeds = Annotated[str, typer.Option(help='One seed or several: "0 1 2".')]
RunName = Annotated[str | None, typer.Option("--run", help="Name of the run (default: DATASET-PROFILE-sSEED).")]


def _seeds(text: str) -> list[int]:
    words = text.replace(",", " ").split()
    if not words or not all(SEED.fullmatch(word) for word in words):  # int() would read "1_0" as 10
        raise LeukError(f'seeds {text!r}: must be whole numbers, as in --seeds "0 1 2"')
    if twice := [word for word, count in Counter(words).items() if count > 1]:
        raise LeukError(f"seeds {text!r}: {twice[0]} stands twice, but each seed is one run; give it once")
    return [int(word) for word in words]


@app.command()
def run(
    stage: Annotated[str | None, typer.Argument(help="Last stage to run (default: all).")] = None,
    dataset: Dataset = "smear",
    profile: Profile = "laptop",
    seeds: Annotated[str, typer.Option("--seeds", "--seed", help='One seed or several: "0 1 2".')] = "0",
    jobs: Annotated[int, typer.Option(min=1, help="Notebooks that run in parallel.")] = 1,
    run: RunName = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Set a parameter: fcmae.steps=300; repeatable.")
    ] = None,
    split: data_commands.SplitOption = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Show what would run, without running it.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not show what the stages are doing.")] = False,
    layout: data_commands.LayoutOption = "",
    reader: data_commands.ReaderOption = "",
    option: data_commands.ReaderOptions = None,
    pattern: data_commands.PatternOption = "",
) -> None:
    """Run the notebooks in order, but only those that are missing or out of date.

    Example: leuk run fcmae --profile smoke --seeds "0 1" --jobs 2
    """
    extra = ["--dry-run", "--quiet", "progress"] if dry_run else []
    if quiet:
        os.environ[progress.QUIET] = "1"
    reading = {
        "layout": layout, "reader": reader, "reader_options": data_commands.reader_options(option), "pattern": pattern,
        "split": split,
    }  # fmt: skip
    settings = [*(f"data.{name}={json.dumps(value)}" for name, value in reading.items() if value), *(set_ or [])]
    for name in workflow.run_stages(dataset, profile, _seeds(seeds), jobs, stage, run, settings, extra):
        print(quoting.terminal(paths.run_folder(name)))


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="A new or empty folder.")]) -> None:
    """Lay out the notebooks, profiles and pages in a folder of your own, to be run there.

    Example: leuk init my_study; cd my_study; leuk run --profile smoke
    """
    from leuk_lib.runs.skeleton import lay_out

    print(quoting.terminal(lay_out(folder)))


@app.command()
def status(run: Annotated[str | None, typer.Option(help="Name of a run (default: all runs).")] = None) -> None:
    """Print the state of every stage: fresh, stale (and why), failed, interrupted or missing.

    Example: leuk status --run smear-laptop-s0
    """
    from leuk_lib.data.fingerprint import fingerprint

    runs = (
        [run]
        if run is not None
        else sorted({path.parents[1].name for path in paths.results_root().glob("*/*/card.json")})
    )
    if not runs:
        raise LeukError("no run in results/ yet: make one with `leuk run` or `make book`")
    for name in runs:
        if run is None and not paths.is_run_name(name):
            print(f"{quoting.terminal(name)}\n  no name of a run: rename the folder to see its state")
            continue
        if not paths.run_folder(name).is_dir():
            raise LeukError(f"run {name!r}: no such folder in {paths.results_root()}")
        print(quoting.terminal(name))
        for spec in STAGES:
            state, reasons = card.stage_state(name, spec.name, fingerprint)
            print(quoting.terminal(f"  {spec.name:<10} {state:<11} {'; '.join(reasons)}".rstrip()))


@app.command()
def adopt(
    run: Annotated[str, typer.Argument(help="Name of a run.")],
    notebooks: Annotated[
        list[Path], typer.Argument(help="Notebooks that papermill or Jupyter executed, with outputs.")
    ],
) -> None:
    """Add executed notebooks to the run that they made, for `leuk book` and `leuk reference`.

    A notebook is refused if it is not the one that wrote the stage's results. Example: leuk adopt my-run 01_data.ipynb 02_alhe.ipynb
    """
    from leuk_lib.book.adopt import adopt as adopt_notebooks

    for path in adopt_notebooks(run, notebooks, STAGES):
        print(quoting.terminal(path))


@app.command()
def compare(
    run: Annotated[str, typer.Argument(help="Name or folder of a run.")],
    reference: Annotated[
        str | None,
        typer.Argument(
            help="Another run, or a reference file (default: the reference of the run's data set and profile)."
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also print the numbers that are equal.")] = False,
) -> None:
    """Compare a run's numbers with a reference.

    Exit code 0: all within tolerance, 1: some outside or missing, 2: they cannot be compared.

    If a data set and profile have several references, that of the most similar machine is used.

    Example: leuk compare smear-laptop-s0
    """
    try:
        raise typer.Exit(_compared(run, reference, everything))
    except LeukError as error:
        raise LeukError(str(error), exit_code=2) from error


def _compared(run: str, reference: str | None, everything: bool) -> int:
    """Print a comparison and return its exit code, 0 or 1."""
    from leuk_lib.audit.compare import by_stage, closest_reference, compare_runs, sentence
    from leuk_lib.audit.reference import candidates, load_run

    def folder(name: str) -> Path:
        return Path(name) if name and Path(name).exists() else paths.run_folder(name)

    if reference is None:
        cards = load_run(folder(run))["cards"]
        if not cards:
            raise LeukError(f"{run}: has no run card, which would say with what to compare it; name a reference")
        first = next(iter(cards.values()))
        closest = closest_reference(cards)
        if closest is None:
            wanted = paths.reference_file(first["dataset"], first["profile"])
            raise LeukError(
                f"no reference {wanted.name} in {wanted.parent}: name another run or file, "
                f"or write a reference from a run that you trust with `leuk reference RUN`"
            )
        other = closest
        if len(several := candidates(first["dataset"], first["profile"])) > 1:
            print(
                f"compared with {quoting.terminal(other.name)}, of {len(several)} references that of the most similar machine\n"
            )
    else:
        other = folder(reference)
    frame = compare_runs(folder(run), other)
    shown = frame if everything else frame[frame["verdict"] != "equal"]
    if len(shown):
        print(
            quoting.terminal_table(shown.drop(columns="cause")).to_string(
                index=False, float_format=lambda value: f"{value:.6g}"
            ),
            end="\n\n",
        )
    print(quoting.terminal_table(by_stage(frame)).to_string(index=False), end="\n\n")
    print(sentence(frame))
    return int(frame["verdict"].isin(["outside", "missing"]).any())


@app.command()
def reference(
    run: Annotated[str, typer.Argument(help="Name of a finished run.")],
    out: Annotated[Path | None, typer.Option(help="File to write (default: book/reference/DATA-PROFILE.json).")] = None,
    machine: Annotated[
        str, typer.Option(help="Label of the machine, for a further reference: DATA-PROFILE+MACHINE.json.")
    ] = "",
) -> None:
    """Write the reference record of a finished run: its numbers, cards and tolerances, but no images.

    All stages of the run must be fresh. Example: leuk reference smear-smoke-s0
    """
    from leuk_lib.audit.reference import write_reference
    from leuk_lib.book.gate import check_run
    from leuk_lib.data.fingerprint import fingerprint

    keep_inputs([out], [paths.run_folder(run)])
    check_run(run, STAGES, fingerprint)
    cards = [card.read_card(run, spec.name) for spec in STAGES]
    if any((row or {}).get("git", {}).get("dirty") for row in cards):
        print(
            f"note: run {run} was made with uncommitted changes, so its commit does not identify its code",
            file=sys.stderr,
        )
    print(quoting.terminal(write_reference(paths.run_folder(run), out, machine=machine)))


@app.command()
def predict(
    images: Annotated[
        list[str], typer.Argument(help="Image files, folders, patterns in quotes ('*.png'), or tables (.csv) of files.")
    ],
    model: Annotated[Path | None, typer.Option(help="model.safetensors (default: that of the latest run).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    csv: Annotated[Path | None, typer.Option(help="Write the predictions to this CSV file.")] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Write a page with images and attention maps to this HTML file.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    batch: Annotated[int, typer.Option(min=0, help="Images at a time (default: by their size).")] = 0,
    quiet: data_commands.QuietOption = False,
) -> None:
    """Print class probabilities of images. Research use only. Exit code 1: some files cannot be used, 2: none can.

    Example: leuk predict my_cells/ 'more/a?.png' --csv predictions.csv --sheet predictions.html
    """
    from leuk_lib.cli.predict import predict_images, report
    from leuk_lib.wpat.contact_sheet import MAX_IMAGES

    model = _latest_model() if model is None else model
    with progress.of_command("predict", quiet):
        predictions = predict_images(images, model, device, batch, MAX_IMAGES if sheet else 0, (csv, sheet))
    report(predictions, csv, sheet, as_json)
    raise typer.Exit(predictions.exit_code)


@app.command()
def export(
    onnx: Annotated[Path, typer.Option("--onnx", help="File to write.")],
    model: Annotated[Path | None, typer.Argument(help="model.safetensors (default: that of the latest run).")] = None,
) -> None:
    """Export a trained model to ONNX, for any batch size, and compare its logits with those of torch.

    Example: leuk export results/smear-laptop-s0/wpat/model.safetensors --onnx model.onnx
    """
    from leuk_lib.wpat.export import export_onnx

    model = _latest_model() if model is None else model
    keep_inputs([onnx], [model])
    difference = export_onnx(model, onnx)
    print(f"{quoting.terminal(onnx)}\nlargest difference from torch in the logits: {difference:.1e}")


def _latest_model() -> Path:
    models = sorted(paths.results_root().glob("*/wpat/model.safetensors"), key=lambda path: path.stat().st_mtime)
    if not models:
        raise LeukError("no trained model in results/: train one with `leuk run wpat`, or name a file")
    return models[-1]


class _StudyGroup(TyperGroup):
    """``leuk study NAME …`` is short for ``leuk study run NAME …``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            args = ["run", *args]
        return super().resolve_command(ctx, args)


study = typer.Typer(
    cls=_StudyGroup, no_args_is_help=True,
    help="Run experiments that take too long for a chapter, and check their records. "
    "Example: leuk study pretraining --dataset data/PBC --jobs 2 --record",
)  # fmt: skip
app.add_typer(study, name="study")


@study.command("run")
def run_one_study(
    name: Annotated[str, typer.Argument(help="A study's name.")],
    dataset: Annotated[str, typer.Option(help="Folder of images, or 'smear' where a study can render cells.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="A parameter: seeds=[0,1]; repeatable.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Jobs that run in parallel.")] = 1,
    record: Annotated[bool, typer.Option("--record", help="Write the outcome to book/reference/studies/.")] = False,
    quiet: data_commands.QuietOption = False,
) -> None:
    """Run a study; "run" may be left out. Finished jobs are kept, so an interrupted study continues.

    Example: leuk study pretraining --dataset data/PBC --jobs 2 --record
    """
    from leuk_lib.studies.runner import run_study
    from leuk_lib.studies.study import parse_settings

    values = {**parse_settings(name, set_ or []), "dataset": workflow.resolve_dataset(dataset)}
    with workflow.results_lock(paths.results_root() / "studies"), progress.of_command(f"study {name}", quiet):
        outcome = run_study(name, values, jobs)
    for title in outcome.tables:
        print(f"\n{title}\n{quoting.terminal_table(outcome.table(title)).to_string(index=False)}")
    print(quoting.terminal(outcome.save()) if record else "\nnot recorded: --record writes it for the book")


@study.command("verify")
def verify_studies(
    names: Annotated[list[str] | None, typer.Argument(help="Names of studies (default: all).")] = None,
    record: Annotated[bool, typer.Option("--record", help="Write the commit into the records that agree.")] = False,
) -> None:
    """Check that the present code still gives the numbers of the records' canaries (seconds per study).

    Exit code 1 if numbers moved or a record is of another version. Example: leuk study verify ladder
    """
    from leuk_lib.studies import STUDIES
    from leuk_lib.studies.canary import verify

    states = {checked.name: checked.state() for checked in verify(names or list(STUDIES), record)}
    for name, state in states.items():
        print(f"{name}: {state}")
    raise typer.Exit(int(any(not state.startswith("verified") for state in states.values())))


@study.command("accept")
def accept_study(
    name: Annotated[str, typer.Argument(help="A study's name.")],
    reason: Annotated[str, typer.Option(help="Why the canary's numbers moved and the record still holds.")],
) -> None:
    """Store the canary's present numbers in the study's records, with the reason; the tables stay as they are.

    Example: leuk study accept ladder --reason "torch 2.16 rounds differently"
    """
    from leuk_lib.studies.canary import accept

    for path in accept(name, reason):
        print(quoting.terminal(path))


@app.command()
def book(
    dataset: Dataset = "smear",
    profile: Profile = "laptop",
    seeds: Seeds = "0",
    run: RunName = None,
    out: Annotated[Path | None, typer.Option(help="Folder that gets _build/html (default: book).")] = None,
    pdf: Annotated[bool, typer.Option("--pdf", help="Also print it into _build/book.pdf (needs Chromium).")] = False,
    quiet: data_commands.QuietOption = False,
) -> None:
    """Build the book from a finished run. With several seeds, the first run is shown and all are in the seeds table.

    All stages of the run must be fresh. Example: leuk book --run smear-laptop-s0
    """
    from leuk_lib.book.build import build_book
    from leuk_lib.data.fingerprint import fingerprint

    chosen = _seeds(seeds)
    name = paths.run_name(workflow.resolve_dataset(dataset), profile, chosen[0]) if run is None else run
    with progress.of_command(f"book {name}", quiet):
        page = build_book(paths.project_root(), name, out, fingerprint=fingerprint, pdf=pdf)
    print(workflow.summary(name))
    print(quoting.terminal(page))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. Errors are one line and an exit code; ``--debug`` anywhere shows the traceback."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    keep_standard_streams()
    prepare_libraries()
    if isinstance(sys.stdout, io.TextIOWrapper):  # not every terminal's encoding has "…" or the letters of a name
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = app(arguments, prog_name="leuk", standalone_mode=False)
        if code == 130:  # what typer makes of Ctrl-C in a command
            raise KeyboardInterrupt
    except LeukError as error:
        if debug:
            raise
        print(f"leuk: {error}", file=sys.stderr)
        return error.exit_code
    except typer.Exit as finished:
        return finished.exit_code
    except (typer.Abort, KeyboardInterrupt):
        print("leuk: stopped; run the same command again to continue", file=sys.stderr)
        return 130
    except OSError as error:  # the disk: full, read-only, gone, a name that is too long
        if debug:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"leuk: {quoting.terminal(place)}{error.strerror or error}", file=sys.stderr)
        return 1
    except Exception as error:
        if debug or not hasattr(error, "format_message"):
            raise
        print(f"leuk: {error.format_message()}", file=sys.stderr)
        return 2
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
