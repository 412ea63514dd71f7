"""Raw events as a user sends them (rows or columns, by branch name) turned into `Columns`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas.data.columns import Array, Column, Columns, Jagged
from mlaas.data.files import Branch
from mlaas.errors import DataError, nearest

Events = Columns | Mapping[str, Any] | Sequence[Mapping[str, Any]]

_SEQUENCES = (list, tuple, np.ndarray)


def to_columns(events: Events, branches: Mapping[str, Branch]) -> Columns:
    """Turn raw events into columns with the dtypes of the branches.

    events: Columns; a list of events, each a mapping from branch name to a number, or a list of numbers for a jagged branch; a mapping
    from branch name to one value per event (lists, NumPy arrays, `Jagged`, awkward arrays, an awkward record array); or one event as a mapping.
    Branches may come in any order, others than those in `branches` are ignored. None stands for NaN.
    Raises DataError naming the branch: missing (with the nearest name), text, wrong nesting, not a whole number, out of range, different lengths.
    """
    if isinstance(events, Columns):
        _present(events, branches)
        events = events.only(list(branches)).data if branches else {}
    fields = getattr(events, "fields", None)
    if isinstance(fields, list) and not isinstance(events, Columns):  # an awkward record array
        events = {name: events[name] for name in fields}
    if isinstance(events, Mapping):
        _present(events, branches)
        if _single(events, branches):
            return _from_rows([events], branches)
        return _from_columns(events, branches)
    if isinstance(events, str | bytes) or not isinstance(events, Sequence):
        raise DataError(f"events must be a list of events or a mapping from branch names to values, not {type(events).__name__}")
    return _from_rows(events, branches)


def _present(given: Iterable[str], branches: Mapping[str, Branch]) -> None:
    names = set(given)
    absent = [name for name in branches if name not in names]
    if absent:
        raise DataError(f"the events have no branch {absent[0]!r}{nearest(absent[0], (str(name) for name in names))}, which the model needs")


def _single(events: Mapping[str, Any], branches: Mapping[str, Branch]) -> bool:
    """Whether a mapping is one event: a number for a flat branch, or a plain list of numbers for a jagged one."""
    for name, branch in branches.items():
        value = events[name]
        if branch.kind == "flat":
            return not isinstance(value, _SEQUENCES) and not hasattr(value, "layout")
        if isinstance(value, _SEQUENCES) and len(value):
            return not isinstance(value[0], (*_SEQUENCES, type(None)))
    return False


def _from_rows(rows: Sequence[Mapping[str, Any]], branches: Mapping[str, Branch]) -> Columns:
    columns = {}
    for name in branches:
        try:
            columns[name] = [row[name] for row in rows]
        except (KeyError, TypeError):
            for number, row in enumerate(rows):
                if not isinstance(row, Mapping):
                    raise DataError(f"event {number} must be a mapping from branch names to values, not {type(row).__name__}") from None
                if name not in row:
                    raise DataError(f"event {number} has no branch {name!r}{nearest(name, map(str, row))}, which the model needs") from None
            raise
    return _from_columns(columns, branches, len(rows))


def _from_columns(columns: Mapping[str, Any], branches: Mapping[str, Branch], n: int | None = None) -> Columns:
    shared: dict[str | bytes, tuple[str, npt.NDArray[np.int64]]] = {}
    out: dict[str, Column] = {}
    for name, branch in branches.items():
        values = columns[name]
        column = _jagged(values, branch) if branch.kind == "jagged" else _flat(values, branch)
        if n is None:
            n = len(column)
        if len(column) != n:
            raise DataError(f"the branch {name!r} has {len(column)} events, but {next(iter(out))!r} has {n}")
        if isinstance(column, Jagged):
            column = _share(column, branch, shared)
        out[name] = column
    return Columns(n or 0, out)


def _share(column: Jagged, branch: Branch, shared: dict[str | bytes, tuple[str, npt.NDArray[np.int64]]]) -> Jagged:
    """Give branches of one counter the same offsets object; their lengths must agree. Without a counter those share that happen to agree."""
    key = branch.counter or column.offsets.tobytes()
    other, offsets = shared.setdefault(key, (branch.name, column.offsets))
    if column.offsets is offsets:
        return column
    if not np.array_equal(column.counts, np.diff(offsets)):
        event = int(np.flatnonzero(column.counts != np.diff(offsets))[0]) if len(column.offsets) == len(offsets) else 0
        raise DataError(f"event {event}: the branches {other!r} and {branch.name!r} must have lists of the same length")
    return Jagged(column.flat, offsets) if offsets[0] == 0 else column


def _flat(values: Any, branch: Branch) -> Array:
    if hasattr(values, "layout"):
        values = _awkward(values)
    if isinstance(values, Jagged):
        raise DataError(f"the branch {branch.name!r} is flat: it must have one number per event, not a list")
    if not isinstance(values, _SEQUENCES):
        raise DataError(f"the branch {branch.name!r} must have one number per event, not {type(values).__name__}")
    if not isinstance(values, np.ndarray) and any(isinstance(value, _SEQUENCES) for value in values):
        raise DataError(f"the branch {branch.name!r} is flat: it must have one number per event, not a list")
    array = _numbers(values, branch)
    if array.ndim != 1:
        raise DataError(f"the branch {branch.name!r} is flat: it must have one number per event, not a list")
    return array


def _jagged(values: Any, branch: Branch) -> Jagged:
    if hasattr(values, "layout"):
        return _awkward_jagged(values, branch)
    if isinstance(values, Jagged):
        return Jagged(_numbers(values.content, branch), values.offsets)
    if isinstance(values, np.ndarray) and values.ndim == 2 and values.dtype != object:
        offsets = np.arange(len(values) + 1, dtype=np.int64) * values.shape[1]
        return Jagged(_numbers(values.ravel(), branch), offsets)
    if not isinstance(values, _SEQUENCES):
        raise DataError(f"the branch {branch.name!r} must have a list of numbers per event, not {type(values).__name__}")
    # Only lists of these exact types take the fast path; a str has a length too.
    if not set(map(type, values)) <= set(_SEQUENCES):
        values = [_list(value, branch, event) for event, value in enumerate(values)]
    offsets = np.zeros(len(values) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, values), np.int64, len(values)), out=offsets[1:])
    content = list(chain.from_iterable(values))
    array = _numbers(content, branch)
    if array.ndim != 1:
        raise DataError(f"the branch {branch.name!r} must have a list of numbers per event, not lists of lists")
    return Jagged(array, offsets)


def _list(value: Any, branch: Branch, event: int) -> Any:
    if isinstance(value, _SEQUENCES):
        return value
    if value is None:
        return ()
    raise DataError(f"event {event}: the branch {branch.name!r} is jagged: it must have a list of numbers per event, not {value!r:.40}")


def _numbers(values: Any, branch: Branch) -> Array:
    """An array of numbers with the branch's dtype; float64 when a whole-number branch has NaN or None."""
    if isinstance(values, list) and holds_text(values):
        raise DataError(f"the branch {branch.name!r} must hold numbers, not {_example(values)}")
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):
        raise DataError(f"the branch {branch.name!r} must hold numbers, not lists of different lengths") from None
    if array.size == 0:
        return np.zeros(array.shape, branch.dtype)
    if array.dtype == object:
        array = _objects(array, branch)
    if array.dtype.kind not in "biuf":
        raise DataError(f"the branch {branch.name!r} must hold numbers, not {_example(values)}")
    return _cast(array, branch)


