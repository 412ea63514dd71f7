"""`mlaas serve` in a process of its own, and commands that talk to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 120
# jobs as a user id that no other service on this machine has: as root, a runner ends whatever still runs as the user id of an ended job
FAST = {
    "MLAAS_JOB_UID_BASE": str(1_000_000 + os.getpid() % 4_000_000 * 100),
    "MLAAS_INFERENCE_WORKERS": "1",
    "MLAAS_INFERENCE_POLL": "0.2",
    "MLAAS_SHUTDOWN_TIMEOUT": "10",
    "MLAAS_PROGRESS": "false",
}


@dataclass
class Serving:
    """A running service: its process, data folder, what it noted of itself (run/serve.json), and the environment of commands for it."""

    process: subprocess.Popen[str]
    data: Path
    record: dict[str, Any]
    environment: dict[str, str]
    log: Path

    @property
    def url(self) -> str:
        """The address of the server."""
        return str(self.record["server"])

    @property
    def token(self) -> str:
        """The embedded token."""
        return (self.data / "secrets" / "token").read_text().strip()

    def command(self, *arguments: str, cwd: Path | None = None, given: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `mlaas` with these arguments."""
        return command(*arguments, cwd=cwd, given=given, environment=self.environment | environment)

    def ok(self, *arguments: str, cwd: Path | None = None, given: str | None = None, **environment: str) -> str:
        """What a command prints that must succeed."""
        done = self.command(*arguments, cwd=cwd, given=given, **environment)
        assert done.returncode == 0, f"{arguments}: {done.stderr}\n{self.said()}"
        return done.stdout

    def parts(self) -> dict[str, int]:
        """The process id of each part."""
        return parts(self.process.pid)

    def said(self) -> str:
        """The end of what the service wrote."""
        return self.log.read_text()[-6000:]


def command(*arguments: str, environment: Mapping[str, str], cwd: Path | None = None, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run `mlaas` in a process."""
    return subprocess.run(
        [sys.executable, "-m", "mlaas.cli", *arguments],
        cwd=cwd,
        env=dict(environment),
        input=given,
        stdin=subprocess.DEVNULL if given is None else None,
        capture_output=True,
        text=True,
        timeout=SECONDS * 3,
        check=False,
    )


def clean(home: Path, **environment: str) -> dict[str, str]:
    """An environment with nothing of whoever runs the tests."""
    dropped = ("MLAAS_", "BEARER_", "OIDC_", "XDG_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return kept | {"HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config"), "XDG_RUNTIME_DIR": str(home)} | FAST | environment


def parts(parent: int) -> dict[str, int]:
    """The processes `python -m mlaas.service PART` that a process has started, by part."""
    import psutil

    found = {}
    for child in psutil.Process(parent).children():
        try:
            words = child.cmdline()
        except psutil.Error:  # it ends
            continue
        if "mlaas.service" in words:
            found[words[words.index("mlaas.service") + 1]] = child.pid
    return found


def begin(data: Path, environment: Mapping[str, str], log: Path, *flags: str) -> subprocess.Popen[str]:
    """Start `mlaas serve` on free ports; what it writes goes to `log`."""
    command = [sys.executable, "-m", "mlaas.cli", "serve", f"--data={data}", "--port=0", "--inference-port=0", "--grpc-port=0", *flags]
    with log.open("a") as out:
        return subprocess.Popen(command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=out, stderr=out, text=True)


def ready(process: subprocess.Popen[str], data: Path, log: Path) -> dict[str, Any]:
    """Wait until it serves; returns what it notes of itself."""
    record, deadline = data / "run" / "serve.json", time.monotonic() + SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        found: dict[str, Any] = json.loads(record.read_text()) if record.exists() else {}
        if found.get("pid") == process.pid:  # not that of one that was killed
            return found
        time.sleep(0.1)
    raise AssertionError(f"the service did not start (exit {process.poll()}):\n{log.read_text()[-8000:]}")


def end(process: subprocess.Popen[str], number: signal.Signals = signal.SIGTERM) -> int:
    """Stop it; returns its exit status."""
    if process.poll() is None:
        process.send_signal(number)
    try:
        return process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


@contextmanager
def serving(folder: Path, *flags: str, **settings: str) -> Iterator[Serving]:
    """A service whose data, home and log are below a folder."""
    data, log = folder / "data", folder / "serve.log"
    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    environment = clean(home, MLAAS_DATA=str(data), **settings)
    process = begin(data, environment, log, *flags)
    try:
        yield Serving(process, data, ready(process, data, log), environment, log)
    finally:
        end(process)
