"""Workspaces: the folders that users upload."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Header, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from mlaas.auth.identity import Identity
from mlaas.server import documents, paging, wire
from mlaas.server.deps import SECURED, Context, Creator, Modifier, Parts, Reader, Tenant, owner
from mlaas.server.downloads import served
from mlaas.server.routing import BINARY, DOWNLOAD, FORM, content, problems, router
from mlaas.server.wire import NAME
from mlaas.server.workspaces import check_precondition, etag, find, upload_workspace

routes = router("/workspaces", "workspaces")
WorkspaceName = Annotated[str, Path(pattern=NAME, description="Name of the workspace.")]
FilePath = Annotated[str, Path(description="Path of the file.")]
NewName = Annotated[str, Query(pattern=NAME, description="Name of the workspace.")]
IfMatch = Annotated[str, Header(description="Only if the workspace still has this ETag.")]
IfNoneMatch = Annotated[str, Header(description='"*": only if there is no such workspace yet.')]
UPLOADED: dict[int | str, dict[str, Any]] = {201: {"description": "The workspace as it is now.", "headers": {"ETag": {"schema": {"type": "string"}}}}}
UPLOAD_PROBLEMS = problems(400, 408, 412, 413, 422, 507)


@routes.post(
    "",
    status_code=201,
    operation_id="upload_workspace",
    dependencies=SECURED,
    responses=UPLOADED | UPLOAD_PROBLEMS,
    openapi_extra=content({"multipart/form-data": FORM}),
)
async def upload(request: Request, response: Response, parts: Parts, identity: Creator, name: NewName) -> wire.Workspace:
    """Upload a folder as a form; a workspace of the same name is replaced for new jobs."""
    return await _store(request, response, parts, identity, name, "", "")


@routes.put(
    "/{name}",
    status_code=201,
    operation_id="put_workspace",
    dependencies=SECURED,
    responses=UPLOADED | UPLOAD_PROBLEMS,
    openapi_extra=content({"application/octet-stream": BINARY, "application/gzip": BINARY, "application/zip": BINARY}),
)
async def put(
    request: Request,
    response: Response,
    parts: Parts,
    identity: Creator,
    name: WorkspaceName,
    if_match: IfMatch = "",
    if_none_match: IfNoneMatch = "",
) -> wire.Workspace:
    """Upload a folder as the body itself; a workspace of the same name is replaced for new jobs."""
    return await _store(request, response, parts, identity, name, if_match, if_none_match)


async def _store(
    request: Request, response: Response, parts: Context, identity: Identity, name: str, if_match: str, if_none_match: str
) -> wire.Workspace:
    await run_in_threadpool(check_precondition, parts, identity.tenant, name, if_match, if_none_match)
    record = await upload_workspace(request, parts, identity, name)
    response.headers["ETag"] = etag(record)
    response.headers["Location"] = f"/api/v1/workspaces/{name}"
    return documents.workspace(record)


@routes.get("", operation_id="list_workspaces", dependencies=SECURED, responses=problems(422))
def listing(parts: Parts, identity: Reader, limit: paging.Limit = 50, cursor: paging.Cursor = "", tenant: Tenant = "") -> wire.Page[wire.Workspace]:
    """The workspaces, by name."""
    found = parts.workspaces.listing(owner(identity, tenant), limit=limit + 1, after=paging.name(cursor))
    return paging.page(found, limit, lambda record: record.name, documents.workspace)


@routes.get("/{name}", operation_id="get_workspace", dependencies=SECURED, responses=problems(404, 422))
def get(response: Response, parts: Parts, identity: Reader, name: WorkspaceName, tenant: Tenant = "") -> wire.Workspace:
    """One workspace."""
    record = find(parts, owner(identity, tenant), name)
    response.headers["ETag"] = etag(record)
    return documents.workspace(record)


@routes.get("/{name}/files", operation_id="list_workspace_files", dependencies=SECURED, responses=problems(404, 422))
def files(
    parts: Parts, identity: Reader, name: WorkspaceName, limit: paging.Limit = 50, cursor: paging.Cursor = "", tenant: Tenant = ""
) -> wire.Page[wire.File]:
    """The files of a workspace, by path."""
    find(parts, owner(identity, tenant), name)
    found = sorted(map(documents.file, parts.workspaces.files(owner(identity, tenant), name)), key=lambda file: file.path)
    return paging.page(paging.after(found, cursor, limit, lambda file: file.path), limit, lambda file: file.path, lambda file: file)


@routes.get("/{name}/files/{path:path}", operation_id="get_workspace_file", dependencies=SECURED, response_class=Response, responses=DOWNLOAD)
def file(parts: Parts, identity: Reader, name: WorkspaceName, path: FilePath, tenant: Tenant = "") -> Response:
    """One file of a workspace."""
    find(parts, owner(identity, tenant), name)
    return served(path, lambda: parts.workspaces.open(owner(identity, tenant), name, path))


@routes.delete("/{name}/specs", status_code=200, operation_id="delete_workspace_specs", dependencies=SECURED, responses=problems(404, 422))
def delete_specs(parts: Parts, identity: Modifier, name: WorkspaceName, tenant: Tenant = "") -> wire.Deleted:
    """Delete the specs files of a workspace, which an earlier run of the original may have left there."""
    find(parts, owner(identity, tenant), name)
    return wire.Deleted(deleted=parts.workspaces.delete_specs(owner(identity, tenant), name))


@routes.delete("/{name}", status_code=204, operation_id="delete_workspace", dependencies=SECURED, responses=problems(404, 412, 422))
def delete(parts: Parts, identity: Modifier, name: WorkspaceName, tenant: Tenant = "", if_match: IfMatch = "") -> None:
    """Delete a workspace; jobs that were submitted keep what they need of it."""
    find(parts, owner(identity, tenant), name)
    check_precondition(parts, owner(identity, tenant), name, if_match, "")
    parts.workspaces.delete(owner(identity, tenant), name)
