"""What the service answers, as frozen dataclasses; they follow `mlaas/server/wire.py` (a test compares them). Sizes are bytes, times are aware."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from mlaas.client.errors import ServiceError

T = TypeVar("T")
ENDED = frozenset({"succeeded", "failed", "cancelled", "timed_out"})
STATES = ("queued", "starting", "running", "publishing", "succeeded", "failed", "cancelled", "timed_out")


@dataclass(frozen=True, kw_only=True)
class Service:
    """What the service tells before one has a token."""

    name: str
    version: str
    auth: Literal["token", "oidc"]
    inference_url: str
    api: list[str] = field(default_factory=list)
    issuers: list[str] = field(default_factory=list)
    client_id: str = ""
    scope: str = ""
    audience: str = ""
    grpc_port: int | None = None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one user may have at a time; None sets no limit."""

    jobs: int
    cpus: float | None = None
    memory: int | None = None
    disk: int | None = None


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What one user has now."""

    queued: int
    running: int
    cpus: float
    memory: int
    disk: int
    cpu_seconds: float


@dataclass(frozen=True, kw_only=True)
class Me:
    """The caller, as the service sees them."""

    tenant: str
    name: str
    issuer: str
    groups: list[str]
    roles: list[str]
    usage: Usage
    limits: Limits


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """An uploaded folder."""

    name: str
    generation: int
    files: int
    size: int
    created: datetime


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of a workspace, or of what a job left."""

    path: str
    size: int
    modified: datetime


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job. state: one of STATES. reason: why it waits, failed or was cancelled, where there is something to say."""

    id: str
    number: int
    process_name: str
    kind: str
    state: str
    reason: str
    model: str
    version: int | None
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
    owner: str | None = None
    worker: str | None = None
    request: dict[str, Any] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether the state is final."""
        return self.state in ENDED


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """The curves of a training so far (one entry per epoch), and the final figures per split."""

    epochs: list[dict[str, Any]]
    final: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Version:
    """One version of a model."""

    version: int
    created: datetime
    framework: str
    task: str
    classes: list[str]
    width: int | None
    engine: str
    size: int
    job: str | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    aliases: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model of the caller, or one that is shared with them (then `name` is tenant:name)."""

    name: str
    owner: str
    shared: bool
    latest: int
    versions: list[int]
    aliases: dict[str, int]
    updated: datetime
    groups: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Scores, one per event: the probability of the second of two classes, a list over the classes, or a value."""

    model: str
    version: int
    classes: list[str]
    scores: list[float] | list[list[float]]


@dataclass(frozen=True)
class Event:
    """What happens to a job that is followed.

    kind: "log" (text: whole lines), "metric" (data: an entry of the curves), "state" (data: the job), "end" (data: the job; nothing follows).
    """

    kind: str
    text: str = ""
    data: dict[str, Any] = field(default_factory=dict)


@lru_cache(maxsize=64)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def read(kind: type[T], document: object) -> T:
    """A document of the server as a dataclass; fields that this client does not know are left out. Raises ServiceError when it does not fit."""
    try:
        found: T = _adapter(cast(Any, kind)).validate_python(document)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise ServiceError(
            f"the server's answer is not understood ({kind.__name__}.{where}); client and server may be of different versions"
        ) from None
    return found


def plain(document: object) -> Any:
    """A dataclass (or a list of them) as JSON takes it."""
    if isinstance(document, list):
        return [plain(item) for item in document]
    return _adapter(cast(Any, type(document))).dump_python(document, mode="json") if not isinstance(document, Mapping) else dict(document)
