"""From what a user asks for to a job that can be queued: whatever can be told before it runs is told here, with the name of the field."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Protocol

from sqlalchemy import Engine

from mlaas.errors import BundleError, WorkflowError
from mlaas.jobs import documents
from mlaas.jobs.fellows import machines
from mlaas.jobs.limits import Limits, Rules
from mlaas.jobs.requests import JobRequest, PredictRequest, Resources, TrainRequest
from mlaas.jobs.scheduler import exceeded
from mlaas.jobs.upload import Upload
from mlaas.models.catalogue import Catalogue, Found, parse
from mlaas.places import Places
from mlaas.settings import Settings
from mlaas.sizes import write_size
from mlaas.store import workspaces
from mlaas.store.records import NewJob, WorkspaceRecord

LEAST_MEMORY = 64 * 10**6
"""Python itself takes that much; "3" for three gigabytes is a common slip."""
LONGEST_PUBLISHED = 88
"""Characters of a workspace's name that leave room for the process number in the name of a model."""


class Submitter(Protocol):
    """Who submits (`mlaas.auth.identity.Identity` is one)."""

    @property
    def tenant(self) -> str: ...
    @property
    def groups(self) -> Collection[str]: ...


def admit(who: Submitter, request: JobRequest, settings: Settings, engine: Engine, *, published: bool = False) -> NewJob:
    """Check a submission and return what the store queues.

    published: by the published call, whose models have the name of the process. Raises WorkflowError naming the field and what is allowed;
    UserError for settings that are wrong; StoreError. Reads the workspace's lists, so it takes some milliseconds: not for an event loop.
    """
    granted = grant(request, settings, who.groups, machines(settings, engine))
    if isinstance(request, TrainRequest):
        return _train(who, request, granted, settings, engine, published)
    return _predict(who, request, granted, settings, engine)


def grant(request: Resources, settings: Settings, groups: Collection[str], of: Sequence[Limits]) -> dict[str, Any]:
    """The columns device, cpus, gpus, memory and time_limit of a job. Raises WorkflowError for what no job of this user could ever get.

    of: what the machines have for jobs.
    """
    rules = replace(Rules.of(settings), total=of[0])
    if request.device == "cpu" and request.gpus:
        raise WorkflowError("gpus: the job asks for the device cpu; submit it with device gpu")
    if request.device == "gpu" and not any(machine.gpus for machine in of):
        raise WorkflowError("device: this service has no GPUs for jobs; use cpu")
    cpus, memory = request.cpus or settings.job_cpus, request.memory or settings.job_memory
    gpus = (request.gpus or 1) if request.device == "gpu" else 0
    for field, sentence in exceeded(cpus, memory, gpus, groups, rules, of[1:]):
        raise WorkflowError(f"{field}: the job {sentence}")
    if memory < LEAST_MEMORY:
        raise WorkflowError(f'memory: {write_size(memory)} is too little for any job; write e.g. "3gb"')
    return {"device": request.device, "cpus": cpus, "gpus": gpus, "memory": memory, "time_limit": _time_limit(request, settings)}


def _time_limit(request: Resources, settings: Settings) -> float:
    asked = request.time_limit or settings.job_time_limit
    if not asked <= settings.job_time_limit:
        raise WorkflowError(f"time_limit: {asked:g} s is more than jobs may run here; at most {settings.job_time_limit:g} s")
    return asked


def upload_of(settings: Settings, workspace: WorkspaceRecord) -> Upload:
    """The folder of a generation."""
    return Upload(Places.of(settings).workspace(workspace.tenant, workspace.name, workspace.generation), workspace.name)


def _workspace(who: Submitter, name: str, engine: Engine) -> WorkspaceRecord:
    found = workspaces.current(engine, who.tenant, name)
    if found is None:
        raise WorkflowError(f"workspace: you have no workspace {name!r}; upload it first")
    return found


def _train(who: Submitter, request: TrainRequest, granted: dict[str, Any], settings: Settings, engine: Engine, published: bool) -> NewJob:
    if published and len(request.workspace) > LONGEST_PUBLISHED:
        raise WorkflowError(f"name: at most {LONGEST_PUBLISHED} characters, for its models are called {request.workspace[:10]}..._1 and so on")
    workspace = _workspace(who, request.workspace, engine)
    upload = upload_of(settings, workspace)
    documents.check_model(request, upload)
    documents.training(request, upload, settings, granted["cpus"])
    model = "" if published else request.name or request.workspace
    return _new(who, request, granted, workspace.name, model, workspace)


def _predict(who: Submitter, request: PredictRequest, granted: dict[str, Any], settings: Settings, engine: Engine) -> NewJob:
    found = bundle_of(request.model, who.tenant, who.groups, settings)
    workspace = _workspace(who, request.workspace, engine) if request.workspace else None
    documents.prediction(request, upload_of(settings, workspace) if workspace else None, settings)
    owner = "" if found.tenant == who.tenant else f"{found.tenant}:"
    return _new(who, request, granted, request.workspace or parse(request.model).model, f"{owner}{found.model}@{found.version}", workspace)


def bundle_of(reference: str, tenant: str, groups: Collection[str], settings: Settings) -> Found:
    """The trained model of a prediction. Raises WorkflowError when there is none that the tenant may use, or it takes no raw events."""
    try:
        found = Catalogue(Places.of(settings).repository).resolve(reference, tenant, groups)
    except BundleError as error:
        raise WorkflowError(f"model: {error}") from None
    if not (found.path / "features.json").is_file():
        raise WorkflowError(f"model: {reference} was not trained here, so it does not know the branches of raw events")
    return found


def _new(who: Submitter, request: JobRequest, granted: dict[str, Any], process: str, model: str, workspace: WorkspaceRecord | None) -> NewJob:
    asked = request.model_dump(mode="json", exclude_unset=True) | {"kind": request.kind}
    generation = workspace.generation if workspace else None
    name = workspace.name if workspace else None
    return NewJob(
        tenant=who.tenant, process=process, kind=request.kind, request=asked, model=model, workspace=name, generation=generation,
        groups=tuple(sorted(who.groups)), **granted,
    )  # fmt: skip
