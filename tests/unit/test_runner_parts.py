"""The parts of the runners that need no process: output, disk, plans, filters, what engines tell."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas.jobs.runners import allocation, container, folders, plan, policy, usage
from mlaas.jobs.runners.base import RunnerError, Status, Task
from mlaas.jobs.runners.container_log import Progress, new_pieces
from mlaas.jobs.runners.container_state import final, moment
from mlaas.jobs.runners.environment import environment
from mlaas.jobs.runners.output import Log
from mlaas.jobs.runners.plan import Plan
from mlaas.jobs.runners.taskfolder import LARGEST, TaskFolder, plans, read_small, running, write_whole
from mlaas.places import Places
from mlaas.settings import Settings

# ---- output


@given(st.lists(st.lists(st.binary(max_size=30), max_size=6), max_size=3), st.integers(0, 60))
def test_a_log_is_the_beginning_of_the_output_and_says_where_it_ends(tmp_path_factory, attempts, limit):
    path = tmp_path_factory.mktemp("log") / "log.txt"
    for pieces in attempts:
        log = Log(path, limit)
        for piece in pieces:
            log.write(piece)
        log.close()
    output = b"".join(piece for pieces in attempts for piece in pieces)
    kept = path.read_bytes() if attempts else b""
    if len(output) <= limit:
        assert kept == output
    else:
        start = output[:limit]
        gap = b"\n" if start and not start.endswith(b"\n") else b""
        assert kept in (start + gap + _cut(limit), start + _cut(limit))  # the second: an attempt began there


def _cut(limit):
    return f"mlaas: the log is cut off here: more than {limit:,} bytes\n".encode()


def test_a_log_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "log.txt").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic links"):
        Log(tmp_path / "log.txt", 10)
    assert not (tmp_path / "other").exists()


@given(st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=5)), max_size=30), st.lists(st.integers(0, 30), max_size=5))
def test_pieces_are_taken_once_however_often_one_asks(steps, cuts):
    clock, made = 0, []
    for step, data in steps:  # many pieces may have the same stamp, none an earlier one
        clock += step
        made.append(f"2026-11-21T13:30:00.{clock:09}Z ".encode() + data)
    progress, taken = Progress(), b""
    for cut in [*sorted(cuts), len(made)]:
        for stamp, data, count in new_pieces(made[:cut], progress):
            progress, taken = Progress(stamp, count), taken + data
    assert taken == b"".join(data for _, data in steps)


# ---- disk


def test_disk_is_what_files_take(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "file").write_bytes(b"x" * 1_000_000)
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 10**12)
    (tmp_path / "link").symlink_to("/usr")
    os.mkfifo(tmp_path / "pipe")
    assert 1_000_000 <= usage.used(tmp_path) < 1_100_000


def test_disk_of_nothing_and_of_links(tmp_path):
    (tmp_path / "link").symlink_to("/usr")
    assert usage.used(tmp_path / "gone") == 0
    assert usage.used(tmp_path / "link") == 0


def test_a_tree_without_end_is_too_much(tmp_path):
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(usage.DEEPEST + 1):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    assert usage.used(tmp_path) >= usage.TOO_MUCH


# ---- files beside work/

PLAN = Plan(
    id="a-1",
    argv=["x"],
    environment={"A": "b"},
    work="/w",
    user=None,
    confined=True,
    rules=[("/usr", "run")],
    needed=["/w"],
    cpus=[0],
    gpus=[],
    memory=1,
    disk=1,
    processes=1,
    time_limit=1.0,
    log_limit=1,
)


def test_plans_and_status_come_back_as_they_were(tmp_path):
    files = TaskFolder(tmp_path / "a")
    files.folder.mkdir()
    files.write_plan(PLAN)
    assert files.plan() == PLAN
    assert (files.folder / "task.json").stat().st_mode & 0o777 == 0o600
    assert [found.id for found in running(tmp_path)] == ["a-1"]
    status = Status("exit", 3, 1.0, 2.0, 0.5, 7)
    files.write_status("a-1", status)
    assert files.status("a-1") == status
    assert files.status("a-2") is None
    assert running(tmp_path) == []
    assert [found.id for _, found in plans(tmp_path)] == ["a-1"]
    files.forget_plan()
    assert list(plans(tmp_path)) == []
    assert files.status("a-1") == status
    assert plan.read(PLAN.text()) == PLAN


def test_small_files_are_neither_links_nor_pipes_nor_large(tmp_path):
    (tmp_path / "real").write_text("x")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", LARGEST + 1)
    os.mkfifo(tmp_path / "pipe")
    assert read_small(tmp_path / "real") == b"x"
    assert [read_small(tmp_path / name) for name in ("link", "large", "gone")] == [None] * 3
    assert not read_small(tmp_path / "pipe")


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    write_whole(tmp_path / "f", "one")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match="full"):
        write_whole(tmp_path / "f", "two")
    assert (tmp_path / "f").read_text() == "one"


def test_the_lock_is_held_by_one(tmp_path):
    files = TaskFolder(tmp_path)
    with files.alone() as first, files.alone() as second:
        assert (first, second) == (True, False)
    with files.alone() as again:
        assert again


def test_a_request_to_stop_is_kept_and_forgotten(tmp_path):
    files = TaskFolder(tmp_path)
    assert (files.cancel_asked(), files.stopped()) == (None, None)
    files.ask_cancel(2.5)
    assert (files.cancel_asked(), files.stopped()) == (2.5, "cancelled")
    (tmp_path / "task.cancel").write_text("soon")
    assert files.cancel_asked() == 0.0
    files.write_plan(PLAN)
    assert files.cancel_asked() is None


# ---- folders


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_group_may_read_what_is_granted_and_nobody_else(tmp_path):
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True, mode=0o777)
    (root / "in" / "file").write_text("x")
    (root / "in" / "file").chmod(0o666)
    (root / "run").write_text("x")
    (root / "run").chmod(0o700)
    (tmp_path / "outside").write_text("x")
    (root / "link").symlink_to(tmp_path / "outside")
    folders.grant(root, 654_321)
    modes = {path.name: path.lstat().st_mode & 0o777 for path in (root, *root.rglob("*")) if not path.is_symlink()}
    assert modes == {"root": 0o750, "in": 0o750, "file": 0o640, "run": 0o750}
    assert {path.lstat().st_gid for path in (root / "in", root / "run", root / "in" / "file")} == {654_321}
    assert (tmp_path / "outside").stat().st_gid == os.getgid()


# ---- shares


@given(st.integers(1, 8), st.lists(st.lists(st.integers(0, 7), max_size=4), max_size=6), st.integers(1, 10))
def test_cpus_are_the_least_used(available, used, count):
    chosen = allocation.least_used(range(available), used, count)
    assert len(chosen) == len(set(chosen)) == min(count, available)
    load = [sum(cpu in items for items in [set(items) for items in used]) for cpu in range(available)]
    exact = [[item for items in used for item in items].count(cpu) for cpu in range(available)]
    assert max((exact[cpu] for cpu in chosen), default=0) <= min((exact[cpu] for cpu in range(available) if cpu not in chosen), default=10**9)
    assert len(load) == available


def test_gpus_are_given_to_one_task_each():
    assert allocation.free(4, [[0], [2]], 2) == [1, 3]
    assert allocation.free(0, [], 0) == []
    with pytest.raises(RunnerError, match="asks for 3 GPUs, but of the 4 that MLAAS_TOTAL_GPUS allows only 2 are free"):
        allocation.free(4, [[0], [2]], 3)


# ---- what a job may reach


def task(tmp_path, **options) -> Task:
    return Task("a-1", ["mlaas"], tmp_path / "jobs" / "a", tmp_path / "cache" / "t", **options)


def test_the_environment_is_made_from_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "hush")
    made = environment(task(tmp_path, cpus=2.5, environment={"A": "1", "HOME": "/site"}), "/bin", temporary=tmp_path, gpus=[1, 3])
    assert "SECRET" not in made
    assert (made["A"], made["HOME"], made["OMP_NUM_THREADS"], made["CUDA_VISIBLE_DEVICES"], made["MLAAS_TASK"]) == ("1", "/site", "3", "1,3", "a-1")


def test_gpus_bring_their_devices_into_reach(monkeypatch):
    monkeypatch.setattr(
        Path, "glob", lambda self, pattern: iter([Path("/dev/nvidia0"), Path("/dev/nvidiactl")]) if pattern == "nvidia*" else iter(())
    )
    assert ("/dev/nvidia0", "device") in policy.system_rules([0])
    assert not [path for path, _ in policy.system_rules([]) if "nvidia0" in path]


@pytest.mark.parametrize("secret", ["token_file", "service_key_file", "database_password_file", "tls_key", "metrics_token_file"])
def test_secrets_where_jobs_may_read_are_refused(tmp_path, secret):
    data = tmp_path / "data"
    settings = Settings(data=data, **{secret: tmp_path / "site" / "secret"})
    rules = policy.task_rules(task(data, readable=[tmp_path / "site" / "events"]), [])
    policy.refuse_overlap(rules, settings, Places.of(settings))
    (tmp_path / "way").symlink_to(tmp_path / "site")
    for readable in (tmp_path / "site", tmp_path / "way", tmp_path):
        with pytest.raises(RunnerError, match=r"jobs may read .* lies in it: keep the service's own files elsewhere"):
            policy.refuse_overlap(policy.task_rules(task(data, readable=[readable]), []), settings, Places.of(settings))


def test_nothing_general_is_in_reach():
    paths = {path for path, access in policy.system_rules([]) if access != "list"}
    assert not paths & {"/", "/etc", "/home", "/root", "/var", "/run", "/dev", "/opt", str(Path.home())}
    assert not [path for path, access in policy.system_rules([]) if access == "write" and path != policy.SHARED_MEMORY]


def test_no_name_carries_data_out_of_a_container(tmp_path):
    """The engine asks outside for names that are no container's, unless the container has a resolver of its own; containers are still found."""
    made = Plan("a-1", [], {}, "/", None, False, [], [], [], [], 1, 1, 1, 1, 1)
    for network, resolvers in (("mlaas_jobs", ["127.0.0.1"]), ("none", None)):
        found = container.options(task(tmp_path), made, Settings(docker_network=network), user=10001, processors=1)
        assert (found["network_mode"], found["dns"]) == (network, resolvers)


