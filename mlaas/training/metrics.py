"""Figures of merit of scores: ROC, AUC with its error, accuracy, losses; weighted, exact with ties, vectorised.

Event weights w may be negative (Monte Carlo at next-to-leading order). Every sum below is the signed sum, so that events and their
counter-events cancel as they do in a cross-section. Three places need care and say so: the AUC is clipped to [0, 1], the ROC curve is made
monotonic, and effective numbers of events n_eff = (sum w)^2 / sum w^2 stand where a formula wants a number of events.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
_EPSILON = 1e-7


@dataclass(frozen=True, slots=True, eq=False)
class Roc:
    """Points of a ROC curve, from (0, 0) to (1, 1).

    fpr, tpr: shape (m,), false and true positive rates (background and signal efficiencies), not decreasing. low, high: shape (m,), the band of tpr
    at one standard deviation. thresholds: shape (m,), an event passes when its score is >= the threshold; the first is +inf. auc, error: see
    `auc_with_error`.
    """

    fpr: Floats
    tpr: Floats
    low: Floats
    high: Floats
    thresholds: Floats
    auc: float
    error: float


def _weights(weight: npt.ArrayLike | None, n: int) -> Floats:
    return np.ones(n) if weight is None else np.asarray(weight, np.float64)


def effective(weight: npt.ArrayLike) -> float:
    """The effective number of events (sum w)^2 / sum w^2; 0 for no events."""
    w = np.asarray(weight, np.float64)
    squares = float(np.dot(w, w))
    return float(w.sum()) ** 2 / squares if squares > 0 else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class _Ranked:
    """Sums per distinct score, in ascending order, and for each event the place of its score."""

    values: Floats
    place: npt.NDArray[np.intp]
    positive: Floats
    negative: Floats


def _rank(is_signal: npt.NDArray[np.bool_], score: npt.ArrayLike, weight: Floats) -> _Ranked:
    values, place = np.unique(np.asarray(score, np.float64), return_inverse=True)
    size = len(values)
    signal = np.bincount(place, np.where(is_signal, weight, 0.0), size)
    background = np.bincount(place, np.where(is_signal, 0.0, weight), size)
    return _Ranked(values, place, signal.astype(np.float64), background.astype(np.float64))


def auc_with_error(is_signal: npt.ArrayLike, score: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> tuple[float, float]:
    """The area under the ROC curve and its standard error.

    is_signal: shape (n,), bool or 0/1. score, weight: shape (n,). Ties count one half. NaN, NaN when a class is absent or its weights do not sum
    above 0. Error: DeLong, DeLong, Clarke-Pearson, Biometrics 44 (1988) 837, by sorted ranks (Sun, Xu, IEEE Signal Processing Letters 21 (2014)
    1389); with weights, each structural component enters with its squared share of the weight and n_eff replaces n.
    """
    flag = np.asarray(is_signal).astype(bool)
    w = _weights(weight, len(flag))
    return _auc(flag, w, _rank(flag, score, w))


def _auc(flag: npt.NDArray[np.bool_], w: Floats, ranked: _Ranked) -> tuple[float, float]:
    total_s, total_b = float(ranked.positive.sum()), float(ranked.negative.sum())
    if total_s <= 0 or total_b <= 0:
        return math.nan, math.nan
    below = (np.cumsum(ranked.negative) - ranked.negative / 2) / total_b
    above = 1 - (np.cumsum(ranked.positive) - ranked.positive / 2) / total_s
    area = float(np.dot(ranked.positive, below)) / total_s
    variance = 0.0
    for chosen, component, total in ((flag, below, total_s), (~flag, above, total_b)):
        share = w[chosen] / total
        n = effective(w[chosen])
        deviation = component[ranked.place[chosen]] - area
        correction = n / (n - 1) if n > 1 else 1.0
        variance += correction * float(np.dot(share**2, deviation**2))
    return min(max(area, 0.0), 1.0), math.sqrt(variance)


def auc(is_signal: npt.ArrayLike, score: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
    """The area under the ROC curve alone; see `auc_with_error`."""
    return auc_with_error(is_signal, score, weight)[0]


def roc(is_signal: npt.ArrayLike, score: npt.ArrayLike, weight: npt.ArrayLike | None = None, points: int = 1000) -> Roc:
    """The ROC curve at no more than about `points` of its corners, with the band of its true positive rate.

    Arguments as for `auc_with_error`. Negative weights can make a rate fall or leave [0, 1]: it is clipped there and replaced by its running maximum.
    Band: Wilson's score interval at one standard deviation (Wilson, J. Am. Stat. Assoc. 22 (1927) 209) with n_eff signal events.
    """
    flag = np.asarray(is_signal).astype(bool)
    w = _weights(weight, len(flag))
    ranked = _rank(flag, score, w)
    area, error = _auc(flag, w, ranked)
    tpr, fpr = (_rates(sums) for sums in (ranked.positive, ranked.negative))
    thresholds = np.concatenate([[np.inf], ranked.values[::-1]])
    keep = _corners(fpr, tpr, points)
    fpr, tpr, thresholds = fpr[keep], tpr[keep], thresholds[keep]
    low, high = wilson(tpr, effective(w[flag]))
    return Roc(fpr, tpr, low, high, thresholds, area, error)


def _rates(sums: Floats) -> Floats:
    """The share of the sum that passes each threshold, from none to all."""
    total = sums.sum()
    passed = np.concatenate([[0.0], np.cumsum(sums[::-1])])
    rates: Floats = passed / total if total > 0 else np.linspace(0, 1, len(passed))
    rates = np.maximum.accumulate(np.clip(rates, 0.0, 1.0))
    rates[-1] = 1.0
    return rates


def _corners(fpr: Floats, tpr: Floats, points: int) -> npt.NDArray[np.intp]:
    """Which points to keep: those spread evenly along the curve, its ends always."""
    if len(fpr) <= points:
        return np.arange(len(fpr))
    length = fpr + tpr
    chosen = np.searchsorted(length, np.linspace(0, length[-1], points))
    return np.unique(np.concatenate([[0], np.minimum(chosen, len(fpr) - 1), [len(fpr) - 1]]))


def wilson(rate: npt.ArrayLike, n: float) -> tuple[Floats, Floats]:
    """Wilson's score interval of a rate measured with n (effective) events, at one standard deviation."""
    p = np.asarray(rate, np.float64)
    if n <= 0:
        return np.zeros_like(p), np.ones_like(p)
    centre = (p + 0.5 / n) / (1 + 1 / n)
    half = np.sqrt(p * (1 - p) / n + 0.25 / n**2) / (1 + 1 / n)
    return np.minimum(np.clip(centre - half, 0, 1), p), np.maximum(np.clip(centre + half, 0, 1), p)


