"""Lists that come in pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

from mlaas.client.documents import read
from mlaas.client.transport import Connection

T = TypeVar("T")
LARGEST = 200


def pages(connection: Connection, kind: type[T], *path: str, limit: int | None = None, params: Mapping[str, Any] | None = None) -> Iterator[T]:
    """The entries of a list below /api/v1, page after page as they are asked for; at most `limit`."""
    return islice(_all(connection, kind, path, min(limit or LARGEST, LARGEST), dict(params or {})), limit)


def _all(connection: Connection, kind: type[T], path: tuple[str, ...], size: int, params: dict[str, Any]) -> Iterator[T]:
    given = {name: value for name, value in params.items() if value not in (None, "", ())}
    while True:
        page = connection.json("GET", "api", "v1", *path, params={**given, "limit": size})
        yield from (read(kind, item) for item in page["items"])
        if not page.get("next"):
            return
        given["cursor"] = page["next"]
