"""Whether a value fits the type and the constraints of a TOSCA input."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

SIZE = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*(B|kB|KiB|MB|MiB|GB|GiB|TB|TiB)\s*$")
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "greater_than": operator.gt,
    "greater_or_equal": operator.ge,
    "less_than": operator.lt,
    "less_or_equal": operator.le,
}
_LENGTHS: dict[str, Callable[[int, int], bool]] = {"length": operator.eq, "min_length": operator.ge, "max_length": operator.le}
_UNITS = {"B": 1, "kB": 1000, "KiB": 1024, "MB": 10**6, "MiB": 2**20, "GB": 10**9, "GiB": 2**30, "TB": 10**12, "TiB": 2**40}
TYPES = ("string", "integer", "float", "boolean", "scalar-unit.size")
CONSTRAINTS = (
    "equal",
    "greater_than",
    "greater_or_equal",
    "less_than",
    "less_or_equal",
    "in_range",
    "valid_values",
    "length",
    "min_length",
    "max_length",
    "pattern",
)


def misfits(value: Any, kind: str, constraints: Any) -> Iterator[str]:
    """Why a value does not fit, in words that follow its name ("is no integer")."""
    wrong = _type(value, kind)
    if wrong:
        yield wrong
        return
    for constraint in constraints if isinstance(constraints, list) else []:
        for rule, bound in constraint.items() if isinstance(constraint, Mapping) else ():
            if not _fits(value, kind, rule, bound):
                yield f"is {value!r}, which its constraint {rule}: {bound} does not allow"


def _type(value: Any, kind: str) -> str:
    match kind:
        case "string":
            return "" if isinstance(value, str) else f"is {value!r}, which is no string: put it in quotes"
        case "integer":
            return "" if isinstance(value, int) and not isinstance(value, bool) else f"is {value!r}, which is no integer"
        case "float":
            return "" if isinstance(value, int | float) and not isinstance(value, bool) else f"is {value!r}, which is no number"
        case "boolean":
            return "" if isinstance(value, bool) else f"is {value!r}, which is neither true nor false"
        case "scalar-unit.size":
            return "" if isinstance(value, str) and SIZE.match(value) else f'is {value!r}, which is no size such as "8 GB"'
    return ""


def _fits(value: Any, kind: str, rule: str, bound: Any) -> bool:
    number = _number(value, kind)
    if rule in _COMPARISONS:
        return _COMPARISONS[rule](number, _number(bound, kind))
    if rule == "in_range":
        low, high = bound
        return (low == "UNBOUNDED" or number >= _number(low, kind)) and (high == "UNBOUNDED" or number <= _number(high, kind))
    if rule == "valid_values":
        return bool(value in bound)
    if rule == "equal":
        return bool(value == bound)
    if rule in _LENGTHS:
        return _LENGTHS[rule](len(value), bound)
    return rule != "pattern" or re.match(bound, str(value)) is not None


def _number(value: Any, kind: str) -> float:
    if kind == "scalar-unit.size":
        found = SIZE.match(str(value))
        return float(found[1]) * _UNITS[found[2]] if found else 0.0
    return float(value) if isinstance(value, int | float) else 0.0
