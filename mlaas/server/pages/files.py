"""The files that pages need: our style sheet and script, and the htmx that an installed package carries."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from mlaas.errors import MissingExtraError

OWN = {"style.css": "text/css", "pages.js": "text/javascript", "icon.svg": "image/svg+xml"}
HTMX = {"htmx.js": "htmx-2.min.js", "sse.js": "ext/hx-sse-2.min.js"}
"""By the name that they are served under, files of the package django_htmx; nothing of Django is imported."""


@cache
def content(name: str) -> tuple[bytes, str]:
    """The bytes and the media type of a file. Raises KeyError when there is none, MissingExtraError without the package of htmx."""
    if name in OWN:
        return (files("mlaas.server.pages") / "static" / name).read_bytes(), f"{OWN[name]}; charset=utf-8"
    return (_package() / HTMX[name]).read_bytes(), "text/javascript; charset=utf-8"


def _package() -> Path:
    found = find_spec("django_htmx")
    if found is None or not found.submodule_search_locations:
        raise MissingExtraError("django-htmx", "service")
    return Path(found.submodule_search_locations[0]) / "static" / "django_htmx"


@cache
def address(name: str) -> str:
    """The address of a file; another one when its content is another, so that browsers may keep it for ever."""
    return f"/static/{name}?{hashlib.sha256(content(name)[0]).hexdigest()[:12]}"
