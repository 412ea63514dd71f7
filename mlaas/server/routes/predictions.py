"""Predictions: passed on to the inference service, which does the work."""

from __future__ import annotations

from typing import Any

from fastapi import Request, Response

from mlaas.server import inference, wire
from mlaas.server.deps import SECURED, Parts, Reader
from mlaas.server.routing import check_json, problems, router

routes = router("/predictions", "predictions")
EXAMPLE = {"model": "ttH@production", "events": {"njet": [6, 8], "jet_pt": [[91.5, 55.0], [120.0, 80.2, 45.1]]}}
BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/PredictionRequest"}, "example": EXAMPLE}},
    }
}

SCORES: dict[int | str, dict[str, Any]] = {200: {"model": wire.Prediction, "description": "The scores."}}


@routes.post(
    "",
    operation_id="predict",
    dependencies=SECURED,
    response_class=Response,
    responses=SCORES | problems(400, 404, 413, 415, 422, 504),
    openapi_extra=BODY,
)
async def predict(request: Request, parts: Parts, identity: Reader) -> Response:
    """Scores of raw events, by the names of their branches."""
    check_json(request)
    return await inference.predict(request, await request.body(), identity, parts.inference)
