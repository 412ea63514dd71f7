"""What the server does with workspaces, for API v1, the published calls and the pages alike."""

from __future__ import annotations

import re

from fastapi import Request

from mlaas.auth.identity import Identity
from mlaas.server.deps import Context
from mlaas.server.uploads import receive
from mlaas.server.wire import NAME
from mlaas.store.records import WorkspaceRecord
from mlaas.web.problem import Problem

NAMED = re.compile(NAME.strip("^$"))


async def upload_workspace(request: Request, parts: Context, identity: Identity, name: str) -> WorkspaceRecord:
    """Receive an archive and make it a workspace. Raises Problem and what `Workspaces.store` raises; nothing is left then."""
    async with receive(request, parts) as found:
        return await parts.slowly(parts.workspaces.store, identity.tenant, name, found.path)


def find(parts: Context, tenant: str, name: str) -> WorkspaceRecord:
    """A workspace. Raises Problem 404."""
    found = parts.workspaces.get(tenant, name)
    if found is None:
        raise Problem(404, f"there is no workspace {name!r}", field="name")
    return found


def etag(record: WorkspaceRecord) -> str:
    """What changes when a workspace is uploaded again."""
    return f'"{record.generation}"'


def check_precondition(parts: Context, tenant: str, name: str, if_match: str, if_none_match: str) -> None:
    """Raise Problem 412 unless the workspace is as the client last saw it."""
    if not if_match and not if_none_match:
        return
    found = parts.workspaces.get(tenant, name)
    if if_none_match.strip() == "*" and found is not None:
        raise Problem(412, f"there is a workspace {name!r} already")
    if if_match and (found is None or if_match.strip() not in {"*", etag(found)}):
        raise Problem(412, f"the workspace {name!r} has changed since")
