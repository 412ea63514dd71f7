"""Tenants: who has been here, and the number that the user id of their jobs is made from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Engine, select

from mlaas.store.database import reading, writing
from mlaas.store.records import TenantRecord
from mlaas.store.schema import tenants
from mlaas.store.statements import all_storable, insert, storable

FRESH = 60.0
"""Seconds for which a tenant that is seen again unchanged is not written again."""


def seen(engine: Engine, tenant: str, *, issuer: str, subject: str, name: str = "", groups: Iterable[str] = (), now: float) -> TenantRecord:
    """Record that a tenant made a request, and return what is known. Only reads when nothing has changed within a minute."""
    values = {"tenant": tenant, "issuer": issuer, "subject": subject, "name": name, "groups": sorted(storable(group) for group in groups)}
    values = all_storable(values)
    known = get(engine, tenant)
    if known is not None and now - known.last_seen < FRESH and all(getattr(known, column) == value for column, value in values.items()):
        return known
    return _write(engine, values, now)


def get(engine: Engine, tenant: str) -> TenantRecord | None:
    """What is known of a tenant."""
    with reading(engine) as connection:
        row = connection.execute(select(tenants).where(tenants.c.tenant == storable(tenant))).mappings().first()
    return None if row is None else TenantRecord(**row)


def _write(engine: Engine, values: dict[str, Any], now: float) -> TenantRecord:
    with writing(engine) as connection:
        new = insert(connection, tenants).values(values | {"first_seen": now, "last_seen": now})
        changed = {column: value for column, value in values.items() if column != "tenant"} | {"last_seen": now}
        row = connection.execute(new.on_conflict_do_update(index_elements=["tenant"], set_=changed).returning(tenants)).mappings().one()
        return TenantRecord(**row)
