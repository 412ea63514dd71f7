"""The runner of a laptop: each task is a confined process of this machine, with a shim beside it that outlives the worker."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from mlaas.jobs.runners import allocation, folders, policy, shim, tree
from mlaas.jobs.runners.base import RunnerError, Status, Task
from mlaas.jobs.runners.environment import environment
from mlaas.jobs.runners.plan import Plan
from mlaas.jobs.runners.taskfolder import TaskFolder, plans, running
from mlaas.places import Places
from mlaas.sandbox import landlock, seccomp
from mlaas.sandbox.python import python_user_base
from mlaas.settings import Settings

START_TIME = 60.0  # s; a machine under load starts a Python slowly
NO_LANDLOCK = (
    "jobs cannot be cut off from this user's files: this kernel offers no Landlock (Linux 5.13 or newer, and `landlock` among its security modules);"
    " run the service as root, take the Docker runner (MLAAS_RUNNER=docker), or accept it with MLAAS_SANDBOX=off"
)
NO_FILTER = "jobs cannot be cut off from this user's sockets on this processor: take the Docker runner (MLAAS_RUNNER=docker) or MLAAS_SANDBOX=off"
NO_USER = "as root each job needs a user of its own: the task names none"


class ProcessRunner:
    """Runs tasks as processes; everything about them is in the jobs' folders, so that any worker can go on with them."""

    name = "process"

    def __init__(self, settings: Settings, places: Places) -> None:
        """Nothing is started or checked here."""
        self._settings = settings
        self._places = places
        self._confined = settings.sandbox == "auto"
        self._planning = threading.Lock()
        self._root = os.geteuid() == 0

    def check(self) -> None:
        """Run a task that does nothing, as jobs are run. Raises RunnerError with a cure."""
        self._check_kernel()
        jobs = self._places.data / "jobs"
        jobs.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".check-", dir=jobs) as folder:
            user = self._settings.job_uid_base if self._root else None
            task = Task("check", [sys.executable, "-c", "import mlaas.cli"], Path(folder), Path(folder) / "cache", user=user, time_limit=START_TIME)
            self.submit(task)
            status = self._wait(task)
            self.cleanup(task.id, task.folder)
            if status is None or status.exit_code != 0:
                last = TaskFolder(task.folder).log.read_text(errors="replace").strip().rpartition("\n")[2]
                raise RunnerError(f"a trial job did not succeed ({last or 'without a word'}): jobs cannot be run here")

    def submit(self, task: Task) -> None:
        """Start a task and its shim, unless it was started before. Raises RunnerError."""
        folder = TaskFolder(task.folder)
        try:
            with folder.alone() as alone:
                if folder.status(task.id) is not None:
                    return
                before = folder.plan()
                if not alone and before is not None and before.id != task.id:
                    raise RunnerError(f"task {before.id} still runs in the folder {task.folder}")
                if alone:
                    with self._planning:  # what another job has is known by its plan
                        plan = self._plan(task)
                        folders.prepare(task, plan.user, self._places.data / "workspaces")
                        folder.write_plan(plan)
        except OSError as error:
            raise RunnerError(f"the job's folder {task.folder} cannot be used: {error.strerror}") from None
        _launch(task.folder)

    def poll(self, task: str, folder: Path) -> Status | None:
        """How a task is doing. Where its shim was killed, what that has left is ended, and the task is lost."""
        files = TaskFolder(folder)
        plan = files.plan()
        if plan is None or plan.id != task:
            return None
        status = files.status(task)
        if status is None or not status.running:
            return status
        with suppress(OSError), files.alone() as alone:
            if alone:
                return self._lost(task, files, plan)
        return files.status(task)

    def _lost(self, task: str, files: TaskFolder, plan: Plan) -> Status | None:
        """Called with the lock held: no shim is there, but it may have finished a moment ago."""
        status = files.status(task)
        if status is None or not status.running:
            return status
        tree.end_marked(task, plan.user)
        status = replace(status, end="lost", finished=time.time())
        files.write_status(task, status)
        return status

    def cancel(self, task: str, folder: Path, grace: float = 10.0) -> None:
        """Ask the shim to stop its task; nothing happens when that has ended. Raises RunnerError."""
        files = TaskFolder(folder)
        plan = files.plan()
        if plan is None or plan.id != task:
            return
        try:
            files.ask_cancel(grace)
        except OSError as error:
            raise RunnerError(f"the job's folder {folder} cannot be written: {error.strerror}") from None

    def cleanup(self, task: str, folder: Path) -> None:
        """End what an ended task may have left; afterwards `poll` knows it no more, but it is not started again either."""
        files = TaskFolder(folder)
        plan = files.plan()
        status = self.poll(task, folder)
        if plan is None or plan.id != task or (status is not None and status.running):
            return
        tree.end_marked(task, plan.user)
        files.forget_plan()

    def holds(self, task: str, folder: Path) -> bool:
        """Whether a task was started and not cleaned up; a worker of another machine cannot be told apart from one that was here."""
        plan = TaskFolder(folder).plan()
        return plan is not None and plan.id == task

    def tasks(self, jobs: Path) -> list[str]:
        """The tasks in these job folders that a worker of this name has started and not cleaned up."""
        return [plan.id for _, plan in plans(jobs) if plan.worker == self._settings.worker_name]

    # ---- how a task is run

    def _check_kernel(self) -> None:
        if not self._confined or self._root:
            return
        if not landlock.abi():
            raise RunnerError(NO_LANDLOCK)
        if seccomp.calls() is None:
            raise RunnerError(NO_FILTER)

    def _plan(self, task: Task) -> Plan:
        self._check_kernel()
        if self._confined and self._root and task.user is None:
            raise RunnerError(NO_USER)
        others = running(self._places.data / "jobs", self._settings.worker_name)
        gpus = allocation.free(self._settings.total_gpus, [plan.gpus for plan in others], task.gpus)
        rules = policy.task_rules(task, gpus) if self._confined else []
        policy.refuse_overlap(rules, self._settings, self._places)
        return Plan(
            id=task.id,
            argv=_command(task),
            environment=python_user_base() | environment(task, policy.search_path(), temporary=task.folder / "work" / "tmp", gpus=gpus),
            work=str(task.folder / "work"),
            user=task.user if self._confined and self._root else None,
            confined=self._confined,
            rules=rules,
            needed=[str(path) for path in policy.needed(task)],
            cpus=allocation.least_used(os.sched_getaffinity(0), [plan.cpus for plan in others], math.ceil(task.cpus)),
            gpus=gpus,
            memory=task.memory,
            disk=task.disk,
            processes=task.processes,
            time_limit=task.time_limit,
            log_limit=task.log_limit,
            worker=self._settings.worker_name,
        )

    def _wait(self, task: Task) -> Status | None:
        until = time.monotonic() + START_TIME
        status = self.poll(task.id, task.folder)
        while status is not None and status.running and time.monotonic() < until:
            time.sleep(0.02)
            status = self.poll(task.id, task.folder)
        return status


def _command(task: Task) -> list[str]:
    if task.argv[0] == "mlaas":
        return [sys.executable, "-P", "-m", "mlaas.cli", *task.argv[1:]]
    return list(task.argv)


def _launch(folder: Path) -> None:
    """Start a shim and hear from it that the job has started (or had been)."""
    command = [sys.executable, "-P", "-m", shim.__name__, str(folder)]
    kept = {name: os.environ[name] for name in ("HOME", "PYTHONUSERBASE", "PYTHONPATH") if name in os.environ}
    started = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={"LANG": "C.UTF-8", **kept}, cwd="/", check=False
    )
    word = started.stdout.decode(errors="replace").strip()
    if word not in (shim.STARTED, shim.KNOWN):
        raise RunnerError(word or "the process that watches over the job ended before it could start it")
