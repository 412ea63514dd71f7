"""What the worker asks the store again and again, and so cheaply: whether anything has changed, and what waits."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine, and_, func, select

from mlaas.jobs.states import ACTIVE, State
from mlaas.store.database import reading, writing
from mlaas.store.schema import jobs, tenants

_COLUMNS = ("number", "id", "tenant", "groups", "cpus", "memory", "gpus", "time_limit", "created", "started", "not_before", "reason", "attempt")


@dataclass(frozen=True, slots=True)
class WaitingJob:
    """A queued job without its request: what the scheduler must know of it."""

    number: int
    id: str
    tenant: str
    groups: list[str]
    cpus: float
    memory: int
    gpus: int
    time_limit: float
    created: float
    started: float | None
    not_before: float
    reason: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Pulse:
    """Differs from the last one when a job was submitted, may be tried again, or is to be cancelled, or other workers hold more or fewer jobs.

    newest: the highest number so far. elsewhere: jobs that other workers hold.
    """

    newest: int
    queued: int
    cancelling: int
    elsewhere: int


def pulse(engine: Engine, now: float, worker: str = "") -> Pulse:
    """The pulse of the queue for a worker; by indexes, so that it costs little however many jobs there are."""
    newest = select(func.coalesce(func.max(jobs.c.number), 0)).scalar_subquery()
    queued = select(func.count()).where(jobs.c.state == State.QUEUED, jobs.c.not_before <= now).scalar_subquery()
    cancelling = select(func.count()).where(and_(jobs.c.state.in_(ACTIVE), jobs.c.cancel.is_not(None))).scalar_subquery()
    elsewhere = select(func.count()).where(and_(jobs.c.state.in_(ACTIVE), jobs.c.worker != worker)).scalar_subquery()
    with reading(engine) as connection:
        return Pulse(*connection.execute(select(newest, queued, cancelling, elsewhere)).one())


def waiting(engine: Engine, now: float) -> list[WaitingJob]:
    """Queued jobs that may start now, oldest first."""
    query = select(*(jobs.c[name] for name in _COLUMNS)).where(jobs.c.state == State.QUEUED, jobs.c.not_before <= now)
    with reading(engine) as connection:
        return [WaitingJob(*row) for row in connection.execute(query.order_by(jobs.c.number))]


def last_started(engine: Engine) -> dict[str, float]:
    """When a job of each tenant was last started."""
    query = select(jobs.c.tenant, func.max(jobs.c.started)).where(jobs.c.started.is_not(None)).group_by(jobs.c.tenant)
    with reading(engine) as connection:
        return {tenant: float(started) for tenant, started in connection.execute(query)}


def tell(engine: Engine, reasons: dict[str, str]) -> None:
    """Record why jobs wait, of those that still do."""
    with writing(engine) as connection:
        for id, reason in reasons.items():
            connection.execute(jobs.update().where(jobs.c.id == id, jobs.c.state == State.QUEUED).values(reason=reason))


def explain(engine: Engine, reasons: dict[str, str], worker: str) -> None:
    """Record what there is to say of jobs (id -> sentence) that a worker runs, of those that it still does."""
    with writing(engine) as connection:
        for id, reason in reasons.items():
            here = and_(jobs.c.id == id, jobs.c.worker == worker, jobs.c.state.in_({State.STARTING, State.RUNNING}))
            connection.execute(jobs.update().where(here).values(reason=reason))


def members(engine: Engine) -> dict[str, list[str]]:
    """The groups of every tenant, as of their last token."""
    with reading(engine) as connection:
        return {tenant: list(groups) for tenant, groups in connection.execute(select(tenants.c.tenant, tenants.c.groups))}
