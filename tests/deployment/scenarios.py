"""Molecule's scenarios, run as processes of their own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pytest
import yaml

from tests.deployment.machines import ROOT, environment
from tests.support.vm import Machines

FOLDER = ROOT / "extensions" / "molecule"
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/molecule.yml"))
AT_A_TIME = 1
LIMIT = 900.0  # s


@dataclass
class Result:
    """How a scenario ended."""

    status: int
    seconds: float
    output: str
    journal: str


def scenario_of(item: pytest.Item) -> str | None:
    """The scenario that a test is about."""
    call = getattr(item, "callspec", None)
    return call.params.get("scenario") if call else None


class Scenarios:
    """Runs scenarios in the background, some at a time; `result` waits for one."""

    def __init__(self, machines: Machines, names: list[str]) -> None:
        self._machines = machines
        self._names = names
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(AT_A_TIME)
        self._results: dict[str, Future[Result]] = {}

    def __enter__(self) -> Scenarios:
        self._results = {name: self._pool.submit(self._run, name) for name in self._names}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._stopped.set()
        self._pool.shutdown(cancel_futures=True)

    def result(self, name: str) -> Result:
        """How it ended."""
        return self._results[name].result()

    def _run(self, name: str) -> Result:
        began = time.monotonic()
        home = Path(tempfile.mkdtemp(prefix="mlaas-molecule-"))
        with (home / "output").open("w+b") as output:
            try:
                status = self._molecule(name, home, output.fileno())
                output.seek(0)
                text = output.read().decode(errors="replace")
                journal = "" if status == 0 else "\n".join(self._journal(machine) for machine in _platforms(name))
            finally:
                for machine in _platforms(name):
                    self._machines.remove(machine)
                shutil.rmtree(home)
        return Result(status, time.monotonic() - began, text, journal)

    def _molecule(self, name: str, home: Path, output: int) -> int:
        """Run it without its last step, so that a machine that failed can be looked at."""
        process = subprocess.Popen(
            ["molecule", "test", "--destroy=never", "--scenario-name", name],
            cwd=ROOT,
            env=environment(self._machines) | {"MOLECULE_EPHEMERAL_DIRECTORY": str(home / "molecule")},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        until = time.monotonic() + LIMIT
        while process.poll() is None and time.monotonic() < until and not self._stopped.wait(0.5):
            pass
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            os.write(output, b"\nstopped: it took too long\n")
        return process.wait()

    def _journal(self, machine: str) -> str:
        try:
            return f"== {machine}\n{self._machines.get(machine).journal()}"
        except Exception as error:  # the machine did not even start
            return f"== {machine}: {error}"


def _platforms(name: str) -> list[str]:
    return [platform["name"] for platform in yaml.safe_load((FOLDER / name / "molecule.yml").read_text())["platforms"]]
