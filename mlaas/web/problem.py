"""Errors over HTTP: one exception, one form (RFC 9457, application/problem+json)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlaas.errors import MLaaSError

TITLES = {
    400: "Bad request",
    401: "Not signed in",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    408: "Too slow",
    409: "Conflict",
    411: "Length required",
    412: "Precondition failed",
    413: "Too large",
    415: "Unsupported media type",
    416: "No such range",
    422: "Invalid",
    429: "Too many requests",
    500: "Internal error",
    503: "Busy",
    504: "Timed out",
    507: "Disk full",
}


class Problem(MLaaSError):
    """An answer that is an error. `detail` is one sentence for the user; `field` names what is wrong in what they sent ("params.epochs").

    headers: added to the answer (Retry-After, WWW-Authenticate).
    """

    def __init__(self, status: int, detail: str, *, field: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.field = field
        self.headers = dict(headers or {})

    def document(self, request_id: str = "") -> dict[str, Any]:
        """The body: type, title, status, detail, and field and request_id where there are such."""
        found: dict[str, Any] = {"type": "about:blank", "title": TITLES.get(self.status, "Error"), "status": self.status, "detail": self.detail}
        return found | ({"field": self.field} if self.field else {}) | ({"request_id": request_id} if request_id else {})
