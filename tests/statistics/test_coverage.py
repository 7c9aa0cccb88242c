"""Nominal 95 % intervals contain the true value at least 93 % of the time, in a simulation with patients that differ."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import interval_coverage as simulation
from interval_coverage import Models, Readers, Shares, Studies
from leuk_lib.statistics.intervals import share, wilson

LEAST = 0.93
PAGE = Path(__file__).parents[2] / "book" / "reproduce" / "intervals.md"


def short_of(rows: pd.DataFrame, draws: int) -> pd.DataFrame:
    """Rows whose coverage is below 93 % by more than chance (one in 2,000 for each)."""
    given = (rows["given"] * draws).round().astype(int)
    chance = stats.binom.cdf((rows["coverage"].fillna(1) * given).round(), given, LEAST)
    return rows[chance < 1 / 2000]


@pytest.mark.parametrize("groups", simulation.GROUPS)
def test_shares(groups: int):
    cases = [Shares(groups, rate, alike, groups < 40) for rate in (0.5, 0.85, 0.97) for alike in (0.02, 0.2)]
    rows = simulation.table(iter(cases), {Shares: 200})
    assert short_of(rows, 200).empty and (rows["given"] == 1).all()
    assert rows["coverage"].mean() > 0.94


@pytest.mark.parametrize("case", [Models(3, 1.8, 0.8, 1.0, True), Models(10, 2.5, 0.8, 0.5, False)], ids=str)
def test_scores_gains_and_calibration_errors(case: Models):
    rows = simulation.table(iter([case]), {Models: 40}).set_index("quantity")
    assert short_of(rows, 40).empty
    assert {"balanced_accuracy", "macro_auc", "ece", "recall", "gain in macro_f1"} <= set(rows.index)
    given = rows["given"]
    assert (given.drop(["nll", "brier"]) > 0.95).all() and (given[["nll", "brier"]] == float(case.groups >= 8)).all()


@pytest.mark.parametrize("case", [Studies(5, 1.7, 3, 0.7, True), Studies(20, 1.7, 3, 0.7, False)], ids=str)
def test_scores_and_gains_over_seeds(case: Studies):
    assert short_of(simulation.table(iter([case]), {Studies: 60}), 60).empty


@pytest.mark.parametrize("case", [Readers(5, 0.3, 0.8, True), Readers(10, 0.1, 0.5, False)], ids=str)
def test_agreement_of_readers_and_means_over_cells(case: Readers):
    rows = simulation.table(iter([case]), {Readers: 60})
    assert short_of(rows, 60).empty and (rows["given"] == 1).all()


def test_the_simulation_finds_intervals_that_do_not_cover(monkeypatch: pytest.MonkeyPatch):
    def without_degrees_of_freedom(hits: np.ndarray, groups: np.ndarray) -> tuple[float, float, float]:
        rate = share(hits, groups)
        size = rate.least
        if 0 < rate.value < 1:
            size = min(rate.n, rate.value * (1 - rate.value) / rate.spread.error**2)
        return *wilson(rate.value * size, size), size

    monkeypatch.setattr(simulation, "korn_graubard", without_degrees_of_freedom)
    rows = simulation.table(iter([Shares(3, 0.85, 0.2, False), Shares(5, 0.85, 0.2, False)]), {Shares: 200})
    assert len(short_of(rows, 200)) == 2


def test_the_page_states_the_table_of_the_simulation():
    stated = re.findall(r"^\| ([A-Za-z][^|]*?) \| (\d+) \| ([\d.]+) \| ([\d.]+) \|", PAGE.read_text(), re.M)
    kept = pd.read_csv(Path(simulation.__file__).with_name("interval_coverage.csv"))
    rows = [(row.quantity, str(row.groups), f"{row.lowest:.2f}", f"{row.length:.2f}") for row in kept.itertuples()]
    assert stated == rows and len(rows) > 20
    assert (kept["lowest"] >= 0.9).all()  # the lowest of several, of few draws each
    assert (kept["mean"] >= LEAST).all()


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_the_whole_grid():
    draws = {Shares: 1000, Models: 200, Studies: 150, Readers: 200}
    rows = simulation.table(simulation.grid(), draws)
    for kind, of in rows.groupby(rows["case"].str.split("(").str[0]):
        low = short_of(of, draws[getattr(simulation, str(kind))])
        assert low.empty, low.to_string()
