"""Run by Alembic: the migrations on the connection that `mlaas.store.database` hands over, inside its transaction."""

from __future__ import annotations

from alembic import context

from mlaas.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite changes a column by making the table again
    transactional_ddl=True,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
