"""What is true of jobs as containers only: how they are made, what the engine does to them, and what is said when it cannot."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import docker
import pytest

from mlaas.jobs.runners import docker as runner_module
from mlaas.jobs.runners import of
from mlaas.jobs.runners.base import RunnerError, Task
from mlaas.jobs.runners.container_log import Transfer
from mlaas.jobs.runners.taskfolder import TaskFolder
from mlaas.places import Places
from mlaas.sandbox.python import python_folders
from mlaas.settings import Settings
from tests.integration.jobs import IDENTIFIERS, toys, write_job, write_root
from tests.service.runners import USER, closing, containers, make

__all__ = ["containers"]
REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.needs("dockerd", "mmdebstrap")

# docker's client leaves the socket of a connection that was refused to the garbage collector
refused_connections = pytest.mark.filterwarnings("ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning")
BEATING = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nescape('beat')\ntime.sleep(60)"


@pytest.fixture
def client(docker_engine):
    """The engine, spoken to past the runner."""
    made = docker.DockerClient(base_url=docker_engine.url, timeout=60)
    yield made
    made.close()


def container_of(client, task):
    """The container of a task."""
    (found,) = client.containers.list(all=True, filters={"label": f"mlaas.task={task.id}"})
    return client.containers.get(found.id)


@pytest.fixture
def beating(containers, client):
    """A task with a process that has left its parents, and its container."""
    task = containers.start(BEATING)
    containers.appears(task, "beat")
    return task, container_of(client, task)


def test_how_the_container_is_made(containers, client):
    site = containers.places.workspace("anna", "space", 1)
    site.mkdir(parents=True)
    task = containers.start("time.sleep(60)", cpus=1.5, memory=300 * 10**6, processes=77, disk=10**9, readable=[site])
    told = container_of(client, task).attrs
    host, config = told["HostConfig"], told["Config"]
    assert (host["NanoCpus"], host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (1_500_000_000, 300 * 10**6, 300 * 10**6, 77)
    assert host["CapDrop"] == ["ALL"]
    assert host["CapAdd"] is None
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert (host["ReadonlyRootfs"], host["Privileged"], host["Init"], host["NetworkMode"]) == (True, False, True, "none")
    assert host["LogConfig"]["Type"] == "json-file"
    assert "max-size" in host["LogConfig"]["Config"]
    assert config["User"] == f"{USER or os.getuid()}:{USER or os.getuid()}"
    assert {mount["Destination"]: mount["RW"] for mount in told["Mounts"]} == {
        str(task.folder / "input"): False,
        str(site): False,
        str(task.folder / "work"): True,
        str(task.cache): True,
    }
    assert set(told["NetworkSettings"]["Networks"]) == {"none"}


def test_the_job_has_no_network_and_a_read_only_root(containers):
    log = containers.output("""
        import socket
        print(os.listdir("/sys/class/net"))
        open("/tmp/x", "w").write("x")
        for path in ("/x", "/usr/x", "/var/x", "/home/x"):
            try:
                open(path, "w")
                print("wrote", path)
            except OSError:
                pass
        print(os.path.exists("/.dockerenv"), [line.split()[1] for line in open("/proc/self/mounts") if "docker.sock" in line])
        """)
    assert log == "['lo']\nTrue []\n"


@pytest.mark.parametrize("kill", [lambda found: found.kill(), lambda found: os.kill(found.attrs["State"]["Pid"], signal.SIGKILL)])
def test_a_killed_container_is_a_signal(containers, beating, kill):
    task, found = beating
    kill(found)
    assert containers.wait(task).end == "signal"
    assert containers.still(task, "beat")


def test_a_container_that_somebody_removed_is_lost(containers, beating):
    task, found = beating
    found.remove(force=True)
    status = containers.wait(task)
    assert status.end == "lost"
    assert containers.again().poll(task.id, task.folder) == status
    containers.runner.submit(task)
    assert containers.status(task) == status


def test_a_container_that_was_made_but_not_started_is_started(containers, client):
    task = containers.task("print('ran')")
    containers.runner._create(task, TaskFolder(task.folder))  # the worker was killed between the two calls
    assert containers.again().poll(task.id, task.folder) is None
    containers.runner.submit(task)
    assert containers.wait(task).exit_code == 0
    assert containers.log(task) == "ran\n"


def test_orphans_are_found_by_their_label(containers, beating):
    task, _ = beating
    (task.folder / "task.json").unlink()
    assert containers.again().tasks(containers.places.data / "jobs") == [task.id]
    containers.runner.cleanup(task.id, task.folder)
    assert containers.runner.tasks(containers.places.data / "jobs") == []
    assert containers.still(task, "beat")


def test_installations_that_share_an_engine_do_not_see_each_other(containers, beating, request, tmp_path):
    with closing(make("docker", tmp_path / "second", request)) as second:
        assert second.runner.tasks(second.places.data / "jobs") == []
        task = second.start("print('of the second')")  # the same id as the other's
        assert task.id == beating[0].id
        assert second.wait(task).exit_code == 0
        assert second.log(task) == "of the second\n"
    assert containers.status(beating[0]).running


def test_output_that_was_written_but_not_noted_is_not_repeated(containers, monkeypatch):
    task = containers.start("print('one', flush=True)\ntime.sleep(1)\nprint('two')")
    monkeypatch.setattr(Transfer, "_keep", lambda *_: None)  # the worker dies before it can
    containers.until(lambda: containers.status(task) and containers.log(task))
    monkeypatch.undo()
    assert containers.wait(task).exit_code == 0
    assert containers.log(task) == "one\ntwo\n"


def test_the_time_limit_holds_while_no_worker_lives(containers):
    task = containers.start("escape('beat')\ntime.sleep(60)", time_limit=1.0)
    time.sleep(2.5)  # nobody polls
    assert containers.wait(task).end == "time_limit"
    status = containers.status(task)
    assert status.finished - status.started < 2


def test_a_job_that_stops_its_timer_is_ended_by_the_worker(containers, monkeypatch):
    monkeypatch.setattr(runner_module, "OVERTIME", 0.0)
    monkeypatch.setattr(runner_module.container, "KILL_AFTER", 1)
    task = containers.start("os.kill(os.getppid(), signal.SIGSTOP)\nescape('beat')\ntime.sleep(60)", time_limit=1.0)
    assert containers.wait(task).end == "time_limit"
    assert "its time limit of 1 s is over" in containers.log(task)


@refused_connections
def test_an_engine_that_is_restarted_leaves_no_task_open(docker_engine, containers):
    """It ends its containers when it stops: a failure of the infrastructure, told as soon as it is there again."""
    if docker_engine.own is None:
        pytest.skip("the engine that DOCKER_HOST names must not be stopped")
    task = containers.start("escape('beat')\nsignal.signal(signal.SIGTERM, signal.SIG_DFL)\ntime.sleep(60)")
    containers.appears(task, "beat")
    docker_engine.own.stop()
    with pytest.raises(RunnerError, match="does not answer"):
        containers.again().poll(task.id, task.folder)
    gc.collect()
    docker_engine.own.start()
    assert containers.again().poll(task.id, task.folder).end == "signal"
    assert containers.still(task, "beat")


def test_a_workflow_runs_in_a_container(containers):
    """The whole command, with this machine's Python mounted into the image, which is of the same release."""
    site = containers.places.workspace("anna", "space", 1)
    files = [write_root(site / f"f{label}.root", toys(1200, label)) for label in (0, 1)]
    code = [path for path in python_folders() if path != Path("/usr") and Path("/usr") not in path.parents]
    outermost = [path for path in code if not any(other in path.parents for other in code)]
    task = containers.task("", cpus=2, memory=4 * 10**9, readable=[site, *outermost], environment={"PYTHONPATH": str(REPOSITORY)}, time_limit=600)
    flags = write_job(task.folder / "input", files, [0, 1], "hist", {"identifier": list(IDENTIFIERS)})
    task = replace(task, argv=[sys.executable, "-P", "-m", "mlaas.cli", "workflow", *flags, "--fout=model"])
    containers.runner.submit(task)
    while containers.status(task).running:
        time.sleep(0.5)
    assert containers.status(task).exit_code == 0, containers.log(task)
    assert (task.folder / "work" / "model" / "model.onnx").exists()
    assert containers.status(task).cpu_seconds > 1


