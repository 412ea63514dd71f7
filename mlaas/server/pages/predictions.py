"""The form of predictions of whole files."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated

from fastapi import Query
from fastapi.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from mlaas.auth.identity import Identity
from mlaas.errors import MLaaSError
from mlaas.server import jobs, models
from mlaas.server.deps import Context, Parts
from mlaas.server.pages import forms
from mlaas.server.pages.render import page
from mlaas.server.pages.routing import Visitor, router, to
from mlaas.web import identify

routes = router()
FIELDS = ("model", "workspace", "files", "files_text", "tree", "format", *forms.RESOURCES)
Chosen = Annotated[str, Query(max_length=310)]


@routes.get("/predict-form")
def form(request: Request, parts: Parts, who: Visitor, model: Chosen = "", workspace: Chosen = "") -> Response:
    """An empty form."""
    identify.permit(who, "create")
    given = dict.fromkeys(FIELDS, "") | {"model": model, "workspace": workspace, "format": "root"}
    return _page(request, parts, who, given, forms.Errors())


@routes.post("/predict-form")
async def submit(request: Request, parts: Parts, who: Visitor) -> Response:
    """Submit the job; on an error the form again, with what was typed and what is wrong with it."""
    identify.permit(who, "create")
    sent = await request.form()
    given = {name: str(sent.get(name, "")) for name in FIELDS}
    return await run_in_threadpool(_submit, request, parts, who, given, str(sent.get("key", ""))[:64])


def _submit(request: Request, parts: Context, who: Identity, given: Mapping[str, str], key: str) -> Response:
    try:
        record = jobs.submit(parts, who, forms.request_of(forms.prediction(given)), key=f"form-{key}" if key else "")
    except MLaaSError as error:
        return _page(request, parts, who, given, forms.Errors.of(error, given), status=422)
    return to(f"/jobs/{record.process_name}")


def _page(request: Request, parts: Context, who: Identity, given: Mapping[str, str], errors: forms.Errors, *, status: int = 200) -> Response:
    return page(
        request,
        "predict.html.j2",
        who,
        status=status,
        given=given,
        errors=errors,
        models=[models.name(entry) for entry in models.listed(parts, who)],
        workspaces=forms.workspace_names(parts, who),
        settings=parts.settings,
        gpus=forms.has_gpus(parts),
        key=secrets.token_hex(16),
    )
