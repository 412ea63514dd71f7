"""Keeps the parts running: starts them, starts again what dies, and stops them in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType

from mlaas.errors import UserError

LOOK = 0.2  # s between two looks at the parts
SHORT, LONG = 1.0, 30.0  # s before a part is started again
STEADY = 60.0  # s after which a part counts as healthy
MARGIN = 10.0  # s beyond the time that running requests get


class PartError(UserError):
    """A part cannot start; it has said why."""


@dataclass
class Part:
    """A part: its process, when it began, and how often it died lately."""

    name: str
    fds: Sequence[int] = ()
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0
    deaths: int = 0
    again: float = 0.0

    def start(self, environment: Mapping[str, str]) -> None:
        """Start the process, in a session of its own: Ctrl-C reaches this process only, which stops the parts in order."""
        command = [sys.executable, "-m", "mlaas.service", self.name, str(os.getpid()), *map(str, self.fds)]
        self.process = subprocess.Popen(command, env=dict(environment), stdin=subprocess.DEVNULL, pass_fds=self.fds, start_new_session=True)
        self.began = time.monotonic()

    @property
    def ended(self) -> int | None:
        """The exit status, None while it runs."""
        return self.process.poll() if self.process else None


@dataclass
class Supervisor:
    """Runs parts until a signal. `tell` is given sentences for the user; `ready` is called once, when every check of `checks` has been true.

    environment: of the parts. order: how they are stopped, one after the other. timeout: seconds that each gets for that.
    """

    parts: list[Part]
    environment: Mapping[str, str]
    checks: Mapping[str, Callable[[], bool]]
    ready: Callable[[], None]
    tell: Callable[[str], None]
    timeout: float
    _stop: threading.Event = field(default_factory=threading.Event)
    _hard: bool = False

    def run(self) -> None:
        """Start, keep, stop. Raises PartError when a part cannot start."""
        before = {number: signal.signal(number, self._signalled) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for part in self.parts:
                part.start(self.environment)
            self._keep()
        except BaseException:
            for part in self.parts:  # nobody uses them yet: all at once
                if part.process and part.ended is None:
                    part.process.terminate()
            raise
        finally:
            self._end()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _signalled(self, _number: int, _frame: FrameType | None) -> None:
        self._hard = self._stop.is_set()  # asked twice: at once
        self._stop.set()

    def _keep(self) -> None:
        waiting = dict(self.checks)
        while not self._stop.wait(LOOK):
            for part in self.parts:
                self._look_at(part, bool(waiting))
            if not waiting:
                continue
            for name in [name for name, check in waiting.items() if check()]:
                del waiting[name]
            if not waiting and not self._stop.is_set():
                self.ready()

    def _look_at(self, part: Part, starting: bool) -> None:
        status, now = part.ended, time.monotonic()
        if part.process is None:
            if now >= part.again:
                part.start(self.environment)
            return
        if status is None:
            if part.deaths and now - part.began > STEADY:
                part.deaths = 0
            return
        if starting:
            raise PartError(f"the {part.name} cannot run ({_how(status)}); it has said why above")
        part.deaths += 1
        pause = min(SHORT * 2 ** (part.deaths - 1), LONG)
        part.process, part.again = None, now + pause
        self.tell(f"the {part.name} ended ({_how(status)}); it is started again in {pause:.0f} s")

    def _end(self) -> None:
        """Stop the parts in their order; kill what does not end in time."""
        for part in self.parts:
            if part.process is not None and part.ended is None:
                part.process.terminate()
                self._wait(part.process, part.name)

    def _wait(self, process: subprocess.Popen[bytes], name: str) -> None:
        until = time.monotonic() + self.timeout + MARGIN
        while process.poll() is None:
            if self._hard or time.monotonic() > until:
                if not self._hard:
                    self.tell(f"the {name} did not end in time, and is killed")
                process.kill()
                process.wait()
                return
            time.sleep(0.02)


def _how(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"
