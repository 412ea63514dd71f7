"""The durable state: SQLAlchemy Core on SQLite (WAL) or PostgreSQL, Alembic migrations. Only the server and the worker have it open."""

from __future__ import annotations

from mlaas.store.errors import Conflict, QueueFull, StoreError, StoreFullError
from mlaas.store.records import JobRecord, NewJob, TenantRecord, Totals, WorkspaceRecord

__all__ = ["Conflict", "JobRecord", "NewJob", "QueueFull", "StoreError", "StoreFullError", "TenantRecord", "Totals", "WorkspaceRecord"]
