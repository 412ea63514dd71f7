"""Distributions of the branches, signal against background: paged overviews ordered by separation, and one picture per branch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullLocator

from mlaas.report import style
from mlaas.report.data import FeatureHistogram
from mlaas.report.statistics import best_separation
from mlaas.report.style import BACKGROUND, SIGNAL, Plot, literal, number, styled

COLUMNS, ROWS = 4, 6
PER_PAGE = COLUMNS * ROWS
LEGEND = 4  # names in one line of the legend
DRAWN = 6  # classes that get a line of their own; the others are added up


def ordered(histograms: Sequence[FeatureHistogram]) -> list[tuple[FeatureHistogram, float]]:
    """The histograms with their separation, the largest first; without separation (regression) in the order given."""
    found = [(histogram, best_separation(histogram.counts)) for histogram in histograms]
    return sorted(found, key=lambda item: -item[1] if math.isfinite(item[1]) else math.inf)


def _series(histogram: FeatureHistogram, names: Sequence[str]) -> list[tuple[str, Any, Any]]:
    """Label, sums of weights and errors of what is drawn, each with a positive sum."""
    counts, variances = histogram.counts, histogram.variances
    chosen = list(range(len(counts)))
    if len(chosen) > DRAWN:
        chosen = sorted(np.argsort(-counts.sum(axis=1), kind="stable")[: DRAWN - 1].tolist())
    labels = [names[index] if index < len(names) else "all events" for index in chosen]
    out = [(label, counts[index], variances[index]) for label, index in zip(labels, chosen, strict=True)]
    if len(chosen) < len(counts):
        rest = [index for index in range(len(counts)) if index not in chosen]
        out.append((f"{len(rest)} other classes", counts[rest].sum(axis=0), variances[rest].sum(axis=0)))
    return out


def _looks(names: Sequence[str], count: int) -> list[dict[str, Any]]:
    if count == 2 and len(names) == 2:
        return [
            {"edgecolor": BACKGROUND, "hatch": "/////", "fill": True, "facecolor": "none"},
            {"edgecolor": SIGNAL, "fill": True, "facecolor": SIGNAL + "33"},
        ]
    if count == 1:
        return [{"edgecolor": BACKGROUND, "fill": True, "facecolor": BACKGROUND + "55"}]
    return [{"edgecolor": style.COLOURS[at], "ls": ("-", "--", "-.", ":")[at % 4]} for at in range(count)]


def _draw(ax: Axes, histogram: FeatureHistogram, names: Sequence[str], width: float) -> list[tuple[str, dict[str, Any]]]:
    series = _series(histogram, names)
    drawn = []
    top = 0.0
    for (label, sums, _), look in zip(series, _looks(names, len(series)), strict=True):
        total = float(sums.sum())
        drawn.append((label, look))
        if total <= 0:
            continue
        density = sums / total
        top = max(top, float(density.max()))
        ax.stairs(density, histogram.edges, lw=width, **look)
    ax.set_xlim(histogram.edges[0], histogram.edges[-1])
    ax.set_ylim(0, top * 1.12 or 1)
    return drawn


def outside(histogram: FeatureHistogram) -> float:
    """Share of the sum of weights that lies outside the edges."""
    total = float(histogram.counts.sum() + histogram.underflow.sum() + histogram.overflow.sum())
    return float(histogram.underflow.sum() + histogram.overflow.sum()) / total if total > 0 else 0.0


def _legend(drawn: Sequence[tuple[str, dict[str, Any]]]) -> list[Any]:
    handles: list[Any] = []
    for label, look in drawn:
        if look.get("fill"):
            handles.append(Patch(**{**look, "label": literal(label)}))
        else:
            handles.append(Line2D([], [], color=look["edgecolor"], ls=look["ls"], label=literal(label)))
    return handles


@styled
def plot_overview(page: Sequence[tuple[FeatureHistogram, float]], names: Sequence[str]) -> Plot:
    """Up to PER_PAGE branches, each class normalised to 1; the separation stands above each (0 equal, 1 without overlap).

    numbers: {branch: separation}.
    """
    columns = min(COLUMNS, len(page))
    rows = math.ceil(len(page) / columns)
    labels = len(_series(page[0][0], names)) if page else 1
    above = 0.46 + 0.26 * math.ceil(labels / LEGEND)
    height = 1.95 * rows + 0.03 + above
    figure, grid = style.panels(3.0 * columns + 0.2, height, rows, columns, arranged=False)
    figure.subplots_adjust(left=0.02, right=0.98, top=1 - above / height, bottom=0.36 / height, hspace=0.52, wspace=0.1)
    drawn: list[tuple[str, dict[str, Any]]] = []
    for ax, (histogram, separation) in zip(grid, page, strict=False):
        drawn = _draw(ax, histogram, names, 1.3)
        ax.set_title(literal(histogram.name, 25), loc="left", fontsize=10.5, pad=3)
        if math.isfinite(separation):
            ax.set_title(f"{separation:.3f}", loc="right", fontsize=9.5, pad=3, color="#555555")
        ax.xaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_locator(NullLocator())
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=histogram.discrete, min_n_ticks=1))
        ax.tick_params(labelsize=9, length=4, pad=3)
        ax.xaxis.get_offset_text().set_fontsize(8)
    for ax in grid[len(page) :]:
        ax.set_axis_off()
    figure.legend(handles=_legend(drawn), loc="upper center", ncols=min(len(drawn), LEGEND), fontsize=11)
    return Plot(figure, {histogram.name: separation for histogram, separation in page})


@styled
def plot_branch(histogram: FeatureHistogram, separation: float, names: Sequence[str]) -> Plot:
    """One branch, each class normalised to 1, with statistical errors.

    numbers: {"separation", "outside": share outside the edges, "nans"}.
    """
    figure, (ax,) = style.panels(6.4, 4.8, 1, 1, arranged=False)
    figure.subplots_adjust(left=0.13, right=0.97, top=0.93, bottom=0.13)
    drawn = _draw(ax, histogram, names, 1.6)
    centres = (histogram.edges[1:] + histogram.edges[:-1]) / 2
    series = _series(histogram, names)
    for (_, sums, variances), look in zip(series, _looks(names, len(series)), strict=True):
        total = float(sums.sum())
        if total > 0:
            ax.errorbar(centres, sums / total, np.sqrt(variances) / total, fmt="none", ecolor=look["edgecolor"], lw=1)
    lost, nans = outside(histogram), int(histogram.nans.sum())
    remarks = [f"separation {separation:.3f}"] if math.isfinite(separation) else []
    remarks += [f"{number(lost * 100, 2)} % outside the axis"] if lost > 0 else []
    remarks += [f"{nans} NaN or infinite"] if nans else []
    if remarks:
        ax.set_title(", ".join(remarks), loc="right", fontsize=10.5)
    ax.set(xlabel=literal(histogram.name, 50), ylabel="Share per bin")
    style.headroom(ax, 0.1 + 0.08 * len(drawn))
    ax.legend(handles=_legend(drawn), loc="upper right")
    return Plot(figure, {"separation": separation, "outside": lost, "nans": nans})
