"""The smaller parts of jobs: what an end means, logs, figures, what is taken over from a hostile folder, caches, disk."""

from __future__ import annotations

import errno
import json
import os
import time
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mlaas.errors import BundleError, UserError
from mlaas.jobs import cache, fellows, figures, logs, outcome, publishing, runners
from mlaas.jobs.attempts import plain
from mlaas.jobs.limits import Limits, Rules
from mlaas.jobs.lock import alone
from mlaas.jobs.retention import Retention
from mlaas.jobs.room import Room
from mlaas.jobs.runners.base import Status
from mlaas.jobs.runners.plan import Plan
from mlaas.jobs.runners.taskfolder import TaskFolder, running
from mlaas.jobs.scheduler import Others
from mlaas.jobs.states import NEXT, State
from mlaas.models.manifest import read_manifest
from mlaas.models.repository import Repository
from mlaas.places import Places
from mlaas.settings import Settings
from mlaas.store import jobs
from mlaas.store.records import JobRecord
from mlaas.workspaces import Workspaces
from tests.support.site import ANN, Site, write_small_bundle

EMPTY = dict.fromkeys((field.name for field in fields(JobRecord)), None)
JOB = JobRecord(**EMPTY | {"id": "0123456789abcdef", "tenant": "ann", "kind": "train", "model": "net", "state": State.RUNNING, "attempt": 1,
                           "memory": 4 * 10**9, "time_limit": 5400.0, "cpu_seconds": 0.0, "peak_memory": 0})  # fmt: skip
SETTINGS = Settings(job_retries=2, job_disk=20 * 10**9)


# ---- what an end means


@pytest.mark.parametrize(
    ("status", "said", "complete", "expected"),
    [
        (Status("exit", 0), "", True, (State.PUBLISHING, "")),
        (Status("exit", 0), "", False, (State.PUBLISHING, "")),
        (Status("exit", 2), "params.epochs: wrong", False, (State.FAILED, "params.epochs: wrong")),
        (Status("exit", 3), "", False, (State.FAILED, "the job ended with exit code 3")),
        (Status("exit", 1), "a fault", True, (State.FAILED, "a fault")),
        (Status("time_limit"), "", False, (State.TIMED_OUT, "it ran longer than its time limit of 1 h 30 min")),
        (Status("memory", memory=5 * 10**9), "", False,
         (State.FAILED, "it used 5 GB of memory, more than its limit of 4 GB; submit it with more memory, or lower chunk_size")),
        (Status("disk"), "", False, (State.FAILED, "it wrote more than 20 GB, which is the limit of a job")),
        (Status("signal"), "", False, (State.QUEUED, "it was killed by a signal from outside; it is tried again")),
        (Status("exit", 139), "", False,
         (State.FAILED, "the job crashed: segmentation fault; model.py or a library that it uses is at fault")),
        (Status("lost"), "", False, (State.QUEUED, "the machine that ran it went down, or what watched over it was killed; it is tried again")),
        (Status("exit", 130), "stopped", False, (State.QUEUED, "it was stopped from outside; it is tried again")),
        (Status("cancelled"), "", False, (State.QUEUED, "it was stopped from outside; it is tried again")),
        (Status("signal"), "", True, (State.PUBLISHING, "")),
        (Status("lost"), "", True, (State.PUBLISHING, "")),
        (Status("time_limit"), "", True, (State.PUBLISHING, "")),
    ],
)  # fmt: skip
def test_what_the_end_of_a_task_means(status, said, complete, expected):
    found = outcome.outcome(JOB, status, SETTINGS, said=said, complete=complete)
    assert (found.state, found.reason) == expected


@pytest.mark.parametrize(("end", "state"), [("cancelled", State.CANCELLED), ("signal", State.CANCELLED), ("lost", State.CANCELLED)])
def test_a_job_that_is_to_be_cancelled_is_not_tried_again(end, state):
    assert outcome.outcome(replace(JOB, cancel=1.0), Status(end), SETTINGS, said="", complete=False).state == state


def test_a_job_that_succeeded_before_it_could_be_cancelled_succeeded():
    assert outcome.outcome(replace(JOB, cancel=1.0), Status("exit", 0), SETTINGS, said="", complete=True).state == State.PUBLISHING


