"""The start of a job on an engine that goes away half way: a task that runs is never begun a second time beside itself."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from mlaas.jobs import attempts as module
from mlaas.jobs.attempts import Attempts
from mlaas.jobs.runners import of
from mlaas.jobs.runners.base import RunnerError, Task
from mlaas.jobs.states import State
from mlaas.store import JobRecord, jobs
from tests.service.runners import USER
from tests.support.relay import Relay, relay
from tests.support.site import Site

pytestmark = [
    pytest.mark.needs("dockerd", "mmdebstrap"),
    # docker's client leaves the socket of a connection that was refused to the garbage collector
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"),
]
WAITS = ["python3", "-c", "import time; print('begins', flush=True); time.sleep(60)"]


class Started:
    """A job that a worker holds, the way to its engine, and the steps of the job."""

    def __init__(self, folder: Path, engine: str, image: str, way: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
        self.site = Site(folder, runner="docker", docker_url=way.url, docker_image=image, worker_name="a", job_retries=1)
        self.site.model("space", "")
        self.way, self.engine = way, docker.DockerClient(base_url=engine, timeout=60)
        self.runner = of(self.site.settings, self.site.places)
        self.attempts = Attempts(self.site.settings, self.site.places, self.site.engine, self.runner)
        new = self.site.submit("space")
        (self.claimed,) = jobs.claim(self.site.engine, {new.id: 1}, "a", seen=jobs.held(self.site.engine)[0], now=time.time()) or []
        self.site.places.job(new.id).mkdir(mode=0o700, parents=True, exist_ok=True)
        monkeypatch.setattr(module, "task_of", self.task_of)

    def task_of(self, job: JobRecord, *_: object) -> Task:
        """A task that the small image can run, in the place of the whole command."""
        return Task(job.task, WAITS, self.site.places.job(job.id), self.site.places.cache(job.tenant), user=USER, memory=400 * 10**6, time_limit=90)

    @property
    def job(self) -> JobRecord:
        return self.site.job(self.claimed)

    def start(self) -> JobRecord:
        """Take the step, and return the job as it is then."""
        self.attempts.start(self.job)
        return self.job

    def containers(self) -> list[str]:
        """How the containers of the job are doing."""
        found = self.engine.containers.list(all=True, filters={"label": f"mlaas.folder={self.site.places.job(self.claimed.id)}"})
        return [container.status for container in found]

    def close(self) -> None:
        for container in self.engine.containers.list(all=True, filters={"label": f"mlaas.folder={self.site.places.job(self.claimed.id)}"}):
            container.remove(force=True)
        self.engine.close()
        self.runner.close()  # type: ignore[attr-defined]
        self.site.close()
        gc.collect()


@pytest.fixture
def started(tmp_path: Path, docker_engine, monkeypatch) -> Iterator[Started]:
    with relay(tmp_path, docker_engine.url) as way:
        made = Started(tmp_path, docker_engine.url, docker_engine.image, way, monkeypatch)
        yield made
        way.back()
        made.close()


def test_an_answer_that_is_lost_starts_no_second_container(started):
    started.way.lost = b"/start "
    with pytest.raises(RunnerError, match="does not answer"):
        started.start()
    assert started.job.state == State.STARTING
    assert "it is not known whether it was started: the Docker engine" in started.job.reason
    assert started.containers() == ["running"]
    with pytest.raises(RunnerError):  # as the worker does again and again
        started.start()
    assert started.job.state == State.STARTING
    started.way.back()
    job = started.start()
    assert (job.state, job.reason, job.attempt) == (State.RUNNING, "", 1)
    assert started.containers() == ["running"]
    assert started.attempts.look(job) is None


def test_one_that_was_asked_to_end_meanwhile_is_ended(started):
    started.way.lost = b"/start "
    with pytest.raises(RunnerError):
        started.start()
    jobs.ask_cancel(started.site.engine, started.claimed.id, time.time())
    started.way.back()
    job = started.start()
    assert job.state == State.RUNNING
    until = time.monotonic() + 60
    while (status := started.attempts.look(job)) is None:
        assert time.monotonic() < until
        time.sleep(0.1)
    started.attempts.finish(started.job, status)
    assert started.job.state == State.CANCELLED
    assert started.containers() == []


def test_an_engine_that_is_away_before_anything_was_asked_gives_the_job_back(started):
    started.way.away = True
    with pytest.raises(RunnerError, match="does not answer"):
        started.start()
    job = started.job
    assert (job.state, job.attempt) == (State.QUEUED, 1)
    assert "it could not be started: the Docker engine" in job.reason
    assert started.containers() == []


def test_a_container_that_was_made_and_never_started_is_made_anew(started):
    started.way.lost = b"/containers/create"
    with pytest.raises(RunnerError):
        started.start()
    assert started.job.state == State.STARTING
    assert started.containers() == ["created"]
    started.way.back()
    assert started.start().state == State.RUNNING
    assert started.containers() == ["running"]
