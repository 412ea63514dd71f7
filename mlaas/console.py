"""Progress and messages: everything here goes to stderr, so that stdout holds results only.

A stage of work reports to a `Progress`: bars on a terminal, a plain line now and then elsewhere (a log, a batch system), nothing
when `MLAAS_PROGRESS=false`. Code that computes takes a `Progress` and defaults to `SILENT`.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO, TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


class Stage(Protocol):
    """A stage of work under way."""

    def advance(self, n: int = 1) -> None:
        """Say that `n` more units are done; safe to call from several threads."""
        ...


class Progress(Protocol):
    """Where stages report how far they are."""

    def stage(self, name: str, total: int | None = None, unit: str = "events") -> AbstractContextManager[Stage]:
        """Begin a stage of `total` units (None: unknown); the returned context manager gives a `Stage`."""
        ...

    def note(self, text: str) -> None:
        """Tell the user one line, between or during stages."""
        ...


class _Silent:
    """Reports nothing."""

    @contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "events") -> Iterator[Stage]:
        yield self

    def advance(self, n: int = 1) -> None:
        pass

    def note(self, text: str) -> None:
        pass


SILENT: Progress = _Silent()
RATED = 0.5  # seconds; what is shorter says nothing about a rate


class Lines:
    """Progress as sparse plain lines: at most one per `interval` seconds, and one when a stage ends."""

    def __init__(self, stream: IO[str] | None = None, interval: float = 10.0) -> None:
        self._stream = stream or sys.stderr
        self._interval = interval

    @contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "events") -> Iterator[Stage]:
        stage = _LineStage(self, name, total, unit, self._interval)
        yield stage
        stage.end()

    def note(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


class _LineStage:
    def __init__(self, lines: Lines, name: str, total: int | None, unit: str, interval: float) -> None:
        self._lines, self._name, self._total, self._unit, self._interval = lines, name, total, unit, interval
        self._done = 0
        self._lock = threading.Lock()
        self._began = self._last = time.monotonic()

    def advance(self, n: int = 1) -> None:
        now = time.monotonic()
        with self._lock:
            self._done += n
            due = now - self._last >= self._interval
            if due:
                self._last = now
        if due:
            share = f" of {self._total:,} ({100 * self._done / self._total:.0f} %)" if self._total else ""
            self._lines.note(f"{self._name}: {self._done:,}{share} {self._unit}, {self._rate(now)}")

    def end(self) -> None:
        now = time.monotonic()
        seconds = now - self._began
        done = f"{self._done:,} {self._unit} in " if self._done else ""
        rate = f", {self._rate(now)}" if self._done and seconds > RATED else ""
        self._lines.note(f"{self._name}: {done}{seconds:.1f} s{rate}")

    def _rate(self, now: float) -> str:
        return f"{self._done / max(now - self._began, 1e-9):,.0f} {self._unit}/s"


class BarsProgress:
    """Progress as bars on a terminal; bars of stages that have ended stay as lines with their rate."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        from rich.console import Console

        self._console = Console(file=stream or sys.stderr, highlight=False)
        self._bars: Bars | None = None
        self._open = 0

    @contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "events") -> Iterator[Stage]:
        bars = self._begin()
        task = bars.add_task(name, total=total, unit=unit)
        try:
            yield _BarStage(bars, task)
            if total is None:  # a full bar for what is done, though nobody knew how much it would be
                done = next(bar.completed for bar in bars.tasks if bar.id == task)
                bars.update(task, total=done or 1, completed=done or 1)
        finally:
            bars.stop_task(task)
            self._end()

    def note(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def _begin(self) -> Bars:
        if self._bars is None:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeElapsedColumn
            from rich.text import Text

            class Count(MofNCompleteColumn):
                """How many units of how many, where units are counted."""

                def render(self, task: Task) -> Text:
                    return super().render(task) if task.fields["unit"] else Text()

            self._bars = Progress(
                TextColumn("{task.description:<22}"),
                BarColumn(bar_width=None),
                Count(),
                TextColumn("{task.fields[unit]}"),
                TimeElapsedColumn(),
                console=self._console,
            )
            self._bars.start()
        self._open += 1
        return self._bars

    def _end(self) -> None:
        self._open -= 1
        if self._open == 0 and self._bars is not None:
            self._bars.stop()
            self._bars = None


class _BarStage:
    def __init__(self, bars: Bars, task: TaskID) -> None:
        self._bars, self._task = bars, task

    def advance(self, n: int = 1) -> None:
        self._bars.advance(self._task, n)


def progress(show: bool = True, stream: IO[str] | None = None) -> Progress:
    """The progress that fits the place: bars on a terminal, sparse lines elsewhere, nothing when `show` is false."""
    if not show:
        return SILENT
    where = stream or sys.stderr
    return BarsProgress(where) if where.isatty() else Lines(where)


_CHATTER = re.compile(rb"^(WARNING: All log messages before absl::InitializeLog|[IW]\d{4} \d\d:\d\d:\d\d|E\d{4} .*cuInit)")


@contextmanager
def hushed() -> Iterator[None]:
    """Drop what TensorFlow's compiled parts write to stderr when they start (TF_CPP_MIN_LOG_LEVEL does not reach it); other lines still come."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        before = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            held.seek(0)
            for line in held:
                if not _CHATTER.match(line):
                    os.write(2, line)
