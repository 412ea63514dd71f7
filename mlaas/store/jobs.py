"""Jobs: queued once, moved from state to state by compare-and-set, so that two workers (or a worker and a user) cannot both win."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, RowMapping, Select, and_, case, func, select

from mlaas.jobs.states import ACTIVE, ENDED, NEXT, State
from mlaas.store.database import reading, writing
from mlaas.store.errors import Conflict, QueueFull
from mlaas.store.records import JobRecord, NewJob, Totals
from mlaas.store.schema import counters, idempotency, jobs, workspaces
from mlaas.store.statements import LARGEST, all_storable, count, storable

CLAIMS = "claims"
"""The counter of the transactions in which workers claimed jobs."""

_FIXED = {"number", "id", "tenant", "process_name", "kind", "created", "state"}


class _TooLateError(Exception):
    """Another worker has claimed jobs."""


def create(engine: Engine, new: NewJob, *, key: str = "", digest: str = "", queue_limit: int = 1000, now: float) -> tuple[JobRecord, bool]:
    """Queue a job; returns it, and whether it was made now.

    key: the Idempotency-Key of the request, digest: the SHA-256 of what was asked for. The same key and digest return the job that they made before.
    Raises Conflict (same key, another digest; the workspace's generation is gone), QueueFull, StoreError.
    """
    with writing(engine) as connection:
        # One submission of a tenant at a time: so the same key is seen, and the queue counted, without a race.
        count(connection, new.tenant, "submission")
        before = _made_before(connection, new.tenant, storable(key), digest) if key else None
        if before is not None:
            return before, False
        _check_queue(connection, new.tenant, queue_limit)
        _hold_workspace(connection, new)
        made = _insert(connection, new, now)
        if key:
            connection.execute(idempotency.insert().values(tenant=new.tenant, key=storable(key), digest=digest, job=made.id, created=now))
        return made, True


def made_before(engine: Engine, tenant: str, key: str, digest: str) -> JobRecord | None:
    """The job that a tenant's request with this key has made, if any. Raises Conflict (the same key, another digest)."""
    with reading(engine) as connection:
        return _made_before(connection, tenant, storable(key), digest)


def get(engine: Engine, id: str) -> JobRecord | None:
    """The job of an id."""
    return _one(engine, select(jobs).where(jobs.c.id == storable(id)))


def by_process_name(engine: Engine, tenant: str, process_name: str) -> JobRecord | None:
    """The job of a tenant's process name."""
    return _one(engine, select(jobs).where(jobs.c.tenant == tenant, jobs.c.process_name == storable(process_name)))


def listing(
    engine: Engine,
    tenant: str | None,
    *,
    states: Collection[State] = (),
    kind: str = "",
    model: str = "",
    workspace: str = "",
    limit: int = 50,
    before: int = 0,
) -> list[JobRecord]:
    """Jobs of a tenant (None: of all), newest first. before: only numbers below this one; 0 begins with the newest. Empty filters take all."""
    wanted = {"tenant": tenant or "", "kind": kind, "model": model, "workspace": workspace}
    query = select(jobs).where(*(jobs.c[name] == storable(value) for name, value in wanted.items() if value))
    if states:
        query = query.where(jobs.c.state.in_(states))
    if before:
        query = query.where(jobs.c.number < min(before, LARGEST))
    return _all(engine, query.order_by(jobs.c.number.desc()).limit(limit))


def move(engine: Engine, id: str, to: State, *, expect: Iterable[State], **columns: Any) -> JobRecord | None:
    """Change a job's state, and columns with it, if its state is one of `expect`; None when it is not (or there is no such job).

    A job whose cancelling was asked for does not queue again: where it would, it becomes cancelled. A start that names its attempt must be
    a new attempt: its number is above that of the last. Raises ValueError for moves that `jobs.states.NEXT` does not allow.
    """
    return _changed(engine, *_step(id, to, expect, columns))


def claim(engine: Engine, attempts: Mapping[str, int], worker: str, *, seen: int, now: float) -> list[JobRecord] | None:
    """Bring queued jobs (id -> number of the new attempt) to STARTING, held by this worker; returns those that were still queued.

    seen: what `held` said. None, and nothing is changed, when a worker has claimed jobs since: limits must be looked at again.
    """
    try:
        with writing(engine) as connection:
            if count(connection, "", CLAIMS) != seen + 1:  # the lock of all workers, until this transaction ends
                raise _TooLateError
            same = {"started": now, "reason": "", "exit_code": None, "worker": worker}
            steps = (_step(id, State.STARTING, {State.QUEUED}, same | {"attempt": attempt}) for id, attempt in attempts.items())
            return [job for step in steps if (job := _change(connection, *step)) is not None]
    except _TooLateError:
        return None


def adopt(engine: Engine, id: str, worker: str, *, of: str) -> JobRecord | None:
    """Make an active job of another worker this one's; None when it is not that worker's (any more)."""
    theirs = and_(jobs.c.id == id, jobs.c.worker == of, jobs.c.state.in_(ACTIVE))
    return _changed(engine, theirs, {"worker": worker})


def _step(id: str, to: State, expect: Iterable[State], columns: dict[str, Any]) -> tuple[ColumnElement[bool], dict[str, Any]]:
    """Which row a move changes, and how."""
    allowed = set(expect)
    if wrong := [state for state in allowed if to not in NEXT[state]]:
        raise ValueError(f"a job never goes from {wrong[0]} to {to}")
    here = and_(jobs.c.id == id, jobs.c.state.in_(allowed))
    values = _changes(columns) | {"state": to}
    if to is State.STARTING and "attempt" in columns:
        here = and_(here, jobs.c.attempt < columns["attempt"])
    if to is State.QUEUED:
        stays = jobs.c.cancel.is_(None)
        values |= {"state": case((stays, State.QUEUED), else_=State.CANCELLED), "finished": case((stays, None), else_=jobs.c.cancel)}
        values |= {"reason": case((stays, values.get("reason", jobs.c.reason)), else_="")}
    return here, values


def update(engine: Engine, id: str, **columns: Any) -> JobRecord | None:
    """Change columns of a job, but never its state; None when there is no such job."""
    return _changed(engine, jobs.c.id == id, _changes(columns))


def ask_cancel(engine: Engine, id: str, now: float) -> JobRecord | None:
    """Ask for a job to be cancelled: a queued job is at once, an active one by its worker (column `cancel`); one that has ended stays as it is."""
    queued = jobs.c.state == State.QUEUED
    values = {
        "state": case((queued, State.CANCELLED), else_=jobs.c.state),
        "finished": case((queued, now), else_=jobs.c.finished),
        "cancel": func.coalesce(jobs.c.cancel, now),
        "reason": case((queued, ""), else_=jobs.c.reason),  # what it waited for
    }
    return _changed(engine, and_(jobs.c.id == id, jobs.c.state.not_in(ENDED)), values) or get(engine, id)


def queued(engine: Engine, now: float) -> list[JobRecord]:
    """Queued jobs that may start now, oldest first."""
    return _all(engine, select(jobs).where(jobs.c.state == State.QUEUED, jobs.c.not_before <= now).order_by(jobs.c.number))


def active(engine: Engine) -> list[JobRecord]:
    """Jobs that a worker holds, oldest first."""
    return _all(engine, select(jobs).where(jobs.c.state.in_(ACTIVE)).order_by(jobs.c.number))


def held(engine: Engine) -> tuple[int, list[JobRecord]]:
    """How often workers have claimed jobs so far (for `claim`), and the jobs that all workers hold at that moment, oldest first."""
    claims = select(counters.c.last).where(counters.c.tenant == "", counters.c.kind == CLAIMS, counters.c.name == "")
    with reading(engine) as connection:
        seen = connection.execute(claims).scalar()
        found = connection.execute(select(jobs).where(jobs.c.state.in_(ACTIVE)).order_by(jobs.c.number)).mappings()
        return int(seen or 0), [_record(row) for row in found]


def ended_before(engine: Engine, when: float, limit: int = 1000) -> list[JobRecord]:
    """Jobs that ended before a time and whose files have not been removed yet, oldest first."""
    query = select(jobs).where(jobs.c.state.in_(ENDED), jobs.c.purged.is_(False), jobs.c.finished < when)
    return _all(engine, query.order_by(jobs.c.number).limit(limit))


def with_files(engine: Engine, tenant: str) -> list[str]:
    """The ids of a tenant's jobs that have a folder, or will have one."""
    with reading(engine) as connection:
        return list(connection.execute(select(jobs.c.id).where(jobs.c.tenant == tenant, jobs.c.purged.is_(False))).scalars())


def totals(engine: Engine, tenant: str) -> Totals:
    """What a tenant has now."""
    sums = (func.count(), func.sum(jobs.c.cpus), func.sum(jobs.c.memory), func.sum(jobs.c.cpu_seconds))
    with reading(engine) as connection:
        rows = {row.state: row for row in connection.execute(select(jobs.c.state, *sums).where(jobs.c.tenant == tenant).group_by(jobs.c.state))}
        past = _of_deleted(connection, tenant)
    held = [row for state, row in rows.items() if state in ACTIVE]
    waiting = rows[State.QUEUED][1] if State.QUEUED in rows else 0
    cpu_seconds = past + sum(row[4] for row in rows.values())
    return Totals(waiting, sum(row[1] for row in held), sum((row[2] for row in held), 0.0), int(sum(row[3] for row in held)), cpu_seconds)


def counts(engine: Engine) -> dict[State, int]:
    """How many jobs are in each state."""
    with reading(engine) as connection:
        found = {row[0]: int(row[1]) for row in connection.execute(select(jobs.c.state, func.count()).group_by(jobs.c.state))}
    return {state: found.get(state, 0) for state in State}


def cpu_seconds(engine: Engine) -> float:
    """The CPU seconds of all jobs that there ever were; never less than before."""
    with reading(engine) as connection:
        present = connection.execute(select(func.coalesce(func.sum(jobs.c.cpu_seconds), 0.0))).scalar_one()
        return float(present) + _of_deleted(connection, None)


def delete(engine: Engine, id: str) -> bool:
    """Forget a job that has ended, and the keys that made it; false when there is none that has. Its number and name are not given again."""
    with writing(engine) as connection:
        gone = connection.execute(jobs.delete().where(jobs.c.id == id, jobs.c.state.in_(ENDED)).returning(jobs.c.tenant, jobs.c.cpu_seconds)).first()
        if gone is None:
            return False
        count(connection, gone.tenant, "cpu_seconds", by=round(gone.cpu_seconds))
        connection.execute(idempotency.delete().where(idempotency.c.job == id))
        return True


def forget_keys(engine: Engine, before: float) -> int:
    """Forget idempotency keys older than a time; returns how many."""
    with writing(engine) as connection:
        return connection.execute(idempotency.delete().where(idempotency.c.created < before)).rowcount


def _made_before(connection: Connection, tenant: str, key: str, digest: str) -> JobRecord | None:
    known = connection.execute(select(idempotency).where(idempotency.c.tenant == tenant, idempotency.c.key == key)).first()
    if known is None:
        return None
    if known.digest != digest:
        raise Conflict(f"the key {key!r} was already used for another request; use a new one for a new job")
    return _record(connection.execute(select(jobs).where(jobs.c.id == known.job)).mappings().one())


def _check_queue(connection: Connection, tenant: str, limit: int) -> None:
    waiting = connection.execute(select(func.count()).where(jobs.c.tenant == tenant, jobs.c.state == State.QUEUED)).scalar_one()
    if waiting >= limit:
        raise QueueFull(f"you have {waiting} queued jobs, and may have {limit} at most; wait until some have started")


def _hold_workspace(connection: Connection, new: NewJob) -> None:
    """See that the generation is still there, and that nobody forgets it before this transaction ends."""
    if new.generation is None:
        return
    there = and_(workspaces.c.tenant == new.tenant, workspaces.c.name == new.workspace, workspaces.c.generation == new.generation)
    if connection.execute(select(workspaces.c.files).where(there).with_for_update(read=True)).first() is None:
        raise Conflict(f"the workspace {new.workspace!r} was replaced or deleted in the meantime; submit the job again")


def _insert(connection: Connection, new: NewJob, now: float) -> JobRecord:
    process_name = f"{new.process}_{count(connection, new.tenant, 'process', new.process)}"
    values = {
        "id": new.id, "tenant": new.tenant, "process_name": process_name, "kind": new.kind, "model": new.model or process_name,
        "workspace": new.workspace, "generation": new.generation, "request": dict(new.request), "groups": sorted(new.groups),
        "device": new.device, "cpus": new.cpus, "gpus": new.gpus, "memory": new.memory, "time_limit": new.time_limit,
        "state": State.QUEUED, "created": now,
    }  # fmt: skip
    return _record(connection.execute(jobs.insert().values(all_storable(values)).returning(jobs)).mappings().one())


def _changes(columns: dict[str, Any]) -> dict[str, Any]:
    if wrong := _FIXED & columns.keys():
        raise ValueError(f"the column {min(wrong)} of a job does not change this way")
    return all_storable(columns)


def _changed(engine: Engine, which: ColumnElement[bool], values: dict[str, Any]) -> JobRecord | None:
    with writing(engine) as connection:
        return _change(connection, which, values)


def _change(connection: Connection, which: ColumnElement[bool], values: dict[str, Any]) -> JobRecord | None:
    row = connection.execute(jobs.update().where(which).values(values).returning(jobs)).mappings().first()
    return None if row is None else _record(row)


def _of_deleted(connection: Connection, tenant: str | None) -> float:
    query = select(func.coalesce(func.sum(counters.c.last), 0)).where(counters.c.kind == "cpu_seconds")
    return float(connection.execute(query if tenant is None else query.where(counters.c.tenant == tenant)).scalar_one())


def _one(engine: Engine, query: Select[Any]) -> JobRecord | None:
    with reading(engine) as connection:
        row = connection.execute(query).mappings().first()
    return None if row is None else _record(row)


def _all(engine: Engine, query: Select[Any]) -> list[JobRecord]:
    with reading(engine) as connection:
        return [_record(row) for row in connection.execute(query).mappings()]


def _record(row: RowMapping) -> JobRecord:
    return JobRecord(**{**row, "state": State(row["state"])})
