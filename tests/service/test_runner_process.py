"""What is true of jobs as processes only: shims, Landlock, users; and real workflows in the sandbox."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from mlaas.errors import MLaaSError
from mlaas.jobs.runners import shim
from mlaas.jobs.runners.base import RunnerError
from mlaas.jobs.runners.folders import prepare
from mlaas.jobs.runners.process import NO_LANDLOCK, ProcessRunner
from mlaas.jobs.runners.taskfolder import TaskFolder
from mlaas.sandbox import landlock, seccomp
from tests.integration.jobs import IDENTIFIERS, toys, write_job, write_root
from tests.service.runners import USER, closing, make, processes

__all__ = ["processes"]

BEATING = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nescape('beat')\ntime.sleep(60)"


def shims(task) -> list[psutil.Process]:
    """The shims of a task's folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if shim.__name__ in (line := process.cmdline()) and str(task.folder) in line:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def beating(processes):
    """A task with a process that has left its parents, and its shim."""
    task = processes.start(BEATING)
    processes.appears(task, "beat")
    (watcher,) = shims(task)
    return task, watcher


def test_a_killed_shim_leaves_nothing_and_the_task_is_lost(processes, beating):
    task, watcher = beating
    (job, *_) = watcher.children()
    watcher.kill()
    processes.until(lambda: not job.is_running() or job.status() == psutil.STATUS_ZOMBIE)
    status = processes.wait(task)
    assert (status.end, status.exit_code) == ("lost", None)
    assert status.finished >= status.started > 0
    assert processes.still(task, "beat")
    assert processes.again().poll(task.id, task.folder) == status
    processes.runner.submit(task)  # it is not started again: the next attempt has an id of its own
    assert processes.status(task) == status
    assert shims(task) == []


@pytest.mark.skipif(USER is None, reason="only root gives each tenant a user of its own")
def test_a_process_that_hides_its_marker_goes_with_its_user(processes):
    task = processes.start(f"""
        if os.fork() == 0:
            os.setsid()
            os.execve(sys.executable, ["python3", "-c", {"import time; open('hidden', 'w').close(); time.sleep(60)"!r}], {{}})
        time.sleep(60)
        """)
    processes.appears(task, "hidden")
    (watcher,) = shims(task)
    hidden = [process for process in watcher.children(recursive=True) if process.environ() == {}]
    assert len(hidden) == 1
    watcher.kill()
    assert processes.wait(task).end == "lost"
    processes.until(lambda: not hidden[0].is_running() or hidden[0].status() == psutil.STATUS_ZOMBIE)


@pytest.mark.skipif(USER is None, reason="only root gives each tenant a user of its own")
def test_another_task_of_the_same_user_is_left_alone(processes, beating):
    task, watcher = beating
    other = processes.start(BEATING)
    processes.appears(other, "beat")
    watcher.kill()
    assert processes.wait(task).end == "lost"
    assert processes.still(task, "beat")
    assert not processes.still(other, "beat")


@pytest.mark.skipif(USER is None, reason="only root gives each tenant a user of its own")
def test_a_task_of_another_service_with_the_same_user_is_left_alone(processes, beating, request, tmp_path):
    task, watcher = beating
    with closing(make("process", tmp_path / "other", request)) as service:
        other = service.start(BEATING, job="elsewhere")  # ids of jobs are random: no two services have the same
        service.appears(other, "beat")
        watcher.kill()
        assert processes.wait(task).end == "lost"
        assert processes.still(task, "beat")
        assert not service.still(other, "beat")
        assert service.status(other).running


def test_sigterm_to_the_shim_is_the_machine_going_down(processes):
    task = processes.start("escape('beat')\ntime.sleep(60)")
    processes.appears(task, "beat")
    (watcher,) = shims(task)
    watcher.terminate()
    assert processes.wait(task).end == "lost"
    assert processes.still(task, "beat")


def test_a_killed_job_is_a_signal(processes, beating):
    task, watcher = beating
    watcher.children()[0].kill()
    assert processes.wait(task).end == "signal"
    assert processes.still(task, "beat")