# ---- what the engine tells

ENDED = {"StartedAt": "2026-11-21T13:00:00.5Z", "FinishedAt": "2026-11-21T13:00:10.25Z", "OOMKilled": False, "ExitCode": 0}


@pytest.mark.parametrize(
    ("told", "limit", "stopped", "end", "code"),
    [
        ({}, 100, None, "exit", 0),
        ({"ExitCode": 3}, 100, None, "exit", 3),
        ({"ExitCode": 130}, 100, None, "exit", 130),
        ({"ExitCode": 137}, 100, None, "signal", None),
        ({"ExitCode": 139}, 100, None, "exit", 139),
        ({"ExitCode": 143}, 100, None, "signal", None),
        ({"ExitCode": 137, "OOMKilled": True}, 100, None, "memory", None),
        ({"ExitCode": 1, "OOMKilled": True}, 100, None, "memory", None),
        ({"ExitCode": 0, "OOMKilled": True}, 100, None, "exit", 0),
        ({"ExitCode": 124}, 9, None, "time_limit", None),
        ({"ExitCode": 137}, 9, None, "time_limit", None),
        ({"ExitCode": 124}, 100, None, "exit", 124),
        ({"ExitCode": 137}, 9, "cancelled", "cancelled", None),
        ({"ExitCode": 137}, 100, "disk", "disk", None),
    ],
)
def test_ends_of_containers(told, limit, stopped, end, code):
    limited = Plan(**{**PLAN.__dict__, "time_limit": float(limit)})
    status = final({**ENDED, **told}, limited, Status(None, cpu_seconds=1.5, memory=7), stopped)
    assert (status.end, status.exit_code, status.cpu_seconds, status.memory) == (end, code, 1.5, 7)
    assert status.finished - status.started == pytest.approx(9.75)


def test_times_of_the_engine():
    assert moment("0001-01-01T00:00:00Z") == 0.0
    assert moment("1970-01-01T00:01:00.123456789Z") == pytest.approx(60.123456789)
    assert moment("1970-01-01T00:01:00Z") == 60.0
