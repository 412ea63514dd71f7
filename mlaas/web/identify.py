"""Who sent a request: a bearer token first; else a browser, by its session cookie or by what the gateway passes on for it."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from fastapi import Depends
from starlette.requests import Request

from mlaas.auth.authenticator import Authenticator
from mlaas.auth.errors import AuthError
from mlaas.auth.identity import COMPUTE, Action, Identity
from mlaas.places import Places
from mlaas.settings import Settings
from mlaas.web import logs
from mlaas.web.problem import Problem

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.applications import Starlette

COOKIE = "mlaas_session"
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
FORM_FIELD = "csrf"
FORM_HEADER = "X-CSRF-Token"
FORWARDED = "X-Forwarded-Access-Token"


def install(app: FastAPI | Starlette, settings: Settings, places: Places | None = None) -> Authenticator:
    """Give an application the authenticator that `identity` asks (as `app.state.authenticator`). Raises UserError when the settings are wrong."""
    app.state.settings = settings
    app.state.authenticator = Authenticator.of(settings, places or Places.of(settings))
    return authenticator(app)


def authenticator(app: FastAPI | Starlette) -> Authenticator:
    """The authenticator of an application."""
    found: Authenticator = app.state.authenticator
    return found


async def identity(request: Request) -> Identity:
    """The caller of a request. Raises AuthError (401, 403), and Problem (403) when a page of somebody else may have sent it.

    A browser sends its cookie wherever a page of somebody else makes it; therefore what changes something must come from a page of ours: same
    origin, and with the page's token in the header X-CSRF-Token or the form field `csrf` (with an upload: in the query, for it must be known before
    the file is read).
    """
    door = authenticator(request.app)
    if (token := bearer(request)) is not None:
        _not_cross_site(request)
        found = await door.authenticate(token)
    elif (passed := request.headers.get(FORWARDED)) is not None:
        found = await door.authenticate(passed, browser=True)
    else:
        found = _session(request, door)
    logs.bind(tenant=found.tenant)
    if found.browser and request.method not in SAFE:
        same_origin(request)
        await _own_form(request, found, door)
    return found


Caller = Annotated[Identity, Depends(identity)]
"""The caller, as an argument of a route."""


def permit(who: Identity, action: Action) -> None:
    """Raise AuthError (403) unless the caller's token allows an action on jobs (see `Identity.may`)."""
    if not who.may(action):
        needed = f"{COMPUTE}{action}"
        raise AuthError(f"the token does not have the scope {needed}", status=403, error="insufficient_scope", scope=needed)


def administrator(who: Identity) -> None:
    """Raise AuthError (403) unless the caller is an administrator."""
    if not who.admin:
        raise AuthError("only administrators may do this", status=403, error="insufficient_scope")


def bearer(request: Request) -> str | None:
    """The bearer token of a request (RFC 6750, section 2.1), or None. Raises AuthError when Authorization holds something else."""
    values = request.headers.getlist("Authorization")
    if not values:
        return None
    scheme, _, token = values[0].partition(" ")
    if len(values) > 1 or scheme.lower() != "bearer" or not token.strip():
        raise AuthError("Authorization must be one bearer token: Authorization: Bearer TOKEN", error="invalid_request")
    return token.strip()


def cookie_name(request: Request) -> str:
    """The name of the session cookie: with TLS one that browsers keep to this very host (`__Host-`)."""
    return f"__Host-{COOKIE}" if secure(request) else COOKIE


def secure(request: Request) -> bool:
    """Whether users reach the service by TLS."""
    settings: Settings = request.app.state.settings
    return request.url.scheme == "https" or settings.public_url.startswith("https://")


def _session(request: Request, door: Authenticator) -> Identity:
    cookie = request.cookies.get(cookie_name(request))
    if not cookie:
        raise AuthError("sign in: send a bearer token (Authorization: Bearer TOKEN)", error="")
    found = door.unseal(cookie)
    if found is None:
        raise AuthError("the session has ended; sign in again")
    return found


def _not_cross_site(request: Request) -> None:
    """Refuse a bearer token on what a page of somebody else sent: then a gateway put it there for a browser."""
    if request.method not in SAFE and request.headers.get("Sec-Fetch-Site") in {"cross-site", "same-site"}:
        raise Problem(403, "This request was sent by a page of another site.")


def same_origin(request: Request) -> None:
    """Raise Problem (403) unless a browser says that a page of this very service sent the request."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        if site == "same-origin":
            return
    elif (origin := request.headers.get("Origin")) is not None and origin in _origins(request):
        return
    raise Problem(403, "This request was not sent by a page of this service; open the page again.")


def _origins(request: Request) -> set[str]:
    settings: Settings = request.app.state.settings
    public = urlsplit(settings.public_url)
    return {f"{request.url.scheme}://{request.headers.get('Host', '')}", f"{public.scheme}://{public.netloc}"} - {"://"}


async def _own_form(request: Request, who: Identity, door: Authenticator) -> None:
    given = request.headers.get(FORM_HEADER, "")
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if not given and kind == "multipart/form-data":
        given = request.query_params.get(FORM_FIELD, "")
    elif not given and kind == "application/x-www-form-urlencoded":
        value = (await request.form()).get(FORM_FIELD, "")
        given = value if isinstance(value, str) else ""
    if not door.is_form_token(given, who):
        raise Problem(403, "The page is too old or not of this service; open it again.")


def equal(given: str, secret: str) -> bool:
    """Compare a secret in a time that does not depend on it."""
    return hmac.compare_digest(given.encode(), secret.encode())
