"""From awkward arrays to columns: what uproot returns for branches and fields that the direct reader does not take."""

from __future__ import annotations

from typing import Any

import awkward as ak
import numpy as np
import numpy.typing as npt

from mlaas.data.columns import Column, Jagged


def to_column(array: Any, offsets: dict[bytes, npt.NDArray[np.int64]] | None = None) -> Column:
    """Turn an awkward array of numbers, or of lists of numbers, into a column.

    Lists of fixed length become a `Jagged` as well. `offsets` remembers offsets already seen, so that equal ones become the same object.
    Raises TypeError for any other type.
    """
    layout = ak.to_layout(ak.to_packed(array))
    if isinstance(layout, ak.contents.RegularArray):
        layout = layout.to_ListOffsetArray64(True)
    if isinstance(layout, ak.contents.NumpyArray):
        values = np.asarray(layout.data)
        if values.ndim == 2:
            return Jagged(np.ascontiguousarray(values).reshape(-1), np.arange(0, values.size + 1, values.shape[1], dtype=np.int64))
        return values
    if isinstance(layout, ak.contents.EmptyArray):
        return np.empty(0, np.float64)
    if isinstance(layout, ak.contents.ListOffsetArray) and isinstance(layout.content, ak.contents.NumpyArray | ak.contents.EmptyArray):
        starts = np.asarray(layout.offsets.data, np.int64)
        content = np.asarray(
            layout.content.to_NumpyArray(np.dtype(np.float64)) if isinstance(layout.content, ak.contents.EmptyArray) else layout.content.data
        )
        if offsets is not None:
            starts = offsets.setdefault(starts.tobytes(), starts)
        return Jagged(content, starts)
    raise TypeError(f"not numbers or lists of numbers: {ak.type(array)}")
