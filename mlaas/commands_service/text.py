"""What the commands print for people: tables, times, states; colours on a terminal only."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any

from mlaas.console import Progress, Stage

COLOURS = {
    **dict.fromkeys(("succeeded", "good"), "32"),
    **dict.fromkeys(("running", "starting", "publishing"), "36"),
    **dict.fromkeys(("failed", "timed_out", "bad"), "31"),
    **dict.fromkeys(("cancelled", "warning"), "33"),
}
STEPS = ((60, "s"), (60, "min"), (24, "h"), (365, "days"))
LATE = 2.0  # s of work before a bar is worth showing


def show(document: Any) -> None:
    """Print JSON."""
    print(json.dumps(document, indent=1))


def note(text: str) -> None:
    """Tell the user something that is no result."""
    print(text, file=sys.stderr, flush=True)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print aligned columns; on a terminal lines end at its edge, and states have colours."""
    cells = [list(head), *map(list, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    edge = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for number, row in enumerate(cells):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        line = line if edge is None or len(line) <= edge else f"{line[: edge - 1]}…"
        print(_coloured(line, row) if number else _styled(line, "1"))


def pairs(rows: Iterable[tuple[str, str]]) -> None:
    """Print names and values below each other; what has no value is left out."""
    kept = [(name, value) for name, value in rows if value]
    width = max((len(name) for name, _ in kept), default=0)
    for name, value in kept:
        print(f"{name.ljust(width)}  {coloured_state(value) if name == 'state' else value}")


def coloured_state(state: str) -> str:
    """A state in its colour."""
    first = state.split(" ")[0]
    return _styled(state, COLOURS[first]) if first in COLOURS else state


def _coloured(line: str, row: Sequence[str]) -> str:
    state = next((cell for cell in row if cell in COLOURS), "")
    return line.replace(state, coloured_state(state), 1) if state else line


def _styled(text: str, style: str) -> str:
    return f"\033[{style}m{text}\033[0m" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text


def ago(then: datetime | None) -> str:
    """How long ago, in words."""
    if then is None:
        return ""
    seconds = (datetime.now(UTC) - then).total_seconds()
    return "now" if seconds < 1 else f"{lasting(seconds)} ago"


def lasting(seconds: float) -> str:
    """A length of time in its largest unit: "42 s", "3 min", "5 h", "2 days"."""
    value = max(seconds, 0.0)
    for size, unit in STEPS[:-1]:
        if value < size:
            return f"{value:.0f} {unit}"
        value /= size
    return "1 day" if value < 2 else f"{value:.0f} days"


def clock(seconds: float | None) -> str:
    """A duration as 1:02:03 or 2:03."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def figure(value: Any) -> str:
    """A number for people."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def when(then: datetime | None) -> str:
    """A time in the reader's zone, and how long ago it was."""
    return "" if then is None else f"{then.astimezone():%Y-%m-%d %H:%M:%S} ({ago(then)})"


def printable(text: str) -> str:
    """Text of a job as it may be written: on a terminal without control characters, with which it could take the terminal over."""
    return text.translate(_CONTROL) if sys.stdout.isatty() else text


_CONTROL = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class Patient:
    """Progress that shows a stage only when it has taken a while."""

    def __init__(self, inner: Progress, late: float = LATE) -> None:
        self._inner, self._late = inner, late

    @contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "events") -> Iterator[Stage]:
        """See `mlaas.console.Progress`."""
        with ExitStack() as stack:
            yield _Waiting(lambda: stack.enter_context(self._inner.stage(name, total, unit)), self._late)

    def note(self, text: str) -> None:
        """Tell the user one line."""
        self._inner.note(text)


class _Waiting:
    def __init__(self, begin: Any, late: float) -> None:
        self._begin, self._late, self._began = begin, late, time.monotonic()
        self._stage: Stage | None = None
        self._done = 0

    def advance(self, n: int = 1) -> None:
        self._done += n
        if self._stage is None:
            if time.monotonic() - self._began < self._late:
                return
            self._stage, n = self._begin(), self._done
        self._stage.advance(n)
