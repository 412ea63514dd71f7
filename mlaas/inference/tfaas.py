"""The published TFaaS calls for one event: /json and /proto (COMPAT: values are normalised already; raw events have /predict/events)."""

from __future__ import annotations

from typing import Any

import orjson
from google.protobuf.message import DecodeError

from mlaas.auth.identity import Identity
from mlaas.inference.http import Answer, from_json, told
from mlaas.inference.predictions import Predictions
from mlaas.inference.proto.tfaas_pb2 import Predictions as Message
from mlaas.inference.proto.tfaas_pb2 import Row
from mlaas.models.scores import Scores
from mlaas.web.problem import Problem

PROTOBUF = b"application/x-protobuf"


class Tfaas:
    """The handlers: a body in, an answer out."""

    def __init__(self, predictions: Predictions) -> None:
        self._predictions = predictions

    async def json(self, identity: Identity, body: bytes) -> Answer:
        """{"keys": [...], "values": [...], "model": "M"} -> [0.086], a number per class where there are more than two."""
        row = from_json(body)
        if type(row) is not dict:
            raise Problem(400, 'the body must be an object: {"values": [...], "model": "..."}')
        scores = await self._scores(identity, row.get("model"), row.get("values"), row.get("keys"))
        return Answer(orjson.dumps(scores, option=orjson.OPT_SERIALIZE_NUMPY))

    async def proto(self, identity: Identity, body: bytes) -> Answer:
        """Row -> Predictions; the labels are the classes, where the model has several."""
        try:
            row = Row.FromString(body)
        except DecodeError:
            raise Problem(400, "the body is not a message Row of protobuf") from None
        scores = await self._scores(identity, row.model, list(row.value), list(row.key))
        served = await self._predictions.model(row.model, identity)
        labels = served.classes if len(served.classes) == len(scores) else served.classes[1:] if len(served.classes) == 2 else ()
        answer = Message()
        for index, score in enumerate(scores.tolist()):
            answer.prediction.add(probability=score, label=labels[index] if index < len(labels) else "")
        return Answer(answer.SerializeToString(), PROTOBUF)

    async def _scores(self, identity: Identity, model: Any, values: Any, keys: Any) -> Scores:
        served = await self._predictions.model(model, identity)
        scores = await self._predictions.row(served, values, keys)
        return scores[0] if scores.ndim > 1 else scores


def error(problem: Problem) -> Answer:
    """An error as TFaaS tells it."""
    return told(problem, {"error": problem.detail})
