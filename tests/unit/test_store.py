"""The store on SQLite: the database's file, its address, its trouble in sentences; jobs as a model has them. tests/service has both databases."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy.exc import IntegrityError, OperationalError

from mlaas.errors import UserError
from mlaas.jobs.states import NEXT, State
from mlaas.settings import Settings
from mlaas.store import StoreError, StoreFullError, database, jobs
from mlaas.store.database import connect, migrate, ready, writing
from tests.support.stores import StoreModel, new_job


@pytest.fixture
def engine(tmp_path):
    found = connect(Settings(data=tmp_path / "data"))
    migrate(found)
    yield found
    found.dispose()


def test_the_file_is_for_the_service_alone(tmp_path):
    before = os.umask(0)
    try:
        engine = connect(Settings(data=tmp_path / "a" / "data"))
        migrate(engine)
        jobs.create(engine, new_job(), now=1.0)
        names = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a" / "data").iterdir()}
        assert stat.S_IMODE((tmp_path / "a" / "data").stat().st_mode) == 0o700
    finally:
        os.umask(before)
    assert names == {"mlaas.db": 0o600, "mlaas.db-wal": 0o600, "mlaas.db-shm": 0o600}
    (tmp_path / "a" / "data" / "mlaas.db").chmod(0o666)
    connect(Settings(data=tmp_path / "a" / "data")).dispose()
    assert stat.S_IMODE((tmp_path / "a" / "data" / "mlaas.db").stat().st_mode) == 0o600
    engine.dispose()


def test_pragmas(engine):
    with writing(engine) as connection:
        for pragma, value in {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": database.BUSY * 1000}.items():
            assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar_one() == value


@pytest.mark.parametrize("url", ["mysql://x@y/z", "nonsense", "sqlite://", "sqlite:///:memory:", "sqlite:///x.db?mode=ro", "oracle://secret@h/x"])
def test_addresses_that_cannot_be_used(url):
    with pytest.raises(UserError, match=r"^MLAAS_DATABASE: ") as caught:
        connect(Settings(database=url))
    assert "secret" not in str(caught.value)


def test_a_file_of_choice(tmp_path):
    engine = connect(Settings(database=f"sqlite:///{tmp_path}/other/x.db"))
    migrate(engine)
    ready(engine)
    engine.dispose()
    assert (tmp_path / "other" / "x.db").is_file()


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be made or written"):
        connect(Settings(data=tmp_path / "file" / "data"))
    (tmp_path / "mlaas.db").mkdir()
    with pytest.raises(StoreError, match="cannot be made or written: Is a directory"):
        connect(Settings(data=tmp_path))


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "mlaas.db").write_bytes(b"hello " * 1000)
    engine = connect(Settings(data=tmp_path))
    with pytest.raises(StoreError, match="damaged"):
        migrate(engine)
    engine.dispose()


def test_not_migrated_yet_and_from_the_future(tmp_path):
    engine = connect(Settings(data=tmp_path))
    with pytest.raises(StoreError, match="not been brought to this version"):
        ready(engine)
    with pytest.raises(StoreError, match="not been brought to this version"):
        jobs.get(engine, "x")
    migrate(engine)
    ready(engine)
    with writing(engine) as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    for ask in (ready, migrate):
        with pytest.raises(StoreError, match="version"):
            ask(engine)
    engine.dispose()


def test_a_full_disk(engine):
    """SQLite itself says that it is full when its file may not grow."""
    with writing(engine) as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    with engine.connect() as connection:
        connection.connection.dbapi_connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreFullError, match="disk of the database is full") as caught:
        _ = [jobs.create(engine, new_job(), now=float(number)) for number in range(1000)]
    assert caught.value.status == 507
    assert jobs.listing(engine, None)  # it can still be read


def test_a_writer_that_does_not_end(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "BUSY", 0.2)
    engine = connect(Settings(data=tmp_path))
    migrate(engine)
    with contextlib.closing(sqlite3.connect(tmp_path / "mlaas.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="busy") as caught:
            jobs.create(engine, new_job(), now=1.0)
        assert caught.value.status == 503
        assert jobs.listing(engine, None) == []  # readers do not wait for writers
    assert jobs.create(engine, new_job(), now=1.0)[1]
    engine.dispose()


def test_all_connections_in_use(engine):
    engine.pool._timeout = 0.1
    with contextlib.ExitStack() as stack:
        for _ in range(32):
            stack.enter_context(engine.connect())
        with pytest.raises(StoreError, match="in use"):
            jobs.get(engine, "x")


def test_faults_of_the_program_are_not_hidden(engine):
    with pytest.raises(OperationalError, match="no such column"), writing(engine) as connection:
        connection.exec_driver_sql("SELECT absent FROM jobs")
    with pytest.raises(IntegrityError), writing(engine) as connection:
        connection.exec_driver_sql("INSERT INTO counters VALUES ('a', 'b', 'c', NULL)")
    job, _ = jobs.create(engine, new_job(), now=1.0)
    for wrong in ({"state": State.RUNNING}, {"number": 1}, {"tenant": "x"}):
        with pytest.raises(ValueError, match="does not change this way"):
            jobs.update(engine, job.id, **wrong)


@pytest.mark.parametrize(("state", "to"), [(state, to) for state in State for to in State if to not in NEXT[state]])
def test_moves_that_are_never_made(engine, state, to):
    with pytest.raises(ValueError, match=f"never goes from {state} to {to}"):
        jobs.move(engine, "x", to, expect=[state])


class OnSQLite(StoreModel):
    """A store in a fresh file for each run."""

    def fresh(self):
        self.folder = tempfile.TemporaryDirectory()
        self.settings_of_store = Settings(data=Path(self.folder.name))
        engine = connect(self.settings_of_store)
        migrate(engine)
        engine.dispose()
        return self.settings_of_store

    def teardown(self):
        super().teardown()
        self.folder.cleanup()


def test_the_store_is_what_a_dictionary_would_be():
    run_state_machine_as_test(OnSQLite, settings=hypothesis_settings(max_examples=8, stateful_step_count=30, deadline=None))