def holds_text(values: list[Any]) -> bool:
    """Whether there is text in a list or the lists in it: NumPy would make all its elements as long as the longest, however few bytes were sent."""
    level = values
    while level:
        kinds = set(map(type, level))
        if not kinds.isdisjoint((str, bytes)):
            return True
        level = list(chain.from_iterable(item for item in level if type(item) is list)) if list in kinds else []
    return False


def _objects(array: Array, branch: Branch) -> Array:
    """None among numbers is NaN; anything else is refused."""
    flat = array.ravel()
    for value in flat:
        if value is not None and not isinstance(value, bool | int | float | np.bool_ | np.integer | np.floating):
            what = "lists of lists" if isinstance(value, _SEQUENCES) else f"{value!r:.40}"
            raise DataError(f"the branch {branch.name!r} must hold numbers, not {what}")
    try:
        if any(value is None for value in flat):
            return np.array([np.nan if value is None else value for value in flat], np.float64).reshape(array.shape)
        return np.array(flat.tolist(), np.float64).reshape(array.shape)
    except OverflowError:
        raise DataError(f"the branch {branch.name!r} holds a number that is too large") from None


def _cast(array: Array, branch: Branch) -> Array:
    """The values in the branch's dtype, as the files hold them, so that formulas and cuts give what they gave in training."""
    dtype = branch.dtype
    if array.dtype == dtype:
        return array
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return array.astype(dtype)
    if array.dtype.kind == "f":
        finite = np.isfinite(array)
        if not finite.all():
            _whole(array[finite], branch)
            return array.astype(np.float64)
        _whole(array, branch)
    if dtype.kind == "b":
        allowed = (0, 1)
    else:
        bounds = np.iinfo(dtype)  # type: ignore[type-var]
        allowed = (int(bounds.min), int(bounds.max))
    low, high = int(array.min()), int(array.max())
    if low < allowed[0] or high > allowed[1]:
        wrong = low if low < allowed[0] else high
        raise DataError(f"the branch {branch.name!r} holds {wrong}, but its type {dtype.name} goes from {allowed[0]} to {allowed[1]}")
    return array.astype(dtype)


def _whole(array: Array, branch: Branch) -> None:
    wrong = array[array != np.floor(array)]
    if len(wrong):
        raise DataError(f"the branch {branch.name!r} holds whole numbers ({branch.dtype.name}), not {wrong[0]}")


def _example(values: Any) -> str:
    flat = np.asarray(values).ravel() if isinstance(values, np.ndarray) else values
    text = next((value for value in flat if not isinstance(value, bool | int | float)), flat[0])
    return f"{text!r:.40}"


def _awkward(values: Any) -> Array:
    import awkward

    try:
        return np.asarray(awkward.to_numpy(awkward.fill_none(values, np.nan)))
    except Exception:
        return np.array([None])[:0] if len(values) == 0 else np.asarray(awkward.to_list(values), dtype=object)


def _awkward_jagged(values: Any, branch: Branch) -> Jagged:
    import awkward

    if values.ndim != 2:
        raise DataError(f"the branch {branch.name!r} must have a list of numbers per event, not {values.ndim} levels of them")
    filled = awkward.fill_none(values, [], axis=0)
    offsets = np.zeros(len(filled) + 1, np.int64)
    np.cumsum(np.asarray(awkward.num(filled)), out=offsets[1:])
    return Jagged(_numbers(_awkward(awkward.flatten(filled)), branch), offsets)
