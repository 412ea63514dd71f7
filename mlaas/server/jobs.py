"""What the server does with jobs, for API v1, the published calls and the pages alike. It runs none: it writes to the database, and reads folders."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator

from sse_starlette import EventSourceResponse
from starlette.responses import Response

from mlaas.auth.identity import Identity
from mlaas.beneath import open_beneath, remove_tree, walk_beneath
from mlaas.jobs import figures, logs, submission
from mlaas.jobs.states import ENDED, State
from mlaas.server import documents, feeds, wire
from mlaas.server.deps import EVERYBODY, Context, owner
from mlaas.server.downloads import Growing, OpenFile
from mlaas.store import jobs as store
from mlaas.store.records import JobRecord
from mlaas.web.problem import Problem

RESULT = "result"
KEEP_ALIVE = 15
GRACE = 3
"""Seconds that a stream gets to end by itself when the process stops."""


def submit(parts: Context, identity: Identity, request: wire.JobRequest, *, key: str = "", published: bool = False) -> JobRecord:
    """Queue a job, or return the one that the same key has queued before. Raises Problem, WorkflowError, Conflict, QueueFull.

    published: the model is published under the process name, as the published server does, not under a name of its own.
    """
    digest = _digest(request)
    # before anything is checked: what the request names may be gone since it made its job
    if key and (before := store.made_before(parts.engine, identity.tenant, key, digest)):
        return before
    new = submission.admit(identity, request, parts.settings, parts.engine, published=published)
    record, _made = store.create(parts.engine, new, key=key, digest=digest, queue_limit=parts.settings.queue_limit, now=time.time())
    return record


def _digest(request: wire.JobRequest) -> str:
    return hashlib.sha256(json.dumps(request.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def whose(identity: Identity, tenant: str) -> str | None:
    """The tenant whose jobs are listed; None for everybody's, which administrators may ask for."""
    return None if tenant == EVERYBODY and identity.admin else owner(identity, tenant)


def find(parts: Context, identity: Identity, job: str, tenant: str = "") -> JobRecord:
    """A job by its id or process name. Raises Problem 404 when there is none, or it is not the caller's: the two are not told apart."""
    mine = owner(identity, tenant)
    found = store.get(parts.engine, job)
    if found is None or (found.tenant != mine and not identity.admin):
        found = store.by_process_name(parts.engine, mine, job)
    if found is None:
        raise Problem(404, f"there is no job {job!r}")
    return found


def log(parts: Context, job: JobRecord, tail: int | None = None, *, name: str = "") -> Response:
    """The log as an answer: all that there is by now, or its last lines. name: of the file that it is saved as."""
    _check_kept(parts, job)
    headers = {"Content-Disposition": f'attachment; filename="{name}"'} if name else {}
    try:
        descriptor = open_beneath(parts.places.job(job.id), logs.LOG)
    except FileNotFoundError:
        return Response("", media_type="text/plain", headers=headers)
    if State(job.state) in ENDED and tail is None:
        return OpenFile(descriptor, name or logs.LOG, media_type="text/plain; charset=utf-8", attachment=bool(name))
    return Growing(descriptor, logs.start_of_tail(descriptor, tail) if tail is not None else 0, headers)


def _check_kept(parts: Context, job: JobRecord) -> None:
    if job.purged:
        days = parts.settings.job_retention / 86_400
        raise Problem(404, f"the files of the job {job.process_name!r} were removed {days:.3g} days after its end")


def look(parts: Context, job: str) -> feeds.View:
    """One look at a job for those who follow it."""
    record = store.get(parts.engine, job)
    folder = parts.places.job(job)
    try:
        descriptor = open_beneath(folder, logs.LOG)
        size = os.fstat(descriptor).st_size
        os.close(descriptor)
    except FileNotFoundError:
        size = 0
    return feeds.View(record, size, tuple(figures.read(folder).epochs))


def events(parts: Context, identity: Identity, job: JobRecord, offset: int) -> EventSourceResponse:
    """The events of a job as an answer, from an offset of its log on."""
    stream = feeds.events(
        parts.feeds,
        job.id,
        lambda id, start: logs.tail(parts.places.job(id), start, feeds.PIECE),
        lambda record: documents.job(record, identity).model_dump_json(),
        offset=offset,
        until=identity.expires,
    )
    return EventSourceResponse(stream, ping=KEEP_ALIVE, shutdown_grace_period=GRACE)


def metrics(parts: Context, job: JobRecord) -> wire.Metrics:
    """The curves of a training so far, and its final figures."""
    _check_kept(parts, job)
    found = figures.read(parts.places.job(job.id))
    return wire.Metrics(epochs=list(found.epochs), final=dict(found.final))


def cancel(parts: Context, job: JobRecord) -> JobRecord:
    """Ask for a job to be cancelled. Raises Problem 409 when it has ended already, otherwise than by that."""
    found = store.ask_cancel(parts.engine, job.id, time.time())
    if found is None:
        raise Problem(404, f"there is no job {job.process_name!r}")
    if State(found.state) in ENDED - {State.CANCELLED}:
        raise Problem(409, f"the job {job.process_name!r} has ended already ({found.state})")
    return found


def delete(parts: Context, job: JobRecord) -> None:
    """Forget a job that has ended, and remove its folder. Raises Problem 409 when it has not ended."""
    if not store.delete(parts.engine, job.id) and store.get(parts.engine, job.id) is not None:
        raise Problem(409, f"the job {job.process_name!r} has not ended; cancel it first")
    remove_tree(parts.places.job(job.id))


def output(parts: Context, job: JobRecord) -> list[wire.File]:
    """The files that a job left, by path; none while it runs."""
    _check_kept(parts, job)
    return sorted(_files(parts, job), key=lambda file: file.path)


def _files(parts: Context, job: JobRecord) -> Iterator[wire.File]:
    try:
        yield from map(documents.file, walk_beneath(parts.places.job(job.id), RESULT))
    except FileNotFoundError:
        return


def open_output(parts: Context, job: JobRecord, path: str) -> int:
    """A descriptor of a file that a job left. Raises FileNotFoundError."""
    return open_beneath(parts.places.job(job.id) / RESULT, path)
