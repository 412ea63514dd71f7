"""Which generations of uploaded folders there are, and which one of a name is current. The files are `mlaas.workspaces`' business."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, and_, func, select

from mlaas.jobs.states import ENDED
from mlaas.store.database import reading, writing
from mlaas.store.errors import QuotaError
from mlaas.store.records import WorkspaceRecord
from mlaas.store.schema import counters, jobs, workspaces
from mlaas.store.statements import count, storable

BLOCK = 4096
"""Bytes that a file takes beside its content: a million empty files are not for nothing."""

_GENERATION = "generation"


def next_generation(engine: Engine, tenant: str, name: str) -> int:
    """The number of the next upload of a name; never given twice, also after the name was deleted."""
    with writing(engine) as connection:
        return count(connection, tenant, _GENERATION, name)


def add(engine: Engine, tenant: str, name: str, generation: int, files: int, size: int, now: float, *, room: int | None = None) -> WorkspaceRecord:
    """Record a generation whose files are in place, and make it the current one.

    room: the disk that all generations of the tenant may take, bytes; None sets no limit. Raises QuotaError when they would take more.
    """
    record = WorkspaceRecord(tenant, name, generation, True, now, files, size)
    with writing(engine) as connection:
        _lock(connection, tenant, name)
        if room is not None:
            count(connection, tenant, "size", by=0)  # the lock: two uploads at once must not both take the room that is left
            if _disk(connection, tenant) + size + files * BLOCK > room:
                raise QuotaError("your disk is full; delete workspaces, jobs or models that you do not need")
        connection.execute(workspaces.update().where(*_named(tenant, name)).values(current=False))
        values = {column.name: getattr(record, column.name) for column in workspaces.columns}
        connection.execute(workspaces.insert().values(values))
    return record


def current(engine: Engine, tenant: str, name: str) -> WorkspaceRecord | None:
    """The current generation of a name."""
    return next(iter(_records(engine, *_named(tenant, storable(name)), workspaces.c.current)), None)


def listing(engine: Engine, tenant: str, *, limit: int = 50, after: str = "") -> list[WorkspaceRecord]:
    """The current generations of a tenant in order of their names. after: only names behind this one."""
    return _records(engine, workspaces.c.tenant == tenant, workspaces.c.name > storable(after), workspaces.c.current, limit=limit)


def resize(engine: Engine, tenant: str, name: str, generation: int, files: int, size: int) -> None:
    """Record that files of a generation were removed."""
    with writing(engine) as connection:
        connection.execute(workspaces.update().where(_this(tenant, name, generation)).values(files=files, size=size))


def drop(engine: Engine, tenant: str, name: str) -> bool:
    """Let a name have no current generation any more; false when it had none. What its jobs still use stays until they have ended."""
    with writing(engine) as connection:
        _lock(connection, tenant, name)
        return connection.execute(workspaces.update().where(*_named(tenant, name), workspaces.c.current).values(current=False)).rowcount > 0


def unused(engine: Engine) -> list[WorkspaceRecord]:
    """Generations that are not current and that no queued or active job refers to."""
    return _records(engine, ~workspaces.c.current, ~_used())


def forget(engine: Engine, tenant: str, name: str, generation: int) -> bool:
    """Delete the record of an unused generation; false when it is in use after all. Its files may go once this is true: no job can take them."""
    with writing(engine) as connection:
        # The lock waits for a submission that holds the generation; only then is it certain that no job uses it.
        connection.execute(select(workspaces.c.name).where(_this(tenant, name, generation)).with_for_update())
        return connection.execute(workspaces.delete().where(_this(tenant, name, generation), ~workspaces.c.current, ~_used())).rowcount > 0


def known(engine: Engine) -> set[tuple[str, str, str]]:
    """Every generation that is recorded, as its folders are named: (tenant, name, generation)."""
    with reading(engine) as connection:
        found = connection.execute(select(workspaces.c.tenant, workspaces.c.name, workspaces.c.generation))
        return {(row.tenant, row.name, str(row.generation)) for row in found}


def recorded(engine: Engine, tenant: str, name: str, generation: int) -> bool:
    """Whether a generation is recorded."""
    return bool(_records(engine, _this(tenant, name, generation)))


def disk(engine: Engine, tenant: str) -> int:
    """The disk that all generations of a tenant take, those that only wait for their jobs to end included; bytes, with a BLOCK for each file."""
    with reading(engine) as connection:
        return _disk(connection, tenant)


def _disk(connection: Connection, tenant: str) -> int:
    taken = func.coalesce(func.sum(workspaces.c.size + workspaces.c.files * BLOCK), 0)
    return int(connection.execute(select(taken).where(workspaces.c.tenant == tenant)).scalar_one())


def _named(tenant: str, name: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return workspaces.c.tenant == tenant, workspaces.c.name == name


def _this(tenant: str, name: str, generation: int) -> ColumnElement[bool]:
    return and_(*_named(tenant, name), workspaces.c.generation == generation)


def _used() -> ColumnElement[bool]:
    same = (jobs.c.tenant == workspaces.c.tenant, jobs.c.workspace == workspaces.c.name, jobs.c.generation == workspaces.c.generation)
    return select(jobs.c.number).where(*same, jobs.c.state.not_in(ENDED)).correlate(workspaces).exists()


def _lock(connection: Connection, tenant: str, name: str) -> None:
    """One change of a name at a time, so that it never has two current generations."""
    mine = and_(counters.c.tenant == tenant, counters.c.kind == _GENERATION, counters.c.name == name)
    connection.execute(select(counters.c.last).where(mine).with_for_update())


def _records(engine: Engine, *where: Any, limit: int | None = None) -> list[WorkspaceRecord]:
    query = select(workspaces).where(*where).order_by(workspaces.c.tenant, workspaces.c.name, workspaces.c.generation).limit(limit)
    with reading(engine) as connection:
        return [WorkspaceRecord(**row) for row in connection.execute(query).mappings()]
