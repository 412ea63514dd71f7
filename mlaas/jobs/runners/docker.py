"""The runner of a server: each task is a container of a Docker engine, which only the worker can reach."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.models.containers import Container

from mlaas.jobs.runners import allocation, container, folders, policy, usage
from mlaas.jobs.runners.base import End, RunnerError, Status, Task
from mlaas.jobs.runners.container_log import Transfer
from mlaas.jobs.runners.container_state import final, measured, started
from mlaas.jobs.runners.environment import environment
from mlaas.jobs.runners.plan import Plan
from mlaas.jobs.runners.taskfolder import TaskFolder, plans, running, write_whole
from mlaas.places import Places
from mlaas.settings import Settings

CONFLICT = 409
TIMEOUT = 60  # s for one answer of the engine
DISK_PAUSE = 5.0  # s between looks at the disk of a task, at least
SHARE = 20  # a look at the disk may take this part of the time
OVERTIME = 30.0  # s after which a task that evades its time limit is killed
NO_USER = "as root each job needs a user of its own: the task names none"


class DockerRunner:
    """Runs tasks as containers; they are found again by their labels."""

    name = "docker"

    def __init__(self, settings: Settings, places: Places) -> None:
        """The engine is not spoken to yet."""
        self._settings = settings
        self._places = places
        self._installation = hashlib.sha256(str(places.data).encode()).hexdigest()[:12]
        self._next_disk: dict[str, float] = {}
        self._planning = threading.Lock()

    @cached_property
    def _engine(self) -> docker.DockerClient:
        url = self._settings.docker_url
        return docker.DockerClient(base_url=url, timeout=TIMEOUT) if url else docker.from_env(timeout=TIMEOUT)

    @cached_property
    def _processors(self) -> int:
        return int(self._engine.info()["NCPU"])

    def close(self) -> None:
        """Let go of the connections to the engine."""
        if "_engine" in self.__dict__:
            self._engine.close()

    def check(self) -> None:
        """The engine answers, and the images and the network are there. Raises RunnerError with a cure."""
        with self._spoken_to():
            self._engine.ping()
            for image in filter(None, (self._settings.docker_image, self._settings.docker_gpu_image)):
                self._have(image)
            network = self._settings.docker_network
            if network not in ("none", "host", "bridge") and not self._engine.networks.list(names=[network]):
                raise RunnerError(f"the Docker network {network} is not there: docker network create {network}, or set MLAAS_DOCKER_NETWORK")

    def _have(self, image: str) -> None:
        try:
            self._engine.images.get(image)
        except ImageNotFound:
            setting = "MLAAS_DOCKER_IMAGE" if image == self._settings.docker_image else "MLAAS_DOCKER_GPU_IMAGE"
            raise RunnerError(f"the image {image} is not in the Docker engine: build or load it, or name another by {setting}") from None

    def submit(self, task: Task) -> None:
        """Start a task's container, unless it was started before. Raises RunnerError."""
        files = TaskFolder(task.folder)
        if files.status(task.id) is not None:
            return
        with self._spoken_to(), files.turn():
            found = self._find(task.id)
            if found is None:
                found = self._create(task, files)
            if found.status == "created":
                self._start(found, files)
            if files.status(task.id) is None:
                self._note(files, task.id, Status(None, started=time.time()))

    def _create(self, task: Task, files: TaskFolder) -> Container:
        user = self._user(task)
        with self._planning:  # what another job has is known by its plan
            plan = self._plan(task, user)
            folders.prepare(task, user if os.geteuid() == 0 else None, self._places.data / "workspaces")
            files.write_plan(plan)
        options = container.options(task, plan, self._settings, user=user, processors=self._processors)
        labels = {container.TASK: task.id, container.FOLDER: str(task.folder), container.INSTALLATION: self._installation}
        try:
            return self._engine.containers.create(name=self._name(task.id), labels=labels, **options)
        except APIError as error:
            if error.status_code == CONFLICT:  # the request of a worker that was killed is still being worked on
                return self._appearing(task.id)
            files.forget_plan()
            raise

    def _appearing(self, task: str) -> Container:
        until = time.monotonic() + TIMEOUT
        while time.monotonic() < until:
            found = self._find(task)
            if found is not None:
                return found
            time.sleep(0.05)
        raise RunnerError(f"the Docker engine holds the name of task {task}, but shows no container of that name")

    def _start(self, found: Container, files: TaskFolder) -> None:
        try:
            found.start()
        except APIError:
            found.remove(force=True)
            files.forget_plan()
            raise

    def poll(self, task: str, folder: Path) -> Status | None:
        """How a task is doing; takes over its output, and keeps it to its limits of disk and time. Raises RunnerError (the engine)."""
        files = TaskFolder(folder)
        plan = files.plan()
        if plan is None or plan.id != task:
            return None
        known = files.status(task)
        if known is not None and not known.running:
            return known
        with self._spoken_to(), files.turn():
            known = files.status(task)  # another may have looked meanwhile
            if known is not None and not known.running:
                return known
            found = self._find(task)
            if found is None:
                return known and self._note(files, task, replace(known, end="lost", finished=time.time()))
            state = found.attrs["State"]
            if state["Status"] == "created":
                return None
            return self._look(found, state, files, plan, known or Status(None, started=started(state)))

    def _look(self, found: Container, state: Mapping[str, Any], files: TaskFolder, plan: Plan, known: Status) -> Status:
        output = Transfer(files.log, files.folder / "task.output", plan.log_limit)
        taken = output.take(found)
        if state["Status"] in ("exited", "dead"):
            while taken:  # until nothing more comes: a connection that broke looks like an end
                taken = output.take(found)
            return self._note(files, plan.id, final(state, plan, known, files.stopped()))
        status = measured(found, known)
        self._watch(found, files, plan, started(state), output)
        return self._note(files, plan.id, status, durable=False) if status != known else status

    def _watch(self, found: Container, files: TaskFolder, plan: Plan, began: float, output: Transfer) -> None:
        """The limits that the engine does not know, and the end of the grace after a request to stop."""
        now = time.time()
        grace = files.cancel_asked()
        if grace is not None:
            if now > files.cancelled_at() + grace:
                self._kill(found, "SIGKILL")
        elif now > began + plan.time_limit + container.KILL_AFTER + OVERTIME:
            self._end(found, files, "time_limit", output, f"the job is stopped: its time limit of {plan.time_limit:g} s is over")
        elif self._over_disk(plan):
            self._end(found, files, "disk", output, f"the job is ended: its folder takes more than {plan.disk:,} bytes of disk")

    def _over_disk(self, plan: Plan) -> bool:
        began = time.monotonic()
        if began < self._next_disk.get(plan.id, 0.0):
            return False
        over = usage.used(Path(plan.work)) > plan.disk
        took = time.monotonic() - began
        self._next_disk[plan.id] = began + max(DISK_PAUSE, took * SHARE)
        return over

    def _end(self, found: Container, files: TaskFolder, end: End, output: Transfer, why: str) -> None:
        write_whole(files.folder / "task.stopped", end)
        output.say(why)
        self._kill(found, "SIGKILL")

    def cancel(self, task: str, folder: Path, grace: float = 10.0) -> None:
        """SIGTERM now; `poll` kills what still runs after the grace. Raises RunnerError."""
        files = TaskFolder(folder)
        plan = files.plan()
        if plan is None or plan.id != task:
            return
        with self._spoken_to():
            found = self._find(task)
            if found is None or found.status in ("exited", "dead"):
                return
            if files.cancel_asked() is None:
                files.ask_cancel(grace)
            self._kill(found, "SIGTERM" if grace > 0 else "SIGKILL")

    def cleanup(self, task: str, folder: Path) -> None:
        """Remove an ended task's container; its output is taken first. Raises RunnerError."""
        status = self.poll(task, folder)
        if status is not None and status.running:
            return
        with self._spoken_to():
            found = self._find(task)
            if found is not None:
                found.remove(force=True, v=True)
        files = TaskFolder(folder)
        plan = files.plan()
        if plan is not None and plan.id == task:
            files.forget_plan()
        self._next_disk.pop(task, None)

    def holds(self, task: str, folder: Path) -> bool:
        """Whether the engine has a task's container. Raises RunnerError."""
        with self._spoken_to():
            return self._find(task) is not None

    def tasks(self, jobs: Path) -> list[str]:
        """The tasks that have a container, and those that were started here and not cleaned up. Raises RunnerError."""
        label = f"{container.INSTALLATION}={self._installation}"
        with self._spoken_to():
            found = [item.labels[container.TASK] for item in self._engine.containers.list(all=True, filters={"label": label}, ignore_removed=True)]
        return sorted({*found, *(plan.id for _, plan in plans(jobs) if plan.worker == self._settings.worker_name)})

    # ---- how a task is run

    def _plan(self, task: Task, user: int) -> Plan:
        others = running(self._places.data / "jobs", self._settings.worker_name)
        gpus = allocation.free(self._settings.total_gpus, [plan.gpus for plan in others], task.gpus)
        variables = environment(task, "", temporary=task.folder / "work" / "tmp")
        del variables["PATH"]  # the image's own
        policy.refuse_overlap([(str(path), "read") for path in task.readable], self._settings, self._places)
        return Plan(
            id=task.id,
            argv=list(task.argv),
            environment=variables,
            work=str(task.folder / "work"),
            user=user,
            confined=True,
            rules=[],
            needed=[],
            cpus=[],
            gpus=gpus,
            memory=task.memory,
            disk=task.disk,
            processes=task.processes,
            time_limit=task.time_limit,
            log_limit=task.log_limit,
            worker=self._settings.worker_name,
        )

    def _user(self, task: Task) -> int:
        if os.geteuid() != 0:
            return os.geteuid()  # so that the worker can read and remove what the job writes
        if task.user is None:
            raise RunnerError(NO_USER)
        return task.user

    def _name(self, task: str) -> str:
        return f"mlaas-{self._installation}-{task}"

    def _find(self, task: str) -> Container | None:
        try:
            return self._engine.containers.get(self._name(task))
        except NotFound:
            return None

    def _kill(self, found: Container, number: str) -> None:
        try:
            found.kill(number)
        except (NotFound, APIError) as error:
            if getattr(error, "status_code", None) not in (404, CONFLICT):  # it has just ended
                raise

    def _note(self, files: TaskFolder, task: str, status: Status, *, durable: bool = True) -> Status:
        try:
            files.write_status(task, status, durable=durable)
        except OSError as error:
            raise RunnerError(f"the job's folder {files.folder} cannot be written: {error.strerror}") from None
        return status

    @contextmanager
    def _spoken_to(self) -> Iterator[None]:
        """What the engine refuses, or that there is none, as one sentence."""
        where = self._settings.docker_url or os.environ.get("DOCKER_HOST") or "the local socket"
        try:
            yield
        except ImageNotFound:
            named = self._settings.docker_image
            raise RunnerError(f"the image {named} is not in the Docker engine: build or load it, or name another by MLAAS_DOCKER_IMAGE") from None
        except APIError as error:
            raise RunnerError(f"the Docker engine refused: {error.explanation or error}") from None
        except (DockerException, requests.exceptions.RequestException, OSError) as error:
            if isinstance(error, OSError) and error.filename is not None:  # a file of the job, not the engine
                raise RunnerError(f"the job's folder cannot be used: {error.filename}: {error.strerror}") from None
            raise RunnerError(f"the Docker engine at {where} does not answer ({error}): start it, or name it by MLAAS_DOCKER_URL") from None