ends = st.builds(
    Status, st.sampled_from(["exit", "signal", "time_limit", "memory", "disk", "cancelled", "lost"]), st.sampled_from([0, 1, 2, 130, 143])
)


@given(ends, st.integers(1, 9), st.booleans(), st.booleans(), st.booleans())
def test_every_end_is_an_allowed_move_with_a_sentence_and_attempts_are_bounded(status, attempt, complete, cancel, says):
    job = replace(JOB, attempt=attempt, cancel=1.0 if cancel else None)
    found = outcome.outcome(job, status, SETTINGS, said="said" if says else "", complete=complete)
    assert found.state in NEXT[State.RUNNING]
    assert found.reason or found.state in {State.PUBLISHING, State.CANCELLED}
    if found.state is State.QUEUED:
        assert attempt <= SETTINGS.job_retries
        assert 0 < found.wait <= outcome.LONGEST_BACKOFF


def test_waits_grow():
    waits = [outcome.again(replace(JOB, attempt=attempt), "x", Settings(job_retries=9)).wait for attempt in range(1, 9)]
    assert waits == sorted(waits)
    assert waits[0] < 5


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.5, "0.5 s"), (45, "45 s"), (150, "2 min 30 s"), (86_400, "1 d"), (90_061, "1 d 1 h"), (3601, "1 h 1 s")]
)
def test_times_for_people(seconds, text):
    assert outcome.write_time(seconds) == text


# ---- logs


def write_log(folder: Path, data: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "log.txt").write_bytes(data)
    return folder


@given(
    st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=30), st.booleans(), st.integers(0, 40), st.integers(1, 64)
)
def test_the_last_lines_are_those(tmp_path_factory, lines, ended, wanted, piece):
    folder = write_log(tmp_path_factory.getbasetemp() / "lines", b"\n".join(lines) + (b"\n" if ended and lines else b""))
    data = (folder / "log.txt").read_bytes()
    whole = data.splitlines(keepends=True) if b"\r" not in data else [line + b"\n" for line in data.split(b"\n")]
    if b"\r" in data:
        whole[-1] = whole[-1][:-1]
        whole = [line for line in whole if line]
    before, logs.PIECE = logs.PIECE, piece
    try:
        descriptor = os.open(folder / "log.txt", os.O_RDONLY)
        start = logs.start_of_tail(descriptor, wanted)
        os.close(descriptor)
    finally:
        logs.PIECE = before
    expected = b"".join(whole[len(whole) - wanted :]) if wanted < len(whole) else data
    assert data[start:] == (expected if wanted else b"")


def test_pieces_of_a_log(tmp_path):
    assert logs.tail(tmp_path, 0) == b""
    write_log(tmp_path, b"0123456789")
    assert logs.tail(tmp_path, 4, 3) == b"456"
    assert logs.tail(tmp_path, 10) == b""


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", ""),
        (b"reading\nmlaas: params.epochs: wrong\n", "params.epochs: wrong"),
        (b"mlaas: first\nmlaas: second\nTensorFlow says more\n", "second"),
        (b"Segmentation fault\n\n", "Segmentation fault"),
        (b"\xff\x00\x1b[31mred\n", "\ufffd  [31mred"),
        (b"mlaas: " + b"x" * 1000, "x" * 597 + "..."),
    ],
)
def test_what_a_job_said_last(tmp_path, text, sentence):
    assert logs.fault(write_log(tmp_path / "job", text)) == sentence


def test_a_log_that_is_a_link_is_none(tmp_path):
    (tmp_path / "log.txt").symlink_to("/etc/hostname")
    assert (logs.tail(tmp_path, 0), logs.fault(tmp_path)) == (b"", "")
    assert logs.fault(tmp_path / "nowhere") == ""


# ---- figures


def write_stream(folder: Path, place: str, *records: object) -> None:
    (folder / place).mkdir(parents=True, exist_ok=True)
    (folder / place / "metrics.jsonl").write_text("".join(f"{record if isinstance(record, str) else json.dumps(record)}\n" for record in records))


def test_figures_follow_the_training_from_place_to_place(tmp_path):
    assert figures.read(tmp_path) == figures.Figures()
    for number, place in enumerate(("work/model", "work/.model.run", "result")):
        write_stream(tmp_path, place, {"kind": "interval", "epoch": 0}, {"kind": "epoch", "epoch": number, "loss": 0.5, "val_auc": None})
        assert figures.read(tmp_path).epochs == ({"kind": "epoch", "epoch": number, "loss": 0.5, "val_auc": None},)
    (tmp_path / "result" / "metrics.json").write_text('{"metrics": {"test": {"auc": 0.9, "roc": [1, 2], "loss": NaN}, "odd": 3}}')
    assert figures.read(tmp_path).final == {"test": {"auc": 0.9, "loss": None}}


