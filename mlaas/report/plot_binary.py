"""Plots of a binary classifier: ROC and score distributions. The signal is class 1.

Each function takes what it shows and returns the figure with the numbers in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mlaas.report import style
from mlaas.report.roc import Roc, band, roc, thinned
from mlaas.report.samples import Sample, held_out
from mlaas.report.statistics import kolmogorov_smirnov
from mlaas.report.style import BACKGROUND, SIGNAL, Plot, literal, nothing, number, styled

SCORE_BINS = 40


def curves(splits: Mapping[str, Sample]) -> dict[str, Roc]:
    """The ROC curve of each split that has both classes."""
    found = {name: roc(sample.scores, sample.of(1), sample.weights) for name, sample in splits.items()}
    return {name: curve for name, curve in found.items() if math.isfinite(curve.auc)}


@styled
def plot_roc(splits: Mapping[str, Roc], *, logarithmic: bool = False) -> Plot:
    """Background rejection against signal efficiency: 1 - e_b, or 1/e_b on a logarithmic axis, with a band of one standard deviation.

    numbers: by split {"auc", "error", "signal", "background"}; the last two are the efficiencies drawn, (p,).
    """
    if not splits:
        return nothing("No ROC curve: no split holds events of both classes with a positive sum of weights.")
    figure, ax = style.axes()
    numbers: dict[str, Any] = {}
    shaded = held_out(splits)
    for name, curve in splits.items():
        few = thinned(curve)
        numbers[name] = {"auc": curve.auc, "error": curve.error, "signal": few.signal, "background": few.background}
        _draw_roc(ax, few, name, curve, logarithmic, shade=name == shaded)
    ax.set_xlabel("Signal efficiency $\\epsilon_s$")
    if logarithmic:
        ax.set(ylabel="Background rejection $1/\\epsilon_b$", yscale="log", xlim=(0, 1))
        ax.set_ylim(1, max(10.0, *[_highest(curve) for curve in splits.values()]) * 2)
        x = np.linspace(0.01, 1, 200)
        ax.plot(x, 1 / x, color="#999999", lw=1, ls=(0, (1, 2)), label="no separation")
    else:
        ax.set(ylabel="Background rejection $1 - \\epsilon_b$", xlim=(0, 1), ylim=(0, 1.02))
        ax.plot([0, 1], [1, 0], color="#999999", lw=1, ls=(0, (1, 2)), label="no separation")
    ax.legend(loc="upper right" if logarithmic else "lower left")
    return Plot(figure, numbers)


def _draw_roc(ax: Axes, few: Roc, name: str, curve: Roc, logarithmic: bool, shade: bool) -> None:
    colour, line = style.SPLIT_COLOURS.get(name, style.COLOURS[1]), style.SPLIT_LINES.get(name, "-.")
    label = literal(f"{name}: AUC {auc_text(curve.auc, curve.error)}")
    spread = band(few)
    if not logarithmic:
        ax.plot(few.signal, 1 - few.background, color=colour, ls=line, label=label, zorder=3 if shade else 2)
        if shade:
            ax.fill_between(few.signal, 1 - few.background - spread, 1 - few.background + spread, color=colour, alpha=0.25, lw=0)
        return
    seen = few.background > 0.5 / max(curve.background_events, 1)
    signal, background, spread = few.signal[seen], few.background[seen], spread[seen]
    ax.plot(signal, 1 / background, color=colour, ls=line, label=label, zorder=3 if shade else 2)
    if shade:
        lower = 1 / (background + spread)
        upper = 1 / np.maximum(background - spread, background / 10)
        ax.fill_between(signal, lower, upper, color=colour, alpha=0.25, lw=0)


def _highest(curve: Roc) -> float:
    seen = curve.background[(curve.background > 0.5 / max(curve.background_events, 1)) & (curve.signal > 0.01)]
    return float(1 / seen.min()) if len(seen) else 1.0


def auc_text(auc: float, error: float) -> str:
    """An AUC with its error, as many digits as the error deserves: "0.8123 ± 0.0021"."""
    if not math.isfinite(auc):
        return "–"
    if not math.isfinite(error) or error <= 0:
        return f"{auc:.4f}"
    digits = min(max(1 - math.floor(math.log10(error)), 2), 6)
    return f"{auc:.{digits}f} ± {error:.{digits}f}"


def score_range(samples: Sequence[Sample]) -> tuple[float, float]:
    """[0, 1] for probabilities, else the extremes of the scores."""
    low = min(float(sample.scores.min()) for sample in samples)
    high = max(float(sample.scores.max()) for sample in samples)
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    return (low, high) if high > low else (low - 0.5, high + 0.5)


@styled
def plot_scores(splits: Mapping[str, Sample], names: Sequence[str]) -> Plot:
    """Score distributions of background and signal, each normalised to 1: train filled, held-out as points; linear and logarithmic.

    numbers: {"split", "ks": {class name: KS of train against held-out}, "edges", "density": {(split, class index): (bins,)}}.
    """
    test = held_out(splits)
    if not test:
        return nothing("No score distributions: no split holds events.")
    drawn = {name: splits[name] for name in ("train", test) if name in splits}
    low, high = score_range(list(drawn.values()))
    edges = np.linspace(low, high, SCORE_BINS + 1)
    ks = _ks(splits, test, names)
    figure, (left, right) = style.panels(9.6, 4.8, 1, 2)
    densities: dict[tuple[str, int], Any] = {}
    for index, colour in ((0, BACKGROUND), (1, SIGNAL)):
        for name, sample in drawn.items():
            found = _density(sample, index, edges)
            if found is None:
                continue
            density, error = densities[name, index] = found
            for ax in (left, right):
                _draw_scores(ax, edges, density, error, colour, index, points=name != "train")
    _finish_scores(left, right, densities)
    figure.legend(handles=_score_legend(drawn, names, ks, test), loc="outside upper center", ncols=2)
    return Plot(figure, {"split": test, "ks": ks, "edges": edges, "density": {key: value[0] for key, value in densities.items()}})


def _ks(splits: Mapping[str, Sample], test: str, names: Sequence[str]) -> dict[str, Any]:
    if "train" not in splits or test == "train":
        return {}
    a, b = splits["train"], splits[test]
    pairs = {name: (a.of(index), b.of(index)) for index, name in enumerate(names[:2])}
    return {name: kolmogorov_smirnov(a.scores[x], b.scores[y], a.weights[x], b.weights[y]) for name, (x, y) in pairs.items()}


def _density(sample: Sample, index: int, edges: Any) -> tuple[Any, Any] | None:
    import hist

    own = sample.of(index)
    total = float(sample.weights[own].sum())
    if total <= 0:
        return None
    histogram = hist.Hist(hist.axis.Variable(np.append(edges[:-1], math.nextafter(edges[-1], math.inf))), storage=hist.storage.Weight())
    histogram.fill(sample.scores[own].astype(np.float64), weight=sample.weights[own])
    scale = total * np.diff(edges)
    return histogram.values() / scale, np.sqrt(histogram.variances()) / scale


def _draw_scores(ax: Axes, edges: Any, density: Any, error: Any, colour: str, index: int, points: bool) -> None:
    import mplhep  # type: ignore[import-untyped]

    if not points:
        look: dict[str, Any] = {"facecolor": "none", "hatch": "////"} if index == 0 else {"facecolor": colour + "40"}
        mplhep.histplot(density, edges, ax=ax, histtype="fill", edgecolor=colour, lw=1.4, flow="none", **look)
        return
    filled = error > 0
    centres = (edges[1:] + edges[:-1]) / 2
    marker: dict[str, Any] = {"fmt": "s" if index == 0 else "o", "ms": 3.5, "lw": 1.2, "mfc": "white" if index == 0 else colour}
    ax.errorbar(centres[filled], density[filled], error[filled], color=colour, **marker)


def _finish_scores(left: Axes, right: Axes, densities: Mapping[tuple[str, int], Any]) -> None:
    positive = [value[0][value[0] > 0] for value in densities.values()]
    values = np.concatenate(positive) if positive else np.empty(0)
    for ax in (left, right):
        ax.set(xlabel="Score", ylabel="Events / (total × bin width)")
        ax.margins(x=0)
    left.set_ylim(0, float(values.max()) * 1.12 if len(values) else 1)
    right.set_yscale("log")
    if len(values):
        right.set_ylim(max(float(values.min()) / 2, float(values.max()) / 1e6), float(values.max()) * 2)


def _score_legend(drawn: Mapping[str, Sample], names: Sequence[str], ks: Mapping[str, Any], test: str) -> list[Any]:
    handles: list[Any] = []
    for index, colour in ((0, BACKGROUND), (1, SIGNAL)):
        name = literal(names[index])
        if "train" in drawn:
            look: dict[str, Any] = {"facecolor": "none", "hatch": "////"} if index == 0 else {"facecolor": colour + "40"}
            handles.append(Patch(edgecolor=colour, label=f"{name}, train", **look))
        if test != "train":
            value = f" (KS p = {number(ks[names[index]].p, 2)})" if names[index] in ks else ""
            face, marker = ("white", "s") if index == 0 else (colour, "o")
            handles.append(Line2D([], [], color=colour, marker=marker, mfc=face, ms=4, lw=1.2, label=f"{name}, {literal(test)}{value}"))
    return handles
