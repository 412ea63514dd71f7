"""The processes of a task: finding them all, measuring them, ending them."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

MARKER = "MLAAS_TASK"
SHIM = "mlaas.jobs.runners.shim"
KILL_TIME = 30.0  # s; a process in an uninterruptible call cannot be waited for longer


@dataclass(frozen=True)
class Measure:
    """A tree at one moment: seconds of CPU of the living, bytes, and the number of processes and threads."""

    cpu_seconds: float = 0.0
    memory: int = 0
    tasks: int = 0


def descendants(pid: int) -> list[psutil.Process]:
    """Every process below one; complete when that one is a subreaper."""
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def measure(processes: Iterable[psutil.Process], enough: int) -> Measure:
    """Measure a tree. Memory is the sum of resident sets; where that exceeds `enough` bytes, shared pages are counted once (PSS)."""
    cpu, resident, tasks = 0.0, [], 0
    for process in processes:
        with suppress(psutil.Error), process.oneshot():
            times = process.cpu_times()
            cpu += times.user + times.system + times.children_user + times.children_system
            tasks += process.num_threads()
            resident.append((process, process.memory_info().rss))
    memory = sum(size for _, size in resident)
    if memory > enough and len(resident) > 1:
        memory = sum(_proportional(process, size) for process, size in resident)
    return Measure(cpu, memory, tasks)


def _proportional(process: psutil.Process, resident: int) -> int:
    """A process's share of memory: bytes; the resident set where the kernel does not tell."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.NoSuchProcess:
        return 0
    except (psutil.Error, AttributeError, OSError):
        return resident


def spent() -> tuple[float, int]:
    """Seconds of CPU of all descendants that have ended and were waited for, and the largest resident set of any, bytes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def threads_of(user: int) -> int:
    """How many threads a user has, as RLIMIT_NPROC counts them."""
    count = 0
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.uids().real == user:
                count += process.num_threads()
    return count


def end_descendants(reap: Callable[[], None]) -> bool:
    """Kill every process below this one: all are stopped first, so that none can start another unseen. Whether none is left."""
    deadline = time.monotonic() + KILL_TIME
    own = os.getpid()
    while time.monotonic() < deadline:
        living = [process for process in descendants(own) if _living(process)]
        if not living:
            reap()
            return True
        _freeze(own)
        for process in descendants(own):
            _send(process, signal.SIGKILL)
        reap()
        time.sleep(0.01)
    return False


def _freeze(own: int) -> None:
    """Stop all until a look finds no new ones."""
    seen: set[int] = set()
    for _ in range(100):
        new = [process for process in descendants(own) if process.pid not in seen]
        if not new:
            return
        for process in new:
            _send(process, signal.SIGSTOP)
            seen.add(process.pid)


def _living(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.Error, OSError):
        process.send_signal(number)  # checks that the id still is the same process


def end_marked(task: str, user: int | None = None) -> int:
    """Kill processes that carry a task's marker in their environment, and all of `user`, when given, that no shim watches. How many there were.

    For what a shim that was killed has left: while it lives, it finds its processes itself. Those of other tasks of the same user, also of another
    service on this machine, have a living shim above them.
    """
    count = 0
    deadline = time.monotonic() + KILL_TIME
    while time.monotonic() < deadline:
        found = [pid for pid in psutil.pids() if _belongs(pid, task, user)]
        if not found:
            break
        count += sum(_kill(pid, task, user) for pid in found)
        time.sleep(0.02)
    return count


def _belongs(pid: int, task: str, user: int | None) -> bool:
    return _is_marked(pid, task) or (user is not None and _is_of(pid, user) and not _is_watched(pid, user))


def _is_marked(pid: int, task: str) -> bool:
    try:
        return f"{MARKER}={task}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _is_of(pid: int, user: int) -> bool:
    try:
        process = psutil.Process(pid)
        return user in process.uids() and _living(process)
    except psutil.Error:
        return False


def _is_watched(pid: int, user: int) -> bool:
    """Whether a shim, which the user cannot imitate, is above a process."""
    try:
        return any(SHIM in above.cmdline() and above.uids().real != user for above in psutil.Process(pid).parents())
    except psutil.Error:
        return False


def _kill(pid: int, task: str, user: int | None) -> bool:
    """Kill a process, sure that it is still the one that was found."""
    try:
        held = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not _belongs(pid, task, user):
            return False
        signal.pidfd_send_signal(held, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(held)
    return True
