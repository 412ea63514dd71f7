"""What a binary classifier is good for: significance against the cut, and calibration. The signal is class 1."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlaas.report import style
from mlaas.report.plot_binary import score_range
from mlaas.report.samples import Sample
from mlaas.report.statistics import asimov, calibration, significance
from mlaas.report.style import Plot, literal, nothing, number, styled

CUTS = 400
FEWEST = 10  # effective background events that must be left for a cut to count as the best


@styled
def plot_significance(sample: Sample, yields: tuple[float, float] | None = None, *, uncertainty: float = 0.0) -> Plot:
    """S/sqrt(S+B) and the Asimov significance of the events with a score above the cut, the best cut of each marked.

    yields: sums of weights (background, signal) without a cut, to which the efficiencies are applied; None takes the sample's own.
    uncertainty: relative systematic uncertainty of the background. A cut that leaves fewer than ten effective background events is never best:
    its background is not known.
    numbers: {"yields", "cuts", "simple", "asimov" (p,), "best": {"simple" | "asimov": {"cut", "value", "signal", "background"}}}.
    """
    own = (float(sample.weights[sample.of(0)].sum()), float(sample.weights[sample.of(1)].sum()))
    background, signal = own if yields is None else yields
    if min(*own, background, signal) <= 0:
        return nothing("No significance: signal and background must both have a positive sum of weights.")
    low, high = score_range([sample])
    cuts = np.linspace(low, high, CUTS + 1)
    s = _above(sample, 1, cuts, sample.weights) * (signal / own[1])
    b = _above(sample, 0, cuts, sample.weights) * (background / own[0])
    squares = _above(sample, 0, cuts, sample.weights**2) * (background / own[0]) ** 2
    known = (b > 0) & (b**2 >= FEWEST * squares)
    simple, median = significance(s, b), asimov(s, b, uncertainty * b)
    best = {kind: _best(cuts, values, s, b, known) for kind, values in (("simple", simple), ("asimov", median))}
    figure, ax = style.axes()
    label = "Asimov" if not uncertainty else f"Asimov, background ± {uncertainty:.0%}"
    for kind, values, text, line in (("simple", simple, "$S/\\sqrt{S+B}$", "-"), ("asimov", median, label, "--")):
        colour = style.COLOURS[2] if kind == "simple" else style.COLOURS[4]
        ax.plot(
            cuts,
            np.where(known, values, np.nan),
            color=colour,
            ls=line,
            label=f"{text}: {number(best[kind]['value'])} at {number(best[kind]['cut'])}",
        )
        ax.plot(best[kind]["cut"], best[kind]["value"], marker="v", color=colour, ms=8, ls="")
    if not known.all():
        ax.axvspan(
            cuts[np.flatnonzero(known)[-1]] if known.any() else low, high, color="#dddddd", lw=0, zorder=0, label="background unknown (< 10 events)"
        )
    ax.set(xlabel="Cut (score at least)", ylabel="Significance", xlim=(low, high))
    ax.set_ylim(bottom=0)
    style.headroom(ax, 0.35)
    ax.legend(loc="upper left", title=f"before the cut S = {number(signal, 4)}, B = {number(background, 4)}", title_fontsize=10.5, alignment="left")
    return Plot(figure, {"yields": (background, signal), "cuts": cuts, "simple": simple, "asimov": median, "best": best})


def _above(sample: Sample, index: int, cuts: Any, weights: Any) -> Any:
    """Sum of weights with a score at or above each cut."""
    own = sample.of(index)
    cell = np.searchsorted(cuts, sample.scores[own], side="right") - 1
    return np.cumsum(np.bincount(np.clip(cell, 0, len(cuts) - 1), weights[own], len(cuts))[::-1])[::-1]


def _best(cuts: Any, values: Any, s: Any, b: Any, known: Any) -> dict[str, float]:
    usable = known & np.isfinite(values)
    if not usable.any():
        return {"cut": math.nan, "value": math.nan, "signal": math.nan, "background": math.nan}
    at = int(np.argmax(np.where(usable, values, -math.inf)))
    return {"cut": float(cuts[at]), "value": float(values[at]), "signal": float(s[at]), "background": float(b[at])}


@styled
def plot_calibration(splits: Mapping[str, Sample]) -> Plot:
    """Observed signal fraction against the mean score, per split; points on the diagonal mean that a score is a probability.

    numbers: by split {"score", "fraction", "error" (m,), "expected": expected calibration error}.
    """
    usable = {name: sample for name, sample in splits.items() if score_range([sample]) == (0.0, 1.0) and sample.weights.sum() > 0}
    if not usable:
        return nothing("No calibration curve: the scores are not probabilities from 0 to 1.")
    figure, ax = style.axes()
    ax.plot([0, 1], [0, 1], color="#999999", lw=1, ls=(0, (1, 2)), label="perfect")
    numbers: dict[str, Any] = {}
    markers = {"train": "s", "validation": "^", "test": "o"}
    for name, sample in usable.items():
        found = calibration(sample.scores, sample.of(1), sample.weights)
        numbers[name] = found._asdict()
        colour, label = style.SPLIT_COLOURS.get(name, style.COLOURS[1]), literal(f"{name}: mean deviation {number(found.expected, 2)}")
        ax.errorbar(
            found.score,
            found.fraction,
            found.error,
            marker=markers.get(name, "D"),
            ms=5,
            lw=1.2,
            ls=style.SPLIT_LINES.get(name, "-."),
            color=colour,
            label=label,
        )
    ax.set(xlabel="Mean score", ylabel="Fraction of signal", xlim=(0, 1), ylim=(-0.03, 1.03))
    ax.legend(loc="upper left")
    return Plot(figure, numbers)
