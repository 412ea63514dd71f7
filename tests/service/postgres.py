"""A real PostgreSQL of the tests: Debian's programs, a folder and a socket of its own, no port."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from mlaas.settings import Settings
from tests.support.programs import find_program

USER = "mlaas"
QUICK = ("fsync=off", "full_page_writes=off", "max_connections=200", "shared_buffers=32MB", "listen_addresses=", "log_min_messages=fatal")


class Postgres:
    """A server that can be stopped and started; `database` makes a fresh database in it. As root it runs as another user: it refuses root."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.password_file = folder / "password"
        self.password_file.write_text(secrets.token_hex(8) + "\n")
        self._who = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        if self._who is not None:
            for path in (folder, self.password_file):
                os.chown(path, self._who.pw_uid, self._who.pw_gid)
        self._do("initdb", "-D", folder / "data", "-U", USER, "-E", "UTF8", "--locale=C", "-A", "scram-sha-256", f"--pwfile={self.password_file}")
        self._process: subprocess.Popen[bytes] | None = None
        self._made = 0

    def _command(self, program: str, *arguments: object) -> list[str]:
        found = find_program(program)
        assert found is not None, f"the program {program} is missing"
        return [found, *map(str, arguments)]

    def _options(self) -> dict[str, object]:
        user = {} if self._who is None else {"user": self._who.pw_uid, "group": self._who.pw_gid, "extra_groups": []}
        return {"cwd": self.folder, "stdout": subprocess.DEVNULL, "env": {"PATH": os.environ["PATH"], "LC_ALL": "C"}, **user}

    def _do(self, *command: object) -> None:
        subprocess.run(self._command(*map(str, command)), check=True, **self._options())

    def start(self) -> None:
        settings = [part for setting in QUICK for part in ("-c", setting)]
        command = self._command("postgres", "-D", self.folder / "data", "-k", self.folder, *settings)
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stderr=log, **self._options())
        check = self._command("pg_isready", "-q", "-h", self.folder)
        for _ in range(600):
            assert self._process.poll() is None, (self.folder / "log").read_text()
            if subprocess.run(check, check=False, **self._options()).returncode == 0:
                return
            time.sleep(0.05)
        raise AssertionError("PostgreSQL does not answer")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        if self._process is not None:
            self._process.send_signal(how)  # SIGINT: clients are cut off; SIGQUIT: at once, the data need not survive
            self._process.wait(30)
            self._process = None

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        password = self.password_file.read_text().strip()
        return psycopg.connect(host=str(self.folder), user=USER, password=password, dbname=database, autocommit=True)

    def settings(self, **more: object) -> Settings:
        """Settings of the service with a fresh database."""
        self._made += 1
        name = f"test_{self._made}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        url = f"postgresql://{USER}@/{name}?host={self.folder}"
        return Settings(database=url, database_password_file=self.password_file, **more)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL for the whole session. Tests that take it are marked needs("initdb")."""
    folder = Path(tempfile.mkdtemp(prefix="mlaas-postgres-"))  # not in pytest's folder, which other users cannot enter
    server = None
    try:
        server = Postgres(folder)
        server.start()
        yield server
    finally:
        if server is not None:
            server.stop(signal.SIGQUIT)
        shutil.rmtree(folder, ignore_errors=True)
