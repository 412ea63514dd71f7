"""ROC curve and AUC with errors, for weights of either sign."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mlaas.report.data import Floats
from mlaas.report.statistics import effective


class Roc(NamedTuple):
    """A ROC curve from the hardest cut to none.

    threshold, signal, background: (p,), cut (score >= threshold) and the two efficiencies; the first point is (0, 0), its threshold infinite.
    signal_error, background_error: (p,), standard deviations. auc, error: the area and its standard deviation (NaN when a class is missing).
    signal_events, background_events: effective numbers of events.
    """

    threshold: Floats
    signal: Floats
    background: Floats
    signal_error: Floats
    background_error: Floats
    auc: float
    error: float
    signal_events: float
    background_events: float


def roc(scores: npt.NDArray[Any], signal: npt.NDArray[np.bool_], weights: npt.NDArray[Any] | None = None) -> Roc:
    """ROC curve of finite `scores` (n,), true where `signal`, in n log n.

    AUC is the weighted share of (signal, background) pairs in the right order, ties counting one half; with negative weights the share is signed.
    Its error is DeLong's (DeLong, DeLong, Clarke-Pearson, Biometrics 44 (1988) 837) with w^2 in the sums, or Hanley and McNeil's where a
    class has fewer than two effective events. Efficiency errors are binomial: ((1-e)^2 sum_pass w^2 + e^2 sum_fail w^2) / (sum w)^2.
    """
    weight = np.ones(len(scores)) if weights is None else np.asarray(weights, np.float64)
    n_s, n_b = effective(weight[signal]), effective(weight[~signal])
    total_s, total_b = float(weight[signal].sum()), float(weight[~signal].sum())
    if n_s == 0 or n_b == 0 or total_s <= 0 or total_b <= 0:
        nothing = np.empty(0)
        return Roc(nothing, nothing, nothing, nothing, nothing, math.nan, math.nan, n_s, n_b)
    order = np.argsort(scores)[::-1]
    score, is_signal, weight = np.asarray(scores)[order], signal[order], weight[order]
    starts = np.flatnonzero(np.concatenate([[True], score[1:] != score[:-1]]))
    ws, wb = np.add.reduceat(np.where(is_signal, weight, 0.0), starts), np.add.reduceat(np.where(is_signal, 0.0, weight), starts)
    ws2, wb2 = np.add.reduceat(np.where(is_signal, weight**2, 0.0), starts), np.add.reduceat(np.where(is_signal, 0.0, weight**2), starts)
    passed_s, passed_b = np.cumsum(ws), np.cumsum(wb)
    beats = 1 - (passed_b - wb / 2) / total_b  # share of the background that a signal event of this score beats
    beaten = (passed_s - ws / 2) / total_s  # share of the signal that beats a background event of this score
    auc = float(ws @ beats) / total_s
    variance = float(ws2 @ (beats - auc) ** 2) / total_s**2 * _unbiased(n_s) + float(wb2 @ (beaten - auc) ** 2) / total_b**2 * _unbiased(n_b)
    error = math.sqrt(variance) if min(n_s, n_b) >= 2 else hanley_mcneil(auc, n_s, n_b)
    return Roc(
        np.concatenate([[math.inf], score[starts]]).astype(np.float64),
        _from_zero(passed_s / total_s),
        _from_zero(passed_b / total_b),
        _efficiency_error(passed_s / total_s, np.cumsum(ws2), total_s),
        _efficiency_error(passed_b / total_b, np.cumsum(wb2), total_b),
        auc,
        error,
        n_s,
        n_b,
    )


def hanley_mcneil(auc: float, signal: float, background: float) -> float:
    """Standard deviation of an AUC from the numbers of events alone (Hanley, McNeil, Radiology 143 (1982) 29, eq. 1); NaN without events."""
    if signal <= 0 or background <= 0 or not math.isfinite(auc):
        return math.nan
    auc = min(max(auc, 0.0), 1.0)
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (signal - 1) * (q1 - auc**2) + (background - 1) * (q2 - auc**2)
    return math.sqrt(max(variance, 0.0) / (signal * background))


def thinned(curve: Roc, points: int = 400) -> Roc:
    """The curve with some hundred points, dense also where the background efficiency is small; what is left out cannot be seen."""
    if len(curve.threshold) <= points:
        return curve
    last = len(curve.threshold) - 1
    background = np.maximum.accumulate(curve.background)
    signal = np.maximum.accumulate(curve.signal)
    grid = np.linspace(0, 1, points // 2)
    floor = 1 / max(curve.background_events, 10)
    picks = [
        np.searchsorted(signal, grid),
        np.searchsorted(background, np.geomspace(floor, 1, points // 2)),
        np.asarray([0, last]),
    ]
    keep = np.unique(np.clip(np.concatenate(picks), 0, last))
    return curve._replace(**{name: getattr(curve, name)[keep] for name in Roc._fields[:5]})


def band(curve: Roc) -> Floats:
    """Standard deviation of the background efficiency at fixed signal efficiency, both binomial errors joined, shape (p,)."""
    if len(curve.signal) == 0:
        return np.empty(0)
    signal = np.maximum.accumulate(curve.signal)
    shift = np.interp(signal + curve.signal_error, signal, curve.background) - np.interp(signal - curve.signal_error, signal, curve.background)
    return np.asarray(np.hypot(curve.background_error, shift / 2))


def _unbiased(events: float) -> float:
    return events / (events - 1) if events > 1 else 1.0


def _from_zero(values: Floats) -> Floats:
    return np.concatenate([[0.0], values])


def _efficiency_error(efficiency: Floats, squares: Floats, total: float) -> Floats:
    variance = (1 - efficiency) ** 2 * squares + efficiency**2 * np.maximum(squares[-1] - squares, 0)
    return _from_zero(np.sqrt(variance) / total)
