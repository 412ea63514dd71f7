"""Plots of a regression: predicted against true, residuals, residual against true value, pulls."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.colors import LogNorm

from mlaas.report import style
from mlaas.report.samples import Sample, held_out
from mlaas.report.statistics import kolmogorov_smirnov, residuals
from mlaas.report.style import Plot, literal, nothing, number, styled

BINS = 60
SLICES = 12
TAIL = 0.002

Values = npt.NDArray[Any]


def _span(*values: Values) -> tuple[float, float]:
    """Common range between the 0.2 % and 99.8 % quantiles, with some room; never empty."""
    joined = np.concatenate(values).astype(np.float64)
    low, high = (float(value) for value in np.quantile(joined, [TAIL, 1 - TAIL], method="nearest"))
    same = high - low <= 1e-9 * max(abs(low), abs(high))
    room = max(abs(low) * 0.05, 0.5) if same else (high - low) * 0.05
    return low - room, high + room


def _usable(splits: Mapping[str, Sample]) -> dict[str, Sample]:
    return {name: sample for name, sample in splits.items() if sample.weights.sum() > 0}


@styled
def plot_predicted(splits: Mapping[str, Sample], target: str = "") -> Plot:
    """Predicted against true value of the held-out events as a two-dimensional histogram, with the diagonal.

    numbers: {"split", "edges": (bins + 1,), "counts": (bins, bins), "rms", "bias", "mae", "r2"}.
    """
    test = held_out(_usable(splits))
    if not test:
        return nothing("No regression plots: no split holds events with a positive sum of weights.")
    sample = splits[test]
    low, high = _span(sample.scores, sample.labels)
    edges = np.linspace(low, high, BINS + 1)
    counts, _, _ = np.histogram2d(sample.labels, sample.scores, bins=(edges, edges), weights=sample.weights)
    figure, ax = style.axes(6.4, 5.2)
    positive = counts[counts > 0]
    if len(positive):
        norm = LogNorm(float(positive.min()), max(float(positive.max()), float(positive.min()) * 1.01))
        mesh = ax.pcolormesh(edges, edges, np.ma.masked_less_equal(counts.T, 0), norm=norm, cmap="viridis", rasterized=True)
        figure.colorbar(mesh, ax=ax, label="Sum of weights")
    ax.plot([low, high], [low, high], color="#bd1f01", lw=1.2, ls="--")
    name = literal(target) if target else "value"
    ax.set(xlabel=f"True {name}", ylabel=f"Predicted {name}", xlim=(low, high), ylim=(low, high))
    return Plot(figure, {"split": test, "edges": edges, "counts": counts, **residuals(sample.scores, sample.labels, sample.weights)._asdict()})


@styled
def plot_residuals(splits: Mapping[str, Sample], target: str = "") -> Plot:
    """Distribution of predicted - true, train filled and held-out as points, normalised.

    numbers: by split {"bias", "rms", "mae", "r2", "bias_error"}, "edges", and "ks" of train against held-out.
    """
    usable = _usable(splits)
    test = held_out(usable)
    if not test:
        return nothing("No residuals: no split holds events with a positive sum of weights.")
    drawn = {name: usable[name] for name in ("train", test) if name in usable}
    difference = {name: sample.scores.astype(np.float64) - sample.labels for name, sample in drawn.items()}
    low, high = _span(*difference.values())
    edges = np.linspace(low, high, BINS + 1)
    numbers: dict[str, Any] = {"edges": edges}
    figure, ax = style.axes()
    for name, sample in drawn.items():
        found = residuals(sample.scores, sample.labels, sample.weights)
        numbers[name] = found._asdict()
        total = sample.weights.sum() * (edges[1] - edges[0])
        density = np.histogram(difference[name], edges, weights=sample.weights)[0] / total
        error = np.sqrt(np.histogram(difference[name], edges, weights=sample.weights**2)[0]) / total
        label = literal(f"{name}: mean {number(found.bias)} ± {number(found.bias_error, 2)}, RMS {number(found.rms)}", 60)
        if name == "train":
            ax.stairs(density, edges, fill=True, facecolor="#71758140", edgecolor="#717581", lw=1.4, label=label)
        else:
            ax.errorbar((edges[1:] + edges[:-1]) / 2, density, error, fmt="o", ms=3, lw=1, color=style.SIGNAL, label=label)
    if len(drawn) == 2:
        a, b = drawn["train"], drawn[test]
        numbers["ks"] = kolmogorov_smirnov(difference["train"], difference[test], a.weights, b.weights)
    ax.axvline(0, color="#999999", lw=1, ls=":")
    ax.set(xlabel=f"Predicted − true {literal(target)}".rstrip(), ylabel="Events / (total × bin width)", xlim=(low, high))
    ax.set_ylim(bottom=0)
    style.headroom(ax, 0.25)
    ax.legend(loc="upper left")
    return Plot(figure, numbers)


@styled
def plot_profile(splits: Mapping[str, Sample], target: str = "") -> Plot:
    """Mean residual of the held-out events in slices of the true value with its error, and the RMS as a band.

    numbers: {"true", "mean", "error", "rms": (slices,)}.
    """
    test = held_out(_usable(splits))
    if not test:
        return nothing("No residuals: no split holds events with a positive sum of weights.")
    sample = splits[test]
    low, high = _span(sample.labels)
    edges = np.linspace(low, high, SLICES + 1)
    mean, rms, error = _slices(sample.scores.astype(np.float64) - sample.labels, np.searchsorted(edges, sample.labels) - 1, sample.weights, SLICES)
    good = np.isfinite(mean)
    centres = (edges[1:] + edges[:-1]) / 2
    figure, ax = style.axes()
    ax.fill_between(centres[good], (mean - rms)[good], (mean + rms)[good], color="#3f90da", alpha=0.25, lw=0, label="mean ± RMS")
    ax.errorbar(centres[good], mean[good], error[good], fmt="o-", ms=4, lw=1.3, color="#3f90da", label="mean with its error")
    ax.axhline(0, color="#999999", lw=1, ls=":")
    name = literal(target) if target else "value"
    ax.set(xlabel=f"True {name}", ylabel=f"Predicted − true {literal(target)}".rstrip(), xlim=(low, high))
    style.headroom(ax, 0.2)
    ax.legend(loc="upper right")
    return Plot(figure, {"true": centres, "mean": mean, "error": error, "rms": rms})


def _slices(values: Values, index: Values, weights: Values, count: int) -> tuple[Values, Values, Values]:
    """Mean, RMS and error of the mean per slice; NaN where a slice has fewer than two effective events or no positive sum of weights."""
    inside = (index >= 0) & (index < count)
    values, index, weights = values[inside], index[inside], weights[inside]
    total, squares = np.bincount(index, weights, count), np.bincount(index, weights**2, count)
    good = (total > 0) & (total**2 >= 2 * squares)
    safe = np.where(good, total, 1.0)
    mean = np.where(good, np.bincount(index, weights * values, count) / safe, np.nan)
    spread = np.bincount(index, weights * (values - np.where(good, mean, 0)[index]) ** 2, count) / safe
    rms = np.where(good, np.sqrt(np.maximum(spread, 0)), np.nan)
    return mean, rms, rms * np.sqrt(squares) / safe


@styled
def plot_pulls(splits: Mapping[str, Sample]) -> Plot:
    """Residuals of the held-out events divided by the resolution, beside a unit Gaussian.

    The resolution is the RMS residual of the training events (of the held-out events when there are none) in ten slices of the predicted value
    with equal numbers of events. numbers: {"edges", "density", "mean", "rms"}.
    """
    usable = _usable(splits)
    test = held_out(usable)
    if not test:
        return nothing("No pulls: no split holds events with a positive sum of weights.")
    sample, model = usable[test], usable.get("train", usable[test])
    cuts = np.unique(np.quantile(model.scores.astype(np.float64), np.linspace(0, 1, 11)[1:-1]))
    _, resolution, _ = _slices(model.scores.astype(np.float64) - model.labels, np.searchsorted(cuts, model.scores), model.weights, len(cuts) + 1)
    sigma = resolution[np.searchsorted(cuts, sample.scores)]
    good = np.isfinite(sigma) & (sigma > 0)
    weights = sample.weights[good]
    if weights.sum() <= 0:
        return nothing("No pulls: the resolution cannot be estimated from these events.")
    pull = (sample.scores.astype(np.float64) - sample.labels)[good] / sigma[good]
    found = residuals(pull, np.zeros(len(pull)), weights)
    edges = np.linspace(-5, 5, 51)
    total = weights.sum() * 0.2
    density, error = np.histogram(pull, edges, weights=weights)[0] / total, np.sqrt(np.histogram(pull, edges, weights=weights**2)[0]) / total
    figure, ax = style.axes()
    x = np.linspace(-5, 5, 300)
    ax.plot(x, np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi), color="#717581", ls="--", label="unit Gaussian")
    label = literal(f"{test}: mean {number(found.bias)}, RMS {number(found.rms)}", 60)
    ax.errorbar((edges[1:] + edges[:-1]) / 2, density, error, fmt="o", ms=3, lw=1, color=style.SIGNAL, label=label)
    ax.set(xlabel="(Predicted − true) / resolution", ylabel="Density", xlim=(-5, 5))
    ax.set_ylim(bottom=0)
    style.headroom(ax, 0.2)
    ax.legend(loc="upper left")
    return Plot(figure, {"edges": edges, "density": density, "mean": found.bias, "rms": found.rms})
