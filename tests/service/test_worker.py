"""The worker for real: its own process, real jobs, and everything killed at every moment; each job ends once, and nothing is left behind."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uproot

from mlaas.jobs import figures
from mlaas.jobs.states import State
from mlaas.models.catalogue import Catalogue
from mlaas.store import JobRecord, jobs, workspaces
from tests.support.site import ANN, BOB, Site, wait_for, write_small_bundle

SAY = "import os, shutil, signal, time\nfrom pathlib import Path\nprint('begins', flush=True)\n"
HERE = "here = Path(__file__).parent\n"
SLEEP = SAY + "time.sleep(600)\n"
LEAVE = SAY + HERE + "shutil.copytree(here / 'bundle', 'model')\n"
"""A job that leaves a whole bundle without a training."""
GOOD = LEAVE + "os._exit(0)\n"
FLAGS = {"files": "files.txt", "labels": "labels.txt", "model": "model.py", "params": "params.json", "preproc": "preproc.json"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bundle."""
    return write_small_bundle(tmp_path_factory.mktemp("bundle") / "bundle")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose worker runs all the time."""
    site = Site(tmp_path_factory.mktemp("site"), job_environment={"GREETING": "hello"}, local_data=[str(tmp_path_factory.mktemp("data"))])
    site.start()
    yield site
    try:
        assert site.stop() == 0, site.told()
        assert "Traceback" not in site.told()
    finally:
        site.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site of one test, without a worker."""
    made = Site(tmp_path)
    yield made
    made.close()


def folders(site: Site, job: JobRecord) -> list[str]:
    """What there is in a job's folder beside files."""
    return sorted(path.name for path in site.places.job(job.id).iterdir() if path.is_dir())


def test_the_demo_is_trained_published_and_predicts(shared, tth):
    source = "from sklearn.linear_model import LogisticRegression\n\ndef model(idim):\n    return LogisticRegression(max_iter=50)\n"
    folder = shared.upload("tth", {**{path.name: path for path in tth.iterdir() if path.is_file()}, "model.py": source})
    job = shared.submit("tth", published=True, **FLAGS)
    ended = shared.until(job)
    assert (ended.state, ended.version, ended.exit_code, ended.attempt, ended.reason) == (State.SUCCEEDED, 1, 0, 1, ""), shared.told()
    assert ended.model == ended.process_name == "tth_1"
    assert ended.cpu_seconds > 1
    assert ended.peak_memory > 10**7
    assert shared.versions("tth_1") == [1]
    found = figures.read(shared.places.job(job.id))
    assert 0.5 < found.final["test"]["auc"] <= 1
    assert [record["kind"] for record in found.epochs] == ["fit"]
    wait_for(lambda: folders(shared, job) == ["input", "result"])

    predicted = shared.submit("tth", kind="predict", model="tth_1", files=["signal.root", "back*.root"])
    ended = shared.until(predicted)
    assert (ended.state, ended.model, ended.process_name) == (State.SUCCEEDED, "tth_1@1", "tth_2"), shared.log(predicted)
    scores = shared.places.job(predicted.id) / "result" / "scores"
    assert {path.name for path in scores.iterdir()} == {"signal.scores.root", "background.scores.root"}
    for name in ("signal", "background"):
        with uproot.open(scores / f"{name}.scores.root") as made, uproot.open(folder / f"{name}.root") as given:
            assert made["scores"].num_entries == given["events"].num_entries
    wait_for(lambda: not (shared.places.job(predicted.id) / "input" / "bundle").exists())


def test_a_job_that_fails_says_why_in_the_words_of_the_command(shared):
    shared.model("wrong", SAY + "raise ValueError('too few layers')")
    ended = shared.until(shared.submit("wrong"))
    assert (ended.state, ended.exit_code, ended.attempt, ended.version) == (State.FAILED, 2, 1, None)
    assert ended.reason == "model.py, line 4: it raised ValueError: too few layers"


def test_a_job_has_its_resources_and_the_sites_variables_and_no_others(shared):
    shared.model("look", SAY + "print(os.environ['GREETING'], os.environ['OMP_NUM_THREADS'], sorted(os.environ), flush=True)\nos._exit(3)")
    job = shared.submit("look", cpus=2)
    ended = shared.until(job)
    assert (ended.state, ended.exit_code) == (State.FAILED, 3)
    assert "hello 2 " in shared.log(job)
    assert "MLAAS_DATA" not in shared.log(job)


