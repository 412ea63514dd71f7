"""The OpenAPI document of API v1 and the published calls, made from the routes; `openapi.json` is what it was made into."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from mlaas import __version__
from mlaas.server import published, wire
from mlaas.server.routes import ROUTERS
from mlaas.server.routing import TEXTS, add, problem

PATH = Path(__file__).with_name("openapi.json")
TAGS = [
    {"name": "service", "description": "What the service is, and who the caller is."},
    {"name": "workspaces", "description": "Uploaded folders that trainings take their files from."},
    {"name": "jobs", "description": "Trainings, and predictions of whole files."},
    {"name": "models", "description": "Trained models by version, with aliases and shares."},
    {"name": "predictions", "description": "Scores of raw events."},
    {"name": "published", "description": "The calls of the MLaaS4HEP server as they were published."},
]
ABOUT = (
    "Machine learning as a service for high-energy physics. Every call but GET /api/v1/service and GET /hello asks for a bearer token. "
    "Errors are application/problem+json (RFC 9457) with one sentence; every answer has an X-Request-ID. Lists come in pages: `next` of a page "
    "is the `cursor` of the following one. Wherever GET is answered, HEAD is, too. Times are ISO 8601 in UTC; sizes are bytes."
)
BY_HAND = (wire.PredictionRequest, wire.Problem)
"""Documents that no route takes or gives as FastAPI sees it."""
GENERATED = ("HTTPValidationError", "ValidationError")
"""Schemas that FastAPI adds for its own errors, which are not those of this service."""


def document() -> dict[str, Any]:
    """The document, from the routes as they are now."""
    app = FastAPI()
    add(app, [*ROUTERS, published.routes])
    found = get_openapi(title="MLaaS4HEP", version=__version__, description=ABOUT, routes=app.router.routes, tags=TAGS)
    schemas = found["components"]["schemas"]
    for name in GENERATED:
        schemas.pop(name, None)
    _, more = models_json_schema([(kind, "validation") for kind in BY_HAND], ref_template="#/components/schemas/{model}")
    found["components"]["schemas"] = dict(sorted({**schemas, **more["$defs"]}.items()))
    found["components"]["responses"] = {_name(status): problem(text) for status, text in TEXTS.items()}
    for operation in _operations(found):
        operation["summary"] = operation["description"].split("\n")[0].rstrip(".")
        operation["responses"] = {status: _shared(status, answer) for status, answer in operation["responses"].items()}
    return found


def _operations(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (operation for operations in found["paths"].values() for operation in operations.values())


def _shared(status: str, answer: dict[str, Any]) -> dict[str, Any]:
    """A reference to a problem that is the same for all calls; the answer itself where it is not one."""
    same = status.isdigit() and int(status) in TEXTS and answer == problem(TEXTS[int(status)])
    return {"$ref": f"#/components/responses/{_name(int(status))}"} if same else answer


def _name(status: int) -> str:
    return f"Problem{status}"


def text() -> str:
    """The document as it is committed."""
    return json.dumps(document(), indent=1) + "\n"


def endpoints() -> list[tuple[str, str, str]]:
    """Method, path and summary of every call, in the order of the document."""
    return [
        (method.upper(), path, f"{operation['summary']}.")
        for path, operations in document()["paths"].items()
        for method, operation in operations.items()
    ]
