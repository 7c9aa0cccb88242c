"""The stage contract: inputs are checked, outputs are hashed, and a card is always written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import SafetensorError

from leuk_lib.runs import card, files
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.params import StageParams, TrainParams
from leuk_lib.runs.stage import Stage


def begin(name: str, **values: object) -> Stage[StageParams]:
    return Stage.begin(name, StageParams, {"run": "r", **values})


def finish_data(**values: object) -> Stage[StageParams]:
    with begin("data", **values) as stage:
        stage.save_tensors("cells", {"images": torch.arange(6)})
        stage.save_table("cells", pd.DataFrame({"label": ["a", "b"]}))
        stage.record("n_images", 2)
    return stage


def test_card_and_metrics_of_a_finished_stage(results: Path):
    finish_data()
    written = card.read_card("r", "data")
    assert written is not None and written["state"] == "finished"
    assert set(written["outputs"]) == {"cells.safetensors", "cells.csv", "metrics.json"}
    for name, digest in written["outputs"].items():
        assert files.sha256_file(results / "r" / "data" / name) == digest
    assert written["seconds"] >= 0 and written["peak_rss_mb"] > 0 and written["device"]
    assert written["hashes"]["lock"] and written["hashes"]["code"]
    metrics = json.loads((results / "r" / "data" / "metrics.json").read_text())
    assert metrics["metrics"] == {"n_images": {"value": 2}}


def test_card_of_a_failed_stage_says_why(results: Path):
    with pytest.raises(ZeroDivisionError), begin("data"):
        1 / 0  # noqa: B018
    written = card.read_card("r", "data")
    assert written is not None and written["state"] == "failed" and "ZeroDivisionError" in written["error"]


def test_upstream_missing_failed_or_of_other_parameters_is_named(results: Path):
    with pytest.raises(
        LeukError, match=r"needs stage data, which has not run in run 'r': run notebooks/01_data.ipynb first"
    ):
        begin("alhe").input("data")
    with pytest.raises(ZeroDivisionError), begin("data"):
        1 / 0  # noqa: B018
    with pytest.raises(LeukError, match="which is failed"):
        begin("alhe").input("data")
    finish_data(seed=1)
    with pytest.raises(LeukError, match=r"has seed = 0 but stage data of run 'r' was made with 1"):
        begin("alhe").input("data")


def test_a_changed_upstream_file_is_refused(results: Path):
    finish_data()
    (results / "r" / "data" / "cells.csv").write_text("other")
    with pytest.raises(LeukError, match=r"cells.csv is missing or differs"):
        begin("alhe").input("data")


def test_identity_depends_on_parameters_and_inputs_not_on_the_run(results: Path):
    finish_data()
    first, again = begin("alhe"), begin("alhe")
    first.input("data")
    again.input("data")
    assert first.identity == again.identity != begin("alhe").identity
    finish_data(seed=3)
    other = begin("alhe", seed=3)
    other.input("data")
    assert other.identity != first.identity


def test_a_copied_run_is_judged_by_its_own_files(results: Path):
    finish_data()
    shutil.copytree(results / "r", results / "copy")
    with begin("alhe") as stage:
        stage.input("data")
        stage.record("n_images", 2)
    shutil.copytree(results / "r" / "alhe", results / "copy" / "alhe")
    assert card.stage_state("copy", "alhe") == ("fresh", [])
    table = next((results / "copy" / "data").glob("*.csv"))
    table.write_text("label\nedited\n")
    assert card.stage_state("copy", "data") == ("stale", [f"its output {table.name} was changed"])
    shutil.rmtree(results / "copy" / "data")
    assert card.stage_state("copy", "alhe") == ("stale", ["its input data is missing"])


def test_stale_names_every_reason(results: Path):
    finish_data()
    with begin("alhe") as stage:
        stage.input("data")
        stage.record("n_images", 2)
    assert card.stage_state("r", "alhe") == ("fresh", [])
    with begin("data") as stage:
        stage.save_table("cells", pd.DataFrame({"label": ["c"]}))
    assert card.stage_state("r", "alhe") == ("stale", ["its input data changed"])
    (results / "r" / "alhe" / "metrics.json").unlink()
    assert "its output metrics.json is missing" in card.stage_state("r", "alhe")[1]
    written = card.read_card("r", "data")
    assert written is not None
    written["hashes"]["code"]["leuk_lib.runs.stage"] = "0"
    written["hashes"]["lock"] = "0"
    assert card.stale_reasons(written) == ["requirements.lock changed", "code changed: leuk_lib.runs.stage"]


def test_a_changed_data_set_is_stale(results: Path):
    with begin("data") as stage:
        stage.use_dataset("abc")
        stage.record("n_images", 2)
    assert card.stage_state("r", "data", lambda dataset: "abc") == ("fresh", [])
    assert card.stage_state("r", "data", lambda dataset: "xyz") == ("stale", ["the data set's files changed"])


def test_a_data_set_that_is_gone_is_a_reason_and_no_error(results: Path):
    with begin("data") as stage:
        stage.use_dataset("abc")
        stage.record("n_images", 2)

    def gone(dataset: str) -> str:
        raise LeukError(f"data set {dataset!r}: no such folder")

    assert card.stage_state("r", "data", gone) == (
        "stale",
        ["the data set cannot be read: data set 'smear': no such folder"],
    )


def test_parameters_without_effect_on_the_result_do_not_restart_a_stage(
    results: Path, capsys: pytest.CaptureFixture[str]
):
    def header(**values: object) -> str:
        Stage.begin("data", TrainParams, {"run": "r", **values})
        return capsys.readouterr().out

    header()
    assert "Starting from the beginning" not in header(accelerator="cpu", checkpoint_every=7)
    assert "beginning: seed changed" in header(seed=1, checkpoint_every=8)


def test_a_stage_that_was_begun_again_leaves_the_card_to_the_later_one(results: Path):
    first = begin("data")
    with begin("data") as second:
        second.record("n_images", 2)
        second._card["started"] = "2030-01-01T00:00:00+0000"  # the clock counts whole seconds
    first.fail(RuntimeError("the kernel was closed"))
    written = card.read_card("r", "data")
    assert written is not None and written["state"] == "finished"


def test_of_several_processes_only_the_first_writes_into_the_run(results: Path, monkeypatch: pytest.MonkeyPatch):
    first = Stage("toy", StageParams(run="r"))
    first.save_table("table", pd.DataFrame({"x": [1.0]}))
    first.finish()
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    monkeypatch.setenv("RANK", "1")
    second = Stage("toy", StageParams(run="r"))
    for path in (
        second.save_table("table", pd.DataFrame({"x": [1.0 + 1e-9]})),
        second.save_tensors("tensors", {"x": torch.ones(2)}),
        second.save_json("values", {"x": 1}),
        second.save_file(files.write_json(second.folder / "written.json", {})),
    ):
        assert path.is_file() and results not in path.parents
    assert second.checkpoints == first.checkpoints and second.folder != first.folder
    second.finish()
    second.fail(ValueError("too late"))
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == before


def test_missing_and_interrupted(results: Path):
    assert card.stage_state("r", "wpat")[0] == "missing"
    begin("wpat")
    dead = card.read_card("r", "wpat")
    assert dead is not None and card.stage_state("r", "wpat")[0] == "running"
    dead["process"]["pid"] = 2**22 - 1
    card.write_card("r", "wpat", dead)
    assert card.stage_state("r", "wpat")[0] == "interrupted"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True])
def test_metrics_are_finite_numbers(results: Path, value: float):
    with pytest.raises(LeukError, match="must be a finite number"):
        begin("data").record("x", value)


def test_atomic_keeps_the_old_file_when_writing_fails(tmp_path: Path):
    target = tmp_path / "a.json"
    files.write_json(target, {"x": 1})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(target, {"x": float("nan")})
    assert files.read_json(target) == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_is_one_line(tmp_path: Path):
    with pytest.raises(LeukError, match="the disk is full"), files.atomic(tmp_path / "a.bin"):
        raise OSError(28, "No space left on device")


def test_a_full_disk_is_one_line_whatever_the_writing_library_raises(tmp_path: Path):
    """safetensors gives the errno only in its message, torch not at all."""
    template = "Error while serializing: I/O error: {} (os error {})"
    for reason, message in [
        (("No space left on device", 28), "disk is full"),
        (("Read-only file system", 30), "permissions"),
    ]:
        with pytest.raises(LeukError, match=message), files.atomic(tmp_path / "a.safetensors"):
            raise SafetensorError(template.format(*reason))
    with pytest.raises(LeukError, match="the disk is full"), files.atomic(tmp_path / "a.pt") as temporary:
        temporary.symlink_to("/dev/full")
        torch.save({"x": torch.zeros(100_000)}, temporary)
    with pytest.raises(RuntimeError, match="shapes"), files.atomic(tmp_path / "a.pt"):
        raise RuntimeError("shapes cannot be multiplied")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(LeukError, match=r"a.json: cannot be written \(Permission denied\)"):
        files.write_json(tmp_path / "new" / "a.json", {})


def test_damaged_json_is_one_line(tmp_path: Path):
    (tmp_path / "card.json").write_text("{")
    with pytest.raises(LeukError, match="damaged"):
        files.read_json(tmp_path / "card.json")


def test_a_redrawn_figure_changes_nothing_downstream(results: Path):
    from leuk_lib.figures.style import new_figure

    for title in ("one title", "another title"):
        with begin("data") as stage:
            stage.save_table("cells", pd.DataFrame({"label": ["a"]}))
            figure, axes = new_figure(2, 2)
            axes.set_title(title)
            stage.show("cells", figure)
        if title == "one title":
            with begin("alhe") as downstream:
                downstream.input("data")
                downstream.record("n_images", 2)
            before = downstream.identity
    assert card.stage_state("r", "alhe") == ("fresh", [])
    again = begin("alhe")
    again.input("data")
    assert again.identity == before


def test_line_art_can_be_printed_and_the_same_figure_is_the_same_file(results: Path):
    from leuk_lib.figures.style import new_figure

    drawn = []
    for _ in range(2):
        with begin("data") as stage:
            figure, axes = new_figure(2, 2)
            axes.plot([0, 1])
            stage.show("line", figure)
            figure, axes = new_figure(2, 2)
            axes.imshow(np.eye(3))
            stage.show("image", figure)
        drawn.append({path.name: path.read_bytes() for path in (stage.folder / "figures").iterdir()})
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) == {"line.svg", "line.pdf", "image.png"}
    assert drawn[0]["line.pdf"].startswith(b"%PDF")


def test_a_smoke_run_has_no_figures_for_printing(results: Path):
    from leuk_lib.figures.style import new_figure

    with begin("data", profile="smoke", stages={"data": {}}) as stage:
        stage.show("line", new_figure(2, 2)[0])
    assert [path.name for path in (stage.folder / "figures").iterdir()] == ["line.svg"]


def test_a_file_of_the_project_counts_as_an_input(results: Path, monkeypatch: pytest.MonkeyPatch):
    with begin("claims") as stage:
        assert stage.use_file("book/claims.yml").is_file()
        stage.record("claims", 2)
    assert card.stage_state("r", "claims") == ("fresh", [])
    written = card.read_card("r", "claims")
    assert written is not None
    written["inputs"]["files"]["book/claims.yml"] = "0"
    assert card.stale_reasons(written) == ["book/claims.yml changed"]
    with pytest.raises(LeukError, match=r"needs nothing.yml"):
        stage.use_file("nothing.yml")


def test_a_stage_whose_cells_were_not_run_cannot_finish(results: Path):
    with pytest.raises(LeukError, match="has written and recorded nothing: run all cells"):
        begin("data").finish()
    with pytest.raises(LeukError, match="recorded nothing"), begin("data"):
        pass
    assert card.stage_state("r", "data")[0] != "fresh"


def folders(tmp_path: Path) -> list[str]:
    for name in ("a/cells", "b/cells"):
        (tmp_path / name).mkdir(parents=True)
    return [str(tmp_path / name) for name in ("a/cells", "b/cells")]


def test_a_second_data_set_is_not_mixed_into_a_run(results: Path, tmp_path: Path):
    first, second = folders(tmp_path)
    finish_data(dataset=first)
    before = (results / "r" / "data" / "card.json").read_bytes()
    for stage in ("data", "alhe"):
        with pytest.raises(LeukError, match=r"holds the results of another data set, .*a/cells.*choose another name"):
            begin(stage, dataset=second)
    assert (results / "r" / "data" / "card.json").read_bytes() == before
    finish_data(dataset=first)
    (tmp_path / "link").symlink_to(first)
    finish_data(dataset=str(tmp_path / "link"))  # the same folder by another path


def test_a_folder_that_was_moved_is_not_another_data_set(results: Path, tmp_path: Path):
    first, _ = folders(tmp_path)
    finish_data(dataset=first)
    Path(first).rename(tmp_path / "moved")
    finish_data(dataset=str(tmp_path / "moved"))
