"""The addresses of the predictions: what answers at each, and how it tells errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from mlaas.auth.identity import Identity
from mlaas.inference import open_inference, tfaas
from mlaas.inference.events import columns_of
from mlaas.inference.http import Answer, Bodies, Request, from_json, read, to_json, told
from mlaas.inference.open_inference import model_metadata, reference_of, server_metadata
from mlaas.inference.predictions import Predictions
from mlaas.inference.served import Served
from mlaas.inference.tokens import Tokens
from mlaas.web.problem import Problem
from mlaas.web.stopping import stopping

PROBLEM = b"application/problem+json"

Call = Callable[[Request], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """route: the template of the address, for the figures. error: an error in the form of the protocol."""

    route: str
    call: Call
    error: Callable[[Problem], Answer]


class Endpoints:
    """All of them."""

    def __init__(self, predictions: Predictions, tokens: Tokens, bodies: Bodies) -> None:
        self._predictions = predictions
        self._tokens = tokens
        self._bodies = bodies
        published = tfaas.Tfaas(predictions)
        self._exact = {
            path: Endpoint(path, self._post(handler), tfaas.error)
            for handler, paths in ((published.json, ("/json", "/predict/json")), (published.proto, ("/proto", "/predict/proto")))
            for path in paths
        }
        self._exact["/predict/events"] = Endpoint("/predict/events", self._post(self._events), _problem)

    def find(self, path: str) -> Endpoint | None:
        """What answers at an address; None for what is no prediction."""
        found = self._exact.get(path)
        if found is not None or not path.startswith("/v2"):
            return found
        return self._open_inference(path.rstrip("/").split("/")[2:]) if path[3:4] in ("", "/") else None

    def _post(self, handler: Callable[[Identity, bytes], Awaitable[Answer]]) -> Call:
        """A handler that takes the caller and the body."""

        async def call(request: Request) -> Answer:
            _allow(request, "POST")
            self._predictions.load.since()  # what comes too late costs no more than this
            identity = self._tokens.known(request.header(b"authorization")) or await self._caller(request, "POST")
            return await handler(identity, await read(request, self._bodies))

        return call

    async def _caller(self, request: Request, method: str) -> Identity:
        _allow(request, method)
        authorization = request.header(b"authorization")
        return self._tokens.known(authorization) or await self._tokens.identity(authorization)

    # ---- raw events

    async def _events(self, identity: Identity, body: bytes) -> Answer:
        """{"model": "M", "events": ...} -> {"model", "version", "classes", "scores"}."""
        request = from_json(body)
        if not isinstance(request, dict) or "events" not in request:
            raise Problem(400, 'the body must be an object: {"model": "...", "events": ...}', field="events")
        served = await self._predictions.model(request.get("model"), identity)
        return await self._scores(served, request["events"])

    async def _scores(self, served: Served, events: Any) -> Answer:
        scores = await self._predictions.events(served, columns_of(events))
        return Answer(to_json({"model": served.model, "version": served.version, "classes": list(served.classes), "scores": scores}))

    # ---- the Open Inference Protocol

    def _open_inference(self, parts: list[str]) -> Endpoint:
        match parts:
            case []:
                return _told("/v2", self._get(server_metadata))
            case ["health", "live"]:
                return _told("/v2/health/live", self._get(lambda: {"live": True}))
            case ["health", "ready"]:
                return _told("/v2/health/ready", self._get(_ready))
            case ["models", name, "versions", version, *action]:
                return self._model(name, version, action)
            case ["models", name, *action]:
                return self._model(name, "", action)
        return _told("/v2/*", _nothing)

    def _model(self, name: str, version: str, action: list[str]) -> Endpoint:
        route = "/v2/models/{model}" + "/versions/{version}" * bool(version)
        match action:
            case []:
                return _told(route, self._about(name, version, self._metadata))
            case ["ready"]:
                return _told(f"{route}/ready", self._about(name, version, self._model_ready))
            case ["infer"]:
                return _told(f"{route}/infer", self._infer(name, version))
            case ["events"]:
                return Endpoint(f"{route}/events", self._post(self._events_of(name, version)), _problem)
        return _told("/v2/*", _nothing)

    def _get(self, document: Callable[[], Any]) -> Call:
        async def call(request: Request) -> Answer:
            _allow(request, "GET")
            return Answer(to_json(document()))

        return call

    def _about(self, name: str, version: str, document: Callable[[Identity, str, str], Awaitable[Any]]) -> Call:
        async def call(request: Request) -> Answer:
            return Answer(to_json(await document(await self._caller(request, "GET"), name, version)))

        return call

    async def _metadata(self, identity: Identity, name: str, version: str) -> Any:
        served = await self._predictions.model(reference_of(name, version), identity)
        return model_metadata(served, name, self._predictions.pool.versions(name, identity))

    async def _model_ready(self, identity: Identity, name: str, version: str) -> Any:
        served = await self._predictions.model(reference_of(name, version), identity)
        return {"name": name, "ready": bool(served)}

    def _infer(self, name: str, version: str) -> Call:
        async def call(request: Request) -> Answer:
            identity = await self._caller(request, "POST")
            body = await read(request, self._bodies)
            length = request.header(open_inference.LENGTH)
            return await open_inference.infer(self._predictions, identity, name, version, body, length)

        return call

    def _events_of(self, name: str, version: str) -> Callable[[Identity, bytes], Awaitable[Answer]]:
        async def call(identity: Identity, body: bytes) -> Answer:
            served = await self._predictions.model(reference_of(name, version), identity)
            request = from_json(body)
            return await self._scores(served, request.get("events") if isinstance(request, dict) and "events" in request else request)

        return call


def _told(route: str, call: Call) -> Endpoint:
    return Endpoint(route, call, open_inference.error)


def _problem(problem: Problem) -> Answer:
    return told(problem, problem.document(), PROBLEM)


def _allow(request: Request, method: str) -> None:
    given = request.scope["method"]
    if given != method and not (method == "GET" and given == "HEAD"):
        raise Problem(405, f"this address takes {method} only, not {given}", headers={"Allow": method})


def _ready() -> Any:
    if stopping():
        raise Problem(503, "the service is stopping", headers={"Retry-After": "5"})
    return {"ready": True}


async def _nothing(_request: Request) -> Answer:
    raise Problem(404, "there is nothing at this address")
