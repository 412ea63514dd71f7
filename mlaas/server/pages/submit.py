"""The form of a training."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Query
from fastapi.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from mlaas.auth.identity import Identity
from mlaas.errors import MLaaSError
from mlaas.server import jobs
from mlaas.server.deps import Context, Parts
from mlaas.server.pages import forms
from mlaas.server.pages.render import page
from mlaas.server.pages.routing import Visitor, router, to
from mlaas.web import identify

routes = router()
USUAL = {
    "files": ("files.txt",),
    "labels": ("labels.txt",),
    "model": ("model.py", "ex_keras.py", "mymodel.py"),
    "params": ("params.json",),
    "preproc": ("preproc.json",),
}
FIELDS = ("workspace", "name", *USUAL, "files_text", "labels_text", "params_text", "preproc_text", *forms.RESOURCES)
Chosen = Annotated[str, Query(max_length=120)]


@routes.get("/submit-form")
def form(request: Request, parts: Parts, who: Visitor, workspace: Chosen = "", job: Chosen = "") -> Response:
    """An empty form for a workspace, or one with what a job was submitted with."""
    identify.permit(who, "create")
    given = _again(parts, who, job) if job else dict.fromkeys(FIELDS, "")
    given["workspace"] = workspace or given["workspace"]
    names = forms.workspace_names(parts, who)
    if not given["workspace"] and len(names) == 1:
        given["workspace"] = names[0]
    files = forms.workspace_files(parts, who, given["workspace"]) if given["workspace"] else []
    if not job:
        given |= {field: next((name for name in usual if name in files), "") for field, usual in USUAL.items()}
    return _page(request, parts, who, given, forms.Errors())


def _again(parts: Context, who: Identity, job: str) -> dict[str, str]:
    """The fields of the form that submitted a job."""
    asked = jobs.find(parts, who, job).request
    given = dict.fromkeys(FIELDS, "")
    for name, value in asked.items():
        if isinstance(value, list):
            given[f"{name}_text"] = "\n".join(map(str, value))
        elif isinstance(value, dict):
            given[f"{name}_text"] = forms.pretty(value)
        elif value is not None and name in given:
            given[name] = str(value)
    return {name: given[name] for name in FIELDS}


@routes.post("/submit-form")
async def submit(request: Request, parts: Parts, who: Visitor) -> Response:
    """Submit the training; on an error the form again, with what was typed and what is wrong with it."""
    identify.permit(who, "create")
    sent = await request.form()
    given = {name: str(sent.get(name, "")) for name in FIELDS}
    return await run_in_threadpool(_submit, request, parts, who, given, str(sent.get("key", ""))[:64])


def _submit(request: Request, parts: Context, who: Identity, given: Mapping[str, str], key: str) -> Response:
    try:
        record = jobs.submit(parts, who, forms.request_of(forms.training(given)), key=f"form-{key}" if key else "")
    except MLaaSError as error:
        return _page(request, parts, who, given, forms.Errors.of(error, given), status=422)
    return to(f"/jobs/{record.process_name}")


def _page(request: Request, parts: Context, who: Identity, given: Mapping[str, str], errors: forms.Errors, *, status: int = 200) -> Response:
    context: dict[str, Any] = {
        "given": given,
        "errors": errors,
        "workspaces": forms.workspace_names(parts, who),
        "files": forms.workspace_files(parts, who, given["workspace"]) if given["workspace"] else [],
        "settings": parts.settings,
        "gpus": forms.has_gpus(parts),
        "key": secrets.token_hex(16),
    }
    return page(request, "submit.html.j2", who, status=status, **context)
