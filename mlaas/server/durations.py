"""The state of a job in Docker's words, as the published status call tells it."""

from __future__ import annotations

from mlaas.jobs.states import ENDED, State
from mlaas.store.records import JobRecord

HOUR, DAY = 3600, 86_400
TERMINATED, KILLED = 143, 137  # 128 + SIGTERM, 128 + SIGKILL: what Docker tells of a container that was stopped


def human_duration(seconds: float) -> str:
    """A duration as Docker's command line writes it: "8 seconds", "About a minute", "2 hours" (go-units, HumanDuration)."""
    whole, minutes, hours = int(seconds), int(seconds / 60), int(seconds / HOUR + 0.5)
    if whole < 60:
        return "Less than a second" if whole < 1 else "1 second" if whole == 1 else f"{whole} seconds"
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    for name, length, most in (("days", 24, 14 * 24), ("weeks", 7 * 24, 60 * 24), ("months", 30 * 24, 730 * 24)):
        if hours < most:
            return f"{hours // length} {name}"
    return f"{int(seconds / HOUR) // 24 // 365} years"


def docker_status(job: JobRecord, now: float) -> str:
    """The state of a job as `docker ps` would tell it: "Created", "Up 8 seconds", "Exited (0) 2 minutes ago"."""
    if job.state in ENDED:
        return f"Exited ({_exit_code(job)}) {human_duration(max(now - (job.finished or now), 0))} ago"
    if job.started is None or job.state in {State.QUEUED, State.STARTING}:
        return "Created"
    return f"Up {human_duration(max(now - job.started, 0))}"


def _exit_code(job: JobRecord) -> int:
    if job.state == State.SUCCEEDED:
        return 0
    stopped = {State.CANCELLED: TERMINATED, State.TIMED_OUT: KILLED}
    return job.exit_code or stopped.get(State(job.state), 1)