def test_a_stopped_job_keeps_to_its_time_limit(processes):
    task = processes.start("escape('beat')\nos.kill(os.getpid(), signal.SIGSTOP)", time_limit=1.0)
    processes.appears(task, "beat")
    processes.runner.cancel(task.id, task.folder, 0.2)
    assert processes.wait(task).end in ("cancelled", "time_limit")
    assert processes.still(task, "beat")


def test_the_shim_is_nobodys_child_and_keeps_nothing_of_the_callers(processes, monkeypatch):
    monkeypatch.setenv("MLAAS_TEST_SECRET", "hush")
    with Path("/dev/null").open() as held:
        os.set_inheritable(held.fileno(), True)
        task = processes.start(BEATING)
    processes.appears(task, "beat")
    (watcher,) = shims(task)
    assert os.getpid() not in [parent.pid for parent in watcher.parents() if parent.pid != 1]
    assert "hush" not in watcher.environ().values()
    assert os.getsid(watcher.pid) == watcher.pid


def test_of_many_shims_one_runs_the_task(processes):
    """As when the worker is killed and started again and again while it submits."""
    task = processes.task("open('runs', 'a').write('x')\ntime.sleep(0.2)")
    prepare(task, USER, processes.places.data / "workspaces")
    files = TaskFolder(task.folder)
    files.write_plan(processes.runner._plan(task))
    command = [sys.executable, "-P", "-m", shim.__name__, str(task.folder)]
    with files.alone() as alone:  # all of them come to the lock, and are let go together
        assert alone
        started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(6)]
        processes.until(lambda: len([watcher for watcher in shims(task) if os.getsid(watcher.pid) == watcher.pid]) == 6)
        assert files.status(task.id) is None
    words = sorted(process.communicate()[0] for process in started)
    assert words == [f"{shim.KNOWN}\n"] * 5 + [f"{shim.STARTED}\n"]
    assert processes.wait(task).exit_code == 0
    processes.until(lambda: shims(task) == [])
    assert (task.folder / "work" / "runs").read_text() == "x"


def test_a_task_of_an_earlier_attempt_blocks_the_folder(processes, beating):
    task, _ = beating
    with pytest.raises(RunnerError, match=f"task {task.id} still runs in the folder"):
        processes.start("pass", job=task.folder.name, attempt=2)


def test_cpus_are_shared_out(processes):
    available = sorted(os.sched_getaffinity(0))
    code = "print(sorted(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS'])\ntime.sleep(1)"
    first = [processes.start(code, cpus=0.5) for _ in available]
    both = processes.start(code, cpus=len(available) + 0.5)
    assert [processes.wait(task).exit_code for task in (*first, both)] == [0] * (len(available) + 1)
    assert sorted(processes.log(task) for task in first) == sorted(f"[{cpu}] 1\n" for cpu in available)
    assert processes.log(both) == f"{available} {len(available) + 1}\n"


def test_a_program_that_is_not_there_is_told_and_leaves_nothing(processes):
    task = processes.task("pass")
    task = replace(task, argv=["no-such-program"])
    with pytest.raises(RunnerError, match="the job cannot be started: No such file or directory"):
        processes.runner.submit(task)
    assert processes.runner.poll(task.id, task.folder) is None
    assert processes.runner.tasks(processes.places.data / "jobs") == []


def test_a_folder_that_is_gone_is_told(processes):
    task = processes.task("pass")
    task.folder.rmdir()
    with pytest.raises(RunnerError, match="cannot be used: No such file"):
        processes.runner.submit(task)
    assert processes.runner.poll(task.id, task.folder) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"id": 3}', "null"])
def test_damaged_files_are_as_if_they_were_not_there(processes, content):
    task = processes.start("pass")
    processes.wait(task)
    (task.folder / "status.json").write_text(content)
    assert processes.runner.poll(task.id, task.folder) is None
    (task.folder / "task.json").write_text(content)
    assert processes.runner.tasks(processes.places.data / "jobs") == []


