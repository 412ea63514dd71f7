"""What administrators see: the jobs of everybody by state, who is there, what the service has."""

from __future__ import annotations

import shutil
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from mlaas.jobs.fellows import machines
from mlaas.jobs.states import ACTIVE, State
from mlaas.server.deps import Parts
from mlaas.server.pages.render import page
from mlaas.server.pages.routing import Visitor, router
from mlaas.store import jobs as store
from mlaas.web import identify

routes = router()
SHOWN = 50


@routes.get("/admin")
def show(request: Request, parts: Parts, who: Visitor) -> Response:
    """The service at a glance."""
    identify.administrator(who)
    active = store.active(parts.engine)
    there = machines(parts.settings, parts.engine)
    disk = shutil.disk_usage(parts.places.data)
    taken = [
        ("CPUs of running jobs", sum(job.cpus for job in active), sum(machine.cpus for machine in there), "number"),
        ("Memory of running jobs", sum(job.memory for job in active), sum(machine.memory for machine in there), "size"),
        ("Disk of the data folder", disk.used, disk.total, "size"),
    ]
    counts = {state.value: number for state, number in store.counts(parts.engine).items()}
    waiting = store.listing(parts.engine, None, states=[State.QUEUED], limit=SHOWN)
    running = store.listing(parts.engine, None, states=sorted(ACTIVE), limit=SHOWN)
    context: dict[str, Any] = {"rows": taken, "counts": counts, "running": running, "waiting": waiting, "settings": parts.settings}
    return page(request, "admin.html.j2", who, cpu_seconds=store.cpu_seconds(parts.engine), **context)
