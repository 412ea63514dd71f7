"""The first page: the jobs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Query
from fastapi.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from mlaas.auth.identity import Identity
from mlaas.jobs.states import ACTIVE, State
from mlaas.server import documents, jobs, paging
from mlaas.server.deps import Context, Parts, context_of, known
from mlaas.server.pages.render import HEADERS, page, render
from mlaas.server.pages.routing import Visitor, Whose, router
from mlaas.server.pages.session import begin
from mlaas.store import jobs as store
from mlaas.web import identify

routes = router()
LIMIT = 30
FILTERS: dict[str, tuple[str, tuple[State, ...]]] = {
    "": ("All", ()),
    "queued": ("Queued", (State.QUEUED,)),
    "running": ("Running", tuple(sorted(ACTIVE))),
    "succeeded": ("Succeeded", (State.SUCCEEDED,)),
    "failed": ("Failed", (State.FAILED, State.TIMED_OUT)),
    "cancelled": ("Cancelled", (State.CANCELLED,)),
}
StateName = Annotated[str, Query(pattern=f"^({'|'.join(FILTERS)})$")]
Name = Annotated[str, Query(max_length=310)]


@routes.get("/")
async def first(
    request: Request,
    parts: Parts,
    state: StateName = "",
    model: Name = "",
    workspace: Name = "",
    cursor: paging.Cursor = "",
    tenant: Whose = "",
    token: Annotated[str, Query(max_length=20_000)] = "",
) -> Response:
    """The jobs; with the link that `mlaas serve` prints, a session is begun first, and the token gone from the address."""
    if token:
        return await begin(request, token, "/")
    who = await known(request)
    request.state.visitor = who
    identify.permit(who, "read")
    asked = {"state": state, "model": model, "workspace": workspace, "cursor": cursor, "tenant": tenant}
    found = await run_in_threadpool(listed, parts, who, asked)
    return await run_in_threadpool(page, request, "jobs.html.j2", who, **found)


@routes.get("/jobs")
def table(
    request: Request,
    who: Visitor,
    state: StateName = "",
    model: Name = "",
    workspace: Name = "",
    cursor: paging.Cursor = "",
    tenant: Whose = "",
    seen: Annotated[str, Query(max_length=40)] = "",
) -> Response:
    """The table of the first page as it is now; nothing (204) while it is as it was seen."""
    identify.permit(who, "read")
    asked = {"state": state, "model": model, "workspace": workspace, "cursor": cursor, "tenant": tenant}
    found = listed(context_of(request), who, asked)
    if found["digest"] == seen:
        return Response(status_code=204)
    return HTMLResponse(render(request, "jobs_table.html.j2", who, **found), headers=HEADERS)


def listed(parts: Context, who: Identity, asked: Mapping[str, str]) -> dict[str, Any]:
    """What the table shows, and a digest of it."""
    records = store.listing(
        parts.engine,
        jobs.whose(who, asked["tenant"]),
        states=FILTERS[asked["state"]][1],
        model=asked["model"],
        workspace=asked["workspace"],
        limit=LIMIT + 1,
        before=paging.number(asked["cursor"]),
    )
    shown = paging.page(records, LIMIT, lambda record: record.number, lambda record: documents.job(record, who))
    rows = [(job.id, job.state, job.reason, job.started, job.finished, job.version) for job in shown.items]
    return {
        "jobs": shown.items,
        "asked": asked,
        "filters": {name: (title, _query({**asked, "state": name, "cursor": ""})) for name, (title, _) in FILTERS.items()},
        "query": _query(asked),
        "older": _query({**asked, "cursor": shown.next}) if shown.next else "",
        "digest": hashlib.sha256(repr(rows).encode()).hexdigest()[:16],
    }


def _query(asked: Mapping[str, str]) -> str:
    given = {name: value for name, value in asked.items() if value}
    return f"?{urlencode(given)}" if given else ""
