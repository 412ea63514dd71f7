"""How pages are routed: errors become pages, who is not signed in is led to the sign-in page."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Form, Query
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from mlaas.auth.identity import Identity
from mlaas.errors import MLaaSError
from mlaas.server.deps import known
from mlaas.server.pages.render import page
from mlaas.web import identify
from mlaas.web.errors import problem_of
from mlaas.web.problem import Problem

SEE_OTHER = 303
GATEWAY_SIGN_IN = "/oauth2/start"
Whose = Annotated[str, Query(max_length=64)]
Text = Annotated[str, Form(max_length=1_000_000)]
Short = Annotated[str, Form(max_length=400)]


class PageRoute(APIRoute):
    """A route that answers errors with a page."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of the route, with its errors caught."""
        handle = super().get_route_handler()

        async def safely(request: Request) -> Response:
            try:
                return await handle(request)
            except (MLaaSError, RequestValidationError, HTTPException) as error:
                return refusal(request, problem_of(error))

        return safely


def router() -> APIRouter:
    """A router of pages; they are not part of the API's document."""
    return APIRouter(route_class=PageRoute, include_in_schema=False)


def refusal(request: Request, problem: Problem) -> Response:
    """The page of an error; for who is not signed in the way to the sign-in page. Behind a gateway that is the gateway's, and a page says why."""
    gateway = identify.FORWARDED in request.headers
    target = request.url.path if request.method == "GET" else "/"
    address = f"{GATEWAY_SIGN_IN}?rd={quote(target)}" if gateway else "/sign-in" + (f"?next={quote(target)}" if target != "/" else "")
    if problem.status == 401 and "HX-Request" in request.headers:
        return Response(status_code=204, headers={"HX-Redirect": address})
    if problem.status == 401 and not gateway:
        return RedirectResponse(address, SEE_OTHER)
    who = getattr(request.state, "visitor", None)
    return page(request, "error.html.j2", who, status=problem.status, headers=problem.headers, problem=problem, again=address)


async def visitor(request: Request, who: Annotated[Identity, Depends(known)]) -> Identity:
    """The caller, remembered for the page's head, also when the page is that of an error."""
    request.state.visitor = who
    return who


Visitor = Annotated[Identity, Depends(visitor)]


def to(address: str, *, done: str = "") -> Response:
    """Lead the browser on after something was done; `done` is said at the top of the next page."""
    if done:
        address += f"{'&' if '?' in address else '?'}done={quote(done)}"
    return RedirectResponse(address, SEE_OTHER)
