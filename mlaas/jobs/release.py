"""Let go of the jobs of a worker whose machine is gone for good: what it had is lost, so they are tried again, elsewhere."""

from __future__ import annotations

from mlaas.errors import UserError
from mlaas.jobs import runners
from mlaas.jobs.attempts import Attempts
from mlaas.jobs.lock import alone
from mlaas.jobs.states import State
from mlaas.places import Places
from mlaas.settings import Settings
from mlaas.store import jobs, workers
from mlaas.store.database import connect, migrate
from mlaas.store.records import JobRecord


def release(settings: Settings, name: str) -> int:
    """Take the steps that the worker of this name would take if it were here, where its tasks are not; returns of how many jobs.

    Raises UserError when it runs, or tasks of it do; RunnerError, StoreError.
    """
    places = Places.of(settings)
    with alone(places, name):
        engine = connect(settings)
        try:
            migrate(engine)
            attempts = Attempts(settings, places, engine, runners.of(settings, places))
            _claims, active = jobs.held(engine)
            held = [job for job in active if job.worker == name]
            for job in held:
                starts = job.state == State.STARTING
                _end(jobs.move(engine, job.id, State.RUNNING, expect={State.STARTING}) if starts else job, attempts)
                left = jobs.get(engine, job.id)
                if left is not None and left.state == State.PUBLISHING:
                    attempts.publish(left)
            workers.forget(engine, name)
        finally:
            engine.dispose()
    return len(held)


def _end(job: JobRecord | None, attempts: Attempts) -> None:
    if job is None or job.state != State.RUNNING:
        return
    status = attempts.look(job)
    if status is None:
        raise UserError(f"the task {job.task} runs, so that worker is not gone: start it again")
    attempts.finish(job, status)
