"""Progress on a terminal, in a log, and not at all."""

from __future__ import annotations

import io
import os
import threading

from mlaas.console import SILENT, BarsProgress, Lines, hushed, progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_place_decides():
    assert progress(False) is SILENT
    assert isinstance(progress(True, io.StringIO()), Lines)
    assert isinstance(progress(True, Terminal()), BarsProgress)


def test_silence_says_nothing(capfd):
    SILENT.note("text")
    with SILENT.stage("specs", 10) as stage:
        stage.advance(10)
    assert capfd.readouterr() == ("", "")


def test_lines_are_sparse():
    log = io.StringIO()
    with Lines(log, interval=3600).stage("specs", 1000) as stage:
        for _ in range(1000):
            stage.advance()
    (line,) = log.getvalue().splitlines()
    assert line.startswith("specs: 1,000 events in ")


def test_lines_tell_the_share_on_the_way():
    log = io.StringIO()
    with Lines(log, interval=0).stage("read", 200, "files") as stage:
        stage.advance(50)
    assert "50 of 200 (25 %) files" in log.getvalue().splitlines()[0]


def test_a_stage_that_failed_is_not_reported_as_done():
    log = io.StringIO()
    try:
        with Lines(log).stage("read", 5):
            raise ValueError
    except ValueError:
        pass
    assert not log.getvalue()


def test_threads_may_advance_together():
    log = io.StringIO()
    with Lines(log, interval=3600).stage("read") as stage:
        threads = [threading.Thread(target=lambda: [stage.advance() for _ in range(2000)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert log.getvalue().startswith("read: 8,000 events")


def test_bars_show_what_is_done_and_nest():
    screen = Terminal()
    bars = BarsProgress(screen)
    with bars.stage("outer", 10, "files") as outer, bars.stage("inner", None) as inner:
        inner.advance(7)
        outer.advance(10)
        bars.note("a [note]")
    bars.note("afterwards")
    text = screen.getvalue()
    assert all(part in text for part in ("outer", "10/10", "files", "inner", "7/7", "a [note]", "afterwards"))


def test_only_known_chatter_is_dropped(capfd):
    with hushed():
        os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n")
        os.write(2, b"I0000 00:00:1795254131.22 20430 port.cc:153] oneDNN custom operations are on.\n")
        os.write(2, b"E0000 00:00:1795254131.22 20430 x.cc:1] the disk burns\n")
        os.write(2, b"Fatal: no such device\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "E0000 00:00:1795254131.22 20430 x.cc:1] the disk burns\nFatal: no such device\nafter\n"
