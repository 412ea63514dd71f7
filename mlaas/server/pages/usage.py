"""What the caller uses, and what they may."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from mlaas.server.deps import Parts
from mlaas.server.pages.render import page
from mlaas.server.pages.routing import Visitor, router
from mlaas.server.routes.service import inference_public_url, limits, usage
from mlaas.web import identify

routes = router()


@routes.get("/usage")
def show(request: Request, parts: Parts, who: Visitor) -> Response:
    """Usage and limits, and who the service takes the caller for."""
    identify.permit(who, "read")
    used, may = usage(parts, who.tenant), limits(parts.settings)
    rows = [
        ("Running jobs", used.running, may.jobs, "number"),
        ("CPUs of running jobs", used.cpus, may.cpus, "number"),
        ("Memory of running jobs", used.memory, may.memory, "size"),
        ("Disk", used.disk, may.disk, "size"),
    ]
    context: dict[str, Any] = {"usage": used, "rows": rows, "settings": parts.settings, "inference": inference_public_url(parts.settings)}
    return page(request, "usage.html.j2", who, **context)