def probabilities(scores: npt.ArrayLike) -> Floats:
    """Canonical scores of a classification as one column per class: shape (n,) becomes (n, 2)."""
    p = np.asarray(scores, np.float64)
    return np.stack([1 - p, p], axis=1) if p.ndim == 1 else p


def accuracy(y: npt.ArrayLike, scores: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
    """The weighted share of events whose most probable class is theirs; an even score of two classes counts as class 1 (score >= 0.5).

    y: shape (n,), class index. scores: canonical, shape (n,) or (n, K). NaN when the weights do not sum above 0.
    """
    labels, p = np.asarray(y), np.asarray(scores)
    chosen = (p >= 0.5).astype(np.int64) if p.ndim == 1 else p.argmax(axis=1)
    return _mean((chosen == labels).astype(np.float64), _weights(weight, len(labels)))


def log_loss(y: npt.ArrayLike, scores: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
    """The weighted mean of -ln p(true class), with p clipped to [1e-7, 1 - 1e-7] as Keras does; y and scores as for `accuracy`."""
    labels = np.asarray(y).astype(np.int64)
    p = np.take_along_axis(probabilities(scores), labels[:, None], axis=1)[:, 0]
    return _mean(-np.log(np.clip(p, _EPSILON, 1 - _EPSILON)), _weights(weight, len(labels)))


def mse(y: npt.ArrayLike, value: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
    """The weighted mean squared error."""
    difference = np.asarray(value, np.float64) - np.asarray(y, np.float64)
    return _mean(difference**2, _weights(weight, len(difference)))


def mae(y: npt.ArrayLike, value: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
    """The weighted mean absolute error."""
    difference = np.abs(np.asarray(value, np.float64) - np.asarray(y, np.float64))
    return _mean(difference, _weights(weight, len(difference)))


def r2(y: npt.ArrayLike, value: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> float:
    """The coefficient of determination: 1 - (mean squared error) / (weighted variance of y); NaN when y does not vary."""
    target = np.asarray(y, np.float64)
    w = _weights(weight, len(target))
    spread = _mean((target - _mean(target, w)) ** 2, w)
    return 1 - mse(target, value, w) / spread if spread > 0 else math.nan


def _mean(values: Floats, weight: Floats) -> float:
    total = float(weight.sum())
    return float(np.dot(values, weight)) / total if total > 0 else math.nan


def one_vs_rest(y: npt.ArrayLike, scores: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> list[tuple[float, float]]:
    """For each class its AUC against all the others, and the error; y: shape (n,), class index; scores: shape (n, K)."""
    labels, p = np.asarray(y), np.asarray(scores)
    return [auc_with_error(labels == index, p[:, index], weight) for index in range(p.shape[1])]


def summary(
    task: Literal["classification", "regression"],
    classes: Sequence[str],
    y: npt.ArrayLike,
    scores: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
) -> dict[str, Any]:
    """All figures of one sample, ready for JSON: undefined ones are None.

    Classification: events, weight, accuracy, log_loss, auc, auc_error; with three classes and more `auc` is the plain mean of the one-vs-rest
    AUCs, `auc_error` the root of the mean of their squared errors (the AUCs of one sample are correlated, so that no 1/sqrt(K) is claimed), and
    `auc_per_class` has each. Regression: events, weight, mse, rmse, mae, r2.
    """
    labels, p = np.asarray(y), np.asarray(scores)
    w = _weights(weight, len(labels))
    out: dict[str, Any] = {"events": len(labels), "weight": float(w.sum())}
    if task == "regression":
        error = mse(labels, p, w)
        out |= {"mse": error, "rmse": math.sqrt(error) if error >= 0 else math.nan, "mae": mae(labels, p, w), "r2": r2(labels, p, w)}
    elif p.ndim == 1:
        area, uncertainty = auc_with_error(labels == 1, p, w)
        out |= {"accuracy": accuracy(labels, p, w), "log_loss": log_loss(labels, p, w), "auc": area, "auc_error": uncertainty}
    else:
        each = one_vs_rest(labels, p, w)
        area = float(np.mean([a for a, _ in each]))
        uncertainty = math.sqrt(float(np.mean([e**2 for _, e in each])))
        out |= {"accuracy": accuracy(labels, p, w), "log_loss": log_loss(labels, p, w), "auc": area, "auc_error": uncertainty}
        out["auc_per_class"] = {str(name): {"auc": finite(a), "error": finite(e)} for name, (a, e) in zip(classes, each, strict=True)}
    return {name: finite(value) if isinstance(value, float) else value for name, value in out.items()}


def finite(value: float | None) -> float | None:
    """The value, or None when it is not finite (JSON has no NaN)."""
    return float(value) if value is not None and math.isfinite(value) else None