def test_cancelling_ends_the_whole_tree(shared):
    shared.model("tree", SAY + "if not os.fork():\n    os.setsid()\n    signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)\n")
    job = shared.running(shared.submit("tree"))
    assert shared.processes([job.id])
    jobs.ask_cancel(shared.engine, job.id, time.time())
    ended = shared.until(job)
    assert (ended.state, ended.reason, ended.version) == (State.CANCELLED, "", None)
    wait_for(lambda: not shared.processes([job.id]))


def test_limits_end_a_job_with_a_sentence_that_names_them(shared):
    shared.model("sleeps", SLEEP)
    shared.model("eats", SAY + "kept = [bytearray(b'x' * 10**7) for _ in range(300)]\ntime.sleep(600)\n")
    slow, large = shared.submit("sleeps", time_limit=5), shared.submit("eats", memory="700MB")
    ended = shared.until(slow)
    assert (ended.state, ended.reason) == (State.TIMED_OUT, "it ran longer than its time limit of 5 s")
    ended = shared.until(large)
    assert ended.state == State.FAILED
    assert "memory, more than its limit of 700 MB; submit it with more memory" in ended.reason.replace("used more memory than", "memory, more than")


def test_only_failures_of_the_infrastructure_are_tried_again_and_not_for_ever(shared):
    shared.model("dies", SAY + "os.kill(os.getpid(), signal.SIGKILL)")
    job = shared.submit("dies")
    ended = shared.until(job)
    assert (ended.state, ended.attempt) == (State.FAILED, 2)
    assert ended.reason == "it was killed by a signal from outside; this was attempt 2, and there are no more"
    assert shared.log(job).count("begins") == 2


def test_what_was_complete_when_it_died_is_published_and_not_repeated(shared, bundle):
    shared.model("late", LEAVE + "os.kill(os.getpid(), signal.SIGKILL)", {"bundle": bundle})
    job = shared.submit("late")
    ended = shared.until(job)
    assert (ended.state, ended.attempt, ended.version) == (State.SUCCEEDED, 1, 1)
    assert shared.log(job).count("begins") == 1
    assert figures.read(shared.places.job(job.id)).final == {"test": {"auc": 0.9}}


def test_what_a_hostile_job_leaves_is_not_published(shared, bundle):
    """A link in place of the bundle, a link in it to a file of the service, a file that was changed, nothing at all."""
    secret = shared.places.database
    shared.model("linked", SAY + HERE + "os.symlink(here / 'bundle', 'model')\nos._exit(0)", {"bundle": bundle})
    shared.model("inside", LEAVE + f"os.unlink('model/model.py')\nos.symlink('{secret}', 'model/model.py')\nos._exit(0)", {"bundle": bundle})
    shared.model("changed", LEAVE + "Path('model/model.py').write_text('x')\nos._exit(0)", {"bundle": bundle})
    shared.model("nothing", SAY + "os._exit(0)")
    submitted = [shared.submit(name) for name in ("linked", "inside", "changed", "nothing")]
    reasons = {}
    for job in submitted:
        ended = shared.until(job)
        assert (ended.state, ended.version) == (State.FAILED, None)
        assert shared.versions(job.model) == []
        reasons[job.model] = ended.reason
    assert all(reason.startswith("its result cannot be published: ") for reason in reasons.values()), reasons
    assert "model.py is missing" in reasons["inside"]
    assert "model.py has changed since it was written" in reasons["changed"]
    assert str(shared.places.data) not in "".join(reasons.values())


def test_models_get_the_next_version_of_their_own_name_and_are_servable_at_once(shared, bundle):
    shared.model("net", GOOD, {"bundle": bundle})
    for version in (1, 2):
        ended = shared.until(shared.submit("net", name="higgs"))
        assert (ended.state, ended.model, ended.version) == (State.SUCCEEDED, "higgs", version), ended.reason
        assert Catalogue(shared.places.repository).resolve("higgs", ANN.tenant, ()).version == version


