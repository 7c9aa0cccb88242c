"""Work in several processes: the same results in the same order, and progress."""

from __future__ import annotations

import math
import os

import cv2
import pytest

from leuk_lib.data.decode import quiet_decoders
from leuk_lib.runs import parallel, progress
from leuk_lib.runs.parallel import available_cores, ordered_map

# A process cannot import what a test defines, so the work is an expression.


@pytest.mark.parametrize(("items", "workers"), [(20, 1), (20, 2), (600, 1), (600, 2)])
def test_results_are_in_order_and_many_items_go_to_processes(items: int, workers: int):
    work = [f"({item} * 3, __import__('os').getpid())" for item in range(items)]
    results = list(ordered_map(eval, work, workers, "evaluating"))
    assert [value for value, _ in results] == [3 * item for item in range(items)]
    here = {process for _, process in results} == {os.getpid()}
    assert here == (items < parallel.LEAST or workers == 1)


@pytest.mark.parametrize("least", [1, 10_000], ids=["processes", "threads"])
def test_the_context_holds_where_the_work_is_done(least: int):
    work, outside = ["__import__('cv2').utils.logging.getLogLevel()"] * 40, cv2.utils.logging.getLogLevel()
    assert outside != cv2.utils.logging.LOG_LEVEL_SILENT
    levels = set(ordered_map(eval, work, 2, "evaluating", within=quiet_decoders, least=least))
    assert levels == {cv2.utils.logging.LOG_LEVEL_SILENT} and cv2.utils.logging.getLogLevel() == outside


@pytest.mark.parametrize("least", [1, 10_000], ids=["processes", "threads"])
def test_an_error_arrives_as_it_was(least: int):
    with pytest.raises(ValueError, match=r"domain error|nonnegative"):
        list(ordered_map(math.sqrt, range(40, -40, -1), 2, "taking roots", least=least))


def test_progress_is_reported(monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.setenv(progress.PROGRESS, "named")
    monkeypatch.setattr(progress, "report", lambda *values, **_: seen.append(values))
    list(ordered_map(math.sqrt, range(5), 1, "taking roots"))
    assert seen == [("taking roots", done, 5) for done in range(6)]


def test_the_cores_are_those_that_the_process_may_use():
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
