"""Models: versions, aliases, cards, reports, archives, sharing."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Response
from fastapi.concurrency import run_in_threadpool

from mlaas.models.manifest import NAME
from mlaas.server import documents, models, paging, wire
from mlaas.server.deps import SECURED, Modifier, Parts, Reader
from mlaas.server.routing import download, problems, router

routes = router("/models", "models")
ModelName = Annotated[str, Path(max_length=310, description="Name of the model; tenant:name for one that is shared with the caller.")]
VersionName = Annotated[str, Path(max_length=100, description="Number of the version, or an alias; `latest` is the newest.")]
ReportPath = Annotated[str, Path(description="Path of the file in the report.")]
Number = Annotated[int, Path(ge=1, le=2**31, description="Number of the version.")]
Alias = Annotated[str, Path(pattern=NAME, description="A name for a version, e.g. production.")]
OwnerTenant = Annotated[str, Query(max_length=64, description='Administrators: whose models; "*" for everybody\'s.')]


@routes.get("", operation_id="list_models", dependencies=SECURED, responses=problems(422))
def listing(parts: Parts, identity: Reader, limit: paging.Limit = 50, cursor: paging.Cursor = "", tenant: OwnerTenant = "") -> wire.Page[wire.Model]:
    """The models of the caller, and those that are shared with one of their groups, by name."""
    entries = paging.after(models.listed(parts, identity, tenant), cursor, limit, models.name)
    shown = paging.page(entries, limit, models.name, lambda entry: models.document(parts, identity, entry))
    return wire.Page[wire.Model](items=[item for item in shown.items if item is not None], next=shown.next)


@routes.get("/{model}", operation_id="get_model", dependencies=SECURED, responses=problems(404, 422))
def get(parts: Parts, identity: Reader, model: ModelName) -> wire.Model:
    """One model."""
    return models.describe(parts, identity, models.find_model(parts, identity, model))


@routes.get("/{model}/versions", operation_id="list_versions", dependencies=SECURED, responses=problems(404, 422))
def versions(parts: Parts, identity: Reader, model: ModelName, limit: paging.Limit = 50, cursor: paging.Cursor = "") -> wire.Page[wire.Version]:
    """The versions of a model, newest first."""
    before = paging.number(cursor)
    found = [item for item in models.versions(parts, models.find_model(parts, identity, model)) if not before or item.version < before]
    return paging.page(found[: limit + 1], limit, lambda item: item.version, lambda item: item)


@routes.get("/{model}/versions/{version}", operation_id="get_version", dependencies=SECURED, responses=problems(404, 422))
def version(parts: Parts, identity: Reader, model: ModelName, version: VersionName) -> wire.Version:
    """One version of a model."""
    return models.version(parts, models.find_version(parts, identity, model, version))


@routes.get("/{model}/versions/{version}/card", operation_id="get_card", dependencies=SECURED, responses=problems(404, 422))
def card(parts: Parts, identity: Reader, model: ModelName, version: VersionName) -> wire.Card:
    """What a version tells of itself: its inputs, figures, workflow and origin."""
    return documents.card(models.opened(models.find_version(parts, identity, model, version)))


@routes.get(
    "/{model}/versions/{version}/report/{path:path}",
    operation_id="get_report",
    dependencies=SECURED,
    response_class=Response,
    responses=download("text/html"),
)
def report(parts: Parts, identity: Reader, model: ModelName, version: VersionName, path: ReportPath) -> Response:
    """A file of the report; index.html is the page."""
    return models.report(models.find_version(parts, identity, model, version), path or "index.html")


@routes.get(
    "/{model}/versions/{version}/archive",
    operation_id="get_archive",
    dependencies=SECURED,
    response_class=Response,
    responses=download("application/gzip") | problems(507),
)
async def archive(parts: Parts, identity: Reader, model: ModelName, version: VersionName) -> Response:
    """A version as .tar.gz, in one folder named like the model, as TFaaS takes it."""
    return await parts.slowly(models.packed, parts, await run_in_threadpool(models.find_version, parts, identity, model, version))


@routes.delete("/{model}", status_code=204, operation_id="delete_model", dependencies=SECURED, responses=problems(404, 422))
def delete(parts: Parts, identity: Modifier, model: ModelName) -> None:
    """Delete a model with all its versions, aliases and shares. Their numbers are not given again."""
    models.remove(parts, models.find_own(parts, identity, model))


@routes.delete("/{model}/versions/{version}", status_code=204, operation_id="delete_version", dependencies=SECURED, responses=problems(404, 422))
def delete_version(parts: Parts, identity: Modifier, model: ModelName, version: Number) -> None:
    """Delete one version of a model, and the aliases that stand for it."""
    models.remove(parts, models.find_own(parts, identity, model), version)


@routes.put("/{model}/aliases/{alias}", operation_id="set_alias", dependencies=SECURED, responses=problems(400, 404, 413, 415, 422))
def set_alias(parts: Parts, identity: Modifier, model: ModelName, alias: Alias, request: wire.AliasRequest) -> wire.Model:
    """Let an alias stand for a version from now on."""
    found = models.find_own(parts, identity, model)
    parts.catalogue.set_alias(found.tenant, found.model, alias, request.version)
    return models.describe(parts, identity, found)


@routes.delete("/{model}/aliases/{alias}", status_code=204, operation_id="remove_alias", dependencies=SECURED, responses=problems(404, 422))
def remove_alias(parts: Parts, identity: Modifier, model: ModelName, alias: Alias) -> None:
    """Remove an alias; the version stays."""
    found = models.find_own(parts, identity, model)
    parts.catalogue.remove_alias(found.tenant, found.model, alias)


@routes.post("/{model}/shares", operation_id="share_model", dependencies=SECURED, responses=problems(400, 404, 413, 415, 422))
def share(parts: Parts, identity: Modifier, model: ModelName, request: wire.ShareRequest) -> wire.Model:
    """Let the members of a group see and use a model. Again is no mistake."""
    found = models.find_own(parts, identity, model)
    models.share(parts, identity, found, request.group)
    return models.describe(parts, identity, found)


@routes.delete("/{model}/shares", status_code=204, operation_id="unshare_model", dependencies=SECURED, responses=problems(404, 422))
def unshare(parts: Parts, identity: Modifier, model: ModelName, group: Annotated[str, Query(pattern=wire.GROUP, description="The group.")]) -> None:
    """Take a model back from a group."""
    found = models.find_own(parts, identity, model)
    parts.catalogue.unshare(found.tenant, found.model, group)