def test_users_cannot_see_each_other(shared):
    mine = shared.model("mine", "SECRET = 1\n" + SLEEP)
    other = shared.running(shared.submit("mine"))
    paths = [str(mine / "model.py"), str(shared.places.job(other.id) / "log.txt"), str(shared.places.database)]
    look = "    try:\n        open(path).close()\n        print('READ', path)\n    except OSError as error:\n        print(error)\n"
    shared.model("spy", f"{SAY}for path in {paths}:\n{look}os._exit(4)", who=BOB)
    spy = shared.submit("spy", who=BOB)
    assert shared.until(spy).exit_code == 4
    assert "READ" not in shared.log(spy)
    jobs.ask_cancel(shared.engine, other.id, time.time())
    assert shared.until(other).state == State.CANCELLED


def test_a_deleted_workspace_stays_until_its_jobs_have_ended(shared):
    folder = shared.model("gone", SLEEP)
    job = shared.running(shared.submit("gone"))
    workspaces.drop(shared.engine, ANN.tenant, "gone")
    assert (folder / "model.py").exists()
    jobs.ask_cancel(shared.engine, job.id, time.time())
    shared.until(job)
    assert [record.name for record in workspaces.unused(shared.engine)] == ["gone"]


def test_one_worker_per_data_folder(shared):
    second = shared.beside("")
    second.start()
    assert second.worker.wait(60) != 0
    assert "another worker runs on the data folder" in second.told()


def test_jobs_go_on_when_the_worker_is_stopped_and_the_next_one_finds_them(site, bundle):
    site.start()
    site.model("net", SAY + "go = Path('go')\nwhile not go.exists():\n    time.sleep(0.05)\n" + HERE
               + "shutil.copytree(here / 'bundle', 'model')\nos._exit(0)", {"bundle": bundle})  # fmt: skip
    job = site.running(site.submit("net"))
    assert site.stop() == 0
    assert site.job(job).state == State.RUNNING
    (site.places.job(job.id) / "work" / "go").touch()
    wait_for(lambda: not site.processes([job.id]))
    assert site.job(job).state == State.RUNNING  # nobody was there to see its end
    site.start()
    ended = site.until(job)
    assert (ended.state, ended.attempt, ended.version) == (State.SUCCEEDED, 1, 1)


def test_killing_the_worker_at_any_moment_loses_no_job_and_repeats_none(site, bundle):
    """Jobs come in all the while; the worker is killed six times, and each time something else is under way."""
    chance = random.Random(20)
    for who in (ANN, BOB):
        site.model("net", GOOD, {"bundle": bundle}, who)
    submitted = []
    for round_ in range(6):
        submitted += [site.submit("net", who) for who in (ANN, BOB)]
        site.start()
        before = len(site.told())
        if round_ % 2:  # at a moment of its own: half of the kills come right after a job has moved on
            last = submitted[-2]
            wait_for(lambda before=before, last=last: site.job(last).state != State.QUEUED or len(site.told()) > before + 2000)
        time.sleep(chance.uniform(0.0, 1.5) + (1.0 if not round_ % 2 else 0.0))
        site.stop(signal.SIGKILL)
    site.start()
    ended = [site.until(job) for job in submitted]
    assert [(job.state, job.attempt) for job in ended] == [(State.SUCCEEDED, 1)] * 12, [job.reason for job in ended]
    for who in (ANN, BOB):
        made = [job.version for job in ended if job.tenant == who.tenant]
        assert sorted(made) == site.versions("net", who) == list(range(1, 7))
    assert [site.log(job).count("begins") for job in ended] == [1] * 12
    wait_for(lambda: not site.processes())
    assert site.stop() == 0
    assert "Traceback" not in site.told()


@pytest.mark.parametrize("victim", ["shim", "job", "all"])
def test_killing_a_job_or_what_watches_over_it_starts_it_again_and_leaves_no_orphan(shared, bundle, victim):
    name = f"again{victim}"
    wait = (
        "marker = Path(os.environ['MLAAS_CACHE'], 'seen')\n"
        "if not marker.exists():\n    marker.touch()\n    os.fork()\n    time.sleep(600)\nmarker.unlink()\n"
    )
    shared.model(name, SAY + wait + HERE + "shutil.copytree(here / 'bundle', 'model')\nos._exit(0)", {"bundle": bundle})
    job = shared.running(shared.submit(name))
    first = wait_for(lambda: len(found := shared.processes([job.id])) >= 2 and found)
    shims = [process for process in first if "shim" in " ".join(process.cmdline())]
    for process in {"shim": shims, "job": [each for each in first if each not in shims], "all": first}[victim]:
        process.kill()
    ended = shared.until(job)
    assert (ended.state, ended.attempt, ended.version) == (State.SUCCEEDED, 2, 1), ended.reason
    wait_for(lambda: not shared.processes([job.id]))


