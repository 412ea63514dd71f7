"""Raw events in memory as the service takes them: JSON columns by branch name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mlaas.errors import UserError

Events = Mapping[str, Any] | Sequence[Mapping[str, Any]]


def plain(events: Events) -> dict[str, Any] | list[dict[str, Any]]:
    """Columns (arrays of NumPy, Awkward, Arrow or pandas, or lists; jagged: lists of lists, or offsets and values), or a list of events, as JSON.

    Raises UserError naming the branch that cannot be sent; NaN and infinity cannot, because JSON has no such numbers.
    """
    if isinstance(events, Mapping):
        return {str(name): _value(column, str(name)) for name, column in events.items()}
    return [{str(name): _value(value, str(name)) for name, value in event.items()} for event in events]


def _value(value: Any, name: str) -> Any:
    for method in ("to_list", "tolist", "to_pylist"):
        if hasattr(value, method):
            value = getattr(value, method)()
            break
    if isinstance(value, Mapping):
        return {str(part): _value(content, name) for part, content in value.items()}
    if isinstance(value, list | tuple):
        return [_value(item, name) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"events: {name} holds {value}, which cannot be sent as JSON; score such events as files (mlaas predict MODEL FILE)")
    if value is None or isinstance(value, bool | int | float):
        return value
    raise UserError(f"events: {name} must hold numbers or lists of numbers, not {type(value).__name__}")
