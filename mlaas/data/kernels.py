"""Compiled loops that fill the feature matrix and find ranges (numba, without the interpreter lock).

`scatter` takes all columns of a batch at once, by address and type code, so that one call does the whole batch: thousands of small
calls would cost more than the work. Callers keep the arrays alive while it runs.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import intrinsic

from mlaas.data.lists import kernel

Array = npt.NDArray[Any]
Integers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]

TYPES: tuple[np.dtype[Any], ...] = tuple(np.dtype(code) for code in ("u1", "i4", "f4", "f8"))
CODES: dict[np.dtype[Any], int] = {dtype: code for code, dtype in enumerate(TYPES)}
EXAMPLES: tuple[Array, ...] = tuple(np.empty(0, dtype) for dtype in TYPES)


def typed(values: Array) -> Array:
    """The same values contiguous and of a type in TYPES: booleans as bytes, half floats as float32, other types as float64."""
    if values.dtype == np.bool_:
        values = values.view(np.uint8)
    elif values.dtype not in CODES:
        values = values.astype(np.float32 if values.dtype == np.float16 else np.float64)
    return np.ascontiguousarray(values)


@intrinsic
def _pointer(typing: Any, address: Any, example: Any) -> Any:
    """A typed pointer from an address; `example` is an array of the type."""
    pointer = types.CPointer(example.dtype)  # type: ignore[no-untyped-call]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return pointer(types.uintp, example), generate


FLOAT32_MAX = float(np.finfo(np.float32).max)

_at: Any = _pointer  # numba supplies the first argument
carray: Any = numba.carray  # type: ignore[attr-defined]


@kernel
def _unusual(value: float, low: float, high: float, scale: float, nan: float) -> float:
    """What NaN, infinities and values beyond float32 become: `nan`, the ends of the range, the largest float32."""
    if value != value:
        return nan
    if value == np.inf:
        value = high
    elif value == -np.inf:
        value = low
    scaled = (value * 0.5 - low * 0.5) * (scale * 2.0)  # the difference of two large values may overflow
    return min(max(scaled, -FLOAT32_MAX), FLOAT32_MAX)


@kernel
def _put(
    values: Array,
    offsets: Integers,
    jagged: bool,
    events: Integers,
    first: int,
    last: int,
    base: int,
    stride: int,
    x: npt.NDArray[np.float32],
    mask: npt.NDArray[np.bool_],
    masked: bool,
    width: int,
    low: float,
    high: float,
    scale: float,
    nan: float,
) -> None:
    """Write events[first:last] of one column to x[base], x[base + stride], ..., normalised; clear `mask` there."""
    for index in range(first, last):
        begin = events[index]
        count = np.int64(1)
        if jagged:
            event = begin
            begin = offsets[event]
            count = min(offsets[event + 1] - begin, np.int64(width))
        for item in range(count):
            value = np.float64(values[np.uint64(begin + item)])
            scaled = (value - low) * scale
            if not abs(scaled) <= FLOAT32_MAX:
                scaled = np.float64(_unusual(value, low, high, scale, nan))
            x[np.uint64(base + item)] = scaled
            if masked:
                mask[np.uint64(base + item)] = False
        base += stride


@kernel
def scatter(
    addresses: npt.NDArray[np.uintp],
    lengths: Integers,
    codes: Integers,
    examples: tuple[Array, ...],
    which: Integers,
    offsets: Integers,
    bases: Integers,
    cols: Integers,
    widths: Integers,
    lows: Reals,
    highs: Reals,
    scales: Reals,
    x: npt.NDArray[np.float32],
    mask: npt.NDArray[np.bool_],
    masked: bool,
    stride: int,
    events: Integers,
    row: int,
    pad: float,
    nan: float,
    block: int,
) -> None:
    """Write the given events of all columns into the rows of `x` (flattened, `stride` columns) from `row` on.

    A block of rows at a time is filled with padding and then overwritten where there is content, so that it stays in the cache.
    offsets: all offsets arrays joined; column c uses those from bases[which[c]] on, or is flat when which[c] < 0.
    """
    first = 0
    while first < len(events):
        last = min(first + block, len(events))
        begin = (row + first) * stride
        x[begin : begin + (last - first) * stride] = pad
        if masked:
            mask[begin : begin + (last - first) * stride] = True
        for c in range(len(addresses)):
            jagged = which[c] >= 0
            own = offsets[bases[which[c]] :] if jagged else offsets
            at, n, base = addresses[c], lengths[c], begin + cols[c]
            width, low, high, scale = widths[c], lows[c], highs[c], scales[c]
            if codes[c] == 2:
                _put(carray(_at(at, examples[2]), n), own, jagged, events, first, last, base, stride, x, mask, masked, width, low, high, scale, nan)
            elif codes[c] == 1:
                _put(carray(_at(at, examples[1]), n), own, jagged, events, first, last, base, stride, x, mask, masked, width, low, high, scale, nan)
            elif codes[c] == 0:
                _put(carray(_at(at, examples[0]), n), own, jagged, events, first, last, base, stride, x, mask, masked, width, low, high, scale, nan)
            else:
                _put(carray(_at(at, examples[3]), n), own, jagged, events, first, last, base, stride, x, mask, masked, width, low, high, scale, nan)
        first = last


@kernel
def extent(values: Array) -> tuple[float, float, int, int]:
    """The smallest and largest finite value (inf and -inf when there is none), the number of NaN and of infinities."""
    low = np.inf
    high = -np.inf
    nans = 0
    infinities = 0
    for value in values:
        number = np.float64(value)
        if -np.inf < number < np.inf:
            low = min(low, number)
            high = max(high, number)
        elif number != number:
            nans += 1
        else:
            infinities += 1
    return low, high, nans, infinities


@kernel
def strip(source: npt.NDArray[np.uint8], starts: Integers, header: int, itemsize: int, out: npt.NDArray[np.uint8]) -> None:
    """Copy what follows the header of each entry (starts[i]..starts[i + 1] of `source`), reversing the bytes of each value."""
    position = 0
    for entry in range(len(starts) - 1):
        begin = starts[entry] + header
        stop = starts[entry + 1]
        if itemsize == 4:
            while begin < stop:
                out[position] = source[begin + 3]
                out[position + 1] = source[begin + 2]
                out[position + 2] = source[begin + 1]
                out[position + 3] = source[begin]
                begin += 4
                position += 4
        else:
            while begin < stop:
                for byte in range(itemsize):
                    out[position + byte] = source[begin + itemsize - 1 - byte]
                begin += itemsize
                position += itemsize
