"""What goes by itself: files of jobs long over, tasks and folders that nobody knows, uploads never finished, what is cached beyond its limit."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from sqlalchemy import Engine

from mlaas.beneath import remove_tree
from mlaas.errors import MLaaSError, UserError
from mlaas.jobs import cache, publishing
from mlaas.jobs.lock import alone
from mlaas.jobs.runners.base import Runner
from mlaas.jobs.runners.taskfolder import TaskFolder
from mlaas.jobs.states import ACTIVE, ENDED, State
from mlaas.places import Places
from mlaas.settings import Settings
from mlaas.store import StoreError, jobs
from mlaas.workspaces import Workspaces

log = logging.getLogger(__name__)
KEYS = 7 * 86_400.0
"""Seconds for which an Idempotency-Key is remembered."""
ABANDONED = 86_400.0
"""Seconds after which what a publisher left half-written in the repository cannot be under way any more."""


class Retention:
    """The sweeps of the worker. Each may be broken off at any moment."""

    def __init__(self, settings: Settings, places: Places, engine: Engine, runner: Runner, workspaces: Workspaces) -> None:
        self._settings, self._places, self._engine, self._runner, self._workspaces = settings, places, engine, runner, workspaces

    def run(self) -> None:
        """All sweeps; trouble of one does not keep the others from running."""
        for sweep in (self.purge, self.left_over, self.repository, self._workspaces.sweep, self.caches, self.keys):
            self._safely(sweep)

    def orphans(self) -> None:
        """End tasks that no active job has as its present attempt: of jobs that were deleted, or of an attempt whose end was not cleaned up."""
        for task in self._runner.tasks(self._places.data / "jobs"):
            id, _, _ = task.rpartition("-")
            job = jobs.get(self._engine, id)
            if job is not None and job.task == task and (State(job.state) in ACTIVE or job.worker != self._settings.worker_name):
                continue
            folder = self._places.job(id)
            status = self._runner.poll(task, folder)
            if status is not None and status.running:
                log.warning("task %s belongs to no job that runs: it is ended", task)
                self._runner.cancel(task, folder)
            else:
                self._runner.cleanup(task, folder)

    def adopt(self) -> None:
        """Take over what a worker without a name has left, which has got this name since: tasks that this engine has, and what is being published.

        Nothing happens while there is a worker without a name. Raises RunnerError, StoreError.
        """
        left = [job for job in jobs.active(self._engine) if not job.worker]
        try:
            with alone(self._places) if left else nullcontext():
                for job in left:
                    files = TaskFolder(self._places.job(job.id))
                    if job.state == State.PUBLISHING or self._runner.holds(job.task, files.folder):
                        files.adopt(self._settings.worker_name)
                        jobs.adopt(self._engine, job.id, self._settings.worker_name, of="")
        except UserError:
            log.info("jobs of the worker without a name are left to it")

    def purge(self) -> None:
        """Remove the files of jobs that ended long ago; what is known of them stays."""
        for job in jobs.ended_before(self._engine, time.time() - self._settings.job_retention):
            remove_tree(self._places.job(job.id))
            jobs.update(self._engine, job.id, purged=True)

    def left_over(self) -> None:
        """Remove folders of jobs that are not known any more and have no task, and the work folders of those that have ended."""
        held = {task.rpartition("-")[0] for task in self._runner.tasks(self._places.data / "jobs")}
        for folder in _folders(self._places.data / "jobs"):
            job = jobs.get(self._engine, folder.name)
            if job is None and folder.name not in held and TaskFolder(folder).plan() is None:  # which another worker may have to end
                remove_tree(folder)
            elif job is not None and State(job.state) in ENDED and (folder / "work").exists():
                publishing.tidy(folder)

    def repository(self) -> None:
        """Remove what publishers that were killed left in the repository; readers never look at it."""
        for model in (model for tenant in _folders(self._places.repository) for model in _folders(tenant)):
            for left in (*model.glob("..publish.tmp-*"), *model.glob(".removed-*")):
                if time.time() - left.lstat().st_mtime > ABANDONED:
                    remove_tree(left)

    def caches(self) -> None:
        """Keep each tenant's cache within its limit."""
        for folder in _folders(self._places.data / "cache"):
            cache.prune(folder, self._settings.cache_limit, partial(self._runs, folder.name))

    def keys(self) -> None:
        """Forget old idempotency keys."""
        jobs.forget_keys(self._engine, time.time() - KEYS)

    def _runs(self, tenant: str) -> bool:
        return any(job.tenant == tenant for job in jobs.active(self._engine))

    def _safely(self, sweep: Callable[[], object]) -> None:
        try:
            sweep()
        except StoreError:
            raise
        except (MLaaSError, OSError) as error:
            log.warning("%s is put off: %s", getattr(sweep, "__name__", "a sweep"), error)


def _folders(folder: Path) -> Iterator[Path]:
    """The folders in a folder that only the service writes to, but for hidden ones."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    yield from (Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."))
