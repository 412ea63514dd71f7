"""What the conformance tests work with: a runner on a data folder of its own, and tasks that are a few lines of Python."""

from __future__ import annotations

import itertools
import os
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mlaas.jobs.runners import of
from mlaas.jobs.runners.base import Runner, Status, Task
from mlaas.places import Places
from mlaas.settings import Settings

USER = 654_321 if os.geteuid() == 0 else None
OTHER = 654_322 if os.geteuid() == 0 else None
DEADLINE = 90.0  # s; only for a runner that hangs
BOTH = [
    pytest.param("process", id="process"),
    pytest.param("docker", id="docker", marks=pytest.mark.needs("dockerd", "mmdebstrap")),
]

# what tasks may use: `beat` writes the time to a file again and again, in a process that has left its parents, its session, and ignores SIGTERM
PRELUDE = """
import os, signal, sys, time
def escape(name, forks=2):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.dup2(os.open(os.devnull, os.O_RDWR), 1)
            while True:
                with open(name + ".part", "w") as file:
                    file.write(str(time.time()))
                os.replace(name + ".part", name)
                time.sleep(0.02)
        os._exit(0)
    os.wait()
    while not os.path.exists(name):
        time.sleep(0.01)
"""


@dataclass
class Bench:
    """A runner and its data folder."""

    settings: Settings
    places: Places
    runner: Runner
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def again(self) -> Runner:
        """The runner as a worker that has just been started has it."""
        self.close()
        self.runner = of(self.settings, self.places)
        return self.runner

    def close(self) -> None:
        """Let go of connections."""
        getattr(self.runner, "close", lambda: None)()

    def task(self, code: str, *, job: str = "", attempt: int = 1, **options: Any) -> Task:
        """A task that runs a few lines of Python."""
        job = job or f"job{next(self.numbers)}"
        folder = self.places.job(job)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        given = {"user": USER, "cache": self.places.cache("anna"), "memory": 400 * 10**6, "time_limit": DEADLINE, **options}
        return Task(f"{job}-{attempt}", ["python3", "-c", PRELUDE + textwrap.dedent(code)], folder, **given)

    def start(self, code: str, **options: Any) -> Task:
        """Submit a task."""
        task = self.task(code, **options)
        self.runner.submit(task)
        return task

    def status(self, task: Task) -> Status:
        """Poll; the task must be known."""
        status = self.runner.poll(task.id, task.folder)
        assert status is not None
        return status

    def wait(self, task: Task) -> Status:
        """Poll until it has ended."""
        self.until(lambda: not self.status(task).running)
        return self.status(task)

    def run(self, code: str, **options: Any) -> tuple[Status, str]:
        """Submit a task, wait for it; its status and log."""
        task = self.start(code, **options)
        return self.wait(task), self.log(task)

    def output(self, code: str, **options: Any) -> str:
        """The log of a task that must succeed."""
        status, log = self.run(code, **options)
        assert (status.end, status.exit_code) == ("exit", 0), (status, log)
        return log

    @staticmethod
    def log(task: Task) -> str:
        """A task's log."""
        return (task.folder / "log.txt").read_text(errors="replace")

    @staticmethod
    def until(holds: Callable[[], object]) -> None:
        """Wait for something that must come."""
        deadline = time.monotonic() + DEADLINE
        while not holds():
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(0.02)

    def appears(self, task: Task, name: str) -> None:
        """Wait for a file in the task's work/, polling as a worker does."""
        self.until(lambda: (task.folder / "work" / name).exists() or not self.status(task).running)
        assert (task.folder / "work" / name).exists(), (self.status(task), self.log(task))

    def still(self, task: Task, name: str) -> bool:
        """Whether nobody writes a file of work/ any more."""
        path = task.folder / "work" / name
        before = path.stat().st_mtime_ns
        time.sleep(0.3)
        return path.stat().st_mtime_ns == before


def make(kind: str, data: Path, request: pytest.FixtureRequest, **settings: Any) -> Bench:
    """A bench of one kind."""
    if kind == "docker":
        engine = request.getfixturevalue("docker_engine")
        settings = {"docker_url": engine.url, "docker_image": engine.image, **settings}
    data.mkdir(mode=0o755, parents=True, exist_ok=True)
    made = Settings(data=data, runner=kind, **settings)
    places = Places.of(made)
    return Bench(made, places, of(made, places))


@pytest.fixture(params=BOTH)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """Either runner."""
    with closing(make(request.param, tmp_path / "data", request)) as made:
        yield made


@pytest.fixture
def processes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """The runner of processes."""
    with closing(make("process", tmp_path / "data", request)) as made:
        yield made


@pytest.fixture
def containers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """The runner of containers."""
    with closing(make("docker", tmp_path / "data", request)) as made:
        yield made


class closing:  # noqa: N801  as contextlib's
    """End and clean up whatever a test has left."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def __enter__(self) -> Bench:
        return self.bench

    def __exit__(self, *_: object) -> None:
        runner, jobs = self.bench.again(), self.bench.places.data / "jobs"
        for task in runner.tasks(jobs):
            folder = self.bench.places.job(task.rpartition("-")[0])
            runner.cancel(task, folder, 0)
            self.bench.until(lambda task=task, folder=folder: (runner.poll(task, folder) or Status("lost")).end)  # type: ignore[misc]
            runner.cleanup(task, folder)
        assert runner.tasks(jobs) == []
        self.bench.close()
