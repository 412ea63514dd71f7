"""What goes over the wire of API v1: the documents of requests and answers. Times are ISO 8601, UTC; sizes are bytes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from mlaas.jobs.requests import NAME, JobRequest, Name, PredictRequest, Reference, Resources, TrainRequest
from mlaas.jobs.states import State
from mlaas.web.problem import Problem as Fault

GROUP = r"^[A-Za-z0-9/_.:@+-]{1,200}$"

Group = Annotated[str, Field(pattern=GROUP, description="A group as tokens name it, e.g. /cms/higgs.")]
__all__ = [
    "GROUP",
    "NAME",
    "AliasRequest",
    "AnyRequest",
    "Card",
    "Deleted",
    "File",
    "Group",
    "Job",
    "JobRequest",
    "Limits",
    "Me",
    "Metrics",
    "Model",
    "Name",
    "Page",
    "PredictRequest",
    "Prediction",
    "PredictionRequest",
    "Problem",
    "Reference",
    "Resources",
    "Service",
    "ShareRequest",
    "TrainRequest",
    "Usage",
    "Version",
    "Workspace",
]

T = TypeVar("T")


def _kind(value: Any) -> str:
    """What a submission is, so that its faults are told of that kind only. Raises Problem 422."""
    kind = value.get("kind", "train") if isinstance(value, dict) else getattr(value, "kind", "train")
    if kind not in ("train", "predict"):
        raise Fault(422, 'kind: must be "train" or "predict"', field="kind")
    return "PredictRequest" if kind == "predict" else "TrainRequest"


AnyRequest = Annotated[Annotated[TrainRequest, Tag("TrainRequest")] | Annotated[PredictRequest, Tag("PredictRequest")], Discriminator(_kind)]


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Page(_Wire, Generic[T]):
    """One page of a list, newest first. `next` is the `cursor` of the following page; null on the last."""

    items: list[T]
    next: str | None = None


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str = Field(description="One sentence: what is wrong and what is allowed.")
    field: str | None = Field(None, description="The field that is wrong.")
    request_id: str | None = None


class Service(_Wire):
    """What a client must know before it has a token. Tells nothing about users."""

    name: str = "MLaaS4HEP"
    version: str
    api: list[str] = ["v1"]
    auth: Literal["token", "oidc"]
    issuers: list[str] = []
    client_id: str = ""
    scope: str = ""
    audience: str = ""
    inference_url: str
    grpc_port: int | None = None


class Limits(_Wire):
    """What one user may have at a time; null sets no limit."""

    jobs: int
    cpus: float | None = None
    memory: int | None = None
    disk: int | None = None


class Usage(_Wire):
    """What one user has now."""

    queued: int
    running: int
    cpus: float
    memory: int
    disk: int
    cpu_seconds: float = Field(description="Of all jobs so far.")


class Me(_Wire):
    """The caller, as the service sees them."""

    tenant: str
    name: str
    issuer: str
    groups: list[str]
    roles: list[str]
    usage: Usage
    limits: Limits


class Workspace(_Wire):
    """An uploaded folder. A new upload of the same name replaces it for new jobs; running jobs keep what they have."""

    name: str
    generation: int
    files: int
    size: int
    created: datetime


class Deleted(_Wire):
    """How many files were deleted."""

    deleted: int


class File(_Wire):
    """A file of a workspace, or of what a job left."""

    path: str
    size: int
    modified: datetime


class Job(_Wire):
    """A job."""

    id: str
    number: int = Field(description="The job_id of the published calls.")
    process_name: str = Field(description="The name of the published calls, <workspace>_<n>.")
    kind: Literal["train", "predict"]
    state: State
    reason: str = Field(description="Why it waits, failed or was cancelled; empty when there is nothing to say.")
    model: str
    version: int | None = Field(description="The version of the model that it made.")
    workspace: str | None
    device: str
    cpus: float
    gpus: int
    memory: int
    time_limit: float
    attempt: int
    exit_code: int | None
    created: datetime
    started: datetime | None
    finished: datetime | None
    cpu_seconds: float
    peak_memory: int
    owner: str | None = Field(None, description="The tenant; only told to administrators.")
    worker: str | None = Field(None, description="The worker that has it or had it last, if that has a name; only told to administrators.")
    request: dict[str, Any]


class Metrics(_Wire):
    """The curves of a training so far (one entry per epoch), and the final figures per split once it has ended."""

    epochs: list[dict[str, Any]]
    final: dict[str, Any]


class Version(_Wire):
    """One version of a model."""

    version: int
    created: datetime
    framework: str
    task: str
    classes: list[str]
    width: int | None
    engine: str
    size: int
    job: str | None = Field(None, description="The job that made it.")
    metrics: dict[str, Any] = Field({}, description="Final figures of the test events, where it was trained here.")
    aliases: list[str] = []


class Card(_Wire):
    """What a version of a model tells of itself. `features` and `specs` say what it takes; null where it was not trained here."""

    manifest: dict[str, Any]
    files: list[str]
    features: dict[str, Any] | None
    specs: dict[str, Any] | None
    metrics: dict[str, Any] = Field(description="Final figures by split.")
    workflow: dict[str, Any] | None


class Model(_Wire):
    """A model of the caller, or one that is shared with them (then `name` is tenant:name)."""

    name: str
    owner: str
    shared: bool = Field(description="Whether it is somebody else's.")
    latest: int
    versions: list[int]
    aliases: dict[str, int]
    groups: list[str] = Field([], description="The groups that it is shared with; told to its owner only.")
    updated: datetime


class AliasRequest(_Wire):
    """Which version an alias stands for."""

    version: Annotated[int, Field(ge=1)]


class ShareRequest(_Wire):
    """Which group gets to see and use a model. The caller need not be a member."""

    group: Group


class PredictionRequest(_Wire):
    """Raw events by branch name: columns (jagged: lists, or {"offsets": [...], "values": [...]}), or a list of events."""

    model: Reference
    events: dict[str, Any] | list[dict[str, Any]]


class Prediction(_Wire):
    """Scores, one per event: the probability of the second of two classes, a list over the classes, or a value."""

    model: str
    version: int
    classes: list[str]
    scores: list[float] | list[list[float]]
