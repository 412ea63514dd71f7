"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "counters",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column(
            "kind",
            sa.String(length=20),
            nullable=False,
            comment="process (N_1, N_2, ...), generation, submission, size; cpu_seconds: of deleted jobs",
        ),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("last", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "kind", "name", name=op.f("pk_counters")),
    )
    op.create_table(
        "idempotency",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False, comment="SHA-256 of the request: the same key with another request is a conflict"),
        sa.Column("job", sa.String(length=32), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "key", name=op.f("pk_idempotency")),
    )
    op.create_table(
        "jobs",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False, comment="the published job_id"),
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("process_name", sa.String(length=120), nullable=False, comment="the published N_1"),
        sa.Column("kind", sa.String(length=10), nullable=False, comment="train or predict"),
        sa.Column(
            "model", sa.String(length=320), nullable=False, comment="trained: the name to publish under; predict: the reference of the model used"
        ),
        sa.Column("workspace", sa.String(length=100), nullable=True),
        sa.Column("generation", sa.Integer(), nullable=True),
        sa.Column("request", sa.JSON(), nullable=False, comment="what was submitted (server.wire.JobRequest)"),
        sa.Column("groups", sa.JSON(), nullable=False, comment="of the token that submitted it"),
        sa.Column("device", sa.String(length=3), nullable=False),
        sa.Column("cpus", sa.Float(), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("memory", sa.BigInteger(), nullable=False, comment="bytes"),
        sa.Column("time_limit", sa.Float(), nullable=False, comment="seconds"),
        sa.Column("state", sa.String(length=12), nullable=False, comment="jobs.states.State"),
        sa.Column("reason", sa.Text(), nullable=False, comment="one sentence: why it waits, failed, was cancelled"),
        sa.Column("attempt", sa.Integer(), nullable=False, comment="of the running task; its id is <id>-<attempt>"),
        sa.Column("not_before", sa.Float(), nullable=False, comment="not started again before"),
        sa.Column("cancel", sa.Float(), nullable=True, comment="when cancelling was asked for"),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=True, comment="the version that it published"),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("started", sa.Float(), nullable=True),
        sa.Column("finished", sa.Float(), nullable=True),
        sa.Column("cpu_seconds", sa.Float(), nullable=False),
        sa.Column("peak_memory", sa.BigInteger(), nullable=False),
        sa.Column("purged", sa.Boolean(), nullable=False, comment="its files are gone"),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_jobs")),
        sa.UniqueConstraint("id", name=op.f("uq_jobs_id")),
        sa.UniqueConstraint("tenant", "process_name", name=op.f("uq_jobs_tenant_process_name")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_jobs_state_number", "jobs", ["state", "number"], unique=False)
    op.create_index("ix_jobs_tenant_number", "jobs", ["tenant", "number"], unique=False)
    op.create_table(
        "tenants",
        sa.Column(
            "number",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
            comment="its jobs' user id is job_uid_base + number",
        ),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("groups", sa.JSON(), nullable=False, comment="of the last token seen"),
        sa.Column("first_seen", sa.Float(), nullable=False),
        sa.Column("last_seen", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_tenants")),
        sa.UniqueConstraint("tenant", name=op.f("uq_tenants_tenant")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "workspaces",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False, comment="a new upload is a new generation; numbers are never used again"),
        sa.Column("current", sa.Boolean(), nullable=False, comment="the one that new jobs take; the others wait for their jobs to end, then go"),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("files", sa.Integer(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False, comment="bytes"),
        sa.PrimaryKeyConstraint("tenant", "name", "generation", name=op.f("pk_workspaces")),
    )
