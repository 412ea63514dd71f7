"""Compiled loops over lists of values (content and offsets): selection and reductions to one value per event.

Import this module inside functions: numba costs some tenths of a second at start.
All take `values`, shape (m,), and `offsets`, shape (n + 1,), int64, with event i holding values[offsets[i]:offsets[i + 1]].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import njit

F = TypeVar("F", bound=Callable[..., Any])
Array = npt.NDArray[Any]
Offsets = npt.NDArray[np.int64]


def kernel(function: F) -> F:
    """Compile without the interpreter lock; keep the result on disk where there is a place for it."""
    try:
        return cast(F, njit(nogil=True, cache=True)(function))
    except RuntimeError:  # a read-only installation and no home: numba has no folder to write to
        return cast(F, njit(nogil=True)(function))


@kernel
def kept_offsets(keep: npt.NDArray[np.bool_], offsets: Offsets, out: Offsets) -> int:
    """Write the offsets of the kept events, shape (kept + 1,), into `out`; return the number of their values."""
    total = 0
    k = 0
    out[0] = 0
    for i in range(len(keep)):
        if keep[i]:
            total += offsets[i + 1] - offsets[i]
            k += 1
            out[k] = total
    return total


@kernel
def kept_positions(keep: npt.NDArray[np.bool_], offsets: Offsets, out: Array) -> None:
    """Write where the values of the kept events lie, counted from offsets[0], into `out`, shape (values kept,), int32 or int64."""
    first = offsets[0]
    k = 0
    for i in range(len(keep)):
        if keep[i]:
            for j in range(offsets[i] - first, offsets[i + 1] - first):
                out[k] = j
                k += 1


@kernel
def gather(values: Array, positions: Array, out: Array) -> None:
    """Write values[positions] into `out`."""
    for i in range(len(positions)):
        out[i] = values[positions[i]]


@kernel
def any_true(values: npt.NDArray[np.bool_], offsets: Offsets, out: npt.NDArray[np.bool_]) -> None:
    """Write whether any value is true (false for an empty list)."""
    for i in range(len(out)):
        found = False
        for j in range(offsets[i], offsets[i + 1]):
            found |= values[j]
        out[i] = found


@kernel
def all_true(values: npt.NDArray[np.bool_], offsets: Offsets, out: npt.NDArray[np.bool_]) -> None:
    """Write whether every value is true (true for an empty list)."""
    for i in range(len(out)):
        held = True
        for j in range(offsets[i], offsets[i + 1]):
            held &= values[j]
        out[i] = held


@kernel
def total(values: Array, offsets: Offsets, out: Array) -> None:
    """Write the sum, added up in the dtype of `out` (0 for an empty list)."""
    for i in range(len(out)):
        out[i] = 0
        for j in range(offsets[i], offsets[i + 1]):
            out[i] += values[j]


@kernel
def extreme(values: Array, offsets: Offsets, largest: bool, out: Array) -> None:
    """Write the position in `values` of the largest (or smallest) value: the first of equal ones, the first NaN if any, -1 for an empty list."""
    for i in range(len(out)):
        best = offsets[i]
        if offsets[i + 1] == best:
            out[i] = -1
            continue
        for j in range(best, offsets[i + 1]):
            value = values[j]
            if value != value:
                best = j
                break
            if (value > values[best]) if largest else (value < values[best]):
                best = j
        out[i] = best
