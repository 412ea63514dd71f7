"""Evaluation of compiled expressions on one batch: loading branches, bringing them to one shape, reducing lists to one value per event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from mlaas.data.columns import Column, Columns, Jagged
from mlaas.errors import DataError, ExpressionError

Array = npt.NDArray[Any]
Offsets = npt.NDArray[np.int64]


class Lists(NamedTuple):
    """A jagged value: content of exactly these events, offsets from 0, and the branch the lengths come from."""

    content: Array
    offsets: Offsets
    origin: str


Value: TypeAlias = Any  # Lists, an array with one value per event, or a Python bool, int or float


class Batch:
    """The columns of a batch while one expression is evaluated on it; what depends on the offsets is computed once."""

    def __init__(self, columns: Columns, text: str) -> None:
        self._columns = columns
        self._text = text
        self._based: dict[int, tuple[Offsets, Offsets]] = {}  # the key's owner is kept, so that its id stays its own
        self._counts: dict[int, tuple[Offsets, Offsets]] = {}

    def load(self, name: str) -> Value:
        """The branch as a value. Raises DataError when the batch lacks it."""
        if name not in self._columns:
            raise DataError(f"expression {self._text}: there is no branch {name!r} among those read")
        column = self._columns[name]
        if not isinstance(column, Jagged):
            return column
        offsets = column.offsets
        if offsets[0]:
            offsets = self._based.setdefault(id(offsets), (offsets, offsets - offsets[0]))[1]
        return Lists(column.flat, offsets, name)

    def map(self, function: Callable[..., Any], *values: Value) -> Value:
        """Apply an element-wise function; flat values are repeated for each element of the lists beside them."""
        lists = [value for value in values if isinstance(value, Lists)]
        if not lists:
            return function(*values)
        first = lists[0]
        for other in lists[1:]:
            self._same_lengths(first, other)
        return Lists(function(*[self._spread(value, first) for value in values]), first.offsets, first.origin)

    def lists(self, value: Value, asked: str) -> Lists:
        """The value if it is jagged; ExpressionError says that `asked` needs it to be."""
        if not isinstance(value, Lists):
            raise ExpressionError(f"expression {self._text}: {asked} needs a jagged branch, and this one has one value per event")
        return value

    def counts(self, offsets: Offsets) -> Offsets:
        found = self._counts.get(id(offsets))
        if found is None:
            found = self._counts[id(offsets)] = (offsets, np.diff(offsets))
        return found[1]

    def column(self, value: Value) -> Column:
        """The value as a column: a number of the text becomes one value per event."""
        if isinstance(value, Lists):
            return Jagged(value.content, value.offsets)
        return value if isinstance(value, np.ndarray) and value.ndim else np.full(self._columns.n, value)

    def _spread(self, value: Value, like: Lists) -> Value:
        if isinstance(value, Lists):
            return value.content
        return np.repeat(value, self.counts(like.offsets)) if isinstance(value, np.ndarray) and value.ndim else value

    def _same_lengths(self, a: Lists, b: Lists) -> None:
        if a.offsets is b.offsets or np.array_equal(a.offsets, b.offsets):
            return
        event = int(np.flatnonzero(self.counts(a.offsets) != self.counts(b.offsets))[0])
        lengths = f"{self.counts(a.offsets)[event]} and {self.counts(b.offsets)[event]}"
        raise DataError(
            f"expression {self._text}: branches {a.origin!r} and {b.origin!r} cannot be combined, their lists differ in length"
            f" (first in event {event} of the batch: {lengths})"
        )


def satisfied(quantifier: Literal["any", "all"], value: Jagged | Lists) -> npt.NDArray[np.bool_]:
    """Whether any value (or every value) of each list is true, shape (n,); the content is boolean. Empty: false for any, true for all."""
    from mlaas.data import lists

    out = np.empty(len(value.offsets) - 1, np.bool_)
    (lists.any_true if quantifier == "any" else lists.all_true)(value.content, value.offsets, out)
    return out


def _sum(batch: Batch, value: Lists) -> Array:
    """The sum; whole numbers as 64-bit integers, float32 added up in float64."""
    from mlaas.data import lists

    content = _plain(value.content)
    wide: type[Any] = np.float64 if content.dtype.kind == "f" else np.uint64 if content.dtype == np.uint64 else np.int64
    out = np.empty(len(value.offsets) - 1, wide)
    lists.total(content, value.offsets, out)
    return out.astype(content.dtype) if content.dtype.kind == "f" else out


def _mean(batch: Batch, value: Lists) -> Array:
    content = value.content if value.content.dtype.kind == "f" else value.content.astype(np.float64)
    return _sum(batch, value._replace(content=content)) / batch.counts(value.offsets).astype(content.dtype)


def _count(batch: Batch, value: Lists) -> Array:
    return batch.counts(value.offsets)


def _positions(value: Lists, largest: bool) -> Offsets:
    from mlaas.data import lists

    out = np.empty(len(value.offsets) - 1, np.int64)
    lists.extreme(_plain(value.content), value.offsets, largest, out)
    return out


def _plain(content: Array) -> Array:
    """Floating types that compiled loops do not know, as those they know."""
    if content.dtype.kind == "f" and content.dtype.itemsize not in (4, 8):
        return content.astype(np.float32 if content.dtype.itemsize < 4 else np.float64)
    return content


def _extreme(largest: bool) -> Callable[[Batch, Lists], Array]:
    def reduce(batch: Batch, value: Lists) -> Array:
        found = _positions(value, largest)
        return _take(value.content, found, found >= 0)

    return reduce


def _place(largest: bool) -> Callable[[Batch, Lists], Array]:
    def reduce(batch: Batch, value: Lists) -> Array:
        found = _positions(value, largest)
        return np.where(found >= 0, found - value.offsets[:-1], -1)

    return reduce


def element(batch: Batch, value: Lists, index: Value) -> Array:
    """The element number `index` of each list (negative: from its end), NaN where there is none."""
    start, stop = value.offsets[:-1], value.offsets[1:]
    found = np.where(np.greater_equal(index, 0), start + index, stop + index)
    return _take(value.content, found, (found >= start) & (found < stop))


def _take(content: Array, positions: Offsets, valid: npt.NDArray[np.bool_]) -> Array:
    """Values at these positions, NaN where not valid; whole numbers become floating so that NaN has a place."""
    out = np.full(len(positions), np.nan, np.result_type(content.dtype, np.float32))
    out[valid] = content[positions[valid]]
    return out


REDUCTIONS: dict[str, Callable[[Batch, Lists], Array]] = {
    "any": lambda _, value: satisfied("any", value),
    "all": lambda _, value: satisfied("all", value),
    "sum": _sum,
    "mean": _mean,
    "count": _count,
    "len": _count,
    "min": _extreme(False),
    "max": _extreme(True),
    "argmin": _place(False),
    "argmax": _place(True),
    "first": lambda batch, value: element(batch, value, 0),
}