def test_hostile_figures_are_bounded_and_left_out(tmp_path):
    deep = "[" * 100_000
    big = {"kind": "epoch", "x" * 500: 1, "text": "y" * 500, "number": 10**30, "nested": {"a": 1}, "nul": "\0", "fine": 1.5}
    write_stream(tmp_path, "result", "no json", deep, "1" * 10_000, "[1]", "null", '"text"', big, *[{"kind": "epoch"}] * 20_000)
    found = figures.read(tmp_path).epochs
    assert found[0] == {"kind": "epoch", "fine": 1.5}
    assert len(found) == figures.MOST_EPOCHS
    for text in ("[]", deep, '{"metrics": []}', '{"metrics": {"test": [1]}}', "\xff"):
        (tmp_path / "result" / "metrics.json").write_text(text)
        assert figures.read(tmp_path).final == {}


def test_figures_behind_links_are_not_read(tmp_path):
    write_stream(tmp_path, "secret", {"kind": "epoch", "epoch": 7})
    (tmp_path / "job" / "work").mkdir(parents=True)
    (tmp_path / "job" / "work" / ".model.run").symlink_to(tmp_path / "secret")
    assert figures.read(tmp_path / "job").epochs == ()
    (tmp_path / "job" / "work" / "model").mkdir()
    os.mkfifo(tmp_path / "job" / "work" / "model" / "metrics.jsonl")
    assert figures.read(tmp_path / "job").epochs == ()


# ---- what is taken over


@pytest.fixture
def places(tmp_path: Path) -> Places:
    found = Places(tmp_path / "data", tmp_path / "models")
    found.job(JOB.id).mkdir(parents=True)
    return found


def test_a_bundle_is_published_once_however_often_it_is_tried(places):
    work = places.job(JOB.id) / "work"
    write_small_bundle(work / "model")
    assert publishing.complete(places.job(JOB.id))
    for _ in range(3):
        assert publishing.publish(JOB, places, 10**6) == 1
    assert Repository(places.repository).versions("ann", "net") == [1]
    assert read_manifest(places.repository / "ann" / "net" / "1").job == JOB.id
    assert figures.read(places.job(JOB.id)).final == {"test": {"auc": 0.9}}
    publishing.tidy(places.job(JOB.id))
    assert not work.exists()
    assert publishing.publish(JOB, places, 10**6) == 1  # the worker died between tidying up and telling
    other = replace(JOB, id="f" * 16)
    write_small_bundle(places.job(other.id) / "work" / "model")
    assert publishing.publish(other, places, 10**6) == 2


def test_what_is_too_large_or_incomplete_is_not_published_and_leaves_nothing(places):
    folder = places.job(JOB.id)
    bundle = write_small_bundle(folder / "work" / "model")
    with pytest.raises(BundleError, match="the job left more than 100 bytes"):
        publishing.publish(JOB, places, 100)
    (bundle / "model.skops").unlink()
    assert not publishing.complete(folder)
    with pytest.raises(BundleError, match=r"model\.skops is missing"):
        publishing.publish(JOB, places, 10**6)
    (bundle / "manifest.json").write_text("1" * 5000)
    assert not publishing.complete(folder)
    with pytest.raises(BundleError, match="is not JSON"):
        publishing.publish(JOB, places, 10**6)
    publishing.tidy(folder)
    with pytest.raises(BundleError, match="without leaving its result"):
        publishing.publish(JOB, places, 10**6)
    assert Repository(places.repository).versions("ann", "net") == []
    assert [path.name for path in folder.iterdir()] == []


