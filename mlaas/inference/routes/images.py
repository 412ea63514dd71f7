"""POST /image and /predict/image: an image in a form, made into the tensor that the model takes."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from mlaas.inference import pictures
from mlaas.inference.context import Context
from mlaas.inference.routes.published import published
from mlaas.inference.served import NotLoaded, Served
from mlaas.inference.versions import Version
from mlaas.models.tensors import Array
from mlaas.web import identify
from mlaas.web.problem import Problem

TOP = 5


def routes(context: Context) -> list[BaseRoute]:
    """Both published addresses."""
    decoding = asyncio.Semaphore(2)  # images in memory at a time

    @published
    async def image(request: Request) -> Response:
        who = await identify.identity(request)
        async with request.form(max_files=1, max_fields=10) as form:
            model, file = form.get("model"), form.get("image")
            if not isinstance(model, str) or not model:
                raise Problem(400, "the form lacks the field model", field="model")
            if not isinstance(file, UploadFile):
                raise Problem(400, "the form lacks the file image", field="image")
            name, data = file.filename or "", await file.read()
        try:
            served: Served = context.pool.get(model, who)
        except NotLoaded:
            served = await context.pool.load(model, who)
        async with decoding:
            return JSONResponse(await _predict(served, name, data))

    return [Route(path, image, methods=["POST"]) for path in ("/image", "/predict/image")]


async def _predict(served: Served, name: str, data: bytes) -> Any:
    if not isinstance(served, Version) or served.manifest.tensors is None:
        raise Problem(400, f"the model {served.model!r} takes features of events, not images", field="model")
    target = pictures.target_of(served.record, served.model)
    tensor = await asyncio.to_thread(pictures.tensor_of, data, target)
    answer = served.record.answer
    return answer_of((await served.infer_tensors({target.name: tensor}, [answer]))[answer], served.classes, name)


def answer_of(found: Array, labels: Any, name: str) -> Any:
    """The published answer: the best labels, where there is one for each number; else the numbers. Raises Problem when the model gives no numbers."""
    if found.dtype == object:
        raise Problem(400, "the model answers with text, not with numbers", field="model")
    values = [float(value) for value in found.reshape(-1)]
    if len(labels) != len(values):
        return values
    best = sorted(zip(labels, values, strict=True), key=lambda pair: -pair[1])[:TOP]
    return {"filename": name, "labels": [{"label": label, "probability": value} for label, value in best]}
