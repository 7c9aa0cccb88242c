"""The stage contract: one notebook, one set of parameters, one folder, one run card."""

from __future__ import annotations

import atexit
import json
import math
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from leuk_lib import quoting
from leuk_lib.runs import card as cards
from leuk_lib.runs import code, display, files, hardware, lock, paths, processes
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.params import StageParams, from_namespace

P = TypeVar("P", bound=StageParams)

# Parameters that do not change the result, given the same inputs.
NOT_IDENTITY = {"run", "dataset", "profile", "devices", "accelerator", "checkpoint_every"}
SHARED = ("dataset", "profile", "seed")  # equal in all stages of a run
LOCK = ".writer.lock"  # in a stage's folder; held by the process that runs the stage


class Stage(Generic[P]):
    """A running stage: its parameters, its folder ``results/<run>/<name>/``, its inputs and outputs.

    It is made by :meth:`begin`. Outputs are written atomically, and the card holds their hashes. As a context manager
    it finishes at the end, or writes a card in state "failed" after an error. From begin to end its process holds a lock
    of the folder: whatever else was killed, no second process writes there while the first lives. Of several processes
    (torchrun), the first writes there; the outputs of the others are the same up to rounding and go to a temporary folder.
    """

    def __init__(self, name: str, params: P) -> None:
        self.name = name
        self.params = params
        processes.refuse_other_number(f"stage {name}", getattr(params, "devices", None))
        self._writes = os.environ.get("RANK", "0") == "0"
        self.folder = paths.stage_folder(params.run, name)
        self._start = time.perf_counter()
        self._metrics: dict[str, dict[str, Any]] = {}
        if self._writes:
            self._hold()
            files.remove_temporaries(self.folder)
            cards.refuse_other_dataset(params.run, params.dataset)
        else:
            self._temporary = tempfile.TemporaryDirectory(prefix="leuk-")
            self.folder = Path(self._temporary.name)
        self._previous: dict[str, Any] | None = None
        self._damage = ""
        try:
            self._previous = cards.read_card(params.run, name)
        except LeukError as error:
            self._damage = str(error)
        self._card = cards.new_card(name, params.model_dump(mode="json"))
        self._write_card()

    # -- begin and end -----------------------------------------------------------------------------------------

    @classmethod
    def begin(cls, name: str, model: type[P], namespace: Mapping[str, Any]) -> Stage[P]:
        """Check the parameters in ``namespace`` (a notebook's ``globals()``), open the stage, and show its header.

        Raises:
            LeukError: If a parameter is unknown, of the wrong type or out of range.
        """
        # timm and torch-fidelity want ipywidgets' progress bar; the warning about it contains paths of this machine.
        warnings.filterwarnings("ignore", message="IProgress not found")
        params = from_namespace(name, model, namespace, paths.stage_notebooks())
        stage = cls(name, params)
        stage._fix_threads()
        if stage._writes:
            stage._watch_failures()
            stage._header()
        return stage

    def __enter__(self) -> Stage[P]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.finish()
        else:
            self.fail(error)

    def finish(self) -> None:
        """Write ``metrics.json`` and the card, glue the numbers for the book, and show card and cost.

        Raises:
            LeukError: If the stage has written no output and recorded no number: its cells were not run.
        """
        if not self._writes:
            return
        if not self._metrics and not self._card["outputs"]:
            raise LeukError(
                f"stage {self.name} has written and recorded nothing: run all cells of its notebook, in order"
            )
        self._hold()
        metrics = files.write_json(
            self.folder / "metrics.json",
            {
                "stage": self.name, "run": self.params.run, "profile": self.params.profile,
                "dataset": Path(self.params.dataset).name, "metrics": self._metrics,
            },
        )  # fmt: skip
        self._register(metrics)
        self._close("finished")
        if display.shell() is not None:
            for key, entry in self._metrics.items():
                display.glue(f"{self.name}.{key}", entry["value"])
                for bound in ("low", "high", "n"):
                    if bound in entry:
                        display.glue(f"{self.name}.{key}.{bound}", entry[bound])
        display.show(display.card_table(self._card))

    def fail(self, error: BaseException) -> None:
        """Write the card in state "failed", unless the stage was begun again since then."""
        if self._card["state"] == "running" and self._writes and not self._was_begun_again():
            self._card["error"] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:2000]
            self._close("failed")

    def _close(self, state: str) -> None:
        self._card.update(
            state=state, identity=self.identity, finished=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            seconds=round(time.perf_counter() - self._start, 2), device=hardware.device_name(),
            hardware=hardware.hardware_facts(), peak_rss_mb=cards.peak_rss_mb(), peak_gpu_mb=cards.peak_gpu_mb(),
        )  # fmt: skip
        self._write_card()
        lock.release(self.folder, LOCK)

    # -- inputs ------------------------------------------------------------------------------------------------

    def input(self, upstream: str) -> Path:
        """Return the folder of a finished upstream stage of the same run.

        Raises:
            LeukError: If the stage has not finished, had another data set, profile or seed, or if one of its outputs
                has changed. It says which notebook to run first.
        """
        notebook = paths.stage_notebooks().get(upstream)
        first = f"run notebooks/{notebook.name} first" if notebook else f"run stage {upstream} first"
        card = cards.read_card(self.params.run, upstream)
        if card is None:
            raise LeukError(
                f"stage {self.name} needs stage {upstream}, which has not run in run {self.params.run!r}: {first}"
            )
        if card["state"] != "finished":
            raise LeukError(
                f"stage {self.name} needs stage {upstream}, which is {card['state']} in run {self.params.run!r}: {first}"
            )
        for key in SHARED:
            upstream_value, value = card["params"][key], getattr(self.params, key)
            if upstream_value != value:
                raise LeukError(
                    f"stage {self.name} has {key} = {value!r} but stage {upstream} of run {self.params.run!r} was made with "
                    f"{upstream_value!r}: {first} with the same values, or choose another run"
                )
        folder = paths.stage_folder(self.params.run, upstream)
        for name, digest in cards.results_of(card).items():
            if not (folder / name).is_file() or files.sha256_file(folder / name) != digest:
                raise LeukError(f"{folder / name} is missing or differs from what stage {upstream} wrote: {first}")
        self._card["inputs"][upstream] = cards.results_of(card)
        return folder

    def use_dataset(self, content: str) -> None:
        """Put the content hash of the data set into the card. Only the first stage calls it."""
        self._card["inputs"]["dataset"] = {"content": content}

    def use_file(self, name: str) -> Path:
        """Return the path of a project file that this stage reads, and put its hash into the card.

        Args:
            name: Path relative to the project's folder.

        Raises:
            LeukError: If there is no such file.
        """
        path = paths.project_root() / name
        if not path.is_file():
            raise LeukError(f"stage {self.name} needs {name}, which is not in {paths.project_root()}")
        self._card["inputs"].setdefault("files", {})[name] = files.sha256_file(path)
        return path

    @property
    def identity(self) -> str:
        """Hash of what decides the result: parameters, the inputs read so far, and code except that of figures.

        Read all inputs first. Training does not continue from a checkpoint with another identity.
        """
        params = {k: v for k, v in self._card["params"].items() if k not in NOT_IDENTITY}
        modules = {k: v for k, v in self._card["hashes"]["code"].items() if not code.is_presentation(k)}
        return files.sha256_json([self.name, params, self._card["inputs"], modules])[:32]

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints of this stage's training loops."""
        self._hold()
        return paths.stage_folder(self.params.run, self.name) / "checkpoints"

    # -- outputs -----------------------------------------------------------------------------------------------

    def _output(self, name: str) -> Path:
        """Return the path of an output, with the folder locked for writing it."""
        self._hold()
        return self.folder / name

    def _register(self, path: Path) -> Path:
        self._card["outputs"][path.relative_to(self.folder).as_posix()] = files.sha256_file(path)
        return path

    def save_table(self, name: str, frame: Any) -> Path:
        """Write a pandas data frame to ``<name>.csv``."""
        path = self._output(f"{name}.csv")
        with files.atomic(path) as temporary:
            quoting.cells(frame).to_csv(temporary, index=False, lineterminator="\n")
        return self._register(path)

    def save_tensors(self, name: str, tensors: Mapping[str, Any], metadata: Mapping[str, Any] | None = None) -> Path:
        """Write torch tensors to ``<name>.safetensors``, with ``metadata`` as JSON under the key "leuk_lib"."""
        from safetensors.torch import save_file

        # safetensors writes several metadata keys in random order; with one key, equal content gives equal bytes.
        header = {"leuk_lib": json.dumps(metadata)} if metadata else None

        path = self._output(f"{name}.safetensors")
        with files.atomic(path) as temporary:
            save_file({k: v.contiguous() for k, v in tensors.items()}, str(temporary), metadata=header)
        return self._register(path)

    def save_json(self, name: str, value: Any) -> Path:
        """Write ``value`` to ``<name>.json``."""
        return self._register(files.write_json(self._output(f"{name}.json"), value))

    def save_file(self, path: Path) -> Path:
        """Put the hash of a file that was written into the stage's folder into the card."""
        return self._register(path)

    def show(self, name: str, figure: Any) -> display.Picture:
        """Write a matplotlib figure to ``figures/<name>.svg`` or ``.png`` and return it for display.

        Line art is also written as ``figures/<name>.pdf``, for printing; not in a smoke run, whose figures nobody prints.
        """
        picture = display.render(figure)
        line_art = picture.mime == "image/svg+xml"
        drawn = {"svg" if line_art else "png": picture.data}
        if line_art and self.params.profile != "smoke":
            drawn["pdf"] = display.render_pdf(figure)
        for suffix, data in drawn.items():
            path = self._output(f"figures/{name}.{suffix}")
            with files.atomic(path) as temporary:
                temporary.write_bytes(data)
            self._register(path)
        return picture

    def table(self, frame: Any, caption: str = "") -> display.Html:
        """Return an accessible table of ``frame`` for display."""
        return display.table(frame, caption)

    def record(
        self,
        key: str,
        value: float,
        low: float | None = None,
        high: float | None = None,
        n: int | None = None,
        unit: str = "",
    ) -> None:
        """Add a reproducible number to ``metrics.json``. Times and memory go to :meth:`measure`.

        Args:
            key: Name of the number within the stage.
            value: The number.
            low: Lower end of its 95 % interval; None or NaN if it has none.
            high: Upper end of its 95 % interval; likewise.
            n: Sample size.
            unit: Unit, if any.

        Raises:
            LeukError: If the number is NaN, or it or one end of the interval is infinite.
        """
        entry: dict[str, Any] = {"value": _number(key, value)}
        if low is not None and high is not None and not (math.isnan(low) and math.isnan(high)):
            entry |= {"low": _number(key, low), "high": _number(key, high)}
        if n is not None:
            entry["n"] = int(n)
        if unit:
            entry["unit"] = unit
        self._metrics[key] = entry

    def measure(self, key: str, value: float) -> None:
        """Add a time, speed ratio or memory to the card; these differ between machines."""
        self._card["measured"][key] = _number(key, value)

    def note(self, text: str) -> None:
        """Add a line to the card, such as a fallback, or that the test set was opened."""
        self._card["notes"].append(" ".join(text.split()))

    def notice(self, text: str) -> None:
        """Add a line to the card and show it as a banner, such as a licence that binds who uses the results."""
        self.note(text)
        if self._writes:
            display.show(display.banner([text]))

    # -- inside ------------------------------------------------------------------------------------------------

    def _hold(self) -> None:
        """Lock the folder; a cell that is run again after the end locks it again."""
        if self._writes:
            lock.hold(self.folder, LOCK, f"stage {self.name} of run {self.params.run!r}")

    def _write_card(self) -> None:
        if self._writes:
            cards.write_card(self.params.run, self.name, self._card)

    def _was_begun_again(self) -> bool:
        try:
            now = cards.read_card(self.params.run, self.name)
        except LeukError:
            return False
        return now is not None and now["started"] != self._card["started"]

    def _fix_threads(self) -> None:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = str(self.params.threads)
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(self.params.threads)

    def _watch_failures(self) -> None:
        """Write a failed card if a cell raises or the process ends early."""

        def on_exit() -> None:
            if self._card["state"] == "running":
                self.fail(RuntimeError("the process ended before stage.finish() was reached"))

        atexit.register(on_exit)
        shell = display.shell()
        if shell is None:
            return

        def after_cell(result: Any) -> None:
            error = result.error_before_exec or result.error_in_exec
            if error is not None:
                self.fail(error)

        shell.events.register("post_run_cell", after_cell)

    def _header(self) -> None:
        lines = [display.RESEARCH_USE]
        if self.params.dataset == "smear":
            lines.append(display.RENDERED)
        if self.params.profile == "smoke":
            lines.append(display.SMOKE)
        display.show(display.banner(lines))
        display.show(display.parameter_table(self.name, self.params))
        now, before = self._card["params"], (self._previous or self._card)["params"]
        names = {*now, *before} - NOT_IDENTITY
        if self._damage:
            display.show(f"Starting from the beginning: {self._damage}")
        if changed := sorted(name for name in names if now.get(name) != before.get(name)):
            display.show(f"Starting from the beginning: {', '.join(changed)} changed since this stage's previous run.")


def _number(key: str, value: float) -> float | int:
    if isinstance(value, bool) or not math.isfinite(value):
        raise LeukError(
            f"metric {key!r} = {value!r}: must be a finite number; if there is none, say why with stage.note"
        )
    return int(value) if isinstance(value, int) else float(value)
