"""Templates to pages: what every page has, how numbers and times are written, and the headers that keep a page from running anything foreign."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse

from mlaas import __version__
from mlaas.auth.identity import Identity
from mlaas.jobs.states import ENDED, State
from mlaas.server.pages.files import address
from mlaas.sizes import write_size
from mlaas.web import identify

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; frame-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store", "X-Frame-Options": "DENY"}
STATES = {
    State.QUEUED: "queued",
    State.STARTING: "starting",
    State.RUNNING: "running",
    State.PUBLISHING: "publishing",
    State.SUCCEEDED: "succeeded",
    State.FAILED: "failed",
    State.CANCELLED: "cancelled",
    State.TIMED_OUT: "timed out",
}
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROL = dict.fromkeys((*range(9), 11, 12, *range(14, 32), *range(127, 160)), "�") | {13: "\n"}


def page(
    request: Request, template: str, who: Identity | None = None, *, status: int = 200, headers: Mapping[str, str] | None = None, **context: Any
) -> HTMLResponse:
    """The answer with a page. `who` is signed in; without, only the sign-in page and errors can be shown."""
    html = render(request, template, who, **context)
    return HTMLResponse(html, status, HEADERS | dict(headers or {}))


def render(request: Request, template: str, who: Identity | None, **context: Any) -> str:
    """The text of a template with what all of them know."""
    shared = {
        "me": who,
        "csrf": identify.authenticator(request.app).form_token(who) if who else "",
        "path": request.url.path,
        "origin": str(request.base_url).rstrip("/"),
        "done": request.query_params.get("done", "")[:300],
        "release": __version__,
    }
    return environment().get_template(template).render(shared | context)


@cache
def environment() -> Environment:
    """Templates with escaping on and unknown names refused."""
    made = Environment(loader=PackageLoader("mlaas.server.pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {"moment": moment, "size": write_size, "duration": duration, "figure": figure, "segment": lambda text: quote(str(text), safe="")}
    made.globals |= {"static": address, "state_name": lambda state: STATES[State(state)], "ended": lambda state: State(state) in ENDED, "took": took}
    return made


def moment(when: datetime | float | None) -> Markup:
    """A time: in UTC, and in the reader's own form once the page's script has run."""
    if when is None:
        return Markup("–")
    found = (datetime.fromtimestamp(when, UTC) if isinstance(when, int | float) else when.astimezone(UTC)).replace(microsecond=0)
    return Markup('<time datetime="{}">{}</time>').format(found.isoformat().replace("+00:00", "Z"), f"{found:%Y-%m-%d %H:%M} UTC")


def duration(seconds: float | None) -> str:
    """Seconds as people say them: "12 s", "3 min 20 s", "2 h 05 min", "4 d 3 h"."""
    if seconds is None:
        return "–"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    days, hours = whole // 86_400, whole % 86_400 // 3600
    return f"{days} d {hours} h" if hours else f"{days} d"


def took(job: Any) -> float | None:
    """How long a job has run, or has run until now; None when it has not begun."""
    if job.started is None:
        return None
    until = job.finished.timestamp() if job.finished else time.time()
    return float(until - job.started.timestamp())


def figure(value: Any) -> str:
    """A figure for a table: five digits."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def log_text(text: str) -> Markup:
    """A piece of a log: escaped, without the codes that only a terminal understands."""
    return escape(_ESCAPES.sub("", text.replace("\r\n", "\n")).translate(_CONTROL))
