"""A real SSH server on this machine, a home of its own for the client, and a small collection for ansible-runner."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.ports import free_port
from tests.support.programs import find_program


@dataclass
class Server:
    """An SSH server that one key may sign in at."""

    folder: Path
    port: int
    user: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def key(self) -> Path:
        """The user's key."""
        return self.folder / "user"

    @property
    def known(self) -> str:
        """Its line of known_hosts."""
        return f"[127.0.0.1]:{self.port} {(self.folder / 'host.pub').read_text()}"

    def start(self, *more: str) -> None:
        """Start it; `more` are lines of its configuration."""
        lines = [
            *more,  # the first line of a kind counts
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.folder}/host",
            f"AuthorizedKeysFile {self.folder}/authorized",
            f"PidFile {self.folder}/sshd.pid",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
        ]
        (self.folder / "sshd_config").write_text("\n".join(lines) + "\n")
        with (self.folder / "sshd.log").open("ab") as log:
            command = [str(find_program("sshd")), "-D", "-e", "-f", str(self.folder / "sshd_config")]
            self.processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        until = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert time.monotonic() < until, (self.folder / "sshd.log").read_text()
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """End it."""
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes.clear()


def make_key(path: Path, passphrase: str = "") -> None:
    """A new key pair."""
    subprocess.run([str(find_program("ssh-keygen")), "-q", "-t", "ed25519", "-N", passphrase, "-f", str(path)], check=True)


def make_server(folder: Path, more: Sequence[str] = ()) -> Server:
    """A server that runs."""
    Path("/run/sshd").mkdir(parents=True, exist_ok=True)
    made = Server(folder, free_port(), "root")
    make_key(folder / "host")
    make_key(made.key)
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    made.start(*more)
    return made


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Server]:
    """A server that works."""
    if os.geteuid() != 0:
        pytest.skip("only root can start an SSH server")
    made = make_server(tmp_path_factory.mktemp("sshd"))
    yield made
    made.stop()


@pytest.fixture
def another(tmp_path) -> Iterator[Callable[..., Server]]:
    """Starts further servers, given lines of their configuration."""
    if os.geteuid() != 0:
        pytest.skip("only root can start an SSH server")
    servers: list[Server] = []

    def start(*more: str) -> Server:
        folder = tmp_path / f"sshd{len(servers)}"
        folder.mkdir()
        servers.append(make_server(folder, more))
        return servers[-1]

    yield start
    for made in servers:
        made.stop()


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home of its own: no key, no configuration, nobody known."""
    folder = tmp_path / "home"
    (folder / ".ssh").mkdir(parents=True, mode=0o700)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    return folder


@pytest.fixture
def known(home, server) -> Path:
    """A home that knows the server."""
    (home / ".ssh" / "known_hosts").write_text(server.known)
    return home
