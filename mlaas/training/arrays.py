"""Lists of arrays as bytes, for checkpoints: NumPy's own format, never pickled."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def pack(arrays: Sequence[npt.NDArray[Any]]) -> bytes:
    """Write arrays one after another."""
    buffer = io.BytesIO()
    np.save(buffer, np.array(len(arrays)))
    for array in arrays:
        np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def unpack(data: bytes) -> list[npt.NDArray[Any]]:
    """Read what `pack` wrote. Raises ValueError when it is something else."""
    buffer = io.BytesIO(data)
    return [np.load(buffer, allow_pickle=False) for _ in range(int(np.load(buffer, allow_pickle=False)))]
