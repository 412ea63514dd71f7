"""Jobs: submit, follow, cancel, delete, and what they left."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Body, Header, Path, Query, Response
from fastapi.concurrency import run_in_threadpool

from mlaas.jobs.states import State
from mlaas.server import documents, jobs, paging, wire
from mlaas.server.deps import SECURED, Canceller, Creator, Modifier, Parts, Reader, Tenant
from mlaas.server.downloads import served
from mlaas.server.routing import DOWNLOAD, download, problems, router
from mlaas.store import jobs as store

routes = router("/jobs", "jobs")
JobName = Annotated[str, Path(max_length=120, alias="id", description="Id of the job, or its process name.")]
OutputPath = Annotated[str, Path(description="Path of the file.")]
IdempotencyKey = Annotated[
    str, Header(pattern=r"^[\x21-\x7e]{0,255}$", description="The same key with the same request submits once, however often it is sent.")
]
LastEvent = Annotated[str, Header(alias="Last-Event-ID", pattern=r"^\d{0,15}$", description="The id of the last event that came.")]
EXAMPLE = {"workspace": "tth", "files": "files.txt", "labels": "labels.txt", "model": "model.py", "params": "params.json", "cpus": 2, "memory": "3gb"}
STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events `state` and `end` (a job), `metric` (an epoch), `log` (lines); ids are offsets in the log, in bytes.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


@routes.post("", status_code=201, operation_id="submit_job", dependencies=SECURED, responses=problems(400, 404, 409, 413, 415, 422, 429, 507))
def submit(
    response: Response,
    parts: Parts,
    identity: Creator,
    request: Annotated[wire.AnyRequest, Body(examples=[EXAMPLE])],
    idempotency_key: IdempotencyKey = "",
) -> wire.Job:
    """Submit a training, or predictions of whole files. What can be checked is checked now; the rest is found in the job's log."""
    record = jobs.submit(parts, identity, request, key=idempotency_key)
    response.headers["Location"] = f"/api/v1/jobs/{record.id}"
    return documents.job(record, identity)


@routes.get("", operation_id="list_jobs", dependencies=SECURED, responses=problems(422))
def listing(
    parts: Parts,
    identity: Reader,
    state: Annotated[list[State], Query(description="Only jobs in one of these states.")] = [],  # noqa: B006 - FastAPI copies it
    kind: Annotated[str, Query(pattern="^(train|predict)?$", description="train or predict.")] = "",
    model: Annotated[str, Query(max_length=310, description="Only jobs of this model.")] = "",
    workspace: Annotated[str, Query(max_length=100, description="Only jobs of this workspace.")] = "",
    limit: paging.Limit = 50,
    cursor: paging.Cursor = "",
    tenant: Annotated[str, Query(max_length=64, description='Administrators: whose jobs; "*" for everybody\'s.')] = "",
) -> wire.Page[wire.Job]:
    """The jobs, newest first."""
    found = store.listing(
        parts.engine,
        jobs.whose(identity, tenant),
        states=state,
        kind=kind,
        model=model,
        workspace=workspace,
        limit=limit + 1,
        before=paging.number(cursor),
    )
    return paging.page(found, limit, lambda record: record.number, lambda record: documents.job(record, identity))


@routes.get("/{id}", operation_id="get_job", dependencies=SECURED, responses=problems(404, 422))
def get(parts: Parts, identity: Reader, job: JobName, tenant: Tenant = "") -> wire.Job:
    """One job."""
    return documents.job(jobs.find(parts, identity, job, tenant), identity)


@routes.get("/{id}/logs", operation_id="get_job_log", dependencies=SECURED, response_class=Response, responses=download("text/plain"))
def logs(
    parts: Parts,
    identity: Reader,
    job: JobName,
    tail: Annotated[int | None, Query(ge=0, le=100_000, description="Only the last lines.")] = None,
    tenant: Tenant = "",
) -> Response:
    """The log so far, as text; with ranges once the job has ended."""
    return jobs.log(parts, jobs.find(parts, identity, job, tenant), tail)


@routes.get("/{id}/events", operation_id="follow_job", dependencies=SECURED, response_class=Response, responses=STREAM | problems(404, 422))
async def events(
    parts: Parts,
    identity: Reader,
    job: JobName,
    offset: Annotated[int, Query(ge=0, le=2**53, description="Where in the log to begin, in bytes; Last-Event-ID goes before it.")] = 0,
    last_event_id: LastEvent = "",
    tenant: Tenant = "",
) -> Response:
    """Follow a job: its state, its figures and its log as they come, until it has ended."""
    record = await run_in_threadpool(jobs.find, parts, identity, job, tenant)
    return jobs.events(parts, identity, record, int(last_event_id or offset))


@routes.get("/{id}/metrics", operation_id="get_job_metrics", dependencies=SECURED, responses=problems(404, 422))
def metrics(parts: Parts, identity: Reader, job: JobName, tenant: Tenant = "") -> wire.Metrics:
    """The curves of a training so far, and its final figures."""
    return jobs.metrics(parts, jobs.find(parts, identity, job, tenant))


@routes.post("/{id}/cancel", status_code=202, operation_id="cancel_job", dependencies=SECURED, responses=problems(404, 409, 422))
def cancel(parts: Parts, identity: Canceller, job: JobName, tenant: Tenant = "") -> wire.Job:
    """Cancel a job; one that runs ends within seconds. Again is no mistake; for a job that has ended it is (409)."""
    return documents.job(jobs.cancel(parts, jobs.find(parts, identity, job, tenant)), identity)


@routes.delete("/{id}", status_code=204, operation_id="delete_job", dependencies=SECURED, responses=problems(404, 409, 422))
def delete(parts: Parts, identity: Modifier, job: JobName, tenant: Tenant = "") -> None:
    """Delete a job that has ended, with its log and its output; the model that it made stays."""
    jobs.delete(parts, jobs.find(parts, identity, job, tenant))


@routes.get("/{id}/output", operation_id="list_job_output", dependencies=SECURED, responses=problems(404, 422))
def output(
    parts: Parts, identity: Reader, job: JobName, limit: paging.Limit = 50, cursor: paging.Cursor = "", tenant: Tenant = ""
) -> wire.Page[wire.File]:
    """The files that a job left, by path: figures, and the scores of predictions."""
    found = jobs.output(parts, jobs.find(parts, identity, job, tenant))
    return paging.page(paging.after(found, cursor, limit, lambda file: file.path), limit, lambda file: file.path, lambda file: file)


@routes.get("/{id}/output/{path:path}", operation_id="get_job_output", dependencies=SECURED, response_class=Response, responses=DOWNLOAD)
def output_file(parts: Parts, identity: Reader, job: JobName, path: OutputPath, tenant: Tenant = "") -> Response:
    """One file that a job left."""
    record = jobs.find(parts, identity, job, tenant)
    return served(path, lambda: jobs.open_output(parts, record, path))
