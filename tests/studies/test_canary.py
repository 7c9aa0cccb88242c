"""The canary of every study gives the numbers of its committed records: the present code still computes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from leuk_lib.studies import STUDIES
from leuk_lib.studies.canary import Canary, comparable
from leuk_lib.studies.record import ABSOLUTE, LOSS, RELATIVE, load_record, moved
from leuk_lib.studies.study import study_class
from studies.toys import Toy, ToyParams

RECORDS = sorted((Path(__file__).resolve().parents[2] / "book/reference/studies").glob("*.json"))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(STUDIES))
def test_the_canary_gives_the_numbers_of_the_records(canary, name: str):
    numbers = canary(name)[0].numbers
    differences = {}
    for path in RECORDS:
        record = load_record(path)
        same = [comparable(record, part) for part in (record.canary, numbers)]
        if record.study == name and (lines := moved(*same)):
            differences[record.name] = lines
    lines = [f"{record}: {line}" for record, lines in differences.items() for line in lines]
    advice = f"; if they should, raise {name}.version and run the study, or leuk study accept {name} --reason …"
    assert not lines, "numbers moved: " + "; ".join(lines) + advice


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_every_record_is_of_the_present_version(path: Path):
    record = load_record(path)
    assert record.version == study_class(record.study).version, record.state()


def test_numbers_are_mean_losses_and_means_of_tables(tmp_path: Path):
    toy = Toy(ToyParams(dataset="cells", seeds=(1, 2)))
    rows = {job: toy.run(job, tmp_path, "id") for wave in toy.waves() for job in wave}
    numbers = Canary(toy, rows, toy.tables(rows)).numbers
    assert numbers == {"loss of seed-1": 1.0, "loss of seed-2": 2.0, "loss of sum": 2.0, "values.value": 4.0}


def test_a_difference_beyond_the_tolerance_is_one_line_with_both_values():
    recorded = {f"{LOSS}a": 2.0, f"{LOSS}b": 2.0, "scores.value": 0.5, "scores.low": 0.1, "gone": 1.0}
    now = {
        f"{LOSS}a": 2.0 * (1 + 0.9 * RELATIVE), f"{LOSS}b": 2.0 * (1 + 2 * RELATIVE),
        "scores.value": 0.5 + 0.9 * ABSOLUTE, "scores.low": 0.1 - 2 * ABSOLUTE,
    }  # fmt: skip
    assert moved(recorded, recorded) == []
    assert moved(recorded, now) == [
        "loss of b: recorded 2, now 2.004", "scores.low: recorded 0.1, now 0.06", "gone: recorded 1, now none"
    ]  # fmt: skip
