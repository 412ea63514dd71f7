"""/healthz (the process answers), /readyz (it can do its work), /metrics (Prometheus)."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mlaas.auth.secrets import read_secret
from mlaas.errors import MLaaSError
from mlaas.settings import Settings
from mlaas.web import identify, metrics
from mlaas.web.problem import Problem
from mlaas.web.stopping import stopping

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

logger = logging.getLogger(__name__)
Check = Callable[[], object]


def routes(checks: Mapping[str, Check], settings: Settings, collectors: Iterable[Collector] = ()) -> list[Route]:
    """The three routes. `checks`: by name, functions that raise when the part cannot work (they run in a thread); `collectors` for /metrics."""
    asked = list(collectors)

    async def ready(_request: Request) -> Response:
        if stopping():
            raise Problem(503, "The service is stopping.", headers={"Retry-After": "5"})
        for name, check in checks.items():
            await run_in_threadpool(_passes, name, check)
        return JSONResponse({"status": "ready"})

    async def exposition(request: Request) -> Response:
        await _may_read(request, settings)
        return Response(await run_in_threadpool(metrics.exposition, asked), media_type=metrics.MEDIA_TYPE)

    return [Route("/healthz", healthz), Route("/readyz", ready), Route("/metrics", exposition)]


async def healthz(_request: Request) -> Response:
    """The process runs and answers."""
    return JSONResponse({"status": "ok"})


def _passes(name: str, check: Check) -> None:
    try:
        check()
    except MLaaSError as error:
        raise Problem(503, f"{name}: {error}", headers={"Retry-After": "5"}) from None
    except Exception:
        logger.exception("the check of %s failed", name)
        raise Problem(503, f"{name}: it does not answer as it should", headers={"Retry-After": "5"}) from None


async def _may_read(request: Request, settings: Settings) -> None:
    """Administrators may read the metrics, and who has the token of metrics_token_file; where there is none, everybody on this machine."""
    token = identify.bearer(request)
    if settings.metrics_token_file is not None:
        if token is not None and identify.equal(token, read_secret(settings.metrics_token_file, "the token for /metrics")):
            return
    elif token is None and _loopback(request):
        return
    identify.administrator(await identify.identity(request))


def _loopback(request: Request) -> bool:
    """Whether a request comes from this machine, and not through a gateway on it."""
    if request.client is None or any(name in request.headers for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP")):
        return False
    try:
        return ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False
