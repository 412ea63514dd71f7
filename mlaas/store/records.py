"""Rows as frozen dataclasses: what the rest of the service sees of the store. Times are seconds since 1970, sizes bytes."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["train", "predict"]
Device = Literal["cpu", "gpu"]


def new_id() -> str:
    """The id of a new job: 16 hex digits, not to be guessed."""
    return secrets.token_hex(8)


@dataclass(frozen=True, slots=True)
class TenantRecord:
    """An owner. The user id of its jobs is job_uid_base + number."""

    number: int
    tenant: str
    issuer: str
    subject: str
    name: str
    groups: list[str]
    first_seen: float
    last_seen: float


@dataclass(frozen=True, slots=True)
class WorkspaceRecord:
    """One generation of an uploaded folder; the current one is what new jobs take."""

    tenant: str
    name: str
    generation: int
    current: bool
    created: float
    files: int
    size: int


@dataclass(frozen=True, slots=True)
class NewJob:
    """What is needed to queue a job.

    process: what its process name <process>_<n> begins with, for a training the workspace. model: empty takes the process name.
    """

    tenant: str
    process: str
    kind: Kind
    request: Mapping[str, Any]
    cpus: float
    memory: int
    time_limit: float
    model: str = ""
    workspace: str | None = None
    generation: int | None = None
    groups: tuple[str, ...] = ()
    device: Device = "cpu"
    gpus: int = 0
    id: str = field(default_factory=new_id)


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job, with every column of the table."""

    number: int
    id: str
    tenant: str
    process_name: str
    kind: Kind
    model: str
    workspace: str | None
    generation: int | None
    request: dict[str, Any]
    groups: list[str]
    device: Device
    cpus: float
    gpus: int
    memory: int
    time_limit: float
    state: str
    reason: str
    attempt: int
    not_before: float
    cancel: float | None
    exit_code: int | None
    version: int | None
    created: float
    started: float | None
    finished: float | None
    cpu_seconds: float
    peak_memory: int
    purged: bool
    worker: str

    @property
    def task(self) -> str:
        """The id of the task of the present attempt, for the runner."""
        return f"{self.id}-{self.attempt}"


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker: what its machine has for jobs, whether its engine can run them, and when it was last at work."""

    name: str
    cpus: float
    memory: int
    gpus: int
    usable: bool
    seen: float


@dataclass(frozen=True, slots=True)
class Totals:
    """What a tenant has now: queued and running (active) jobs, CPUs and memory of the running ones; CPU seconds of all its jobs so far."""

    queued: int
    running: int
    cpus: float
    memory: int
    cpu_seconds: float
