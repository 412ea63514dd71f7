"""Raw events as requests hold them: jagged branches as lists, or as offsets and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mlaas.data.columns import Jagged
from mlaas.models.events import holds_text
from mlaas.web.problem import Problem


def columns_of(events: Any) -> Any:
    """The same events with every {"offsets": [...], "values": [...]} as `Jagged`; what else is wrong, `to_columns` finds. Raises Problem 400."""
    if not isinstance(events, dict):
        return events
    return {name: _jagged(name, values) if isinstance(values, Mapping) else values for name, values in events.items()}


def _jagged(name: str, parts: Mapping[str, Any]) -> Jagged:
    field = f"events.{name}"
    if set(parts) != {"offsets", "values"}:
        raise Problem(400, f"{field} must be a list, or an object with offsets and values", field=field)
    offsets, values = _array(parts["offsets"]), _array(parts["values"])
    if offsets is None or offsets.ndim != 1 or offsets.dtype.kind not in "iu" or not len(offsets):
        raise Problem(400, f"{field}.offsets must be a list of whole numbers, one more than there are events", field=field)
    if values is None or values.ndim != 1:
        raise Problem(400, f"{field}.values must be one list of numbers", field=field)
    if offsets[0] != 0 or offsets[-1] != len(values) or (offsets[1:] < offsets[:-1]).any():
        raise Problem(400, f"{field}.offsets must begin with 0, never decrease, and end with {len(values)}, the number of values", field=field)
    return Jagged(values, offsets.astype(np.int64))


def _array(values: Any) -> Any:
    if isinstance(values, list):
        if holds_text(values):
            return None
        try:
            return np.array(values) if values else np.zeros(0, np.int64)
        except (ValueError, OverflowError):
            return None
    return values if isinstance(values, np.ndarray) else None