# ---- refusals


def test_an_image_that_is_not_there_is_named_with_the_cure(request, tmp_path):
    with closing(make("docker", tmp_path / "data", request, docker_image="mlaas-no-such:1")) as bench:
        for call in (bench.runner.check, lambda: bench.start("pass")):
            with pytest.raises(RunnerError, match=r"the image mlaas-no-such:1 is not in the Docker engine: .*MLAAS_DOCKER_IMAGE"):
                call()
        assert bench.runner.tasks(bench.places.data / "jobs") == []


def test_a_network_that_is_not_there_is_named_with_the_cure(request, tmp_path):
    with closing(make("docker", tmp_path / "data", request, docker_network="mlaas-no-such")) as bench:
        with pytest.raises(RunnerError, match="docker network create mlaas-no-such"):
            bench.runner.check()
        with pytest.raises(RunnerError, match="refused"):
            bench.start("pass")
        assert bench.runner.tasks(bench.places.data / "jobs") == []


@refused_connections
@pytest.mark.parametrize("method", ["check", "tasks", "submit"])
def test_an_engine_that_is_not_there_is_told(tmp_path, method):
    url = f"unix://{tmp_path / 'no.sock'}"
    settings = Settings(data=tmp_path, runner="docker", docker_url=url)
    runner = of(settings, Places.of(settings))
    (tmp_path / "jobs" / "a").mkdir(parents=True)
    arguments = {"check": (), "tasks": (tmp_path / "jobs",), "submit": (Task("a-1", ["x"], tmp_path / "jobs" / "a", tmp_path / "cache", user=USER),)}
    with pytest.raises(RunnerError, match=rf"the Docker engine at {url} does not answer .*MLAAS_DOCKER_URL") as told:
        getattr(runner, method)(*arguments[method])
    assert "\n" not in str(told.value)
    del told
    gc.collect()
