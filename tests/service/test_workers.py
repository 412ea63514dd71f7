"""Several workers on one data folder, each its own process: every job runs once, limits hold for all together, and each keeps what it has begun."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlaas.errors import WorkflowError
from mlaas.jobs.states import ACTIVE, ENDED, State
from mlaas.store import jobs, workers
from mlaas.store.database import writing
from mlaas.store.schema import workers as table
from tests.service.test_worker import GOOD, HERE, LEAVE, SAY, SLEEP
from tests.support.site import ANN, BOB, Site, wait_for, write_small_bundle

WAIT = SAY + "go = Path('go')\nwhile not go.exists():\n    time.sleep(0.05)\n" + HERE + "shutil.copytree(here / 'bundle', 'model')\nos._exit(0)"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bundle."""
    return write_small_bundle(tmp_path_factory.mktemp("bundle") / "bundle")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.needs("initdb"))])
def where(request: pytest.FixtureRequest) -> dict[str, object]:
    """Settings that name a database."""
    if request.param == "sqlite":
        return {}
    given = request.getfixturevalue("postgres").settings()
    return {"database": given.database, "database_password_file": given.database_password_file}


@pytest.fixture
def sites() -> Iterator[list[Site]]:
    """Sites of a test, which are closed at its end, the last one first."""
    made: list[Site] = []
    yield made
    for site in reversed(made):
        assert "Traceback" not in site.told()
        site.close()


def test_two_workers_run_every_job_once_and_within_the_limits_of_all(where, tmp_path, bundle, sites):
    """Each machine has two CPUs; a user may have three running jobs, so that neither machine is enough, and both users together fill them."""
    server = Site(tmp_path, user_jobs=3, **where)
    first, second = server.beside("a", total_cpus=2), server.beside("b", total_cpus=2)
    sites += [server, first, second]
    for who in (ANN, BOB):
        server.model("net", LEAVE + "time.sleep(0.5)\nos._exit(0)", {"bundle": bundle}, who)
    submitted = [server.submit("net", who) for _ in range(7) for who in (ANN, BOB)]
    first.start()
    second.start()
    most: Counter[str] = Counter()
    seen: set[tuple[str, int, str]] = set()

    def over() -> bool:
        _claims, active = jobs.held(server.engine)
        for key, count in (Counter(job.tenant for job in active) + Counter(job.worker for job in active)).items():
            most[key] = max(most[key], count)
        seen.update((job.id, job.attempt, job.worker) for job in active)
        return all(State(server.job(job).state) in ENDED for job in submitted)

    wait_for(over, lambda: first.told() + second.told())
    ended = [server.job(job) for job in submitted]
    assert [(job.state, job.attempt) for job in ended] == [(State.SUCCEEDED, 1)] * 14, [job.reason for job in ended]
    assert [server.log(job).count("begins") for job in ended] == [1] * 14
    assert len(seen) <= 14, "a job changed hands"
    assert {job.worker for job in ended} == {"a", "b"}
    assert max(most["a"], most["b"]) <= 2
    assert max(most[ANN.tenant], most[BOB.tenant]) <= 3
    for who in (ANN, BOB):
        assert server.versions("net", who) == list(range(1, 8))
    wait_for(lambda: not server.processes())
    assert (first.stop(), second.stop()) == (0, 0)


