"""The page of one job: its state, its log and its curves as they come."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Annotated, Any

from fastapi import Header, Query
from fastapi.concurrency import run_in_threadpool
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response

from mlaas.auth.identity import Identity
from mlaas.jobs import logs
from mlaas.jobs.states import ENDED, State
from mlaas.server import documents, feeds, jobs, wire
from mlaas.server.deps import Context, Parts
from mlaas.server.pages.curves import charts
from mlaas.server.pages.render import log_text, page, render
from mlaas.server.pages.routing import Visitor, Whose, router, to
from mlaas.store.records import JobRecord
from mlaas.web import identify
from mlaas.web.problem import Problem

routes = router()
TAIL = 100_000
"""Bytes of the log that the page begins with; the whole is a link away."""
DRAWN = 1.0  # s


@routes.get("/jobs/{name}")
def show(request: Request, parts: Parts, who: Visitor, name: str, tenant: Whose = "") -> Response:
    """One job."""
    identify.permit(who, "read")
    record = jobs.find(parts, who, name, tenant)
    start, data = _log(parts, record)
    context: dict[str, Any] = {"log": log_text(data.decode(errors="replace")), "cut": start > 0, "offset": start + len(data)}
    return page(request, "job.html.j2", who, **_state(parts, record, who), **_curves(parts, record), **context)


def _state(parts: Context, record: JobRecord, who: Identity) -> dict[str, Any]:
    files: list[wire.File] = []
    if State(record.state) in ENDED and not record.purged:
        with suppress(Problem):
            files = jobs.output(parts, record)
    return {"job": documents.job(record, who), "mine": record.tenant == who.tenant, "files": files[:100], "purged": record.purged}


def _curves(parts: Context, record: JobRecord) -> dict[str, Any]:
    found = wire.Metrics(epochs=[], final={}) if record.purged else jobs.metrics(parts, record)
    over = State(record.state) in ENDED
    return {"charts": charts(found.epochs), "epochs": len(found.epochs), "wanted": _wanted(record), "final": found.final, "over": over}


def _wanted(record: JobRecord) -> int:
    """How many passes a training is to make, where the submission says so itself; else 0."""
    params = record.request.get("params")
    epochs = params.get("epochs") if isinstance(params, dict) else None
    return epochs if isinstance(epochs, int) and 0 < epochs < 10**6 else 0


def _log(parts: Context, record: JobRecord) -> tuple[int, bytes]:
    """Where the shown end of the log begins, in bytes, and what it is; from the beginning of a line."""
    size = 0 if record.purged else jobs.look(parts, record.id).size
    start = max(0, size - TAIL)
    data = logs.tail(parts.places.job(record.id), start, size - start)
    if start:
        skipped = data.find(b"\n") + 1
        start, data = start + skipped, data[skipped:]
    return start, data


@routes.get("/jobs/{name}/live")
async def live(
    request: Request,
    parts: Parts,
    who: Visitor,
    name: str,
    offset: Annotated[int, Query(ge=0, le=2**53)] = 0,
    last: Annotated[str, Header(alias="Last-Event-ID", pattern=r"^\d{0,15}$")] = "",
    tenant: Whose = "",
) -> Response:
    """What happens to a job, as pieces of its page."""
    identify.permit(who, "read")
    record = await run_in_threadpool(jobs.find, parts, who, name, tenant)
    source = feeds.events(
        parts.feeds,
        record.id,
        lambda id, start: logs.tail(parts.places.job(id), start, feeds.PIECE),
        lambda found: documents.job(found, who).model_dump_json(),
        offset=int(last or offset),
        until=who.expires,
    )
    return EventSourceResponse(_pieces(request, parts, who, record.id, source), ping=jobs.KEEP_ALIVE)


async def _pieces(
    request: Request, parts: Context, who: Identity, job: str, source: AsyncIterator[ServerSentEvent]
) -> AsyncIterator[ServerSentEvent]:
    """Events with documents to events with HTML. The curves are drawn at most once in DRAWN seconds, and at the end."""

    async def piece(name: str, draw: Callable[[Request, Context, Identity, str], str], id: str | None) -> ServerSentEvent:
        return ServerSentEvent(event=name, data=await run_in_threadpool(draw, request, parts, who, job), id=id)

    drawn, changed = -DRAWN, False
    async for event in source:
        changed |= event.event == "metric"
        over = event.event == "end"
        if over or (changed and time.monotonic() - drawn >= DRAWN):
            drawn, changed = time.monotonic(), False
            yield await piece("curves", _drawn, event.id)
        if event.event == "log":
            yield ServerSentEvent(event="log", data=str(log_text(str(event.data))), id=event.id)
        elif event.event == "state" or over:
            yield await piece("state", _stated, event.id)
        if over:
            yield ServerSentEvent(event="end", data="", id=event.id)


def _drawn(request: Request, parts: Context, who: Identity, job: str) -> str:
    with suppress(Problem):
        return render(request, "job_curves.html.j2", who, **_curves(parts, jobs.find(parts, who, job)))
    return ""


def _stated(request: Request, parts: Context, who: Identity, job: str) -> str:
    with suppress(Problem):
        return render(request, "job_state.html.j2", who, **_state(parts, jobs.find(parts, who, job), who))
    return ""


@routes.post("/jobs/{name}/cancel")
def cancel(parts: Parts, who: Visitor, name: str, tenant: Whose = "") -> Response:
    """Ask for a job to be cancelled."""
    identify.permit(who, "cancel")
    jobs.cancel(parts, jobs.find(parts, who, name, tenant))
    return to(f"/jobs/{name}" + (f"?tenant={tenant}" if tenant else ""))


@routes.post("/jobs/{name}/delete")
def delete(parts: Parts, who: Visitor, name: str, tenant: Whose = "") -> Response:
    """Delete a job that has ended."""
    identify.permit(who, "modify")
    record = jobs.find(parts, who, name, tenant)
    jobs.delete(parts, record)
    return to("/", done=f"The job {record.process_name} is deleted.")
