"""Try a prediction: raw events as JSON, or one event by its branches."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Query
from fastapi.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from mlaas.auth.identity import Identity
from mlaas.data.features import Features
from mlaas.errors import MLaaSError
from mlaas.server import documents, inference, models
from mlaas.server.deps import Context, Parts
from mlaas.server.pages.render import page
from mlaas.server.pages.routing import Visitor, router
from mlaas.web import identify
from mlaas.web.errors import problem_of
from mlaas.web.problem import Problem

routes = router()
PREFIX = "branch."
MOST_SCORES = 200
Chosen = Annotated[str, Query(max_length=310)]


@dataclass(frozen=True)
class Input:
    """A branch that a model takes, and what an event may have in it."""

    name: str
    jagged: bool
    example: str


@routes.get("/try")
def form(request: Request, parts: Parts, who: Visitor, model: Chosen = "") -> Response:
    """The form for a model."""
    identify.permit(who, "read")
    return _page(request, parts, who, model, {}, "")


def _page(request: Request, parts: Context, who: Identity, model: str, given: Mapping[str, str], events: str, **found: Any) -> Response:
    inputs: list[Input] = []
    unknown = ""
    if model:
        try:
            inputs = inputs_of(documents.card(models.opened(models.find(parts, who, model))))
        except MLaaSError as error:
            unknown = str(error)
    return page(
        request,
        "try.html.j2",
        who,
        status=found.pop("status", 404 if unknown else 200),
        model=model,
        models=[models.name(entry) for entry in models.listed(parts, who)],
        inputs=inputs,
        given=given,
        events=events or example(inputs),
        error=found.pop("error", unknown),
        scores=found.pop("scores", None),
    )


def inputs_of(card: Any) -> list[Input]:
    """The branches that a model needs, with a typical value where its specs tell of one."""
    if card.features is None:
        return []
    least = (card.specs or {}).get("minv") or {}
    most = (card.specs or {}).get("maxv") or {}
    found = sorted(Features.from_json(card.features).branches.items(), key=lambda item: (item[1].kind != "flat", item[0]))
    return [Input(name, branch.kind != "flat", _typical(least.get(name), most.get(name), str(branch.dtype))) for name, branch in found]


def _typical(least: Any, most: Any, dtype: str) -> str:
    try:
        middle = (float(least) + float(most)) / 2
        return str(round(middle)) if not dtype.startswith("float") else f"{middle:.4g}"
    except (TypeError, ValueError, OverflowError):
        return "0"


def example(inputs: list[Input]) -> str:
    """Two events for the model, to begin with."""
    if not inputs:
        return ""
    rows = [f"  {json.dumps(item.name)}: {f'[[{item.example}], []]' if item.jagged else f'[{item.example}, {item.example}]'}" for item in inputs]
    return "{\n" + ",\n".join(rows) + "\n}"


@routes.post("/try")
async def predict(request: Request, parts: Parts, who: Visitor) -> Response:
    """Ask the inference service, and show the scores beside the events."""
    identify.permit(who, "read")
    sent = {name: str(value) for name, value in (await request.form()).items()}
    model, text = sent.get("model", ""), sent.get("events", "")
    given = {name.removeprefix(PREFIX): value for name, value in sent.items() if name.startswith(PREFIX)}
    try:
        events = one_event(given) if sent.get("by") == "branch" else _events(text)
        scores = await _scores(request, parts, who, model, events)
    except MLaaSError as error:
        problem = problem_of(error)
        return await run_in_threadpool(lambda: _page(request, parts, who, model, given, text, error=problem.detail, status=problem.status))
    return await run_in_threadpool(lambda: _page(request, parts, who, model, given, text, scores=scores))


async def _scores(request: Request, parts: Context, who: Identity, model: str, events: Any) -> dict[str, Any]:
    answer = await inference.predict(request, json.dumps({"model": model, "events": events}).encode(), who, parts.inference, "application/json")
    try:
        document = json.loads(bytes(answer.body))
    except ValueError:
        raise Problem(503, "The inference service gave no answer that can be read; try again in a moment.") from None
    if answer.status_code != 200:
        raise Problem(answer.status_code, str(document.get("detail", document.get("error", "The prediction failed."))))
    found: dict[str, Any] = document | {"more": max(0, len(document["scores"]) - MOST_SCORES)}
    return found | {"scores": document["scores"][:MOST_SCORES]}


def _events(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise Problem(422, f"events: this is not JSON: {error.msg} at line {error.lineno}, column {error.colno}", field="events") from None
    except RecursionError:
        raise Problem(422, "events: this is nested too deep", field="events") from None


def one_event(given: Mapping[str, str]) -> dict[str, Any]:
    """One event from the texts of the form: a number, or numbers between spaces or commas for a jagged branch ("jagged:" before its name)."""
    event: dict[str, Any] = {}
    for name, text in given.items():
        jagged, plain = name.startswith("jagged:"), name.partition(":")[2]
        numbers = _numbers(plain, text)
        if not jagged and len(numbers) != 1:
            raise Problem(422, f"{plain}: one number is needed", field=plain)
        event[plain] = [numbers] if jagged else numbers
    return event


def _numbers(name: str, text: str) -> list[float]:
    try:
        return [int(part) if part.lstrip("+-").isdigit() else float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise Problem(422, f"{name}: {text[:50]!r} is not a number, or not numbers with spaces between them", field=name) from None
