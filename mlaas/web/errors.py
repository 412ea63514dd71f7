"""The one place that turns errors into answers: application/problem+json, one sentence, never a traceback."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from mlaas.auth.errors import AuthError
from mlaas.errors import MLaaSError, ResourceError, UserError, WorkflowError
from mlaas.web import logs
from mlaas.web.problem import TITLES, Problem

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.applications import Starlette

logger = logging.getLogger(__name__)
MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 5
_SENTENCES = {
    "missing": "is missing",
    "extra_forbidden": "is not known",
    "json_invalid": "is not JSON",
    "model_attributes_type": "must be a JSON object",
    "dict_type": "must be a JSON object",
}
_PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$": "must be up to 100 letters, digits, '_', '.' and '-', beginning with a letter or a digit",
}
_UNIONS = ("function-", "list[", "dict[", "constrained-", "literal[")


def install(app: FastAPI | Starlette) -> None:
    """Answer every error of an application with a problem. `middleware.Requests` answers those that nothing here expects (500)."""
    app.add_exception_handler(MLaaSError, _told)
    app.add_exception_handler(RequestValidationError, _told)
    app.add_exception_handler(HTTPException, _told)
    app.add_exception_handler(ClientDisconnect, _gone)


async def _told(_request: Request, error: Exception) -> Response:
    return response(problem_of(error))


async def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


def response(problem: Problem) -> Response:
    """The answer of a problem, with the request's id."""
    body = orjson.dumps(problem.document(logs.bound("request_id")))
    return Response(body, problem.status, problem.headers, MEDIA_TYPE)


def problem_of(error: Exception) -> Problem:
    """The problem that an exception is for the caller. What is not raised on purpose is an internal error, and logged here with its traceback."""
    match error:
        case Problem():
            return error
        case AuthError():
            return _auth(error)
        case MLaaSError():
            return Problem(_status(error), str(error), field=_field(error), headers=_again(_status(error)))
        case RequestValidationError():
            return invalid(error.errors())
        case HTTPException():
            return _http(error)
    logger.error("a fault of the program: %s", type(error).__name__, exc_info=error)
    return Problem(500, "The service has a fault; its administrator finds it in the log by the request_id.")


def _auth(error: AuthError) -> Problem:
    headers = {"WWW-Authenticate": error.challenge} if error.status in {401, 403} else _again(error.status)
    return Problem(error.status, str(error), headers=headers)


def _status(error: MLaaSError) -> int:
    """The status of an error: its own `status` where its class has one; else 422 for a field, 400 for what the user can mend, 503 for the rest."""
    own = getattr(error, "status", None)
    if isinstance(own, int):
        return own
    if isinstance(error, ResourceError):
        return 507
    return 422 if isinstance(error, WorkflowError) else 400 if isinstance(error, UserError) else 503


def _field(error: MLaaSError) -> str:
    """The field that an error names: its attribute `field`, or what stands before the colon in a WorkflowError ("params.epochs: ...")."""
    own = getattr(error, "field", "")
    if isinstance(own, str) and own:
        return own
    first, colon, _ = str(error).partition(":")
    return first if isinstance(error, WorkflowError) and colon and " " not in first else ""


def _again(status: int) -> dict[str, str]:
    return {"Retry-After": str(RETRY_SECONDS)} if status in {429, 503} else {}


def _http(error: HTTPException) -> Problem:
    sentences = {
        404: "There is nothing at this address.",
        405: "This address does not take that method.",
        415: "The body has a media type that this address does not take.",
    }
    standard = not isinstance(error.detail, str) or error.detail == TITLES.get(error.status_code, "") or error.status_code in {404, 405}
    detail = sentences.get(error.status_code, TITLES.get(error.status_code, "Error")) if standard else error.detail
    return Problem(error.status_code, detail, headers=dict(error.headers or {}))


def invalid(items: Any) -> Problem:
    """The problem of a document that is not as it should be; `items` as pydantic tells them. A body that is no JSON is 400, the rest 422."""
    item: Mapping[str, Any] = items[0] if items else {"loc": (), "type": "", "msg": "it is not valid"}
    where = ".".join(_location(item.get("loc", ())))
    if item["type"] == "json_invalid":
        reason = (item.get("ctx") or {}).get("error", item["msg"])
        return Problem(400, f"The body is not JSON: {reason}")
    sentence = _SENTENCES.get(item["type"]) or _sentence(item)
    more = f" (and {len(items) - 1} more)" if len(items) > 1 else ""
    return Problem(422, f"{where or 'the body'}: {sentence}{more}", field=where)


def _sentence(item: Mapping[str, Any]) -> str:
    """What pydantic says, in words for those who do not know it."""
    told = _PATTERNS.get((item.get("ctx") or {}).get("pattern", ""))
    return told or re.sub(r"^(Value error, |(Input|String|Value|List|Dictionary) should (?=\w))", _must, str(item["msg"]))


def _must(found: re.Match[str]) -> str:
    return "must " if found[2] else ""


def _location(parts: Any) -> list[str]:
    """The path of a field without where it stood (body, query) and without pydantic's names for members of a union."""
    names = [str(part) for part in parts]
    if names and names[0] in {"body", "query", "path", "header", "cookie"}:
        names = names[1:]
    return [name for name in names if not name.startswith(_UNIONS) and name not in {"TrainRequest", "PredictRequest"}]
