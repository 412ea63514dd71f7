"""The other workers on the data folder: who is at work, what their machines have, and which one does what must be done once."""

from __future__ import annotations

import time
from collections.abc import Iterable

from sqlalchemy import Engine

from mlaas.jobs.limits import Limits, Rules
from mlaas.jobs.scheduler import Others
from mlaas.settings import Settings
from mlaas.store import workers
from mlaas.store.records import JobRecord, WorkerRecord

BEAT = 15.0
"""Seconds between a worker's signs of life."""
AWAY = 60.0
"""Seconds without one after which a worker is taken to be away."""
ABSENT = "its worker"
"""How the sentence begins that a job gets whose worker is away."""


class Fellows:
    """What a worker knows of the others. One that is at work leads: it writes why jobs wait, and sweeps; where two think they do, no harm is done."""

    def __init__(self, engine: Engine, name: str, machine: Limits) -> None:
        self._engine, self._name, self._machine = engine, name, machine
        self._usable = False
        self._next = float("-inf")
        self._others: list[WorkerRecord] = []

    def meet(self, usable: bool) -> None:
        """Give a sign of life, and look who else has, when it is time, or when this worker's engine has failed or works again. Raises StoreError."""
        if time.monotonic() < self._next and usable == self._usable:
            return
        cpus, memory, gpus = self._machine.cpus, int(self._machine.memory), int(self._machine.gpus)
        found = workers.seen(self._engine, WorkerRecord(self._name, cpus, memory, gpus, usable, time.time()))
        self._others = [worker for worker in found if worker.name != self._name]
        self._usable, self._next = usable, time.monotonic() + BEAT

    def leads(self) -> bool:
        """Whether this worker is the one that does what must be done once: the first by name of those that can start jobs, if any can."""
        there = [(not worker.usable, worker.name) for worker in self._others if _present(worker)]
        return (not self._usable, self._name) <= min(there, default=(True, self._name))

    def others(self, active: Iterable[JobRecord]) -> Others:
        """For the scheduler. active: the jobs that other workers hold."""
        able = {worker.name: machine_of(worker) for worker in self._others if worker.usable and _present(worker)}
        away = {worker.name: machine_of(worker) for worker in self._others if worker.name not in able}
        return Others(self._name, list(active), able, away)

    def absent(self, active: Iterable[JobRecord]) -> dict[str, dict[str, str]]:
        """The jobs among these whose worker is away, and what to say of them: worker -> id -> sentence; but for those of which it is said already.

        Raises StoreError.
        """
        jobs = list(active)
        there = {worker.name for worker in self._others if _present(worker)}
        if any(job.worker not in there for job in jobs):  # perhaps it has come since this worker looked
            self._others = [worker for worker in workers.known(self._engine, time.time()) if worker.name != self._name]
            there = {worker.name for worker in self._others if _present(worker)}
        found: dict[str, dict[str, str]] = {}
        for job in jobs:
            sentence = f"{ABSENT}{' ' if job.worker else ''}{job.worker} is away; this is how it was last seen"
            if job.worker not in there and job.reason != sentence:
                found.setdefault(job.worker, {})[job.id] = sentence
        return found


def machines(settings: Settings, engine: Engine) -> list[Limits]:
    """What the machines of all workers have for jobs; before the first one has started, what these settings say. Raises StoreError, UserError."""
    return [machine_of(worker) for worker in workers.known(engine, time.time())] or [Rules.of(settings).total]


def machine_of(worker: WorkerRecord) -> Limits:
    """What a worker's machine has for jobs."""
    return Limits(cpus=worker.cpus, memory=worker.memory, gpus=worker.gpus)


def _present(worker: WorkerRecord) -> bool:
    return time.time() - worker.seen < AWAY