@pytest.mark.parametrize("target", ["model", "model/report", "model/model.skops"])
def test_links_and_other_things_in_a_bundle_are_never_followed(places, tmp_path, target):
    elsewhere = write_small_bundle(tmp_path / "elsewhere")
    (elsewhere / "report").mkdir()
    (elsewhere / "report" / "secret").write_text("secret")
    work = places.job(JOB.id) / "work"
    write_small_bundle(work / "model")
    path = work / target
    if path.is_file():
        path.unlink()
    elif path.exists():
        path.rename(work / "aside")
    path.symlink_to(elsewhere / Path(target).relative_to("model"))
    if target == "model/report":
        publishing.publish(JOB, places, 10**6)
        assert not list(places.repository.rglob("secret"))
    else:
        assert not publishing.complete(places.job(JOB.id))
        with pytest.raises(BundleError):
            publishing.publish(JOB, places, 10**6)


def test_scores_are_taken_over_whole(places):
    job = replace(JOB, kind="predict")
    work = places.job(JOB.id) / "work" / "scores"
    work.mkdir(parents=True)
    with pytest.raises(BundleError, match="left no scores"):
        publishing.publish(job, places, 10**6)
    (work / "a.scores.root").write_bytes(b"root")
    (work / "link").symlink_to("/etc/hostname")
    half = places.job(JOB.id) / "result" / ".scores"  # of a worker that was killed in the middle
    half.mkdir(parents=True, exist_ok=True)
    (half / "a.scores.root").write_bytes(b"ro")
    for _ in range(2):
        assert publishing.publish(job, places, 10**6) is None
    result = places.job(JOB.id) / "result"
    assert {str(path.relative_to(result)) for path in result.rglob("*")} == {"scores", "scores/a.scores.root"}


def test_figures_of_a_training_that_failed_are_kept(places):
    folder = places.job(JOB.id)
    write_stream(folder, "work/.model.run", {"kind": "epoch", "epoch": 1})
    publishing.keep_figures(folder)
    publishing.tidy(folder)
    assert figures.read(folder).epochs == ({"kind": "epoch", "epoch": 1},)


# ---- cache, disk, lock, sentences


def fill(path: Path, size: int, age: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    when = time.time() - age
    os.utime(path, (when, when))
    os.utime(path.parent, (when, when))
    return path


def test_a_cache_keeps_what_was_used_last(tmp_path):
    kept = [fill(tmp_path / "handled" / f"key{age}" / "handled.json", 50_000, age) for age in (10, 20, 30, 40)]
    libraries = fill(tmp_path / "libraries" / "numba", 50_000, 5)
    assert cache.prune(tmp_path, 10**6) == pytest.approx(5 * 53_000, rel=0.3)
    left = cache.prune(tmp_path, 190_000)
    assert left <= 190_000
    assert [path.exists() for path in (*kept, libraries)] == [True, True, False, False, True]
    assert cache.prune(tmp_path / "nothing", 1) == 0


def test_a_cache_is_left_alone_while_jobs_run(tmp_path):
    file = fill(tmp_path / "handled" / "key" / "handled.json", 50_000, 10)
    cache.prune(tmp_path, 1, busy=lambda: True)
    assert file.exists()


def test_links_in_a_cache_go_but_not_what_they_lead_to(tmp_path):
    outside = fill(tmp_path / "outside" / "key" / "precious", 10_000, 99)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "handled").symlink_to(tmp_path / "outside")
    fill(tmp_path / "cache" / "prepared" / "note", 50_000, 10)
    (tmp_path / "cache" / "prepared" / "link").symlink_to(tmp_path / "outside" / "key")
    cache.prune(tmp_path / "cache", 0)
    assert outside.exists()
    assert not list((tmp_path / "cache" / "prepared").iterdir())
    assert not (tmp_path / "cache" / "handled").is_symlink()


def test_room_of_users_and_groups():
    rules = Rules(Limits(), Limits(disk=100), {"/cms": Limits(disk=150), "/free": Limits(jobs=1)})
    used = {"ann": 90, "bob": 70, "cat": 120, "dan": 1}
    asked = []
    members = {"ann": ["cms"], "bob": ["/cms"], "cat": [], "dan": ["/free"]}
    room = Room(rules, lambda tenant: asked.append(tenant) or used[tenant], lambda: members)
    assert room.due({"ann"})
    room.look({"ann", "cat", "dan"})
    assert set(room.full) == {"ann", "cat"}
    assert room.full["ann"] == "waits for disk: the group /cms takes 160 bytes of 150 bytes"
    assert room.full["cat"].startswith("waits for disk: your files take 120 bytes of 100 bytes")
    assert sorted(asked) == ["ann", "bob", "cat", "dan"]
    assert not room.due({"ann"})
    assert not room.due(set())
    assert room.due({"ann", "bob"})


