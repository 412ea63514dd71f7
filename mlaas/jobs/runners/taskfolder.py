"""The files in a job's folder that a runner and its shim keep beside work/.

    task.json      the plan of the task that was started last (mode 0600); gone when it has been cleaned up
    task.lock      held by the shim as long as it lives, so that there is never a second one, and its end cannot be mistaken
    task.cancel    a request to stop: the seconds of grace
    task.stopped   why a container was stopped: one of the ends that `base` names
    task.output    how far the output of a container has been taken over
    status.json    how the task is doing, and how it ended
    log.txt        its output

All lie where the job cannot write.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mlaas.jobs.runners.base import End, RunnerError, Status
from mlaas.jobs.runners.plan import Plan, read

LARGEST = 4 * 10**6  # bytes; these files are small


def read_small(path: Path) -> bytes | None:
    """The content of a small file; None when it is not there, a link, or too large."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(file, "rb") as opened:
        content = opened.read(LARGEST + 1)
    return content if len(content) <= LARGEST else None


def write_whole(path: Path, content: str, *, durable: bool = True) -> None:
    """Write a file that only this user may read, whole or not at all. Raises OSError."""
    aside = path.with_name(f".{path.name}.part")
    aside.unlink(missing_ok=True)
    file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "w") as opened:
        opened.write(content)
        opened.flush()
        if durable:
            os.fsync(opened.fileno())
    aside.replace(path)
    if durable:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@dataclass(frozen=True, slots=True)
class TaskFolder:
    """The files of one job's folder."""

    folder: Path

    @property
    def log(self) -> Path:
        """The job's output."""
        return self.folder / "log.txt"

    def plan(self) -> Plan | None:
        """The plan of the task that was started last and not cleaned up."""
        content = read_small(self.folder / "task.json")
        try:
            return read(content) if content is not None else None
        except (ValueError, TypeError, KeyError):
            return None

    def write_plan(self, plan: Plan) -> None:
        """Keep the plan of a task that is about to start. Raises RunnerError."""
        try:
            self.forget_plan()
            write_whole(self.folder / "task.json", plan.text())
        except OSError as error:
            raise RunnerError(f"the job's folder {self.folder} cannot be written: {error.strerror}") from None

    def forget_plan(self) -> None:
        """Remove what only a task under way needs."""
        for name in ("task.json", "task.cancel", "task.stopped", "task.output"):
            (self.folder / name).unlink(missing_ok=True)

    def adopt(self, worker: str) -> None:
        """Note that a task belongs to another worker now. Raises OSError."""
        plan = self.plan()
        if plan is not None:
            write_whole(self.folder / "task.json", replace(plan, worker=worker).text())

    def status(self, task: str) -> Status | None:
        """How a task is doing; None when it was never started. A file that cannot be read is as if it were not there."""
        content = read_small(self.folder / "status.json")
        try:
            document: dict[str, Any] = json.loads(content) if content is not None else {}
            return Status(**document["status"]) if document.get("task") == task else None
        except (ValueError, TypeError, KeyError, AttributeError):
            return None

    def write_status(self, task: str, status: Status, *, durable: bool = True) -> None:
        """Keep how a task is doing. Raises OSError."""
        write_whole(self.folder / "status.json", json.dumps({"task": task, "status": asdict(status)}), durable=durable)

    def forget_status(self) -> None:
        """As if the task had never started."""
        (self.folder / "status.json").unlink(missing_ok=True)

    def ask_cancel(self, grace: float) -> None:
        """Ask the shim to stop its task. Raises OSError."""
        write_whole(self.folder / "task.cancel", json.dumps(grace), durable=False)

    def cancel_asked(self) -> float | None:
        """The grace in seconds of a request to stop; None when there is none."""
        content = read_small(self.folder / "task.cancel")
        try:
            return float(content) if content is not None else None
        except ValueError:
            return 0.0

    def cancelled_at(self) -> float:
        """When stopping was asked for, seconds since 1970; 0 when it was not."""
        try:
            return (self.folder / "task.cancel").stat().st_mtime
        except OSError:
            return 0.0

    def stopped(self) -> End | None:
        """Why a container was ended, if the runner ended it."""
        content = read_small(self.folder / "task.stopped")
        if content is None:
            return None if self.cancel_asked() is None else "cancelled"
        return "disk" if content == b"disk" else "time_limit"

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Hold the lock meanwhile; False when a shim holds it. Raises OSError (the folder is gone)."""
        with self._lock() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the lock, and hold it. Raises OSError (the folder is gone)."""
        with self._lock() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _lock(self) -> Iterator[int]:
        file = os.open(self.folder / "task.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            yield file
        finally:
            os.close(file)


def plans(jobs: Path) -> Iterator[tuple[TaskFolder, Plan]]:
    """The job folders below `jobs` with a task that was started and not cleaned up."""
    for folder in sorted(jobs.iterdir()) if jobs.is_dir() else ():
        files = TaskFolder(folder)
        plan = files.plan()
        if plan is not None:
            yield files, plan


def running(jobs: Path, worker: str = "") -> list[Plan]:
    """The plans of tasks of a worker that have not ended."""
    found = []
    for files, plan in plans(jobs):
        if plan.worker != worker:  # perhaps on another machine
            continue
        status = files.status(plan.id)
        if status is None or status.running:
            found.append(plan)
    return found
