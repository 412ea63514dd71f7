"""The published calls of the MLaaS4HEP server: their names, parameters and texts, over the same functions as API v1."""

from __future__ import annotations

import json
import re
import time
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import HTTPException, RequestValidationError
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRoute
from pydantic import Field

from mlaas.auth.identity import Identity
from mlaas.errors import MLaaSError, WorkflowError
from mlaas.jobs.requests import Name, Resources, TrainRequest
from mlaas.jobs.states import ENDED, State
from mlaas.models.catalogue import Found, NoModel
from mlaas.server import attachments, jobs, models
from mlaas.server.deps import SECURED, Context, Creator, Modifier, Parts, Reader, known
from mlaas.server.downloads import OpenFile
from mlaas.server.durations import docker_status
from mlaas.server.routing import BINARY, FORM, TEXTS, Reply, content, known_json_request
from mlaas.server.uploads import receive
from mlaas.server.workspaces import NAMED, upload_workspace
from mlaas.store.records import JobRecord
from mlaas.web import errors, identify
from mlaas.web.problem import Problem

UPLOADED = "Successfully uploaded!\n"
TELLS_JSON = {"/submit", "/status_docker"}
EXAMPLE = {
    "name": "luca",
    "device": "cpu",
    "memory": "3gb",
    "cpus": "2",
    "files": "files.txt",
    "labels": "labels.txt",
    "model": "model.py",
    "params": "params.json",
}


class Submission(Resources):
    """The document of /submit. Numbers may be text."""

    name: Name = Field(description="The uploaded folder.")
    files: str | list[str]
    labels: str | list[str | int | float]
    model: str
    params: str | dict[str, Any]
    preproc: str | dict[str, Any] | None = None

    def request(self) -> TrainRequest:
        """The same as API v1 has it."""
        return TrainRequest(workspace=self.name, **self.model_dump(exclude={"name"}))


class Published(APIRoute):
    """A route that tells errors as the published calls do: a sentence of text, or where they answer JSON {"error": sentence}."""

    def get_route_handler(self) -> Reply:
        handle, takes_json = super().get_route_handler(), self.body_field is not None
        tells_json = self.path in TELLS_JSON

        async def reply(request: Request) -> Response:
            try:
                return await handle(await known_json_request(request) if takes_json else request)
            except (MLaaSError, RequestValidationError, HTTPException) as error:
                return told(errors.problem_of(error), tells_json)

        return reply


def told(problem: Problem, as_json: bool) -> Response:
    """An error in the published form."""
    if as_json:
        return Response(json.dumps({"error": problem.detail}, indent=True), problem.status, problem.headers, "application/json")
    return PlainTextResponse(problem.detail.rstrip("\n") + "\n", problem.status, problem.headers)


def documented(*statuses: int, as_json: bool = False, shown: dict[str, Any] | None = None) -> dict[int | str, dict[str, Any]]:
    """The documentation of a call: what it answers, and its errors."""
    schema = {"type": "object", "properties": {"error": {"type": "string"}}} if as_json else {"type": "string"}
    kind = "application/json" if as_json else "text/plain"
    failures: dict[int | str, dict[str, Any]] = {
        status: {"description": TEXTS[status], "content": {kind: {"schema": schema}}} for status in sorted({401, 403, 503, *statuses})
    }
    return {200: shown or {"description": "Done.", "content": {"text/plain": {"schema": {"type": "string"}}}}, **failures}


ANSWER: dict[str, Any] = {"description": "JSON.", "content": {"application/json": {"schema": {"type": "object"}}}}
ARCHIVE: dict[str, Any] = {"description": "The archive.", "content": {"application/gzip": {"schema": BINARY}}}
routes = APIRouter(tags=["published"], route_class=Published)
ProcessName = Annotated[str, Query(max_length=120, description="The process name that /submit answered.")]
FolderName = Annotated[str, Query(max_length=100, description="The name that the folder was uploaded under.")]


async def with_bearer(request: Request, _identity: Annotated[Identity, Depends(known)]) -> None:
    """Refuse a GET that deletes unless its client itself sent a token. Raises Problem 403.

    A gateway may put a token on what a browser asks for; a link on any page or in a letter would then delete. Only programs send no Sec-Fetch-Site.
    """
    if identify.bearer(request) is None or request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
        raise Problem(403, "this call deletes: send it with a token of its own (Authorization: Bearer TOKEN); for pages there is DELETE in API v1")


@routes.get("/hello", operation_id="hello", responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}})
def hello() -> PlainTextResponse:
    """Say that the server is there."""
    return PlainTextResponse("Hello World\n")


@routes.post(
    "/upload",
    operation_id="published_upload",
    dependencies=SECURED,
    response_class=PlainTextResponse,
    responses=documented(400, 408, 413, 422, 507),
    openapi_extra=content({"multipart/form-data": FORM}),
)
async def upload(request: Request, parts: Parts, identity: Creator, name: FolderName = "") -> PlainTextResponse:
    """Upload a folder (.tar.gz)."""
    if not name:
        raise Problem(400, "No name was provided", field="name")
    if not NAMED.fullmatch(name):
        raise Problem(422, "name: up to 100 letters, digits, '_', '.' and '-', beginning with a letter or a digit", field="name")
    await upload_workspace(request, parts, identity, name)
    return PlainTextResponse(UPLOADED)


