"""What the published calls have in common: errors in the form that TFaaS clients read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from mlaas.web.errors import problem_of

Handler = Callable[[Request], Awaitable[Response]]


def published(handler: Handler) -> Handler:
    """Answer errors as {"error": sentence}."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except ClientDisconnect:
            raise
        except Exception as error:
            problem = problem_of(error)
            return JSONResponse({"error": problem.detail}, problem.status, problem.headers)

    return answer
