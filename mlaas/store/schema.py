"""The tables. A change here needs a migration in `migrations/versions` (a test compares them). Times are seconds since 1970, UTC."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Boolean, Column, Float, Index, Integer, MetaData, String, Table, Text, UniqueConstraint, text

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = MetaData(naming_convention=NAMES)
NUMBER = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up only INTEGER PRIMARY KEY

tenants = Table(
    "tenants",
    metadata,
    Column("number", NUMBER, primary_key=True, autoincrement=True, comment="its jobs' user id is job_uid_base + number"),
    Column("tenant", String(64), nullable=False, unique=True),
    Column("issuer", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("name", Text, nullable=False, default=""),
    Column("groups", JSON, nullable=False, comment="of the last token seen"),
    Column("first_seen", Float, nullable=False),
    Column("last_seen", Float, nullable=False),
    sqlite_autoincrement=True,
)

workspaces = Table(
    "workspaces",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("name", String(100), primary_key=True),
    Column("generation", Integer, primary_key=True, comment="a new upload is a new generation; numbers are never used again"),
    Column("current", Boolean, nullable=False, comment="the one that new jobs take; the others wait for their jobs to end, then go"),
    Column("created", Float, nullable=False),
    Column("files", Integer, nullable=False),
    Column("size", BigInteger, nullable=False, comment="bytes"),
)

counters = Table(
    "counters",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("kind", String(20), primary_key=True, comment="process (N_1, N_2, ...), generation, submission, size; cpu_seconds: of deleted jobs"),
    Column("name", String(100), primary_key=True),
    Column("last", Integer, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("number", NUMBER, primary_key=True, autoincrement=True, comment="the published job_id"),
    Column("id", String(32), nullable=False, unique=True),
    Column("tenant", String(64), nullable=False),
    Column("process_name", String(120), nullable=False, comment="the published N_1"),
    Column("kind", String(10), nullable=False, comment="train or predict"),
    Column("model", String(320), nullable=False, comment="trained: the name to publish under; predict: the reference of the model used"),
    Column("workspace", String(100), nullable=True),
    Column("generation", Integer, nullable=True),
    Column("request", JSON, nullable=False, comment="what was submitted (server.wire.JobRequest)"),
    Column("groups", JSON, nullable=False, comment="of the token that submitted it"),
    Column("device", String(3), nullable=False),
    Column("cpus", Float, nullable=False),
    Column("gpus", Integer, nullable=False),
    Column("memory", BigInteger, nullable=False, comment="bytes"),
    Column("time_limit", Float, nullable=False, comment="seconds"),
    Column("state", String(12), nullable=False, comment="jobs.states.State"),
    Column("reason", Text, nullable=False, default="", comment="one sentence: why it waits, failed, was cancelled"),
    Column("attempt", Integer, nullable=False, default=0, comment="of the running task; its id is <id>-<attempt>"),
    Column("not_before", Float, nullable=False, default=0, comment="not started again before"),
    Column("cancel", Float, nullable=True, comment="when cancelling was asked for"),
    Column("exit_code", Integer, nullable=True),
    Column("version", Integer, nullable=True, comment="the version that it published"),
    Column("created", Float, nullable=False),
    Column("started", Float, nullable=True),
    Column("finished", Float, nullable=True),
    Column("cpu_seconds", Float, nullable=False, default=0),
    Column("peak_memory", BigInteger, nullable=False, default=0),
    Column("purged", Boolean, nullable=False, default=False, comment="its files are gone"),
    Column("worker", String(63), nullable=False, server_default=text("''"), comment="MLAAS_WORKER_NAME of the worker that claimed it last"),
    UniqueConstraint("tenant", "process_name"),
    Index("ix_jobs_tenant_number", "tenant", "number"),
    Index("ix_jobs_state_number", "state", "number"),
    sqlite_autoincrement=True,
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("digest", String(64), nullable=False, comment="SHA-256 of the request: the same key with another request is a conflict"),
    Column("job", String(32), nullable=False),
    Column("created", Float, nullable=False),
)

workers = Table(
    "workers",
    metadata,
    Column("name", String(63), primary_key=True, comment="MLAAS_WORKER_NAME"),
    Column("cpus", Float, nullable=False, comment="for jobs, as memory and gpus"),
    Column("memory", BigInteger, nullable=False, comment="bytes"),
    Column("gpus", Integer, nullable=False),
    Column("usable", Boolean, nullable=False, comment="its engine can run jobs"),
    Column("seen", Float, nullable=False, comment="when it was last at work"),
)
