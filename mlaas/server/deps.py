"""What every route is given: the caller, the parts of the service that it works with, and whose things it may touch."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, ParamSpec, TypeVar

import httpx
from fastapi import Depends, Query, Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPBearer
from sqlalchemy import Engine

from mlaas.auth.identity import Action, Identity
from mlaas.models.catalogue import Catalogue
from mlaas.places import Places
from mlaas.server.feeds import Feeds
from mlaas.settings import Settings
from mlaas.store import tenants
from mlaas.web import identify
from mlaas.web.problem import Problem
from mlaas.workspaces import Workspaces

EVERYBODY = "*"
SLOW = 8
"""Uploads that are unpacked, and models that are packed, at a time."""
P = ParamSpec("P")
R = TypeVar("R")
BEARER = HTTPBearer(
    scheme_name="bearer",
    auto_error=False,
    bearerFormat="JWT",
    description="A token of an accepted OpenID provider, or the embedded token of a service on a laptop.",
)


@dataclass(frozen=True)
class Context:
    """The parts of the service that the server works with; one per process, at `app.state.context`."""

    settings: Settings
    places: Places
    engine: Engine
    workspaces: Workspaces
    catalogue: Catalogue
    inference: httpx.AsyncClient
    feeds: Feeds = field(repr=False)
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(SLOW, "slow"), repr=False)

    async def slowly(self, function: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R:
        """Call what takes seconds (unpacking, packing) in one of a few threads of its own, so that short requests never wait for it."""
        call = partial(contextvars.copy_context().run, partial(function, *arguments, **options))
        return await asyncio.get_running_loop().run_in_executor(self.pool, call)


def context_of(request: Request) -> Context:
    """The parts of the service."""
    found: Context = request.app.state.context
    return found


async def known(request: Request) -> Identity:
    """The verified caller, noted as a tenant. Raises Problem 401 or 403."""
    identity = await identify.identity(request)
    await run_in_threadpool(note, context_of(request), identity)
    return identity


def note(context: Context, identity: Identity) -> None:
    """Keep who was seen: the worker needs the tenant's number and groups."""
    tenants.seen(
        context.engine,
        tenant=identity.tenant,
        issuer=identity.issuer,
        subject=identity.subject,
        name=identity.name,
        groups=sorted(identity.groups),
        now=time.time(),
    )


def allowed(action: Action) -> Callable[[Identity], Awaitable[Identity]]:
    """A dependency that gives the caller if their token allows an action. Raises AuthError (403)."""

    async def check(identity: Annotated[Identity, Depends(known)]) -> Identity:
        identify.permit(identity, action)
        return identity

    return check


def owner(identity: Identity, tenant: str) -> str:
    """Whose things a request is about: the caller's own, or for administrators those of the tenant that they name. Raises Problem 403."""
    if not tenant or tenant == identity.tenant:
        return identity.tenant
    if not identity.admin:
        raise Problem(403, "only administrators may name a tenant", field="tenant")
    return tenant


Parts = Annotated[Context, Depends(context_of)]
Reader = Annotated[Identity, Depends(allowed("read"))]
Creator = Annotated[Identity, Depends(allowed("create"))]
Modifier = Annotated[Identity, Depends(allowed("modify"))]
Canceller = Annotated[Identity, Depends(allowed("cancel"))]
Tenant = Annotated[str, Query(max_length=64, description="Administrators: whose; the caller's own unless given.")]
SECURED = [Security(BEARER)]
"""The documentation of what a route asks for; `known` does the checking."""
