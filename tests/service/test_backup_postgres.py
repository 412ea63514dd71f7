"""The program that backs up and restores, on a real PostgreSQL."""

from __future__ import annotations

import os
import shutil
import urllib.parse
from pathlib import Path

import pytest

from tests.support.programs import find_program
from tests.unit.test_backup import make_site, run


@pytest.fixture
def site(tmp_path):
    return make_site(tmp_path / "site")


@pytest.mark.needs("initdb")
def test_postgresql_holds_what_the_archive_holds_and_nothing_newer(site, postgres):
    programs = {"PATH": f"{Path(find_program('pg_restore')).parent}:{os.environ['PATH']}"}
    url = postgres.settings().database
    (site / "server.env").write_text(f"MLAAS_DATABASE='{url}'\n")
    shutil.copy(postgres.password_file, site.parent / "etc" / "secrets" / "database-password")
    name = urllib.parse.urlsplit(url).path[1:]

    def ask(statement):
        with postgres.connect(name) as connection:
            return [row[0] for row in connection.execute(statement)]

    def tables():
        return ask("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")

    with postgres.connect(name) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT); INSERT INTO alembic_version VALUES ('0001')")
        connection.execute("CREATE TABLE jobs (id SERIAL PRIMARY KEY, name TEXT); INSERT INTO jobs (name) VALUES ('first')")
    owner = "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'public'"
    owned = ask(owner)
    archive = Path(run(site, "create", "--folder", site.parent / "backups", env=programs))
    with postgres.connect(name) as connection:
        connection.execute("CREATE TABLE later (job INTEGER REFERENCES jobs (id)); CREATE VIEW seen AS SELECT name FROM jobs")
        connection.execute("CREATE TYPE mood AS ENUM ('well'); INSERT INTO jobs (name) VALUES ('second')")
    run(site, "restore", archive, env=programs)
    assert tables() == ["alembic_version", "jobs"]
    assert ask("SELECT name FROM jobs") == ["first"]
    assert ask("SELECT count(*) FROM pg_type WHERE typname IN ('mood', 'seen')") == [0]
    with postgres.connect(name) as connection:
        connection.execute("CREATE TABLE between (id INTEGER)")
    run(site, "undo", env=programs)
    assert tables() == ["alembic_version", "jobs", "later"]
    assert ask("SELECT name FROM seen ORDER BY 1") == ["first", "second"]
    assert ask(owner) == owned


@pytest.mark.needs("initdb")
def test_postgresql_stays_as_it_is_when_its_dump_cannot_be_read(site, postgres, tmp_path):
    """A pg_restore that dies in the middle: nothing is committed, and the files are put back."""
    own = Path(find_program("pg_restore")).parent
    url = postgres.settings().database
    (site / "server.env").write_text(f"MLAAS_DATABASE='{url}'\n")
    shutil.copy(postgres.password_file, site.parent / "etc" / "secrets" / "database-password")
    name = urllib.parse.urlsplit(url).path[1:]
    with postgres.connect(name) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT); INSERT INTO alembic_version VALUES ('0001')")
    archive = Path(run(site, "create", "--folder", site.parent / "backups", env={"PATH": f"{own}:{os.environ['PATH']}"}))
    with postgres.connect(name) as connection:
        connection.execute("CREATE TABLE later (id INTEGER)")
    (site.parent / "etc" / "later").write_text("x")
    half = tmp_path / "half" / "pg_restore"
    half.parent.mkdir()
    half.write_text(f'#!/bin/sh\ncase "$*" in *database.dump) echo "CREATE TABLE half (id INTEGER);"; exit 1;; esac\nexec {own}/pg_restore "$@"\n')
    half.chmod(0o755)
    done = run(site, "restore", archive, check=False, env={"PATH": f"{half.parent}:{own}:{os.environ['PATH']}"})
    assert "pg_restore failed" in done.stderr
    with postgres.connect(name) as connection:
        assert [row[0] for row in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")] == [
            "alembic_version",
            "later",
        ]
    assert (site.parent / "etc" / "later").read_text() == "x"
    assert not (site / "restore.json").exists()
