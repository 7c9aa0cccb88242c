"""Progress: what is reported is shown with the time left; a request to stop is seen; nothing happens outside of a run."""

import io
import json
import os
import re
import time

import pytest

from leuk_lib.runs import progress
from leuk_lib.runs.progress import Monitor, of_command, report, shown, stop_requested, track


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "progress.json"
    monkeypatch.setenv(progress.PROGRESS, str(path))
    monkeypatch.setattr(progress, "WRITE_EVERY", 0)
    return path


def test_the_line_has_step_total_values_and_time_left(file):
    monitor = Monitor(file, "run: wpat", time_left=lambda: 70.0)
    report("WPAT", 1, 11, loss=1.5)
    monitor.line()
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"step": 6, "time": content["time"] + 10}))
    line = monitor.line(monitor.start + 20)
    assert line.startswith("run: wpat 0:20 · WPAT 6/11 · loss 1.5 · 0:10 left")
    assert line.endswith("all: about 1:10 left by the reference's times")


def test_what_a_job_does_is_shown_without_a_total_that_is_not_known(file, monkeypatch):
    monitor = Monitor(file, "study ladder")
    report("jobs", 1, 3)
    progress.of_jobs()
    try:
        for step, total, shown_as in ((0, 0, "comparing"), (4, 0, "comparing 4"), (4, 8, "comparing 4/8")):
            report("comparing", step, total)
            assert monitor.line(monitor.start + 1).endswith(f"jobs 1/3 · {shown_as}")
    finally:
        monkeypatch.setenv(progress.PROGRESS, str(file))


def test_before_the_first_report_and_with_a_damaged_file_the_stage_is_shown(file):
    monitor = Monitor(file, "run: data")
    assert monitor.line(monitor.start + 3) == "run: data 0:03" and not monitor.training
    file.write_text("{")
    assert monitor.line(monitor.start + 3) == "run: data 0:03"


def test_reports_are_not_written_at_every_step_but_at_the_last(file, monkeypatch):
    monkeypatch.setattr(progress, "WRITE_EVERY", 3600)
    monkeypatch.setattr(progress, "_last_write", time.monotonic())
    report("x", 1, 3)
    assert not file.exists()
    report("x", 3, 3)
    assert json.loads(file.read_text())["step"] == 3


def test_a_terminal_redraws_one_line_and_a_log_gets_lines(file, monkeypatch):
    monkeypatch.setattr(progress, "REDRAW_EVERY", 0.01)
    monkeypatch.setattr(progress, "LINE_EVERY", 0.01)
    report("WPAT", 1, 10)
    terminal, log = Terminal(), io.StringIO()
    for stream in (terminal, log):
        with shown(Monitor(file, "run: wpat"), stream):
            time.sleep(0.2)
    assert "\n" not in terminal.getvalue() and terminal.getvalue().endswith(progress.ERASE)
    lines = log.getvalue().splitlines()
    assert len(lines) > 2 and all("WPAT 1/10" in line for line in lines)
    monkeypatch.setenv(progress.QUIET, "1")
    silent = io.StringIO()
    with shown(Monitor(file, "run: wpat"), silent):
        time.sleep(0.05)
    assert not silent.getvalue()


def test_several_lines_are_redrawn_in_their_place_and_what_is_printed_takes_it(monkeypatch, capsys):
    class Two:
        def lines(self):
            return ["gan 1/9", "fcmae 5/9"]

    monkeypatch.setattr(progress, "REDRAW_EVERY", 0.01)
    terminal = Terminal()
    with shown(Two(), terminal):
        time.sleep(0.1)
    drawing = f"{progress.ERASE}gan 1/9\nfcmae 5/9\r\033[1A"  # then one line up, where the next drawing begins
    assert terminal.getvalue().replace(drawing, "") == progress.ERASE
    progress.say("gan done")
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    progress.say("gan done")
    assert capsys.readouterr().err == "gan done\n" and terminal.getvalue() == f"{progress.ERASE}gan done\n"


def test_outside_of_a_run_nothing_is_written_and_nobody_stops(monkeypatch):
    monkeypatch.delenv(progress.PROGRESS, raising=False)
    monkeypatch.delenv(progress.STOP, raising=False)
    report("x", 1, 1)
    assert not stop_requested()


def test_a_request_to_stop_is_seen(tmp_path, monkeypatch):
    monkeypatch.setenv(progress.STOP, str(tmp_path / "stop"))
    assert not stop_requested()
    (tmp_path / "stop").touch()
    assert stop_requested()


def test_a_command_shows_what_its_loops_report_and_leaves_nothing_behind(monkeypatch):
    monkeypatch.setattr(progress, "WRITE_EVERY", 0)
    monkeypatch.setattr(progress, "LINE_EVERY", 0.01)
    monkeypatch.delenv(progress.PROGRESS, raising=False)
    monkeypatch.delenv(progress.QUIET, raising=False)
    log = io.StringIO()
    with of_command("data check cells", stream=log):
        for item in track(range(3), "reading", 3):
            time.sleep(0.05)
            assert item in range(3)
    assert re.search(r"data check cells \d:\d\d · reading [012]/3", log.getvalue())
    assert progress.PROGRESS not in os.environ and progress.QUIET not in os.environ
    quiet = io.StringIO()
    with of_command("data check cells", quiet=True, stream=quiet):
        assert os.environ[progress.QUIET]
        time.sleep(0.05)
    assert not quiet.getvalue() and progress.QUIET not in os.environ


def test_units_are_shown_in_thousands_and_an_unknown_total_is_left_out(file):
    monitor = Monitor(file, "fetch")
    with progress.counted("a.zip (MB)", 2_500_000, done=1_000_000, per=1_000_000) as update:
        update(1_200_000)
        assert "a.zip (MB) 2/3" in monitor.line()
    with progress.counted("b.zip (MB)", 0, per=1_000_000) as update:
        assert monitor.line().endswith("b.zip (MB)")
        update(5_000_000)
        assert monitor.line().endswith("b.zip (MB) 5")


def test_outside_of_a_command_a_loop_is_a_plain_loop(monkeypatch, capfd):
    monkeypatch.delenv(progress.PROGRESS, raising=False)
    assert list(track(iter("abc"), "reading", 3)) == ["a", "b", "c"]
    assert capfd.readouterr() == ("", "")
