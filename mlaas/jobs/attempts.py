"""The steps of one job, from its start to its end. Each may be taken again after a crash, with the same result.

A step does what lies outside of the store first where doing it twice is harmless (start a task, publish a bundle), and last where it only clears up.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from mlaas.errors import BundleError, ResourceError, UserError
from mlaas.jobs import logs, publishing
from mlaas.jobs.command import task_of
from mlaas.jobs.lock import turn
from mlaas.jobs.outcome import Outcome, again, outcome
from mlaas.jobs.runners.base import Runner, RunnerError, Status
from mlaas.jobs.states import State
from mlaas.places import Places
from mlaas.settings import Settings
from mlaas.store import StoreError, jobs
from mlaas.store.records import JobRecord

log = logging.getLogger(__name__)
FAULT = "the service has a fault, which its log tells; the job was not to blame"


class Attempts:
    """What the worker does with jobs that it holds."""

    def __init__(self, settings: Settings, places: Places, engine: Engine, runner: Runner) -> None:
        self._settings, self._places, self._engine, self._runner = settings, places, engine, runner
        self._asked: set[str] = set()  # tasks that were asked to stop by this process
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._shared = bool(settings.worker_name) and runner.name == "process"

    def start(self, job: JobRecord) -> None:
        """Bring a job from STARTING to RUNNING. Raises RunnerError when the engine failed, StoreError.

        The job then waits for another attempt; or, where its task may have been started all the same, for the engine to tell.
        """
        if self._runner.poll(job.task, self._folder(job)) is None:
            if job.cancel is not None:
                self._end(job, State.CANCELLED, "")
                return
            if not self._submit(job):
                return
        if jobs.move(self._engine, job.id, State.RUNNING, expect={State.STARTING}, reason="") is not None:
            _tell(job, "the job runs, attempt %d", job.attempt)

    def _submit(self, job: JobRecord) -> bool:
        try:
            task = task_of(job, self._settings, self._engine)
            with self._alone(job.tenant):
                self._runner.submit(task)
        except (RunnerError, ResourceError, OSError) as error:
            if self._started(job):
                jobs.update(self._engine, job.id, reason=f"it is not known whether it was started: {self._plain(job, str(error))}")
            else:
                self._again(job, again(job, f"it could not be started: {error}", self._settings))
            raise error if isinstance(error, RunnerError) else RunnerError(f"a job could not be started: {error}") from error
        except UserError as error:
            self._end(job, State.FAILED, str(error))
            return False
        except StoreError:
            raise
        except Exception:
            log.exception("the job %s cannot be started", job.id)
            self._end(job, State.FAILED, FAULT)
            return False
        return True

    def _started(self, job: JobRecord) -> bool:
        """Whether a task whose start failed runs or has run nevertheless, or may have: the engine did it, and its answer was lost."""
        try:
            return self._runner.poll(job.task, self._folder(job)) is not None
        except RunnerError:
            return True

    def look(self, job: JobRecord) -> Status | None:
        """How the task of a RUNNING job has ended, or None while it runs. Raises RunnerError."""
        status = self._runner.poll(job.task, self._folder(job)) or Status("lost")
        if status.running and job.cancel is not None and job.task not in self._asked:
            self._runner.cancel(job.task, self._folder(job))
            self._asked.add(job.task)
        return None if status.running else status

    def finish(self, job: JobRecord, status: Status) -> None:
        """Bring a job whose task has ended from RUNNING to what that means. Raises StoreError."""
        folder = self._folder(job)
        left = job.kind == "train" and publishing.complete(folder)
        found = outcome(job, status, self._settings, said=self._plain(job, logs.fault(folder)), complete=left)
        columns = {
            "cpu_seconds": job.cpu_seconds + status.cpu_seconds,
            "peak_memory": max(job.peak_memory, status.memory),
            "exit_code": status.exit_code,
        }
        match found.state:
            case State.PUBLISHING:
                jobs.move(self._engine, job.id, State.PUBLISHING, expect={State.RUNNING}, reason="", **columns)
                self._clean(job)
            case State.QUEUED:
                self._again(job, found, **columns)
            case state:
                self._end(job, state, found.reason, finished=status.finished or time.time(), **columns)

    def publish(self, job: JobRecord) -> None:
        """Bring a job from PUBLISHING to its end. Raises ResourceError or OSError when there is no room now, StoreError."""
        try:
            version = publishing.publish(job, self._places, self._settings.job_disk)
        except BundleError as error:
            self._end(job, State.FAILED, f"its result cannot be published: {error}")
        except (ResourceError, OSError) as error:
            if job.cancel is not None:
                self._end(job, State.CANCELLED, "")
                return
            jobs.update(self._engine, job.id, reason=f"its result cannot be published yet: {self._plain(job, str(error))}")
            raise
        except Exception:
            log.exception("the result of the job %s cannot be published", job.id)
            self._end(job, State.FAILED, FAULT)
        else:
            self._end(job, State.SUCCEEDED, "", version=version)

    def _again(self, job: JobRecord, found: Outcome, **columns: Any) -> None:
        """Queue a job for another attempt, or end it when there are no more."""
        if found.state is not State.QUEUED:
            self._end(job, found.state, found.reason, **columns)
            return
        self._clean(job)  # first: as soon as it is queued another worker may start it in the same folder
        wait = {"reason": self._plain(job, found.reason), "not_before": time.time() + found.wait}
        moved = jobs.move(self._engine, job.id, State.QUEUED, expect={State.STARTING, State.RUNNING}, **wait, **columns)
        _tell(job, "attempt %d failed: %s", job.attempt, found.reason)
        if moved is not None and moved.state == State.CANCELLED:
            publishing.tidy(self._folder(job))

    def _end(self, job: JobRecord, state: State, reason: str, **columns: Any) -> None:
        """Bring a job to its end: what is to be kept first, then the state, then what nobody needs any more."""
        folder = self._folder(job)
        if job.kind == "train" and state is not State.SUCCEEDED:
            with suppress(OSError, BundleError):
                publishing.keep_figures(folder)
        columns = {"finished": time.time(), "reason": self._plain(job, reason)} | columns
        jobs.move(self._engine, job.id, state, expect={State(job.state)}, **columns)
        _tell(job, "the job has ended: %s%s", state, f" ({reason})" if reason else "")
        self._clean(job)
        self._tidy(job)

    @contextmanager
    def _alone(self, tenant: str) -> Iterator[None]:
        """A runner that clears up after a task may end whatever runs as its user: not while another task of that user is being started."""
        with self._locks[tenant], turn(self._places, tenant) if self._shared else nullcontext():
            yield

    def _clean(self, job: JobRecord) -> None:
        self._asked.discard(job.task)
        try:
            with self._alone(job.tenant):
                self._runner.cleanup(job.task, self._folder(job))
        except RunnerError as error:  # the search for orphans finds it again
            log.warning("what task %s left cannot be cleaned up yet: %s", job.task, error)

    def _tidy(self, job: JobRecord) -> None:
        try:
            publishing.tidy(self._folder(job))
        except OSError as error:  # the next search for left-overs finds it
            log.warning("the work folder of the job %s cannot be removed yet: %s", job.id, error)

    def _folder(self, job: JobRecord) -> Path:
        return self._places.job(job.id)

    def _plain(self, job: JobRecord, sentence: str) -> str:
        """A sentence without the service's own paths: files have the names that the user gave them."""
        return plain(sentence, self._known(job))

    def _known(self, job: JobRecord) -> Iterable[Path]:
        folder = self._folder(job)
        if job.workspace is not None and job.generation is not None:
            yield self._places.workspace(job.tenant, job.workspace, job.generation)
        yield from (folder / "work", folder / "input", folder, self._places.cache(job.tenant))


def plain(sentence: str, folders: Iterable[Path]) -> str:
    """A sentence in which files below these folders are named relative to them."""
    for folder in folders:
        sentence = sentence.replace(f"{folder}/", "").replace(str(folder), folder.name)
    return sentence


def _tell(job: JobRecord, message: str, *values: object) -> None:
    log.info(message, *values, extra={"fields": {"job": job.id, "tenant": job.tenant, "process": job.process_name}})
