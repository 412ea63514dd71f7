"""What a runner is: submit, poll, cancel, cleanup; and what it is given and gives back."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from mlaas.errors import MLaaSError

End = Literal["exit", "signal", "time_limit", "memory", "disk", "cancelled", "lost"]
"""Why a task ended: by itself; by a signal that the runner did not send; by one of its limits; by `cancel`; or the runner cannot know ("lost":
the machine went down, or somebody killed the shim). "signal" and "lost" are failures of the infrastructure; a crash of the job itself (CRASHES)
is not: it is an "exit" with 128 + the signal's number, as a shell tells it."""

CRASHES = frozenset({signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV, signal.SIGSYS})
"""Signals that the kernel or the C library ends a faulty program with."""


class RunnerError(MLaaSError):
    """The engine behind the runner failed (not the job): the task may be tried again."""


@dataclass(frozen=True)
class Task:
    """One attempt of a job, for a runner.

    id: unique per attempt ("<job>-<attempt>"). argv: for the process runner the first word is replaced by this Python when it is "mlaas" (then
    `python -m mlaas.cli`); in a container it is run as it is. folder: the job's folder (`mlaas.places.Places.job`): input/ is read-only,
    work/ is where the task runs and the only place that it may write to beside `cache`. readable: further folders, read-only (the workspace,
    a bundle, the site's data). user: the user id of the tenant's jobs; used when the runner may change users, else ignored.
    Limits: cpus (may be a fraction), memory and disk in bytes, processes and threads, time_limit in seconds, log_limit in bytes.
    """

    id: str
    argv: Sequence[str]
    folder: Path
    cache: Path
    readable: Sequence[Path] = ()
    environment: dict[str, str] = field(default_factory=dict)
    user: int | None = None
    cpus: float = 1.0
    gpus: int = 0
    memory: int = 4 * 10**9
    disk: int = 20 * 10**9
    processes: int = 512
    time_limit: float = 86_400.0
    log_limit: int = 64 * 10**6


@dataclass(frozen=True)
class Status:
    """What became of a task so far. `end` is None while it runs; `exit_code` only with end "exit".

    started, finished: seconds since 1970. cpu_seconds of the whole tree, memory: the most that it had at once, bytes.
    """

    end: End | None
    exit_code: int | None = None
    started: float = 0.0
    finished: float | None = None
    cpu_seconds: float = 0.0
    memory: int = 0

    @property
    def running(self) -> bool:
        """Whether the task still runs."""
        return self.end is None


class Runner(Protocol):
    """An engine that runs tasks. Every method may be called again after a crash of the caller, with the same result; none waits for a task."""

    name: str

    def check(self) -> None:
        """Raise RunnerError with a cure when tasks cannot be run here (no engine, no image, no sandbox)."""

    def submit(self, task: Task) -> None:
        """Start a task. A task of this id that was started before, running or ended, is left as it is.

        Raises RunnerError (the engine failed). The task's output goes to <folder>/log.txt, appended, at most log_limit bytes.
        The task goes on when the caller dies, and keeps to its limits nonetheless.
        """

    def poll(self, task: str, folder: Path) -> Status | None:
        """How a task is doing; None when this runner has never started it, or has cleaned it up."""

    def cancel(self, task: str, folder: Path, grace: float = 10.0) -> None:
        """Ask a task to stop (SIGTERM), and kill every process of it after `grace` seconds. Returns at once; `poll` tells when it has ended."""

    def cleanup(self, task: str, folder: Path) -> None:
        """Remove whatever an ended task left in the engine (processes that escaped, containers); its folder stays."""

    def holds(self, task: str, folder: Path) -> bool:
        """Whether this engine has a task, running or not yet cleaned up; nothing is changed."""

    def tasks(self, jobs: Path) -> list[str]:
        """The ids of this worker's tasks that are running or not yet cleaned up; `jobs`: the folder of job folders. For finding orphans."""
