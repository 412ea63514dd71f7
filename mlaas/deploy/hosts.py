"""Where a script runs: on this machine, or on another one (`mlaas.deploy.ssh`)."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import Protocol

from mlaas.errors import UserError

LOCAL = {"localhost", "local"}


class HostError(UserError):
    """A machine cannot be reached, or refuses; the text says what to do."""


@dataclass(frozen=True)
class Answer:
    """What a script wrote, and its exit status."""

    status: int
    out: str
    err: str


class Host(Protocol):
    """A machine that runs shell scripts."""

    name: str

    def run(self, script: str, timeout: float) -> Answer:
        """Run a POSIX shell script, of whatever length; raises `HostError` after `timeout` seconds."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class Local:
    """This machine."""

    name = "localhost"

    def run(self, script: str, timeout: float) -> Answer:
        """See `Host`."""
        try:
            done = subprocess.run(["/bin/sh", "-s"], input=script, capture_output=True, text=True, errors="replace", timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            raise HostError(f"this machine did not answer within {timeout:.0f} s") from None
        return Answer(done.returncode, done.stdout, done.stderr)

    def close(self) -> None:
        """See `Host`."""
