"""Workers: who there is, and what their machines have for jobs."""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy import Engine, select

from mlaas.store.database import reading, writing
from mlaas.store.records import WorkerRecord
from mlaas.store.schema import workers
from mlaas.store.statements import insert

FORGOTTEN = 86_400.0
"""Seconds after which a worker that was not seen is no part of the service any more."""


def seen(engine: Engine, worker: WorkerRecord) -> list[WorkerRecord]:
    """Record that a worker is at work, forget those that have not been for long, and return all, by name."""
    values = asdict(worker)
    with writing(engine) as connection:
        connection.execute(workers.delete().where(workers.c.seen < worker.seen - FORGOTTEN))
        connection.execute(insert(connection, workers).values(values).on_conflict_do_update(index_elements=["name"], set_=values))
        return [WorkerRecord(*row) for row in connection.execute(select(workers).order_by(workers.c.name))]


def forget(engine: Engine, name: str) -> None:
    """A worker is no part of the service any more."""
    with writing(engine) as connection:
        connection.execute(workers.delete().where(workers.c.name == name))


def known(engine: Engine, now: float) -> list[WorkerRecord]:
    """The workers that are part of the service, by name; none before the first one has started."""
    with reading(engine) as connection:
        return [WorkerRecord(*row) for row in connection.execute(select(workers).where(workers.c.seen >= now - FORGOTTEN).order_by(workers.c.name))]
