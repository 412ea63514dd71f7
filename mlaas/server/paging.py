"""Pages of lists: an opaque cursor says where the next one begins."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Query

from mlaas.server.wire import Page
from mlaas.web.problem import Problem

R = TypeVar("R")
W = TypeVar("W")
MAX_NUMBER = 2**63 - 1

Limit = Annotated[int, Query(ge=1, le=200, description="Most items on the page.")]
Cursor = Annotated[str, Query(max_length=600, description="`next` of the page before; empty for the first page.")]


def written(position: int | str) -> str:
    """The cursor of a position: the number or the name of the last item of a page."""
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode().rstrip("=")


def number(cursor: str) -> int:
    """The number that a cursor holds; 0 for the first page. Raises Problem 422."""
    position = _read(cursor) if cursor else 0
    if not isinstance(position, int) or isinstance(position, bool) or not 0 <= position <= MAX_NUMBER:
        raise _unknown()
    return position


def name(cursor: str) -> str:
    """The name that a cursor holds; "" for the first page. Raises Problem 422."""
    position = _read(cursor) if cursor else ""
    if not isinstance(position, str) or "\0" in position:
        raise _unknown()
    return position


def page(records: Sequence[R], limit: int, position: Callable[[R], int | str], document: Callable[[R], W]) -> Page[W]:
    """The page of at most `limit` records; `records` holds one more than that where there is another page."""
    shown = records[:limit]
    return Page[Any](items=[document(record) for record in shown], next=written(position(shown[-1])) if len(records) > limit else None)


def after(names: Sequence[R], cursor: str, limit: int, key: Callable[[R], str]) -> list[R]:
    """The items of a list sorted by `key` that come after a cursor, one more than `limit` where there are."""
    last = name(cursor)
    return [item for item in names if not last or key(item) > last][: limit + 1]


def _read(cursor: str) -> Any:
    try:
        return json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        raise _unknown() from None


def _unknown() -> Problem:
    return Problem(422, "cursor is not one that this service gave; leave it out for the first page", field="cursor")
