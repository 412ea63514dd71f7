"""What goes over the wire of API v1: the documents of requests and answers. Times are ISO 8601, UTC; sizes are bytes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from mlaas.jobs.states import State
from mlaas.sizes import Size

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"
GROUP = r"^[A-Za-z0-9/_.:@+-]{1,200}$"

Name = Annotated[str, Field(pattern=NAME, description="Up to 100 letters, digits, '_', '.' and '-', beginning with a letter or a digit.")]
Group = Annotated[str, Field(pattern=GROUP, description="A group as tokens name it, e.g. /cms/higgs.")]
Reference = Annotated[
    str,
    Field(
        min_length=1,
        max_length=310,
        description="A model: name, name@version or name@alias; of another tenant who shares it: tenant:name. Without a version the latest.",
    ),
]
T = TypeVar("T")


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


class File(_Wire):
    """A file of a workspace, or of what a job left."""

    path: str
    size: int
    modified: datetime


class Resources(_Wire):
    """What a job asks for. Numbers may be given as text, as the published server takes them."""

    device: Literal["cpu", "gpu"] = "cpu"
    memory: Size | None = Field(None, description='Bytes, or text such as "3gb".')
    cpus: Annotated[float, Field(gt=0, le=4096)] | None = None
    gpus: Annotated[int, Field(ge=1, le=64)] | None = Field(None, description="With device gpu; 1 unless given.")
    time_limit: Annotated[float, Field(gt=0)] | None = Field(None, description="Seconds.")


class TrainRequest(Resources):
    """A training. Each of files, labels, params, preproc and specs is the name of a file of the workspace, or the content itself; model is a file."""

    kind: Literal["train"] = "train"
    workspace: Name
    files: str | list[str] = Field(description="File of the workspace with one path per line, a comma list, or a list of paths or URLs.")
    labels: str | list[str | int | float] = Field(description="File with a label per file, a list, or the name of the branch that holds the label.")
    model: str = Field(description="Python file of the workspace that defines model(idim).")
    params: str | dict[str, Any] = Field({}, description="JSON file of the workspace, or the parameters themselves.")
    preproc: str | dict[str, Any] | None = None
    specs: str | dict[str, Any] | None = None
    dtype: Literal["root", "csv", "json", "parquet", "avro"] | None = None
    name: Name | None = Field(None, description="Name of the model; unless given, that of the workspace.")


class PredictRequest(Resources):
    """Scores of whole files of raw events, as friend trees aligned by entry, or Parquet."""

    kind: Literal["predict"]
    model: Reference
    workspace: Name | None = None
    files: str | list[str]
    tree: str | None = None
    format: Literal["root", "parquet"] = "root"


JobRequest = TrainRequest | PredictRequest


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
