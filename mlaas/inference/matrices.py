"""From what requests hold to the matrix that the model sees: numbers, NaN, padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlaas.models.scores import Matrix
from mlaas.web.problem import Problem

Row = Sequence[float | None]


def matrix_of(rows: Sequence[Row | Matrix], masks: Sequence[Matrix | None], takes_mask: bool) -> tuple[Matrix, Matrix | None]:
    """The events of several requests as one matrix (n, width), float32, finite, and the mask where the model takes one.

    rows: one event as numbers, or a matrix (k, width). masks: for each of them, None where NaN marks the padding. NaN becomes 0.
    Raises Problem 400 for a value that is infinite or beyond float32.
    """
    x = _joined(rows)
    if np.isfinite(x).all():
        missing = None
    else:
        missing = np.isnan(x)
        _refuse_infinite(x, missing)
        x = np.where(missing, np.float32(0), x)
    if not takes_mask:
        return x, None
    mask = np.zeros(x.shape, np.float32) if missing is None else missing.astype(np.float32)
    start = 0
    for part, given in zip(rows, masks, strict=True):
        count = len(part) if isinstance(part, np.ndarray) else 1
        if given is not None:
            mask[start : start + count] = given
        start += count
    return x, mask


def _joined(rows: Sequence[Row | Matrix]) -> Matrix:
    if len(rows) == 1 and isinstance(rows[0], np.ndarray):
        return rows[0]
    if not any(isinstance(part, np.ndarray) for part in rows):
        return _array(rows)
    return np.concatenate([part if isinstance(part, np.ndarray) else _array([part]) for part in rows])


def _array(rows: Any) -> Matrix:
    with np.errstate(over="ignore"):  # beyond float32 is infinite, which is refused
        return np.array(rows, np.float32)


def _refuse_infinite(x: Matrix, missing: Any) -> None:
    wrong = np.argwhere(~np.isfinite(x) & ~missing)
    if len(wrong):
        event, column = wrong[0].tolist()
        where = f"value {column}" if len(x) == 1 else f"value {column} of event {event}"
        raise Problem(400, f"{where} is infinite or too large for a 32-bit number", field="values")
