"""Nominal 95 % intervals contain the true value at least 93 % of the time, in a simulation with patients that differ."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

import interval_coverage as simulation
import leuk_lib
from interval_coverage import Averages, Models, Published, Readers, Rejected, Scaled, Selected, Shares, Splits, Studies
from leuk_lib.evaluation import metrics

LEAST = 0.93
PAGE = Path(__file__).parents[2] / "book" / "reproduce" / "intervals.md"


def short_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows whose coverage is below 93 % by more than chance (one in 2,000 for each)."""
    chance = stats.binom.cdf((rows["coverage"].fillna(1) * rows["draws"]).round(), rows["draws"], LEAST)
    return rows[chance < 1 / 2000]


@pytest.mark.parametrize("groups", simulation.GROUPS)
def test_shares(groups: int):
    cases = [Shares(groups, rate, alike, groups < 40) for rate in (0.5, 0.85, 0.97) for alike in (0.02, 0.2)]
    rows = simulation.table(cases, 200)
    assert short_of(rows).empty and (rows["given"] == 1).all()
    assert rows["coverage"].mean() > 0.94


@pytest.mark.parametrize("case", [Models(3, 1.8, 0.8, 1.0, True), Models(10, 2.5, 0.8, 0.5, False)], ids=str)
def test_scores_gains_and_calibration_errors(case: Models):
    rows = simulation.table([case], 40).set_index("quantity")
    assert short_of(rows).empty
    assert {"balanced_accuracy", "macro_auc", "ece", "recall", "gain in macro_f1"} <= set(rows.index)
    given = rows["given"]
    assert (given.drop(["nll", "brier"]) > 0.95).all() and (given[["nll", "brier"]] == float(case.groups >= 8)).all()


@pytest.mark.parametrize("case", [Studies(5, 1.7, 3, 0.7, True), Studies(20, 1.7, 3, 0.7, False)], ids=str)
def test_scores_and_gains_over_seeds(case: Studies):
    assert short_of(simulation.table([case], 60)).empty


@pytest.mark.parametrize("case", [Readers(5, 0.3, 0.8, True), Readers(10, 0.1, 0.5, False)], ids=str)
def test_agreement_of_readers_and_means_over_cells(case: Readers):
    rows = simulation.table([case], 60)
    assert short_of(rows).empty and (rows["given"] == 1).all()


@pytest.mark.parametrize("case", [Averages(3, 0.97, 0.8, False), Averages(20, 0.85, 0.8, True)], ids=str)
def test_shares_correlations_and_ratios_over_cells(case: Averages):
    rows = simulation.table([case], 40)
    assert short_of(rows).empty and (rows["given"] == 1).all()


@pytest.mark.parametrize("seeds", [1, 3])
def test_accuracies_of_cells_that_confidence_selects(seeds: int):
    rows = simulation.table([Selected(5, 1.8, 0.8, 1.0, True, seeds)], 30)
    assert short_of(rows).empty and (rows["given"] > 0.95).all()
    assert set(rows["quantity"]) == ({"abstention", "bin", "gain in share"} if seeds == 1 else {"abstention"})


@pytest.mark.parametrize("groups", [5, 10])
def test_temperatures_and_what_they_change(groups: int):
    rows = simulation.table([Scaled(groups, 2.5, 0.8, 0.5, True)], 12)
    assert short_of(rows).empty
    skewed = ~rows["quantity"].str.contains("ece")
    assert (rows.loc[skewed, "given"] == float(groups >= 8)).all() and (rows.loc[~skewed, "given"] == 1).all()


def test_scores_and_gains_over_splits():
    assert short_of(simulation.table([Splits(5, 1.7, 3, 0.7, True)], 30)).empty


def test_accuracies_of_independent_cells_are_exact():
    cases = [Published(cells, rate) for cells in range(80, 400, 40) for rate in simulation.RATES]
    assert (simulation.table(cases, 1)["coverage"] >= LEAST).all()
    votes = simulation.table([Shares(5, rate, 0.1, True, cells=1) for rate in simulation.RATES], 200)
    assert short_of(votes).empty and set(votes["quantity"]) == {"vote"}


def test_the_simulation_finds_intervals_that_do_not_cover():
    rows = simulation.table([Rejected(3, 1.8, 0.8, 1.0, False)], 40)
    assert set(rows["quantity"]) == set(simulation.OTHERS) and (rows["given"] == 1).all()
    assert {"recall, quantiles", "recall, normal"} <= set(short_of(rows)["quantity"])


FUNCTIONS = {
    "agreement", "clopper_pearson", "difference_interval", "ece_interval", "korn_graubard", "score_interval", "t_interval",
    "wilson",
}  # fmt: skip
METHODS = {"bounded_interval", "interval", "skewed_interval"}  # of Rate, Score and ClusterBootstrap


def makers_of_intervals(path: Path) -> Iterator[str]:
    """Names of the functions of a module, with their classes, that call one of ``FUNCTIONS`` or ``METHODS``."""

    def search(node: ast.AST, inside: str) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            name = f"{inside}.{child.name}" if isinstance(child, ast.FunctionDef | ast.ClassDef) else inside
            if isinstance(child, ast.Call):
                called = child.func
                names = METHODS if isinstance(called, ast.Attribute) else FUNCTIONS
                if getattr(called, "attr", getattr(called, "id", "")) in names:
                    yield inside
            yield from search(child, name)

    package = Path(leuk_lib.__file__).parent
    yield from search(ast.parse(path.read_text()), ".".join(path.relative_to(package).with_suffix("").parts))


def test_every_interval_that_is_printed_has_a_row():
    modules = Path(leuk_lib.__file__).parent.rglob("*.py")
    found = {name for path in modules if path.parent.name != "statistics" for name in makers_of_intervals(path)}
    assert found == set(simulation.PRINTED), (
        "give the interval of a new function a row: tests/interval_coverage.py, PRINTED"
    )
    quantities = {simulation.SAME.get(name, name) for names in simulation.PRINTED.values() for name in names}
    assert quantities <= set(simulation.NAMES)
    assert {simulation.SAME.get(name, name) for name in metrics.METRICS} <= quantities
    rows = pd.read_csv(Path(simulation.__file__).with_name("interval_coverage.csv"))
    assert set(rows["quantity"]) == {*simulation.NAMES.values(), *simulation.OTHERS.values()}


def test_the_page_states_the_tables_of_the_simulation():
    kept = pd.read_csv(Path(simulation.__file__).with_name("interval_coverage.csv"))
    assert simulation.page_tables(kept) in PAGE.read_text() and len(kept) > 20
    is_other = kept["quantity"].isin(list(simulation.OTHERS.values()))
    used, others = kept[~is_other], kept[is_other]
    assert (used["lowest"] >= LEAST).all() and (others["lowest"] < LEAST).all()


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_the_whole_grid():
    draws = {Shares: 1000, Published: 1, Scaled: 40}
    for case in simulation.grid():
        if isinstance(case, Rejected):
            continue
        low = short_of(simulation.table([case], draws.get(type(case), 150)))
        assert low.empty, low.to_string()
