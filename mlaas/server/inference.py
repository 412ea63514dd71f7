"""The way from the server to the inference service, for a caller: with the token that they sent, or for a browser one of our own."""

from __future__ import annotations

import ssl
from urllib.parse import urlsplit

import httpx
from starlette.requests import Request
from starlette.responses import Response

from mlaas.auth.identity import Identity
from mlaas.settings import Settings
from mlaas.web import identify, logs
from mlaas.web.middleware import REQUEST_ID
from mlaas.web.problem import Problem

EVENTS = "/predict/events"
CONNECT = 5.0  # s
MARGIN = 5.0  # s beyond the inference service's own limit, so that it is the one who tells
PASSED = ("Content-Type", "Retry-After")


def client(settings: Settings) -> httpx.AsyncClient:
    """The client of the inference service; one per process. Takes no proxy and no credentials from the environment."""
    return httpx.AsyncClient(
        base_url=address(settings),
        verify=_tls(settings),
        timeout=httpx.Timeout(settings.inference_timeout + MARGIN, connect=CONNECT),
        limits=httpx.Limits(max_connections=200, max_keepalive_connections=20),
        trust_env=False,
    )


def address(settings: Settings) -> str:
    """The address at which the server reaches the inference service."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - not listened on: replaced
    shown = f"[{host}]" if ":" in host else host
    return settings.inference_url or f"{'https' if settings.tls_certificate else 'http'}://{shown}:{settings.inference_port}"


def _tls(settings: Settings) -> ssl.SSLContext | bool:
    """What the inference service's certificate is checked with: on this machine the one that both use, which names the public host."""
    if settings.tls_certificate is None or (settings.inference_url and not _loopback(settings.inference_url)):
        return True
    context = ssl.create_default_context(cafile=str(settings.tls_certificate))
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _loopback(url: str) -> bool:
    return urlsplit(url).hostname in {"127.0.0.1", "::1", "localhost"}


async def predict(request: Request, body: bytes, identity: Identity, http: httpx.AsyncClient, content_type: str = "") -> Response:
    """The inference service's answer to a document of raw events. Raises Problem 503 (it is down), 504.

    content_type: of the body, unless it is the request's own.
    """
    headers = {
        "Authorization": f"Bearer {token(request, identity)}",
        "Content-Type": content_type or request.headers.get("Content-Type", "application/json"),
        REQUEST_ID.decode(): logs.bound("request_id"),
    }
    try:
        answer = await http.post(EVENTS, content=body, headers=headers)
    except httpx.TimeoutException:
        raise Problem(504, "the prediction took too long; send fewer events at a time") from None
    except httpx.HTTPError:
        raise Problem(503, "the inference service does not answer; try again in a moment", headers={"Retry-After": "5"}) from None
    passed = {name: answer.headers[name] for name in PASSED if name in answer.headers}
    return Response(answer.content, answer.status_code, passed)


def token(request: Request, identity: Identity) -> str:
    """The token that a call on behalf of a caller carries."""
    sent = identify.bearer(request)
    return sent if sent is not None else identify.authenticator(request.app).internal_token(identity)
