"""From what a model returns to canonical scores."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Output = Literal["probability", "logit", "classes", "logits", "value"]


def sigmoid(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """1 / (1 + exp(-x)) without overflow."""
    e = np.exp(-np.abs(x))
    result: npt.NDArray[Any] = np.where(x >= 0, 1 / (1 + e), e / (1 + e))
    return result


def softmax(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """exp(x) / sum exp(x) over the last axis, without overflow."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    result: npt.NDArray[Any] = e / e.sum(axis=-1, keepdims=True)
    return result


def canonical(raw: npt.NDArray[Any], output: Output) -> npt.NDArray[np.float32]:
    """Turn a model's raw output into canonical scores, float32.

    raw: shape (n,), (n, 1) or (n, K). output: what it means. Returns shape (n,): the probability of class 1, or the value; or (n, K) probabilities.
    """
    values = np.asarray(raw)
    if output in {"probability", "logit", "value"}:
        values = values.reshape(len(values))
        values = sigmoid(values) if output == "logit" else values
    else:
        values = softmax(values) if output == "logits" else values
        if values.shape[1] == 2:
            values = values[:, 1]
    return np.ascontiguousarray(values, np.float32)