def test_a_worker_that_was_killed_finds_its_jobs_again_and_no_other_takes_them(where, tmp_path, bundle, sites):
    server = Site(tmp_path, user_jobs=1, **where)
    first, second = server.beside("a"), server.beside("b")
    sites += [server, first, second]
    for who in (ANN, BOB):
        server.model("net", WAIT, {"bundle": bundle}, who)
    server.model("good", GOOD, {"bundle": bundle}, BOB)
    first.start()
    job = first.running(server.submit("net"))
    second.start()
    waiting = server.submit("net")
    limited = "waits for another job to end: your jobs together may have 1 running job"
    server.until(waiting, lambda now: now.reason == limited)
    first.stop(signal.SIGKILL)
    (server.places.job(job.id) / "work" / "go").touch()
    wait_for(lambda: not server.processes([job.id]))
    other = second.until(server.submit("good", BOB))
    assert (other.state, other.worker) == (State.SUCCEEDED, "b")
    time.sleep(6)  # longer than a worker goes without looking at everything
    assert (server.job(job).state, server.job(job).worker) == (State.RUNNING, "a")
    assert (server.job(waiting).state, server.job(waiting).reason) == (State.QUEUED, limited)
    first.start()
    ended = first.until(job)
    assert (ended.state, ended.attempt, ended.version, ended.worker) == (State.SUCCEEDED, 1, 1, "a")
    (wait_for(lambda: (found := server.job(waiting)).state == State.RUNNING and server.places.job(found.id)) / "work" / "go").touch()
    assert server.until(waiting).state == State.SUCCEEDED


def test_killing_workers_at_any_moment_loses_no_job_and_repeats_none(where, tmp_path, bundle, sites):
    server = Site(tmp_path, user_jobs=4, **where)
    both = [server.beside(name, total_cpus=2) for name in ("a", "b")]
    sites += [server, *both]
    server.model("net", GOOD, {"bundle": bundle})
    submitted = []
    for round_ in range(4):
        submitted += [server.submit("net") for _ in range(3)]
        for site in both:
            if site.worker is None:
                site.start()
        last = submitted[-3]
        wait_for(lambda last=last: server.job(last).state != State.QUEUED)
        time.sleep(0.2 * round_)
        both[round_ % 2].stop(signal.SIGKILL)
    both[1].start()
    ended = [server.until(job) for job in submitted]
    assert [(job.state, job.attempt) for job in ended] == [(State.SUCCEEDED, 1)] * 12, [job.reason for job in ended]
    assert [server.log(job).count("begins") for job in ended] == [1] * 12
    assert server.versions("net") == list(range(1, 13))


def test_a_name_is_for_one_worker(tmp_path, sites):
    server = Site(tmp_path)
    first = server.beside("a")
    sites += [server, first]
    first.start()
    wait_for(lambda: "the worker a starts" in first.told())
    first.folder.rename(tmp_path / "first")
    first.folder = tmp_path / "first"
    second = server.beside("a")
    second.start()
    assert second.worker is not None
    assert second.worker.wait(60) != 0
    assert "another worker called a runs on the data folder" in second.told()


def test_a_worker_cancels_its_own_jobs_whoever_else_is_there(tmp_path, sites):
    server = Site(tmp_path)
    first, second = server.beside("a"), server.beside("b")
    sites += [server, first, second]
    server.model("sleeps", SLEEP)
    second.start()
    job = server.running(server.submit("sleeps"))
    first.start()
    jobs.ask_cancel(server.engine, job.id, time.time())
    ended = server.until(job)
    assert (ended.state, ended.worker) == (State.CANCELLED, "b")
    wait_for(lambda: not server.processes([job.id]))


