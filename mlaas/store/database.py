"""The database: SQLite in WAL mode (the default), or PostgreSQL by URL; and its migrations.

One engine per process. A transaction that writes is opened by `writing`, one that only reads by `reading`. In SQLite the first takes the lock of
writers at once: to take it later would fail when another process wrote in between.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, make_url, text

from mlaas.errors import UserError
from mlaas.places import Places
from mlaas.settings import Settings
from mlaas.store.errors import StoreError, told

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY = 15.0
"""Seconds that a writer waits for another one."""

_WRITES = "mlaas_writes"
_COMMON: dict[str, Any] = {
    "json_serializer": partial(json.dumps, allow_nan=False, separators=(",", ":")),
    "hide_parameters": True,  # requests of users stay out of messages of errors
    "pool_size": 8,
    "max_overflow": 24,
}
_MIGRATION_LOCK = 0x6D6C_6161_73  # PostgreSQL's advisory lock of migrations; any number that nobody else takes ("mlaas")


def connect(settings: Settings) -> Engine:
    """The engine of the database that the settings name; nothing is asked of it yet, but a file of SQLite is made (mode 0600).

    Raises UserError for an address that cannot be one, StoreError when the file cannot be made or used.
    """
    url = _url(settings)
    if url.get_backend_name() == "sqlite":
        return _sqlite(Path(url.database or ""))
    return _postgresql(url, settings.database_password_file)


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that only reads: one state of the database. Raises StoreError."""
    # SQLite reads one state anyway; PostgreSQL only if told so
    options = {"isolation_level": "REPEATABLE READ"} if engine.dialect.name == "postgresql" else {}
    with told(), engine.execution_options(**options).connect() as connection, connection.begin():
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes: all of it, or nothing when it is left by an exception. Raises StoreError."""
    with told(), engine.execution_options(**{_WRITES: True}).begin() as connection:
        yield connection


def migrate(engine: Engine) -> None:
    """Bring the tables to what this version needs, in one transaction; processes that start at once wait for each other.

    Raises StoreError, also when the database was made by a newer version.
    """
    with writing(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
        _upgrade(connection)


def ready(engine: Engine) -> None:
    """Raise StoreError unless the database answers and has the tables of this version."""
    with reading(engine) as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    if found != _head():
        raise StoreError("the database has not been brought to this version yet; it is when the service starts")


def configuration() -> Config:
    """Alembic's configuration: where the migrations are."""
    found = Config()
    found.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return found


def _upgrade(connection: Connection, revision: str = "head") -> None:
    config = configuration()
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, revision)
    except CommandError as error:
        raise StoreError(f"the database cannot be brought to this version of mlaas; a newer one may have made it ({error})") from error


@lru_cache
def _head() -> str | None:
    return ScriptDirectory.from_config(configuration()).get_current_head()


def _url(settings: Settings) -> URL:
    if not settings.database:
        return URL.create("sqlite", database=str(Places.of(settings).database))
    try:
        url = make_url(settings.database)
    except exc.ArgumentError:
        raise UserError("MLAAS_DATABASE: not the URL of a database; write e.g. postgresql://mlaas@db.example.org/mlaas") from None
    backend = url.get_backend_name()
    if backend == "sqlite" and url.database not in {None, "", ":memory:"} and not url.query:
        return url
    if backend in {"postgresql", "postgres"}:
        return url.set(drivername="postgresql+psycopg")
    raise UserError("MLAAS_DATABASE: only sqlite:///FILE and postgresql://USER@HOST/NAME are supported")


def _sqlite(path: Path) -> Engine:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # SQLite gives its -wal and -shm files the mode of the database
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.fchmod(descriptor, 0o600)
        os.close(descriptor)
    except OSError as error:
        raise StoreError(f"the file of the database, {path}, cannot be made or written: {error.strerror}") from error
    engine = create_engine(URL.create("sqlite", database=str(path)), connect_args={"timeout": BUSY}, **_COMMON)
    event.listen(engine, "connect", _pragmas)
    event.listen(engine, "begin", _begin)
    return engine


def _pragmas(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # the module's own transactions begin too late, and not at all for DDL
    cursor = connection.cursor()
    mode = cursor.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise StoreError("the file of the database is on a disk without shared memory (a network disk?): put MLAAS_DATA on a local one")
    cursor.execute("PRAGMA synchronous = FULL")  # a job that was accepted survives a power cut
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA journal_size_limit = 67108864")
    cursor.close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(_WRITES) else "BEGIN")


def _postgresql(url: URL, password_file: Path | None) -> Engine:
    engine = create_engine(
        url,
        pool_pre_ping=True,
        pool_recycle=1800,
        **_COMMON,
        connect_args={"connect_timeout": 10, "application_name": "mlaas", "options": "-c lock_timeout=15000 -c timezone=UTC"},
    )
    if password_file is not None:
        event.listen(engine, "do_connect", partial(_give_password, password_file))
    return engine


def _give_password(file: Path, _dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> None:
    """Read the password for each new connection, so that it can be changed without a restart."""
    try:
        parameters["password"] = file.read_text().strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"MLAAS_DATABASE_PASSWORD_FILE: {file} cannot be read: {getattr(error, 'strerror', error)}") from error