def test_old_files_go_and_what_nobody_knows(tmp_path):
    site = Site(tmp_path, job_retention=1)
    try:
        site.model("bad", SAY + "raise ValueError('no')")
        site.start()
        job = site.until(site.submit("bad"))
        assert site.log(job)
        site.stop()
        unknown = site.places.data / "jobs" / "0123456789abcdef"
        (unknown / "work").mkdir(parents=True)
        (unknown / "work" / "link").symlink_to(site.places.database)
        time.sleep(1.1)
        site.start()
        site.until(job, lambda now: now.purged)
        wait_for(lambda: not unknown.exists())
        assert not site.places.job(job.id).exists()
        assert site.places.database.exists()
    finally:
        site.close()


def test_a_task_of_a_job_that_was_deleted_is_ended(site):
    site.model("sleeps", SLEEP)
    site.start()
    job = site.running(site.submit("sleeps"))
    site.stop(signal.SIGKILL)
    jobs.move(site.engine, job.id, State.FAILED, expect={State.RUNNING}, finished=time.time())
    assert jobs.delete(site.engine, job.id)
    assert site.processes([job.id])
    site.start()
    wait_for(lambda: not site.processes([job.id]))


@pytest.mark.needs("initdb")
def test_an_outage_of_postgresql_is_waited_for(postgres, tmp_path, bundle):
    base = postgres.settings()
    site = Site(tmp_path, database=base.database, database_password_file=base.database_password_file)
    try:
        site.model("net", SAY + "go = Path('go')\nwhile not go.exists():\n    time.sleep(0.05)\n" + HERE
                   + "shutil.copytree(here / 'bundle', 'model')\nos._exit(0)", {"bundle": bundle})  # fmt: skip
        site.start()
        job = site.running(site.submit("net"))
        postgres.stop()
        (site.places.job(job.id) / "work" / "go").touch()
        wait_for(lambda: "waits" in site.told() and "database" in site.told())
        wait_for(lambda: not site.processes([job.id]))
        postgres.start()
        ended = site.until(job)
        assert (ended.state, ended.attempt, ended.version) == (State.SUCCEEDED, 1, 1)
        assert site.stop() == 0
        assert "Traceback" not in site.told()
    finally:
        if postgres._process is None:
            postgres.start()
        site.close()


def test_a_submitted_job_ends_though_every_process_was_killed_at_once(site, bundle):
    site.model("net", SLEEP)
    site.start()
    job = site.running(site.submit("net"))
    site.stop(signal.SIGKILL)
    for process in site.processes([job.id]):
        process.kill()
    jobs.ask_cancel(site.engine, job.id, time.time())
    site.start()
    ended = site.until(job)
    assert (ended.state, ended.attempt) == (State.CANCELLED, 1)
    wait_for(lambda: folders(site, job) == ["input", "result"])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"runner": "docker", "docker_url": "unix:///nonexistent/docker.sock"}, "waits: jobs cannot be run at the moment ("),
        ({"free_disk": 10**14}, "waits: the disk of the service is full"),
        ({"user_disk": 1}, "waits for disk: your files take "),
        ({"group_limits": {"cms": {"disk": 1}}}, "waits for disk: the group /cms takes "),
    ],
    ids=["engine", "disk", "user", "group"],
)
def test_what_hinders_a_start_is_told_to_those_who_wait(tmp_path, settings, reason):
    site = Site(tmp_path, **settings)
    try:
        site.model("net", GOOD)
        job = site.submit("net")
        site.start()
        site.until(job, lambda now: now.reason.startswith(reason))
        assert site.job(job).state == State.QUEUED
        jobs.ask_cancel(site.engine, job.id, time.time())
        assert site.job(job).state == State.CANCELLED
        assert site.stop() == 0
    finally:
        site.close()