def test_the_lock_is_for_one(tmp_path):
    places = Places(tmp_path, tmp_path)
    with alone(places):
        with pytest.raises(UserError, match="another worker runs"), alone(places):
            pass
        assert (tmp_path / "run" / "worker.lock").stat().st_mode & 0o777 == 0o600
    with alone(places):
        pass


def test_the_lock_is_of_a_name(tmp_path):
    places = Places(tmp_path, tmp_path)
    with alone(places), alone(places, "a"), alone(places, "b"):
        with pytest.raises(UserError, match=r"^another worker called a runs on .*, or give this one another MLAAS_WORKER_NAME$"), alone(places, "a"):
            pass
        assert {path.name for path in (tmp_path / "run").iterdir()} == {"worker.lock", "worker-a.lock", "worker-b.lock"}


@pytest.mark.parametrize("name", ["", "a", "train-1", "9" * 63])
def test_names_of_workers(name):
    assert Settings(worker_name=name).worker_name == name


@pytest.mark.parametrize("name", ["A", "a.b", "-a", "a/b", "x" * 64, "a\n"])
def test_names_that_no_worker_has(name):
    with pytest.raises(ValidationError, match="worker_name"):
        Settings(worker_name=name)


def test_one_of_the_workers_leads_and_all_know_which(tmp_path, monkeypatch):
    site = Site(tmp_path)
    try:
        clock = 1000.0
        monkeypatch.setattr(fellows, "time", SimpleNamespace(time=lambda: clock, monotonic=lambda: clock))
        sizes = {"": 1, "a": 2, "b": 4}
        lone, first, second = (fellows.Fellows(site.engine, name, Limits(cpus=cpus, memory=4e9, gpus=0)) for name, cpus in sizes.items())
        assert lone.leads()
        assert lone.others([]) == Others(active=[])
        second.meet(True)
        assert second.leads()
        first.meet(True)
        clock += fellows.BEAT
        second.meet(True)
        assert (first.leads(), second.leads()) == (True, False)
        assert second.others([]) == Others("b", [], {"a": Limits(cpus=2, memory=4 * 10**9, gpus=0)}, {})
        first.meet(False)  # its engine failed: told at once
        clock += fellows.BEAT
        second.meet(True)
        first.meet(False)
        assert (first.leads(), second.leads()) == (False, True)
        assert second.others([]) == Others("b", [], {}, {"a": Limits(cpus=2, memory=4 * 10**9, gpus=0)})
        second.meet(False)
        first.meet(True)
        clock += fellows.BEAT
        second.meet(False)
        assert (first.leads(), second.leads()) == (True, False)
        clock += fellows.AWAY
        second.meet(False)
        assert second.leads(), "the other has not been seen"
        mine, theirs, unnamed = (replace(JOB, id=name, worker=name, reason="") for name in ("c", "a", ""))
        assert second.absent([theirs, unnamed]) == {
            "a": {"a": "its worker a is away; this is how it was last seen"},
            "": {"": "its worker is away; this is how it was last seen"},
        }
        assert second.absent([replace(mine, reason="its worker c is away; this is how it was last seen")]) == {}
    finally:
        site.close()


def test_tasks_belong_to_the_worker_that_started_them(tmp_path):
    """And a plan of a worker without a name is what it was before workers had names."""
    places = Places(tmp_path, tmp_path / "models")
    plans = {}
    for name in ("", "a", "b"):
        folder = places.job(f"job{name}")
        folder.mkdir(parents=True)
        plans[name] = Plan(f"job{name}-1", [], {}, "", None, True, [], [], [], [], 1, 1, 1, 1.0, 1, name)
        TaskFolder(folder).write_plan(plans[name])
    assert "worker" not in json.loads((places.job("job") / "task.json").read_text())
    assert [plan.id for plan in running(tmp_path / "jobs", "a")] == ["joba-1"]
    assert [plan.id for plan in running(tmp_path / "jobs")] == ["job-1"]
    runner = runners.of(Settings(data=tmp_path, worker_name="a"), places)
    assert runner.tasks(tmp_path / "jobs") == ["joba-1"]
    assert runner.holds("job-1", places.job("job"))
    assert not runner.holds("job-2", places.job("job"))
    TaskFolder(places.job("job")).adopt("a")
    assert TaskFolder(places.job("job")).plan() == replace(plans[""], worker="a")
    assert runner.tasks(tmp_path / "jobs") == ["job-1", "joba-1"]