def test_the_sandbox_can_be_put_off(request, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with closing(make("process", tmp_path / "data", request, sandbox="off")) as bench:
        bench.runner.check()
        log = bench.output(f"print(os.getuid(), open({str(tmp_path / 'notes.txt')!r}).read())")
        assert log == f"{os.getuid()} mine\n"
        task = bench.start(BEATING)  # ends are brought about as ever
        bench.appears(task, "beat")
        bench.runner.cancel(task.id, task.folder, 0.1)
        assert bench.wait(task).end == "cancelled"
        assert bench.still(task, "beat")


def test_without_landlock_only_root_runs_jobs(processes, monkeypatch):
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    as_user = ProcessRunner(processes.settings, processes.places)
    monkeypatch.setattr(as_user, "_root", False)
    with pytest.raises(RunnerError) as refused:
        as_user.check()
    assert str(refused.value) == NO_LANDLOCK
    with pytest.raises(MLaaSError, match="no Landlock"):
        as_user.submit(processes.task("pass"))
    monkeypatch.setattr(as_user, "_root", True)
    as_user._check_kernel()


def test_without_known_calls_only_root_runs_jobs(processes, monkeypatch):
    monkeypatch.setattr(seccomp, "calls", lambda: None)
    monkeypatch.setattr(processes.runner, "_root", False)
    with pytest.raises(RunnerError, match="on this processor"):
        processes.runner.check()


# enough of the suite to show it: what a job is, what it can reach, its limits and ends
PARTS = ("environment", "privileges", "become_root", "cannot", "inputs", "reach", "limit", "cancel", "outlives", "work", "check", "itself")
CONFORMANCE = f"process and ({' or '.join(PARTS)})"


@pytest.mark.skipif(os.geteuid() != 0, reason="the suite itself runs as a user without privileges")
def test_the_conformance_holds_for_a_user_without_privileges(tmp_path):
    chosen = ["tests/service/test_runners.py", "-k", CONFORMANCE, "--basetemp", str(tmp_path / "tests")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.unprivileged", "654330", str(tmp_path), *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    summary = next(line for line in reversed(done.stdout.splitlines()) if " passed" in line)
    assert int(summary.split()[0].strip("=")) >= 20, summary


def test_a_workflow_runs_in_the_sandbox(processes):
    """The whole command: reading, training, export, report. scikit-learn's is run in a container; others: see the README of the runners."""
    site = processes.places.workspace("anna", "space", 1)
    for label in (0, 1):
        write_root(site / f"f{label}.root", toys(1200, label))
    task = processes.task("", cpus=2, memory=4 * 10**9, readable=[site], time_limit=600)
    params = {"identifier": list(IDENTIFIERS), "epochs": 1}
    flags = write_job(task.folder / "input", [site / "f0.root", site / "f1.root"], [0, 1], "keras", params)
    task = replace(task, argv=["mlaas", "workflow", *flags, "--fout=model"])
    processes.runner.submit(task)
    deadline = time.monotonic() + 600
    while processes.status(task).running:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    status = processes.status(task)
    assert status.exit_code == 0, processes.log(task)
    manifest = json.loads((task.folder / "work" / "model" / "manifest.json").read_text())
    assert manifest["onnx"]["accepted"]
    assert (task.folder / "work" / "model" / "report" / "index.html").exists()
    assert "bundle   model" in processes.log(task)
    assert status.cpu_seconds > 1
    assert status.memory > 10**8


def test_signals_reach_the_command_line(processes):
    """`mlaas` itself ends in order when it is cancelled."""
    site = processes.places.workspace("anna", "space", 1)
    files = [write_root(site / f"f{label}.root", toys(500, label)) for label in (0, 1)]
    task = processes.task("", readable=[site])
    flags = write_job(task.folder / "input", files, [0, 1], "import time\ndef model(idim):\n    print('here', flush=True)\n    time.sleep(100)\n")
    task = replace(task, argv=["mlaas", "workflow", *flags, "--fout=model"])
    processes.runner.submit(task)
    processes.until(lambda: "here" in processes.log(task) or not processes.status(task).running)
    processes.runner.cancel(task.id, task.folder, 60)
    assert processes.wait(task).end == "cancelled"
    assert "Traceback" not in processes.log(task)
    assert not (task.folder / "work" / "model").exists()
