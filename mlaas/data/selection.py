"""Taking some events out of columns, fast: positions are worked out once per counter and used by all its branches.

Against boolean indexing (10 ns per event and branch at five values per event) gathering by 32-bit positions costs 1 ns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas.data import lists
from mlaas.data.columns import Column, Jagged

Array = npt.NDArray[Any]
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class Selection:
    """The events where `keep`, shape (n,), is true, `kept` of them; `of` applies it to one column after another."""

    def __init__(self, keep: npt.NDArray[np.bool_], kept: int) -> None:
        self._keep = np.ascontiguousarray(keep)
        self._kept = kept
        self._events = _compact(np.flatnonzero(self._keep), len(keep))
        self._lists: dict[int, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Array]] = {}

    def of(self, column: Column) -> Column:
        """The kept events of `column`; columns with the same offsets object get the same new one, starting at 0."""
        if not isinstance(column, Jagged):
            return _gather(column, self._events)
        _, offsets, positions = self._positions(column.offsets)
        return Jagged(_gather(column.flat, positions), offsets)

    def _positions(self, before: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Array]:
        found = self._lists.get(id(before))
        if found is None:
            after = np.empty(self._kept + 1, np.int64)
            total = lists.kept_offsets(self._keep, before, after)
            positions = np.empty(total, _index_type(int(before[-1] - before[0])))
            lists.kept_positions(self._keep, before, positions)
            found = self._lists[id(before)] = (before, after, positions)  # `before` is held so that its id stays its own
        return found


def _index_type(size: int) -> type[np.int32] | type[np.int64]:
    return np.int32 if size <= np.iinfo(np.int32).max else np.int64


def _compact(positions: Array, size: int) -> Array:
    return positions.astype(_index_type(size))


def _gather(values: Array, positions: Array) -> Array:
    """values[positions]; numbers of the same width share one compiled loop."""
    unsigned = _UNSIGNED.get(values.dtype.itemsize)
    if unsigned is None or not values.flags.c_contiguous:
        return values.take(positions)
    out = np.empty(len(positions), values.dtype)
    lists.gather(values.view(unsigned), positions, out.view(unsigned))
    return out
