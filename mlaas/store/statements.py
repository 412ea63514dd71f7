"""Pieces of SQL that both databases understand, and text that both can store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

from mlaas.store.schema import counters

LARGEST = 2**63 - 1


def insert(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that can say ON CONFLICT."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def count(connection: Connection, tenant: str, kind: str, name: str = "", by: int = 1) -> int:
    """Add to a counter, which begins at 0, and return it. Until the transaction ends nobody else can: it is a lock as well."""
    new = insert(connection, counters).values(tenant=tenant, kind=kind, name=name, last=by)
    added = new.on_conflict_do_update(index_elements=["tenant", "kind", "name"], set_={"last": counters.c.last + by}).returning(counters.c.last)
    return int(connection.execute(added).scalar_one())


def storable(value: str) -> str:
    """The text without what a database cannot store: NUL and halves of surrogate pairs."""
    return value.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def all_storable(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Columns with texts that can be stored."""
    return {name: storable(value) if isinstance(value, str) else value for name, value in columns.items()}