@routes.post(
    "/submit",
    operation_id="published_submit",
    dependencies=SECURED,
    response_class=Response,
    responses=documented(400, 404, 409, 413, 415, 422, 429, 507, as_json=True, shown=ANSWER),
)
def submit(parts: Parts, identity: Creator, request: Annotated[Submission, Body(examples=[EXAMPLE])]) -> Response:
    """Submit a training; its model is published under the process name."""
    try:
        job = jobs.submit(parts, identity, request.request(), published=True)
    except WorkflowError as error:  # what API v1 calls the workspace is the name here
        raise WorkflowError(re.sub("^workspace: ", "name: ", str(error))) from None
    return _json({"process_name": job.process_name, "job_id": job.number})


def _json(document: dict[str, Any]) -> Response:
    return Response(json.dumps(document, indent=True), media_type="application/json")


@routes.get(
    "/status_docker",
    operation_id="published_status",
    dependencies=SECURED,
    response_class=Response,
    responses=documented(404, 422, as_json=True, shown=ANSWER),
)
def status_docker(parts: Parts, identity: Reader, process_name: ProcessName) -> Response:
    """The state of a process in Docker's words."""
    job = _process(parts, identity, process_name)
    return _json({"process_name": job.process_name, "status": docker_status(job, time.time())})


@routes.get("/logs", operation_id="published_logs", dependencies=SECURED, response_class=PlainTextResponse, responses=documented(400, 404, 416, 422))
def logs(parts: Parts, identity: Reader, process_name: ProcessName) -> Response:
    """The log of a process, as a file."""
    job = _process(parts, identity, process_name)
    return jobs.log(parts, job, name=f"{job.process_name}.txt")


@routes.get(
    "/model",
    operation_id="published_model",
    dependencies=SECURED,
    response_class=Response,
    responses=documented(400, 404, 416, 422, 507, shown=ARCHIVE),
)
async def model(parts: Parts, identity: Reader, process_name: ProcessName) -> OpenFile:
    """The trained model as .tar.gz, its files at the top."""
    found = await run_in_threadpool(_model, parts, identity, process_name)
    return await parts.slowly(models.packed, parts, found, folder="", filename=f"{process_name}.tar.gz")


@routes.post(
    "/setup_tfaas",
    operation_id="published_setup_tfaas",
    dependencies=SECURED,
    response_class=PlainTextResponse,
    responses=documented(400, 404, 408, 413, 422, 507),
    openapi_extra=content({"multipart/form-data": FORM}),
)
async def setup_tfaas(request: Request, parts: Parts, identity: Modifier, process_name: ProcessName) -> PlainTextResponse:
    """Add a file (params.json, labels.txt, a document) to a trained model, which becomes its next version."""
    found = await run_in_threadpool(_model, parts, identity, process_name)
    async with receive(request, parts, most=attachments.LIMIT) as file:
        await parts.slowly(attachments.attach, parts, found, file.filename, file.path)
    return PlainTextResponse(UPLOADED)


@routes.get(
    "/delete_specs",
    operation_id="published_delete_specs",
    dependencies=[*SECURED, Depends(with_bearer)],
    response_class=PlainTextResponse,
    responses=documented(404, 422),
)
def delete_specs(parts: Parts, identity: Modifier, name: FolderName) -> PlainTextResponse:
    """Delete the specs files of an uploaded folder. Only with a token that the client itself sends."""
    _folder(parts, identity, name)
    parts.workspaces.delete_specs(identity.tenant, name)
    return PlainTextResponse("Specs deletion completed!\n")


@routes.get(
    "/delete_folder",
    operation_id="published_delete_folder",
    dependencies=[*SECURED, Depends(with_bearer)],
    response_class=PlainTextResponse,
    responses=documented(404, 422),
)
def delete_folder(parts: Parts, identity: Modifier, name: FolderName) -> PlainTextResponse:
    """Delete an uploaded folder; its models stay. Only with a token that the client itself sends."""
    _folder(parts, identity, name)
    parts.workspaces.delete(identity.tenant, name)
    return PlainTextResponse("Folder deletion completed!\n")


def _folder(parts: Context, identity: Identity, name: str) -> None:
    if parts.workspaces.get(identity.tenant, name) is None:
        raise Problem(404, f"there is no folder {name!r}", field="name")


def _process(parts: Context, identity: Identity, process_name: str) -> JobRecord:
    """The caller's process of a name. Raises Problem 404."""
    try:
        return jobs.find(parts, identity, process_name)
    except Problem:
        raise Problem(404, f"there is no process {process_name!r}", field="process_name") from None


def _model(parts: Context, identity: Identity, process_name: str) -> Found:
    """The model of a process: the newest version of the model of that name, or the version that the job made. Raises Problem 404."""
    try:
        job = _process(parts, identity, process_name)
        if job.version is None:
            raise Problem(404, _not_ready(job))
        return models.find_own(parts, identity, job.model, None if job.model == process_name else job.version)
    except NoModel:
        raise Problem(404, f"the model of the process {process_name!r} was deleted") from None


def _not_ready(job: JobRecord) -> str:
    if State(job.state) in ENDED:
        return f"the process {job.process_name!r} has left no model: {job.reason or job.state}"
    return f"the model of the process {job.process_name!r} is not ready yet: the process is {job.state}"
