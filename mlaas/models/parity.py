"""The parity gate: a form of the model serves only if it gives the trained model's scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mlaas.models.scores import Matrix, Scores
from mlaas.models.trained import TrainedModel

ONE_BY_ONE = 16  # events that are also predicted alone: a graph may be right for one batch size only

Predict = Callable[[Matrix, Matrix | None], Scores]


@dataclass(frozen=True, slots=True)
class Parity:
    """The verdict on a form: accepted, the largest absolute difference (None if there is none), and why it was refused."""

    accepted: bool
    difference: float | None
    reason: str = ""


def compare(predict: Predict, trained: TrainedModel, tolerance: float) -> Parity:
    """Predict the slice again, all events at once and some alone, and compare with the trained model's scores.

    Accepted when |a - b| <= tolerance * scale for every score a. The scale is 1 for probabilities, and for regression values the root mean square
    of the slice's values: float32 holds numbers near 300 only to 3e-5, and a bound of 1e-5 would let pass anything where all values are near 1e-6.
    Not accepted when there are no events or any score is not finite.
    """
    if len(trained.x) == 0:
        return Parity(False, None, "there are no events to compare")
    single = min(ONE_BY_ONE, len(trained.x))
    rows = [predict(trained.x[i : i + 1], _row(trained, i)) for i in range(single)]
    found = [predict(trained.x, trained.mask), np.concatenate(rows)]
    wanted = [trained.scores, trained.scores[:single]]
    for got, want in zip(found, wanted, strict=True):
        if got.shape != want.shape:
            return Parity(False, None, f"it gives scores of shape {got.shape} instead of {want.shape}")
    if not all(np.isfinite(scores).all() for scores in [*found, *wanted]):
        return Parity(False, None, "some scores are not finite")
    difference = max(float(np.abs(got.astype(np.float64) - want).max()) for got, want in zip(found, wanted, strict=True))
    allowed = tolerance * _scale(trained)
    if difference > allowed:
        return Parity(False, difference, f"its scores differ by up to {difference:.2g}, more than the tolerance {allowed:.2g}")
    return Parity(True, difference)


def _scale(trained: TrainedModel) -> float:
    if trained.task == "classification":
        return 1.0
    return float(np.sqrt(np.mean(np.square(trained.scores, dtype=np.float64)))) or 1.0


def _row(trained: TrainedModel, row: int) -> Matrix | None:
    return None if trained.mask is None else trained.mask[row : row + 1]