def test_sentences_name_files_as_the_user_does():
    folders = [Path("/data/workspaces/ann/tth/1"), Path("/data/jobs/7/work"), Path("/data/jobs/7")]
    assert plain("/data/workspaces/ann/tth/1/model.py, line 3", folders) == "model.py, line 3"
    assert plain("cannot write /data/jobs/7/work/model in /data/jobs/7/work", folders) == "cannot write model in work"


def test_disks_without_room_are_told_apart_from_what_can_never_be_published(places, monkeypatch):
    write_small_bundle(places.job(JOB.id) / "work" / "model")

    def full(*_arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(publishing, "_copy_file", full)
    with pytest.raises(OSError, match="No space left"):
        publishing.publish(JOB, places, 10**6)
    assert not (places.job(JOB.id) / ".taken").exists()


# ---- what goes by itself


def test_the_sweeps_remove_what_is_over_and_nothing_else(tmp_path):
    site = Site(tmp_path, job_retention=1000)
    try:
        site.model("net", "")
        old, new, queued = (site.submit("net") for _ in range(3))
        for job, age in ((old, 2000), (new, 10)):
            jobs.move(site.engine, job.id, State.CANCELLED, expect={State.QUEUED}, finished=time.time() - age)
        for job in (old, new, queued):
            (site.places.job(job.id) / "work").mkdir(parents=True)
            write_log(site.places.job(job.id), b"text")
        unknown = site.places.data / "jobs" / ("f" * 16)
        (unknown / "work").mkdir(parents=True)
        model = site.places.repository / ANN.tenant / "net"
        abandoned, under_way = model / "..publish.tmp-aaaa", model / "..publish.tmp-bbbb"
        for folder, age in ((abandoned, 2 * 86_400), (under_way, 10)):
            folder.mkdir(parents=True)
            os.utime(folder, (time.time() - age,) * 2)
        runner = runners.of(site.settings, site.places)
        retention = Retention(site.settings, site.places, site.engine, runner, Workspaces(site.places, site.engine, site.settings))
        for _ in range(2):
            retention.run()
            retention.orphans()
        assert not site.places.job(old.id).exists()
        assert site.job(old).purged
        assert [path.name for path in site.places.job(new.id).iterdir()] == ["log.txt"]
        assert not site.job(new).purged
        assert {path.name for path in site.places.job(queued.id).iterdir()} == {"log.txt", "work"}
        assert not unknown.exists()
        assert (abandoned.exists(), under_way.exists()) == (False, True)
    finally:
        site.close()


def test_what_other_workers_have_is_left_to_them(tmp_path):
    """One that runs, one that has ended and is being cleared up, one that was deleted meanwhile: each with its task."""
    site = Site(tmp_path)
    try:
        site.model("net", "")
        runs, ended, mine = (site.submit("net") for _ in range(3))
        claimed = jobs.claim(site.engine, {runs.id: 1, ended.id: 1}, "b", seen=0, now=1.0)
        jobs.claim(site.engine, {mine.id: 1}, "a", seen=1, now=1.0)
        for job in (ended, mine):
            jobs.move(site.engine, job.id, State.FAILED, expect={State.STARTING}, finished=time.time())
        folders = {}
        for id, worker in ((runs.id, "b"), (ended.id, "b"), ("f" * 16, "b"), (mine.id, "a"), ("e" * 16, "a")):
            folders[id] = TaskFolder(site.places.job(id))
            folders[id].folder.mkdir(parents=True)
            folders[id].write_plan(Plan(f"{id}-1", [], {}, "", None, True, [], [], [], [], 1, 1, 1, 1.0, 1, worker))
        settings = site.settings.model_copy(update={"worker_name": "a"})
        runner = runners.of(settings, site.places)
        retention = Retention(settings, site.places, site.engine, runner, Workspaces(site.places, site.engine, settings))
        for _ in range(2):
            retention.orphans()
            retention.run()
        assert [job.id for job in claimed] == [runs.id, ended.id]
        assert {id for id, files in folders.items() if files.plan() is not None} == {runs.id, ended.id, "f" * 16}
        assert not folders["e" * 16].folder.exists()
    finally:
        site.close()
