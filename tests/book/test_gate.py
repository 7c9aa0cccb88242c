"""The gate names the chapter that is missing, failed, not executed or stale."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from book import toys as fake
from leuk_lib.book import pages
from leuk_lib.book.gate import check_run, execution_problem, is_of_card
from leuk_lib.book.generate import sibling_runs
from leuk_lib.runs import files, paths
from leuk_lib.runs.card import read_card, write_card
from leuk_lib.runs.errors import LeukError

STAGES = (fake.spec("data"), fake.spec("fcmae", ("data",)), fake.spec("claims", ("fcmae",)))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A project with three finished stages; returns the run's name."""
    monkeypatch.setenv("LEUK_ROOT", str(tmp_path / "a project"))
    monkeypatch.delenv("LEUK_RESULTS", raising=False)
    fake.make_project(tmp_path / "a project", STAGES)
    for stage in STAGES:
        fake.finish_stage(stage)
    return fake.RUN


def card_path(run: str, stage: str) -> Path:
    return paths.stage_folder(run, stage) / "card.json"


def change_card(run: str, stage: str, **changes: object) -> None:
    card = read_card(run, stage)
    assert card is not None
    write_card(run, stage, {**card, **changes})


def notebook_path(run: str, stage: str) -> Path:
    return paths.stage_folder(run, stage) / "notebook.ipynb"


def test_finished_run_passes(run: str) -> None:
    check_run(run, STAGES)


def test_missing_stage_is_named(run: str) -> None:
    for path in (card_path(run, "fcmae"), notebook_path(run, "fcmae")):
        path.unlink()
    with pytest.raises(LeukError, match=r"chapter 02_fcmae .* is missing: this stage never ran.*leuk run fcmae"):
        check_run(run, STAGES)


def test_missing_notebook_is_named(run: str) -> None:
    notebook_path(run, "claims").unlink()
    with pytest.raises(LeukError, match=r"chapter 03_claims .* executed notebook was not kept"):
        check_run(run, STAGES)


def test_missing_source_notebook_is_named(run: str) -> None:
    paths.stage_notebooks()["fcmae"].unlink()
    with pytest.raises(LeukError, match="fcmae"):
        check_run(run, STAGES)


def test_failed_stage_is_named_with_its_error(run: str) -> None:
    change_card(run, "fcmae", state="failed", error="ValueError: the mask hides everything")
    with pytest.raises(LeukError, match=r"chapter 02_fcmae .* failed: ValueError: the mask hides everything"):
        check_run(run, STAGES)


def test_error_output_is_named_even_under_a_good_card(run: str) -> None:
    notebook = files.read_json(notebook_path(run, "data"))
    broken = {"output_type": "error", "ename": "KeyError", "evalue": "'x'", "traceback": []}
    notebook["cells"][2]["outputs"].append(broken)
    files.write_json(notebook_path(run, "data"), notebook)
    with pytest.raises(LeukError, match=r"chapter 01_data .* failed in code cell 2: KeyError"):
        check_run(run, STAGES)


def test_interrupted_stage_is_named(run: str) -> None:
    card = files.read_json(card_path(run, "data"))
    gone = {**card["process"], "pid": 2**22 + 1}  # above the highest process number of Linux
    change_card(run, "data", state="running", process=gone)
    with pytest.raises(LeukError, match=r"chapter 01_data .* was interrupted"):
        check_run(run, STAGES)


def test_never_executed_notebook_is_named(run: str) -> None:
    files.write_json(notebook_path(run, "fcmae"), fake.notebook("fcmae", executed=False))
    with pytest.raises(LeukError, match=r"chapter 02_fcmae .* was never executed"):
        check_run(run, STAGES)


def test_half_executed_notebook_is_named(run: str) -> None:
    notebook = files.read_json(notebook_path(run, "fcmae"))
    notebook["cells"][-1].update(execution_count=None, outputs=[])
    files.write_json(notebook_path(run, "fcmae"), notebook)
    with pytest.raises(LeukError, match="executed only in part: 3 of its 4 code cells"):
        check_run(run, STAGES)


def test_damaged_notebook_is_named(run: str) -> None:
    notebook_path(run, "fcmae").write_text('{"cells": ')
    with pytest.raises(LeukError, match=r"fcmae.notebook\.ipynb: not a readable notebook"):
        check_run(run, STAGES)


def test_changed_source_makes_the_chapter_stale(run: str) -> None:
    path = paths.stage_notebooks()["fcmae"]
    path.write_text(path.read_text().replace("Words about", "New words about"))
    with pytest.raises(LeukError, match=r"chapter 02_fcmae .* is stale: its notebook changed"):
        check_run(run, STAGES)


