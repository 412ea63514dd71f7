"""Tensors of the Open Inference Protocol: JSON lists, raw bytes and arrays, each way, with every size checked before anything is made of it."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlaas.inference.served import Array
from mlaas.models.events import holds_text
from mlaas.web.problem import Problem

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
    "BYTES": np.dtype(object),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_RANK = 32


def dtype_name(dtype: np.dtype[Any]) -> str:
    """What the protocol calls a NumPy dtype; text is BYTES. Raises ValueError for what it has no name for."""
    if dtype.kind in "OSU":
        return "BYTES"
    found = NAMES.get(dtype.newbyteorder("<"))
    if found is None:
        raise ValueError(f"the protocol has no name for tensors of {dtype}")
    return found


def shape_of(name: str, shape: Any) -> tuple[int, ...]:
    """A checked shape: whole numbers of 0 or more."""
    if not isinstance(shape, list | tuple) or len(shape) > MAX_RANK or not all(type(size) is int and 0 <= size < 2**40 for size in shape):
        raise Problem(400, f"inputs.{name}.shape must be a list of whole numbers, none below 0", field=f"inputs.{name}.shape")
    return tuple(shape)


def dtype_of(name: str, datatype: Any) -> np.dtype[Any]:
    """The NumPy dtype of a datatype."""
    dtype = DTYPES.get(datatype) if isinstance(datatype, str) else None
    if dtype is None:
        raise Problem(400, f"inputs.{name}.datatype must be one of {', '.join(DTYPES)}, not {datatype!r:.40}", field=f"inputs.{name}.datatype")
    return dtype


def from_list(name: str, datatype: Any, shape: Any, data: Any) -> Array:
    """A tensor from JSON: nested lists, or the elements row by row in one list."""
    dtype, sizes = dtype_of(name, datatype), shape_of(name, shape)
    if not isinstance(data, list):
        raise Problem(400, f"inputs.{name}.data must be a list", field=f"inputs.{name}.data")
    if dtype.kind == "O":
        return _texts(name, sizes, data)
    if holds_text(data):
        raise Problem(400, f"inputs.{name}.data must hold {_kind(dtype)} for {datatype}, not text", field=f"inputs.{name}.data")
    try:
        found = np.array(data)
    except ValueError:
        raise Problem(400, f"inputs.{name}.data must hold lists of the same length", field=f"inputs.{name}.data") from None
    return from_array(name, datatype, shape, found)


def from_array(name: str, datatype: Any, shape: Any, found: Array) -> Array:
    """A tensor from an array of whatever type JSON or a message gave, nested or flat."""
    dtype = dtype_of(name, datatype)
    if found.dtype == object:
        found = _without_null(name, dtype, found)
    if found.size and found.dtype.kind not in _allowed(dtype):
        raise Problem(400, f"inputs.{name}.data must hold {_kind(dtype)} for {datatype}", field=f"inputs.{name}.data")
    return _fit(name, shape_of(name, shape), _cast(name, datatype, dtype, found))


def from_texts(name: str, shape: Any, values: Sequence[bytes]) -> Array:
    """A BYTES tensor from its elements, row by row."""
    return _fit(name, shape_of(name, shape), _objects(values))


def from_bytes(name: str, datatype: Any, shape: Any, data: bytes | memoryview) -> Array:
    """A tensor from its elements in little-endian order, row by row; BYTES: each with its length in 4 bytes before it. Nothing is copied."""
    dtype, sizes = dtype_of(name, datatype), shape_of(name, shape)
    if dtype.kind == "O":
        return _fit(name, sizes, _unpacked(name, data))
    expected = math.prod(sizes) * dtype.itemsize
    if len(data) != expected:
        raise Problem(400, f"inputs.{name} has {len(data)} bytes, but {datatype} of shape {list(sizes)} takes {expected}", field=f"inputs.{name}")
    found = np.frombuffer(data, np.uint8 if dtype.kind == "b" else dtype)
    return (found != 0 if dtype.kind == "b" else found).reshape(sizes)


def to_bytes(array: Array) -> bytes:
    """The inverse of `from_bytes`."""
    if array.dtype.kind not in "OSU":
        return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    parts = []
    for value in array.ravel().tolist():
        text = value if isinstance(value, bytes) else str(value).encode()
        parts += [struct.pack("<I", len(text)), text]
    return b"".join(parts)


def texts(array: Array) -> list[str]:
    """The elements of a BYTES tensor for JSON."""
    return [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in array.ravel().tolist()]


def _texts(name: str, sizes: tuple[int, ...], data: list[Any]) -> Array:
    flat: list[Any] = data
    for _ in sizes[1:]:
        if flat and all(isinstance(item, list) for item in flat):
            flat = [inner for item in flat for inner in item]
    if not all(isinstance(item, str) for item in flat):
        raise Problem(400, f"inputs.{name}.data must hold strings for BYTES", field=f"inputs.{name}.data")
    return _fit(name, sizes, _objects([item.encode() for item in flat]))


def _objects(values: Sequence[bytes]) -> Array:
    found = np.empty(len(values), object)
    found[:] = values
    return found


def _unpacked(name: str, data: bytes | memoryview) -> Array:
    values, start = [], 0
    while start < len(data):
        end = start + 4 + struct.unpack_from("<I", data, start)[0] if len(data) - start >= 4 else len(data) + 1
        if end > len(data):
            raise Problem(400, f"inputs.{name}: the elements of BYTES must each have their length before them", field=f"inputs.{name}")
        values.append(bytes(data[start + 4 : end]))
        start = end
    return _objects(values)


def _without_null(name: str, dtype: np.dtype[Any], found: Array) -> Array:
    """null among numbers is NaN, where the dtype has one."""
    flat = found.ravel().tolist()
    if dtype.kind == "f" and all(value is None or type(value) in (float, int) for value in flat):
        return np.array([math.nan if value is None else value for value in flat], np.float64).reshape(found.shape)
    raise Problem(400, f"inputs.{name}.data must hold {_kind(dtype)} only", field=f"inputs.{name}.data")


def _allowed(dtype: np.dtype[Any]) -> str:
    return {"b": "b", "f": "fiu"}.get(dtype.kind, "iu")


def _kind(dtype: np.dtype[Any]) -> str:
    return {"b": "true and false", "f": "numbers"}.get(dtype.kind, "whole numbers")


def _cast(name: str, datatype: str, dtype: np.dtype[Any], found: Array) -> Array:
    if dtype.kind in "iu" and found.size:
        bounds = np.iinfo(dtype)
        if int(found.min()) < bounds.min or int(found.max()) > bounds.max:
            raise Problem(400, f"inputs.{name}.data: {datatype} goes from {bounds.min} to {bounds.max}", field=f"inputs.{name}.data")
    with np.errstate(over="ignore"):
        return found.astype(dtype, copy=False)


def _fit(name: str, sizes: tuple[int, ...], found: Array) -> Array:
    if found.size != math.prod(sizes):
        raise Problem(400, f"inputs.{name} has {found.size} elements, but its shape {list(sizes)} takes {math.prod(sizes)}", field=f"inputs.{name}")
    if found.ndim > 1 and found.size and found.shape != sizes:
        raise Problem(400, f"inputs.{name}.data is nested as {list(found.shape)}, but its shape is {list(sizes)}", field=f"inputs.{name}.shape")
    return found.reshape(sizes)
