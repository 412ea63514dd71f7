"""Workspaces: the list with the form to upload a folder, and the files of one."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from fastapi.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from mlaas.errors import MLaaSError
from mlaas.server import documents, paging, workspaces
from mlaas.server.deps import Context, Parts
from mlaas.server.pages.render import page
from mlaas.server.pages.routing import Visitor, router, to
from mlaas.server.uploads import receive
from mlaas.web import identify
from mlaas.web.errors import problem_of
from mlaas.web.problem import Problem

routes = router()
LIMIT = 100
MOST_FILES = 1000
ENDINGS = (".tar.gz", ".tgz", ".tar", ".zip")


@routes.get("/workspaces")
def listing(request: Request, parts: Parts, who: Visitor, cursor: paging.Cursor = "") -> Response:
    """The workspaces of the caller."""
    identify.permit(who, "read")
    return _listing(request, parts, who, cursor)


def _listing(request: Request, parts: Context, who: Visitor, cursor: str = "", name: str = "", error: Problem | None = None) -> Response:
    found = parts.workspaces.listing(who.tenant, limit=LIMIT + 1, after=paging.name(cursor))
    shown = paging.page(found, LIMIT, lambda record: record.name, documents.workspace)
    status = error.status if error else 200
    context: dict[str, Any] = {
        "workspaces": shown.items,
        "next": shown.next,
        "given": name,
        "error": error.detail if error else "",
        "settings": parts.settings,
    }
    return page(request, "workspaces.html.j2", who, status=status, **context)


@routes.post("/workspaces/upload")
async def upload(request: Request, parts: Parts, who: Visitor) -> Response:
    """Receive an archive. Its name is that of the field `name`, or without one that of the archive."""
    identify.permit(who, "create")
    name = ""
    try:
        async with receive(request, parts) as found:
            name = found.fields.get("name", "").strip() or stem(found.filename)
            if not workspaces.NAMED.fullmatch(name):
                raise Problem(422, "name: a workspace's name has up to 100 letters, digits, '_', '.' and '-', and begins with a letter or a digit")
            record = await run_in_threadpool(parts.workspaces.store, who.tenant, name, found.path)
    except MLaaSError as error:
        problem = problem_of(error)
        return await run_in_threadpool(_listing, request, parts, who, "", name, problem)
    return to(f"/workspaces/{quote(record.name)}", done=f"The workspace {record.name} is uploaded.")


def stem(filename: str) -> str:
    """The name of an archive without its folders and its ending."""
    plain = filename.replace("\\", "/").rpartition("/")[2]
    return next((plain[: -len(ending)] for ending in ENDINGS if plain.lower().endswith(ending)), plain)


@routes.get("/workspaces/{name}")
def show(request: Request, parts: Parts, who: Visitor, name: str) -> Response:
    """One workspace with its files."""
    identify.permit(who, "read")
    record = workspaces.find(parts, who.tenant, name)
    files = sorted(map(documents.file, parts.workspaces.files(who.tenant, name)), key=lambda file: file.path)
    more = max(0, len(files) - MOST_FILES)
    return page(request, "workspace.html.j2", who, workspace=documents.workspace(record), files=files[:MOST_FILES], more=more)


@routes.post("/workspaces/{name}/delete")
def delete(parts: Parts, who: Visitor, name: str) -> Response:
    """Delete a workspace; jobs that were submitted keep what they need of it."""
    identify.permit(who, "modify")
    workspaces.find(parts, who.tenant, name)
    parts.workspaces.delete(who.tenant, name)
    return to("/workspaces", done=f"The workspace {name} is deleted.")


@routes.post("/workspaces/{name}/delete-specs")
def delete_specs(parts: Parts, who: Visitor, name: str) -> Response:
    """Delete the specs files of a workspace."""
    identify.permit(who, "modify")
    workspaces.find(parts, who.tenant, name)
    number = parts.workspaces.delete_specs(who.tenant, name)
    return to(f"/workspaces/{quote(name)}", done=f"{number} specs file{'s' if number != 1 else ''} deleted.")