def test_changed_output_makes_both_sides_stale(run: str) -> None:
    (paths.stage_folder(run, "data") / "numbers.csv").write_text("a\nchanged\n")
    with pytest.raises(LeukError, match=r"chapter 01_data .* is stale: its output numbers\.csv was changed"):
        check_run(run, STAGES)


def test_changed_upstream_makes_the_chapter_stale(run: str) -> None:
    fake.finish_stage(STAGES[0], metrics={"cells": 3.0})
    with pytest.raises(LeukError, match=r"chapter 02_fcmae .* is stale: its input data changed"):
        check_run(run, STAGES)


def test_changed_data_set_makes_the_chapter_stale(run: str) -> None:
    change_card(run, "data", inputs={"dataset": {"content": "before"}})
    check_run(run, STAGES[:1], fingerprint=lambda dataset: "before")
    with pytest.raises(LeukError, match=r"chapter 01_data .* the data set's files changed"):
        check_run(run, STAGES[:1], fingerprint=lambda dataset: "after")


def test_all_broken_chapters_are_listed(run: str) -> None:
    for stage in ("data", "claims"):
        notebook_path(run, stage).unlink()
    with pytest.raises(LeukError, match=r"chapter 01_data .*also not ready: claims"):
        check_run(run, STAGES)


def test_notebook_of_another_execution_than_the_card() -> None:
    card = {"started": "2026-01-01T10:00:00+0100", "finished": "2026-01-01T10:00:30+0100"}
    within = {"start_time": "2026-01-01T08:59:59.1+00:00", "end_time": "2026-01-01T09:00:31+00:00"}
    before = {"start_time": "2026-01-01T08:00:00", "end_time": "2026-01-01T08:01:00"}  # UTC without a zone
    assert is_of_card({"metadata": {"papermill": within}}, card)
    assert not is_of_card({"metadata": {"papermill": before}}, card)
    assert is_of_card({"metadata": {}}, card)


def test_empty_cells_need_not_have_run() -> None:
    notebook = fake.notebook("data", executed=True)
    notebook["cells"].append(fake.code_cell("  \n", [], None))
    assert execution_problem(notebook) is None


def test_stripped_outputs_are_noticed() -> None:
    notebook = json.loads(json.dumps(fake.notebook("data", executed=True)))
    for cell in notebook["cells"]:
        cell["outputs"] = []
    assert "stripped" in (execution_problem(notebook) or "")


@pytest.mark.parametrize("hash_too", [False, True])
def test_a_number_edited_in_an_executed_notebook_is_refused_by_name(run: str, hash_too: bool) -> None:
    fake.finish_stage(STAGES[0], metrics={"accuracy": 0.5})
    path = notebook_path(run, "data")
    text = path.read_text()
    assert '"0.5"' in text
    path.write_text(text.replace('"0.5"', '"0.999"'))
    if hash_too:  # whoever edits the notebook may edit the card as well
        change_card(run, "data", executed=files.sha256_file(path))
    what = r"shows data\.accuracy = 0\.999, but metrics\.json has 0\.5" if hash_too else "is not the one whose hash"
    with pytest.raises(LeukError, match=f"chapter 01_data .* was edited: .*{what}"):
        check_run(run, STAGES)


@pytest.mark.parametrize("other", [{"profile": "laptop"}, {"seed": 3}])
def test_a_stage_of_another_run_is_refused_by_name(run: str, other: dict[str, object]) -> None:
    """Stages that read no other one, such as `leakage`, passed in a run of any profile or seed."""
    card = read_card(run, "claims")
    assert card is not None
    write_card(run, "claims", {**card, **other, "inputs": {}, "params": {**card["params"], **other}})
    name, value = next(iter(other.items()))
    with pytest.raises(
        LeukError, match=f"chapter 03_claims .* is stale: its {name} is {value!r}, but that of stage data"
    ):
        check_run(run, STAGES)


def test_edited_numbers_of_another_seed_are_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEUK_ROOT", str(tmp_path))
    monkeypatch.delenv("LEUK_RESULTS", raising=False)
    stage = fake.spec("results")
    fake.make_project(tmp_path, (stage,))
    for seed in range(3):
        fake.finish_stage(stage, run=f"smear-smoke-s{seed}", metrics={"accuracy": 0.5})
    edited = paths.stage_folder("smear-smoke-s1", "results") / "metrics.json"
    edited.write_text(edited.read_text().replace("0.5", "0.999"))
    card_path("smear-smoke-s2", "results").write_text("{}")
    shown, left_out = sibling_runs("smear-smoke-s0", "smoke")
    assert list(shown) == ["smear-smoke-s0"]
    assert left_out == {"smear-smoke-s1": "stale: its output metrics.json was changed", "smear-smoke-s2": "damaged"}
    text = pages.seeds_table(shown, ["accuracy"], left_out)
    assert "0.999" not in text and "`smear-smoke-s1` (stale: its output metrics.json was changed)" in text
