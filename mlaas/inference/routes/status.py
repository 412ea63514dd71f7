"""GET /status: figures of the process and of the machine, as TFaaS gives them, and the models of the caller that are loaded here."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import psutil  # type: ignore[import-untyped]
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from mlaas.inference.context import Context
from mlaas.inference.routes.published import published
from mlaas.web import identify, metrics


def routes(context: Context) -> list[BaseRoute]:
    """One call."""
    started = time.monotonic()

    @published
    async def status(request: Request) -> Response:
        who = await identify.identity(request)
        figures = await asyncio.to_thread(machine)
        models = await context.pool.states(who)
        return JSONResponse({**figures, "Uptime": time.monotonic() - started, **requests(), "models": models})

    return [Route("/status", status, methods=["GET"])]


def machine() -> dict[str, Any]:
    """Memory in bytes, CPU use in per cent per core, load averages, threads of this process (in the place of goroutines)."""
    virtual, swap = psutil.virtual_memory(), psutil.swap_memory()
    one, five, fifteen = psutil.getloadavg()
    return {
        "NGo": threading.active_count(),
        "Memory": {"Virtual": _memory(virtual), "Swap": _memory(swap)},
        "Load": {"load1": one, "load5": five, "load15": fifteen},
        "CPU": psutil.cpu_percent(interval=0.01, percpu=True),
    }


def requests() -> dict[str, int]:
    """The requests that this process has answered."""
    found = {"GET": 0.0, "POST": 0.0}
    for family in metrics.REQUESTS.collect():
        for sample in family.samples:
            if sample.name.endswith("_total") and sample.labels.get("method") in found:
                found[sample.labels["method"]] += sample.value
    return {"getRequests": int(found["GET"]), "postRequests": int(found["POST"])}


def _memory(figures: Any) -> dict[str, Any]:
    return {"total": figures.total, "free": figures.free, "used": figures.used, "usedPercent": figures.percent}
