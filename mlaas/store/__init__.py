"""The durable state: SQLAlchemy Core on SQLite (WAL) or PostgreSQL, Alembic migrations. Only the server and the worker have it open."""

from __future__ import annotations

from mlaas.store.errors import Conflict, QueueFull, QuotaError, StoreError, StoreFullError
from mlaas.store.records import JobRecord, NewJob, TenantRecord, Totals, WorkspaceRecord

__all__ = ["Conflict", "JobRecord", "NewJob", "QueueFull", "QuotaError", "StoreError", "StoreFullError", "TenantRecord", "Totals", "WorkspaceRecord"]
