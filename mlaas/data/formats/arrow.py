"""The values of Arrow record batches as columns of events, without copies where possible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mlaas.data.columns import Array, Column, Columns, Jagged
from mlaas.data.files import Branch
from mlaas.data.formats.types import Leaf, is_list, numpy_type, walk
from mlaas.errors import DataError

Offsets = npt.NDArray[np.int64]


def columns(batch: pa.RecordBatch, wanted: Sequence[Leaf]) -> Columns:
    """The wanted branches of a batch; branches with equal lengths share one offsets array."""
    data: dict[str, Column] = {}
    shared: list[Offsets] = []
    arrays = {name: batch.column(name) for name in dict.fromkeys(leaf.path[0] for leaf in wanted)}
    for leaf in wanted:
        values, offsets = _descend(arrays[leaf.path[0]], leaf.path[1:])
        content = _values(values, leaf.branch)
        data[leaf.branch.name] = content if offsets is None else Jagged(content, shared_offsets(offsets, shared))
    return Columns(batch.num_rows, data)


def _descend(array: pa.Array, members: Sequence[str]) -> tuple[pa.Array, Offsets | None]:
    """Follow the members of structs, and open the one list on the way."""
    offsets: Offsets | None = None
    rest = list(members)
    while True:
        array = _plain(array)
        if is_list(array.type):
            array, offsets = _opened(array)
        elif pa.types.is_struct(array.type):
            array = array.flatten()[array.type.get_field_index(rest.pop(0))]  # unlike field(), hands on the nulls of the struct
        else:
            return array, offsets


def _plain(array: pa.Array) -> pa.Array:
    while True:
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        elif isinstance(array, pa.DictionaryArray):
            array = array.dictionary_decode()
        else:
            return array


def _opened(array: pa.Array) -> tuple[pa.Array, Offsets]:
    """The values of a list array and its offsets; an absent list is an empty one."""
    if pa.types.is_fixed_size_list(array.type) or array.null_count:
        lengths = np.where(_flags(array.is_null()), 0, _view(pc.list_value_length(array)))
        offsets = np.zeros(len(array) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return array.flatten(), offsets
    offsets = _view(array.offsets).astype(np.int64)
    first = int(offsets[0])
    return array.values.slice(first, int(offsets[-1]) - first), offsets - first if first else offsets


def _values(array: pa.Array, branch: Branch) -> Array:
    """A NumPy view of the values where possible, else a copy; absent values are NaN."""
    if pa.types.is_null(array.type):
        return np.full(len(array), np.nan)
    if array.null_count:
        if branch.dtype.kind != "f":
            raise DataError(f"column {branch.name} holds absent values where the file says that it has none; write the file again")
        if not pa.types.is_floating(array.type):
            array = array.cast(pa.float64(), safe=False)  # beyond 2^53 rounded, as NumPy does
        values = _view(array).astype(branch.dtype)
        values[_flags(array.is_null())] = np.nan
        return values
    if pa.types.is_boolean(array.type):
        return _flags(array).astype(branch.dtype, copy=False)
    return _view(array).astype(branch.dtype, copy=False)


def _flags(array: pa.Array) -> npt.NDArray[np.bool_]:
    return _view(array.cast(pa.uint8())).view(np.bool_)


def _view(array: pa.Array) -> Array:
    """The values of an array (anything where absent), not copied; writable when Arrow's memory is."""
    dtype = numpy_type(array.type)
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * dtype.itemsize) if len(array) else np.empty(0, dtype)


def shared_offsets(offsets: Offsets, known: list[Offsets]) -> Offsets:
    """An equal array among those known, or this one, which is known from now on."""
    for other in known:
        if other[-1] == offsets[-1] and np.array_equal(other, offsets):
            return other
    known.append(offsets)
    return offsets


def absent(batch: pa.RecordBatch) -> Iterator[tuple[str, ...]]:
    """The paths at which values are absent in this batch."""
    for field, array in zip(batch.schema, batch.columns, strict=True):
        for path, _, _, reason in walk((field.name,), field.type, None):
            if not reason and _descend(array, path[1:])[0].null_count:
                yield path
