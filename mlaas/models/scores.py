"""Canonical scores: what every engine returns, whatever the model's raw output means (see `mlaas/README.md`, "Scores")."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from mlaas.errors import ModelError

Output = Literal["probability", "logit", "classes", "logits", "value"]
Task = Literal["classification", "regression"]
Scores = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float32]

OUTPUTS: tuple[Output, ...] = get_args(Output)


def canonical(raw: npt.ArrayLike, output: Output) -> Scores:
    """Turn a model's raw output into canonical scores.

    raw: shape (n,), (n, 1) or (n, K), any number type. Returns float32: (n,) probabilities of class index 1 (binary) or values (regression),
    or (n, K) probabilities (K > 2). Raises ModelError when the shape does not fit `output`.
    """
    array = np.asarray(raw)
    array = array.astype(np.result_type(array.dtype, np.float32), copy=False)
    if output in ("probability", "logit", "value"):
        column = _single_column(array, output)
        return _float32(_sigmoid(column) if output == "logit" else column)
    if array.ndim != 2 or array.shape[1] < 2:
        raise ModelError(f"the model's output of kind {output!r} must have shape (n, K) with K of at least 2, not {_shape(array)}")
    probabilities = _softmax(array) if output == "logits" else array
    return _float32(probabilities[:, 1] if array.shape[1] == 2 else probabilities)


def score_shape(events: int, task: Task, classes: int) -> tuple[int, ...]:
    """The shape of canonical scores for that many events: (n,), or (n, K) for more than two classes."""
    return (events, classes) if task == "classification" and classes > 2 else (events,)


def _single_column(array: npt.NDArray[Any], output: str) -> npt.NDArray[Any]:
    if array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    if array.ndim == 1:
        return array
    raise ModelError(f"the model's output of kind {output!r} must have shape (n,) or (n, 1), not {_shape(array)}")


def _shape(array: npt.NDArray[Any]) -> str:
    return "(" + ", ".join(["n", *map(str, array.shape[1:])]) + ")" if array.ndim else "a single number"


def _sigmoid(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    # Both branches of exp stay below overflow.
    small = np.exp(-np.abs(array))
    return np.asarray(np.where(array >= 0, 1 / (1 + small), small / (1 + small)))


def _softmax(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    powers = np.exp(array - array.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _float32(array: npt.NDArray[Any]) -> Scores:
    return np.ascontiguousarray(array, dtype=np.float32)
