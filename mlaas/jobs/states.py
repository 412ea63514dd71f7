"""The states of a job.

    queued -> starting -> running -> publishing -> succeeded
       |          |           |           |
       |          |           |           `-> failed           what the job left cannot be published
       |          |           |-> failed | timed_out | cancelled
       |          `-----------`-> queued                       the infrastructure failed: another attempt
       `-> cancelled

A job that has ended never changes its state again.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """The state of a job, as it is stored and told."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    PUBLISHING = "publishing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"


ACTIVE = frozenset({State.STARTING, State.RUNNING, State.PUBLISHING})
"""Held by a worker."""

ENDED = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.TIMED_OUT})
"""Final."""

NEXT: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.STARTING, State.CANCELLED, State.FAILED}),
    State.STARTING: frozenset({State.RUNNING, State.QUEUED, State.FAILED, State.CANCELLED}),
    State.RUNNING: frozenset({State.PUBLISHING, State.QUEUED, State.FAILED, State.CANCELLED, State.TIMED_OUT}),
    State.PUBLISHING: frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED}),
    **{state: frozenset() for state in ENDED},
}
"""What a state may turn into."""
