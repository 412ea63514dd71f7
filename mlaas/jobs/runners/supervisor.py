"""The life of one task beside it: its output is kept, its limits watched, its end brought about and noted."""

from __future__ import annotations

import os
import select
import signal
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mlaas.jobs.runners import tree, usage
from mlaas.jobs.runners.base import CRASHES, End, Status
from mlaas.jobs.runners.output import Log
from mlaas.jobs.runners.plan import Plan
from mlaas.jobs.runners.taskfolder import TaskFolder

LOOK = 0.2  # s between looks at the processes, at least
SHARE = 20  # a look may take this part of the time
NOTE = 2.0  # s between notes in status.json
GRACE = 10.0  # s after the time limit, and when the machine goes down
DRAIN = 2.0  # s for what is left in the pipe at the end
CHUNK = 1 << 16


@dataclass
class Supervisor:
    """Watches `main`, the job's first process, and everything that it starts. All times but `started` are of the monotonic clock."""

    plan: Plan
    folder: TaskFolder
    main: int
    pipe: int
    log: Log
    started: float
    began: float = field(default_factory=time.monotonic)
    terminated: bool = False  # this process was asked to end

    def __post_init__(self) -> None:
        self._end: End | None = None
        self._code: int | None = None
        self._kill_at = float("inf")
        self._peak = 0
        self._cpu = 0.0
        self._next_look = self._next_note = 0.0
        self._disk: Future[int] | None = None
        self._next_disk = 0.0
        self._open = True
        self._kills = _out_of_memory_kills()

    def run(self) -> Status:
        """Watch until the job has ended, end what it left, and give the status that is final."""
        with ThreadPoolExecutor(1) as pool:
            while self._code is None:
                self._read(LOOK / 2)
                self.reap()
                self._look(pool)
            tree.end_descendants(self.reap)
            self._drain()
        return self._final()

    def reap(self) -> None:
        """Wait for every process that has ended; as a subreaper this one gets the orphans too."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.main:
                self._code = os.waitstatus_to_exitcode(status)

    # ---- output

    def _read(self, wait: float) -> bool:
        """Take what is in the pipe, for not much longer than `wait` seconds. Whether it gave anything."""
        if not self._open:
            time.sleep(wait)
            return False
        until, got = time.monotonic() + wait, False
        while select.select([self.pipe], [], [], max(0.0, until - time.monotonic()))[0]:
            data = os.read(self.pipe, CHUNK)
            if not data:
                self._open = False
                break
            got = True
            self.log.write(data)
            if time.monotonic() > until:
                break
        return got

    def _drain(self) -> None:
        until = time.monotonic() + DRAIN
        while self._open and self._read(0.01) and time.monotonic() < until:
            pass

    # ---- limits

    def _look(self, pool: ThreadPoolExecutor) -> None:
        now = time.monotonic()
        if now < self._next_look or self._code is not None:
            return
        self._asked(now)
        if now - self.began > self.plan.time_limit:
            self._stop("time_limit", now, GRACE, f"the job is stopped: its time limit of {self.plan.time_limit:g} s is over")
        self._measure()
        self._look_at_disk(pool, now)
        if now > self._kill_at:
            tree.end_descendants(self.reap)
        spent = time.monotonic() - now
        self._next_look = now + spent + max(LOOK, spent * SHARE)
        if now > self._next_note:
            self._next_note = now + NOTE
            with suppress(OSError):
                self.folder.write_status(self.plan.id, self._status(None), durable=False)

    def _asked(self, now: float) -> None:
        """A request to stop; SIGTERM without one means that the machine, not the user, wants it."""
        grace = self.folder.cancel_asked()
        if grace is not None:
            self._stop("cancelled", now, grace)
        elif self.terminated:
            self._stop("lost", now, GRACE)

    def _measure(self) -> None:
        found = tree.measure(tree.descendants(os.getpid()), self.plan.memory // 2)
        self._cpu = max(self._cpu, tree.spent()[0] + found.cpu_seconds)
        self._peak = max(self._peak, found.memory)
        if found.memory > self.plan.memory:
            self._kill("memory", f"the job is ended: it takes more than {self.plan.memory:,} bytes of memory")
        elif found.tasks > self.plan.processes:
            self._kill("exit", f"the job is ended: it has more than {self.plan.processes:,} processes and threads")

    def _look_at_disk(self, pool: ThreadPoolExecutor, now: float) -> None:
        """The folder is measured aside: a large one takes long."""
        if self._disk is not None and self._disk.done():
            taken, self._disk = self._disk.result(), None
            if taken > self.plan.disk:
                self._kill("disk", f"the job is ended: its folder takes more than {self.plan.disk:,} bytes of disk")
        elif self._disk is None and now > self._next_disk:
            self._next_disk = now + 1.0
            self._disk = pool.submit(usage.used, Path(self.plan.work))

    def _stop(self, end: End, now: float, grace: float, why: str = "") -> None:
        """SIGTERM to the job's first process; everything is killed after the grace. A second reason changes nothing but may shorten it."""
        self._kill_at = min(self._kill_at, now + grace)
        if self._end is None:
            self._end = end
            if why:
                self.log.note(why)
            with suppress(ProcessLookupError):
                os.kill(self.main, signal.SIGTERM)

    def _kill(self, end: End, why: str) -> None:
        if self._end is None:
            self._end = end
            self.log.note(why)
        tree.end_descendants(self.reap)

    # ---- the end

    def _final(self) -> Status:
        """The status that is final: the runner's reason when it had one, else the job's own."""
        code = 0 if self._code is None else self._code
        spent, largest = tree.spent()
        self._cpu, self._peak = max(self._cpu, spent), max(self._peak, largest)
        if self._end is not None:
            return self._status(self._end, 128 + signal.SIGKILL if self._end == "exit" else None)
        if code >= 0:
            return self._status("exit", code)
        if code == -signal.SIGKILL and _out_of_memory_kills() > self._kills:
            self.log.note("the job is ended: the machine ran out of memory")
            return self._status("memory")
        if -code in CRASHES:
            return self._status("exit", 128 - code)
        return self._status("signal")

    def _status(self, end: End | None, code: int | None = None) -> Status:
        return Status(end, code, self.started, None if end is None else time.time(), round(self._cpu, 3), self._peak)


def _out_of_memory_kills() -> int:
    """How often this machine's kernel has killed a process for want of memory."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