def test_what_one_machine_cannot_hold_goes_to_another_and_says_when_that_is_away(tmp_path, bundle, sites):
    """The first worker leads, for its name comes first, and is too small; the server itself would be, too."""
    server = Site(tmp_path, total_cpus=1)
    small, large = server.beside("a"), server.beside("b", total_cpus=4)
    sites += [server, small, large]
    server.model("net", WAIT, {"bundle": bundle})
    small.start()
    large.start()
    wait_for(lambda: [worker.usable for worker in workers.known(server.engine, time.time())] == [True, True])
    with pytest.raises(WorkflowError, match=r"^cpus: the job asks for 5 CPUs, but the jobs of one machine may have 4 CPUs at most$"):
        server.submit("net", cpus=5)
    job = server.running(server.submit("net", cpus=4))
    assert job.worker == "b"
    waiting = server.submit("net", cpus=3)
    server.until(waiting, lambda now: now.reason == "waits for 3 CPUs")
    large.stop(signal.SIGKILL)
    with writing(server.engine) as connection:  # it was seen a while ago
        connection.execute(table.update().where(table.c.name == "b").values(seen=time.time() - 100))
    server.until(waiting, lambda now: now.reason == "waits for a worker that is away: b")
    server.until(job, lambda now: now.reason == "its worker b is away; this is how it was last seen")
    assert server.job(job).state == State.RUNNING
    large.start()
    server.until(job, lambda now: not now.reason)
    for each in (job, waiting):
        (wait_for(lambda each=each: server.running(each) and server.places.job(each.id)) / "work" / "go").touch()
        ended = server.until(each)
        assert (ended.state, ended.attempt, ended.worker, ended.reason) == (State.SUCCEEDED, 1, "b", "")


def test_a_worker_that_gets_a_name_goes_on_with_what_it_had(tmp_path, bundle, sites):
    server = Site(tmp_path)
    named = server.beside("a")
    sites += [server, named]
    server.model("net", WAIT, {"bundle": bundle})
    server.start()
    job = server.running(server.submit("net"))
    named.start()
    wait_for(lambda: "jobs of the worker without a name are left to it" in named.told())
    assert server.job(job).worker == ""
    server.stop()
    named.stop()
    named.start()
    server.until(job, lambda now: now.worker == "a")
    (server.places.job(job.id) / "work" / "go").touch()
    ended = named.until(job)
    assert (ended.state, ended.attempt, ended.version) == (State.SUCCEEDED, 1, 1)
    assert [job for job in jobs.listing(server.engine, None) if State(job.state) in ACTIVE] == []
    wait_for(lambda: not server.processes())


def test_the_jobs_of_a_machine_that_is_gone_are_released(where, tmp_path, bundle, sites):
    """One ran, one was about to start, one had left its bundle, one was to be cancelled; all on a machine that nobody can reach any more."""
    server = Site(tmp_path, **where)
    gone, left = server.beside("a"), server.beside("b")
    sites += [server, gone, left]
    server.model("net", WAIT, {"bundle": bundle})
    gone.start()
    runs, complete, cancelled = (gone.running(server.submit("net")) for _ in range(3))
    assert "another worker called a runs" in released(server, "a", 2)
    gone.stop(signal.SIGKILL)
    assert f"the task {runs.task} runs, so that worker is not gone" in released(server, "a", 2)
    (server.places.job(complete.id) / "work" / "go").touch()
    wait_for(lambda: not server.processes([complete.id]))
    for process in server.processes():
        process.kill()
    wait_for(lambda: not server.processes())
    starts = server.submit("net")
    jobs.claim(server.engine, {starts.id: 1}, "a", seen=jobs.held(server.engine)[0], now=time.time())
    jobs.ask_cancel(server.engine, cancelled.id, time.time())
    assert released(server, "a", 0) == "4 jobs of the worker a released\n"
    assert released(server, "a", 0) == "0 jobs of the worker a released\n"
    assert [(server.job(job).state, server.job(job).attempt) for job in (complete, cancelled)] == [(State.SUCCEEDED, 1), (State.CANCELLED, 1)]
    assert workers.known(server.engine, time.time()) == []
    left.start()
    for job in (runs, starts):
        left.until(job, lambda now: now.state == State.RUNNING)
        (server.places.job(job.id) / "work" / "go").touch()
        ended = server.until(job)
        assert (ended.state, ended.attempt, ended.worker) == (State.SUCCEEDED, 2, "b"), ended.reason


def released(site: Site, name: str, status: int) -> str:
    """What the command says."""
    done = subprocess.run(
        [sys.executable, "-m", "mlaas.cli", "worker", f"--release={name}"], capture_output=True, text=True, check=False, env=site.environment()
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr if status else done.stdout
