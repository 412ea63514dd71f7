"""The durable state: SQLAlchemy Core on SQLite (WAL) or PostgreSQL, Alembic migrations. Only the server and the worker have it open."""
