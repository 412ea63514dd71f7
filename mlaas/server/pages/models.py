"""Models: the list, one model with its versions, one version with its report."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from mlaas.errors import MLaaSError
from mlaas.models.catalogue import check_alias
from mlaas.server import documents, models, wire
from mlaas.server.deps import Parts
from mlaas.server.pages.render import page
from mlaas.server.pages.routing import Short, Visitor, Whose, router, to
from mlaas.web import identify
from mlaas.web.errors import problem_of

routes = router()
MOST = 500


@routes.get("/models")
def listing(request: Request, parts: Parts, who: Visitor, tenant: Whose = "") -> Response:
    """The models that the caller may use."""
    identify.permit(who, "read")
    entries = models.listed(parts, who, tenant)
    shown = [found for entry in entries[:MOST] if (found := models.document(parts, who, entry))]
    return page(request, "models.html.j2", who, models=shown, more=max(0, len(entries) - MOST), tenant=tenant)


@routes.get("/models/{name}")
def show(request: Request, parts: Parts, who: Visitor, name: str) -> Response:
    """One model."""
    identify.permit(who, "read")
    return _show(request, parts, who, name)


def _show(request: Request, parts: Parts, who: Visitor, name: str, error: MLaaSError | None = None) -> Response:
    found = models.find_model(parts, who, name)
    problem = problem_of(error) if error else None
    error_text = problem.detail if problem else ""
    context: dict[str, Any] = {"model": models.describe(parts, who, found), "versions": models.versions(parts, found), "name": name}
    mine = found.tenant == who.tenant or who.admin
    return page(request, "model.html.j2", who, status=problem.status if problem else 200, mine=mine, error=error_text, **context)


@routes.get("/models/{name}/versions/{number}")
def version(request: Request, parts: Parts, who: Visitor, name: str, number: str) -> Response:
    """One version: its figures, its inputs, its report."""
    identify.permit(who, "read")
    found = models.find_version(parts, who, name, number)
    card = documents.card(models.opened(found))
    reported = "report/index.html" in card.files
    return page(request, "version.html.j2", who, name=name, version=models.version(parts, found), card=card, reported=reported)


def _address(name: str) -> str:
    return f"/models/{quote(name, safe='')}"


@routes.post("/models/{name}/aliases")
def set_alias(request: Request, parts: Parts, who: Visitor, name: str, alias: Short = "", version: Short = "") -> Response:
    """Let an alias stand for a version."""
    identify.permit(who, "modify")
    found = models.find_own(parts, who, name)
    try:
        number = wire.AliasRequest.model_validate({"version": version}).version
        parts.catalogue.set_alias(found.tenant, found.model, check_alias(alias.strip()), number)
    except (MLaaSError, ValueError) as error:
        return _show(request, parts, who, name, error if isinstance(error, MLaaSError) else MLaaSError(f"version: {version!r} is no version"))
    return to(_address(name), done=f"{alias.strip()} is version {number} now.")


@routes.post("/models/{name}/aliases/remove")
def remove_alias(parts: Parts, who: Visitor, name: str, alias: Short = "") -> Response:
    """Remove an alias."""
    identify.permit(who, "modify")
    found = models.find_own(parts, who, name)
    parts.catalogue.remove_alias(found.tenant, found.model, alias)
    return to(_address(name), done=f"The alias {alias} is removed.")


@routes.post("/models/{name}/shares")
def share(request: Request, parts: Parts, who: Visitor, name: str, group: Short = "") -> Response:
    """Let a group see and use the model."""
    identify.permit(who, "modify")
    found = models.find_own(parts, who, name)
    try:
        models.share(parts, who, found, group.strip())
    except MLaaSError as error:
        return _show(request, parts, who, name, error)
    return to(_address(name), done=f"The members of {group.strip()} may use this model now.")


@routes.post("/models/{name}/shares/remove")
def unshare(parts: Parts, who: Visitor, name: str, group: Short = "") -> Response:
    """Take the model back from a group."""
    identify.permit(who, "modify")
    found = models.find_own(parts, who, name)
    parts.catalogue.unshare(found.tenant, found.model, group)
    return to(_address(name), done=f"The members of {group} may not use this model any more.")


@routes.post("/models/{name}/delete")
def delete(parts: Parts, who: Visitor, name: str) -> Response:
    """Delete a model with all its versions."""
    identify.permit(who, "modify")
    models.remove(parts, models.find_own(parts, who, name))
    return to("/models", done=f"The model {name} is deleted.")


@routes.post("/models/{name}/versions/{number}/delete")
def delete_version(parts: Parts, who: Visitor, name: str, number: int) -> Response:
    """Delete one version of a model."""
    identify.permit(who, "modify")
    found = models.find_own(parts, who, name, number)
    models.remove(parts, found, number)
    left = parts.catalogue.repository.versions(found.tenant, found.model)
    return to(_address(name) if left else "/models", done=f"Version {number} of {name} is deleted.")
