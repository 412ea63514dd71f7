"""Signing in and out: a token becomes a session, a signed cookie that no script can read."""

from __future__ import annotations

import time
from typing import Annotated
from urllib.parse import quote

from fastapi import Query
from starlette.requests import Request
from starlette.responses import Response

from mlaas.auth.errors import AuthError
from mlaas.auth.session import SESSION_SECONDS
from mlaas.server.deps import Parts
from mlaas.server.pages.render import page
from mlaas.server.pages.routing import Short, Text, Visitor, router, to
from mlaas.web import identify

routes = router()
Next = Annotated[str, Query(alias="next", max_length=2000)]
GATEWAY_SIGN_OUT = "/oauth2/sign_out"


@routes.get("/sign-in")
def form(request: Request, parts: Parts, target: Next = "/") -> Response:
    """The form that takes a token."""
    return page(request, "sign_in.html.j2", settings=parts.settings, target=local(target), error="")


@routes.post("/sign-in")
async def sign_in(request: Request, parts: Parts, token: Text = "", target: Short = "/") -> Response:
    """Begin a session with the token of the form. A page of somebody else cannot sign its visitors in: the form must be of our own page."""
    identify.same_origin(request)
    try:
        return await begin(request, token.strip(), local(target))
    except AuthError as error:
        return page(request, "sign_in.html.j2", status=error.status, settings=parts.settings, target=local(target), error=str(error))


async def begin(request: Request, token: str, target: str) -> Response:
    """Lead on with a session. Raises AuthError when the token is not accepted."""
    door = identify.authenticator(request.app)
    identity = await door.authenticate(token.removeprefix("Bearer ").strip())
    answer = to(target)
    seconds = int(identity.expires - time.time()) if identity.expires else SESSION_SECONDS
    answer.set_cookie(
        identify.cookie_name(request), door.seal(identity), max_age=seconds, path="/", secure=identify.secure(request), httponly=True, samesite="lax"
    )
    answer.headers.update({"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})
    return answer


@routes.post("/sign-out")
def sign_out(request: Request, who: Visitor) -> Response:
    """End the session; behind a gateway, that of the gateway and that of the provider, too."""
    if identify.FORWARDED in request.headers:
        address = gateway_sign_out(identify.authenticator(request.app).end_session(who))
        # no redirect: it leads to another site in the end, where a form of ours may not (form-action)
        answer: Response = page(request, "signing_out.html.j2", headers={"Refresh": f"0;url={address}"}, address=address)
    else:
        answer = to("/sign-in")
    answer.delete_cookie(identify.cookie_name(request), path="/", secure=identify.secure(request), httponly=True, samesite="lax")
    return answer


def gateway_sign_out(end_session: str) -> str:
    """The gateway's sign-out, leading on to that of the provider: oauth2-proxy must be told where it is, and puts the ID token in."""
    if not end_session:
        return GATEWAY_SIGN_OUT
    onward = f"{end_session}{'&' if '?' in end_session else '?'}id_token_hint={{id_token}}"
    return f"{GATEWAY_SIGN_OUT}?rd={quote(onward, safe='')}"


def local(target: str) -> str:
    """An address of this service to lead on to; anything else is the first page."""
    plain = target.startswith("/") and not target.startswith(("//", "/\\")) and all(32 < ord(letter) < 127 for letter in target)
    return target if plain else "/"
