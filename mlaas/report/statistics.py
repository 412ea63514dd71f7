"""The figures of a report: Kolmogorov-Smirnov, separation, significance, calibration, confusion, residuals; all weighted and vectorised."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mlaas.report.data import Floats

Values = npt.NDArray[Any]


def effective(weights: Values) -> float:
    """Effective number of events, (sum w)^2 / sum w^2: as many unweighted events would have the same relative error. 0 for none."""
    squares = float(np.square(weights, dtype=np.float64).sum())
    return float(np.sum(weights, dtype=np.float64)) ** 2 / squares if squares > 0 else 0.0


class KS(NamedTuple):
    """A Kolmogorov-Smirnov comparison: the largest distance of the two distributions, its p-value, the effective number of events."""

    distance: float
    p: float
    events: float


NO_KS = KS(math.nan, math.nan, 0.0)


def kolmogorov_smirnov(a: Values, b: Values, weight_a: Values | None = None, weight_b: Values | None = None) -> KS:
    """Compare two weighted samples of finite values, (n,) and (m,).

    The distance is max |F_a - F_b| of the weighted distribution functions. p = Q_KS((sqrt(N) + 0.12 + 0.11/sqrt(N)) D) with
    N = N_a N_b / (N_a + N_b) of the effective numbers (Stephens, J. R. Stat. Soc. B 32 (1970) 115; Numerical Recipes, 3rd ed., 14.3.3).
    NaN when a sample is empty or its weights do not sum to more than 0.
    """
    from scipy.special import kolmogorov

    weight_a = np.ones(len(a)) if weight_a is None else np.asarray(weight_a, np.float64)
    weight_b = np.ones(len(b)) if weight_b is None else np.asarray(weight_b, np.float64)
    total_a, total_b = float(weight_a.sum()), float(weight_b.sum())
    if total_a <= 0 or total_b <= 0:
        return NO_KS
    values = np.concatenate([a, b])
    order = np.argsort(values)
    steps = np.concatenate([weight_a / total_a, -weight_b / total_b])[order]
    last_of_tie = np.append(values[order][1:] != values[order][:-1], True)
    distance = float(np.abs(np.cumsum(steps)[last_of_tie]).max())
    if distance < 1e-12:  # rounding of the cumulative sums
        distance = 0.0
    n_a, n_b = effective(weight_a), effective(weight_b)
    events = n_a * n_b / (n_a + n_b)
    root = math.sqrt(events)
    return KS(distance, float(kolmogorov((root + 0.12 + 0.11 / root) * distance)), events)


def sidak(p: float, tests: int) -> float:
    """Chance that the smallest of `tests` independent p-values is at most `p` (Sidak, J. Am. Stat. Assoc. 62 (1967) 626)."""
    return p if not 0 <= p < 1 else -math.expm1(tests * math.log1p(-p))


def separation(signal: Values, background: Values) -> float:
    """Separation of two binned distributions, (bins,) each: 1/2 sum (s - b)^2 / (s + b) with both normalised; 0 equal, 1 without overlap.

    The <S^2> of the TMVA Users Guide, arXiv:physics/0703039. Bins with a negative sum count as empty; NaN when a distribution is.
    """
    s, b = np.clip(signal, 0, None), np.clip(background, 0, None)
    if s.sum() <= 0 or b.sum() <= 0:
        return math.nan
    s, b = s / s.sum(), b / b.sum()
    filled = s + b > 0
    return float(0.5 * np.sum((s - b)[filled] ** 2 / (s + b)[filled]))


def best_separation(counts: Floats) -> float:
    """Largest separation of one class from all the others together; `counts` is (K, bins). NaN with fewer than two classes filled."""
    if len(counts) == 2:
        return separation(counts[1], counts[0])
    total = counts.sum(axis=0)
    values = [separation(one, total - one) for one in counts] if len(counts) > 1 else []
    return float(np.nanmax(values)) if values and not np.isnan(values).all() else math.nan


def significance(signal: Values, background: Values) -> Floats:
    """S / sqrt(S + B), elementwise; 0 where S + B or S is not above 0."""
    s, b = np.clip(np.asarray(signal, np.float64), 0, None), np.clip(np.asarray(background, np.float64), 0, None)
    return np.asarray(s / np.sqrt(np.where(s + b > 0, s + b, 1.0)))


def asimov(signal: Values, background: Values, sigma: Values | float = 0.0) -> Floats:
    """Median discovery significance of S events above B +- sigma, elementwise; NaN where B is not above 0.

    sigma = 0: sqrt(2 ((s + b) ln(1 + s/b) - s)), Cowan, Cranmer, Gross, Vitells, EPJC 71 (2011) 1554, arXiv:1007.1727, eq. 97.
    sigma > 0: sqrt(2 ((s + b) ln[(s + b)(b + v) / (b^2 + (s + b) v)] - b^2/v ln[1 + v s / (b (b + v))])) with v = sigma^2
    (G. Cowan, "Discovery sensitivity for a counting experiment with background uncertainty", 2012).
    """
    s, b = np.clip(np.asarray(signal, np.float64), 0, None), np.asarray(background, np.float64)
    safe = np.where(b > 0, b, 1.0)
    v = np.broadcast_to(np.asarray(sigma, np.float64) ** 2, b.shape)
    known = (s + safe) * np.log1p(s / safe) - s
    w = np.where(v > 1e-9 * safe, v, safe)  # below, both forms agree and the long one loses digits
    unsure = (s + safe) * np.log((s + safe) * (safe + w) / (safe**2 + (s + safe) * w)) - safe**2 / w * np.log1p(w * s / (safe * (safe + w)))
    value = np.sqrt(2 * np.maximum(np.where(v > 1e-9 * safe, unsure, known), 0))
    return np.where(b > 0, value, math.nan)


class Calibration(NamedTuple):
    """A calibration curve: mean score, observed signal fraction and its error per filled bin, (m,), and the expected calibration error."""

    score: Floats
    fraction: Floats
    error: Floats
    expected: float


def calibration(scores: Values, signal: npt.NDArray[np.bool_], weights: Values, bins: int = 15) -> Calibration:
    """Observed fraction of signal against the mean score in equal bins of [0, 1].

    The expected calibration error is the weighted mean of |fraction - score| (Naeini, Cooper, Hauskrecht, AAAI 2015).
    Bins whose sum of weights is not above 0 are left out. The error is binomial with the bin's effective number of events.
    """
    index = np.clip((np.asarray(scores, np.float64) * bins).astype(np.int64), 0, bins - 1)
    total, squares = np.bincount(index, weights, bins), np.bincount(index, np.square(weights, dtype=np.float64), bins)
    keep = (total > 0) & (squares > 0)
    total, squares = total[keep], squares[keep]
    mean = np.bincount(index, weights * np.asarray(scores, np.float64), bins)[keep] / total
    fraction = np.bincount(index, weights * signal, bins)[keep] / total
    events = total**2 / squares
    smooth = np.clip((fraction * events + 0.5) / (events + 1), 0, 1)  # so that 0 of 3 does not get the error 0
    expected = float(total @ np.abs(fraction - mean) / total.sum()) if len(total) else math.nan
    return Calibration(mean, fraction, np.sqrt(smooth * (1 - smooth) / events), expected)


def confusion(labels: Values, predicted: Values, weights: Values, classes: int) -> Floats:
    """Sum of weights by true class (rows) and predicted class (columns), shape (K, K)."""
    cell = labels.astype(np.int64) * classes + predicted.astype(np.int64)
    return np.bincount(cell, np.asarray(weights, np.float64), classes * classes).astype(np.float64).reshape(classes, classes)


class Residuals(NamedTuple):
    """Figures of a regression; residual = predicted - true. Weighted; NaN when the weights do not sum to more than 0."""

    bias: float
    rms: float
    mae: float
    r2: float
    bias_error: float


def residuals(predicted: Values, true: Values, weights: Values) -> Residuals:
    """Mean and spread (standard deviation) of the residuals, mean absolute residual, and R^2 = 1 - sum w r^2 / sum w (true - <true>)^2."""
    total = float(np.sum(weights, dtype=np.float64))
    if total <= 0:
        return Residuals(math.nan, math.nan, math.nan, math.nan, math.nan)
    difference = np.asarray(predicted, np.float64) - true
    bias = float(weights @ difference) / total
    rms = math.sqrt(max(float(weights @ (difference - bias) ** 2) / total, 0.0))
    spread = float(weights @ (true - float(weights @ true) / total) ** 2)
    r2 = 1 - float(weights @ difference**2) / spread if spread > 0 else math.nan
    return Residuals(bias, rms, float(weights @ np.abs(difference)) / total, r2, rms / math.sqrt(effective(weights)))
