"""What the end of a task means for its job: the next state, and one sentence for its user. Pure."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from mlaas.jobs.runners.base import CRASHES, Status
from mlaas.jobs.states import State
from mlaas.settings import Settings
from mlaas.sizes import write_size
from mlaas.store.records import JobRecord

STOPPED = frozenset({130, 143})
"""Exit codes of commands that were asked to stop; when it was not the service that asked, the machine goes down."""
BACKOFF = 2.0  # s
LONGEST_BACKOFF = 300.0


@dataclass(frozen=True)
class Outcome:
    """state: PUBLISHING, an end, or QUEUED for another attempt (not before `wait` seconds from now). reason: for the user."""

    state: State
    reason: str = ""
    wait: float = 0.0


def outcome(job: JobRecord, status: Status, settings: Settings, *, said: str, complete: bool) -> Outcome:
    """What becomes of a job whose task has ended.

    said: what the job itself said last (`logs.fault`). complete: it left a whole bundle, so that nothing is to be repeated whatever ended it.
    """
    if status.end == "exit" and status.exit_code == 0:
        return Outcome(State.PUBLISHING)
    if status.end == "cancelled" and job.cancel is not None:
        return Outcome(State.CANCELLED)
    if status.end == "exit" and status.exit_code not in STOPPED:
        return Outcome(State.FAILED, said or _crash(status.exit_code) or f"the job ended with exit code {status.exit_code}")
    if complete:
        return Outcome(State.PUBLISHING)
    if job.cancel is not None:
        return Outcome(State.CANCELLED)
    return _limit(job, status, settings) or again(job, _ended_by(status), settings)


def _crash(code: int | None) -> str:
    """What to say of a job that the system ended for a fault of its own; empty for other exit codes."""
    found = next((number for number in CRASHES if code == 128 + number), None)
    return f"the job crashed: {(signal.strsignal(found) or found.name).lower()}; model.py or a library that it uses is at fault" if found else ""


def _limit(job: JobRecord, status: Status, settings: Settings) -> Outcome | None:
    match status.end:
        case "time_limit":
            return Outcome(State.TIMED_OUT, f"it ran longer than its time limit of {write_time(job.time_limit)}")
        case "memory":
            return Outcome(
                State.FAILED, f"{_used(job, status)} its limit of {write_size(job.memory)}; submit it with more memory, or lower chunk_size"
            )
        case "disk":
            return Outcome(State.FAILED, f"it wrote more than {write_size(settings.job_disk)}, which is the limit of a job")
    return None


def again(job: JobRecord, why: str, settings: Settings) -> Outcome:
    """Another attempt after a failure of the infrastructure, or the end of all attempts."""
    if job.attempt > settings.job_retries:
        return Outcome(State.FAILED, f"{why}; this was attempt {job.attempt}, and there are no more")
    wait = min(BACKOFF * 4.0 ** max(0, job.attempt - 1), LONGEST_BACKOFF)
    return Outcome(State.QUEUED, f"{why}; it is tried again", wait)


def write_time(seconds: float) -> str:
    """A time for people: "45 s", "2 min 30 s", "1 h", "1 d"."""
    left = round(seconds)
    if left < 1:
        return f"{seconds:.2g} s"
    parts = []
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        number, left = divmod(left, size)
        if number:
            parts.append(f"{number} {unit}")
    return " ".join(parts[:2])


def _ended_by(status: Status) -> str:
    match status.end:
        case "lost":
            return "the machine that ran it went down, or what watched over it was killed"
        case "signal":
            return "it was killed by a signal from outside"
    return "it was stopped from outside"


def _used(job: JobRecord, status: Status) -> str:
    """The peak that was seen may be below the limit: what grew in between is not seen."""
    return f"it used {write_size(status.memory)} of memory, more than" if status.memory > job.memory else "it used more memory than"
