"""Several workers: each job belongs to one, and they know of each other."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Jobs of before belong to the worker without a name. No table is made again: SQLite would forget the numbers of deleted jobs."""
    op.add_column(
        "jobs",
        sa.Column("worker", sa.String(length=63), server_default="", nullable=False, comment="MLAAS_WORKER_NAME of the worker that claimed it last"),
    )
    op.create_table(
        "workers",
        sa.Column("name", sa.String(length=63), nullable=False, comment="MLAAS_WORKER_NAME"),
        sa.Column("cpus", sa.Float(), nullable=False, comment="for jobs, as memory and gpus"),
        sa.Column("memory", sa.BigInteger(), nullable=False, comment="bytes"),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("usable", sa.Boolean(), nullable=False, comment="its engine can run jobs"),
        sa.Column("seen", sa.Float(), nullable=False, comment="when it was last at work"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_workers")),
    )
