"""What goes wrong when a service is used."""

from __future__ import annotations

from mlaas.errors import UserError

INTERNAL = 500


class ServiceError(UserError):
    """The service refused, failed or cannot be reached; the text is the server's own sentence where it said one.

    status: of HTTP, 0 when there was no answer. field: what was wrong in what was sent ("params.epochs"). request_id: for the administrator.
    """

    def __init__(self, detail: str, *, status: int = 0, field: str = "", request_id: str = "") -> None:
        told = f"{detail} (request {request_id})" if status >= INTERNAL and request_id else detail
        super().__init__(f"{field}: {told}" if field and not told.startswith(field) else told)
        self.status = status
        self.detail = detail
        self.field = field
        self.request_id = request_id


class NotSignedIn(ServiceError):  # noqa: N818 - says what is the matter, as `Cancelled` does
    """There is no token for this service, or it was not accepted."""
