"""Plots of a classifier with three or more classes: one-vs-rest ROC, scores, confusion matrix, calibration of the chosen class."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mlaas.report import style
from mlaas.report.plot_binary import auc_text
from mlaas.report.roc import Roc, roc, thinned
from mlaas.report.samples import Sample, held_out
from mlaas.report.statistics import KS, NO_KS, calibration, confusion, kolmogorov_smirnov
from mlaas.report.style import BACKGROUND, SIGNAL, Plot, literal, nothing, number, styled

NAMED = 8  # curves that get a colour and a line in the legend
CELLS = 12  # a confusion matrix up to this size shows its numbers
PANELS = 12  # classes per figure of score distributions
BINS = 30


def one_vs_rest(sample: Sample, classes: Sequence[str]) -> dict[str, Roc]:
    """The ROC curve of each class against all others, by its probability; classes without events are left out."""
    found = {name: roc(sample.scores[:, index], sample.of(index), sample.weights) for index, name in enumerate(classes)}
    return {name: curve for name, curve in found.items() if math.isfinite(curve.auc)}


def quick(sample: Sample, classes: int, values: int = 5_000_000) -> Sample:
    """Every so-many-th event, so that at most `values` probabilities remain: enough to see overtraining."""
    step = max(1, len(sample) * classes // values)
    return Sample(sample.scores[::step], sample.labels[::step], sample.weights[::step])


def macro(areas: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Mean AUC of the classes and the mean of their errors (an upper bound of its error: the classes share their events)."""
    found = list(areas)
    if not found:
        return math.nan, math.nan
    return float(np.mean([auc for auc, _ in found])), float(np.mean([error for _, error in found]))


@styled
def plot_one_vs_rest(curves: Mapping[str, Roc], *, logarithmic: bool = False) -> Plot:
    """Rejection of all other classes against the efficiency of one; with many classes only the weakest have a colour of their own.

    numbers: by class {"auc", "error", "signal", "background"}; efficiencies (p,).
    """
    if not curves:
        return nothing("No ROC curves: no class has events beside those of another class.")
    figure, ax = style.axes(6.4, 5.4)
    weakest = sorted(curves, key=lambda name: curves[name].auc)[:NAMED]
    numbers: dict[str, Any] = {}
    for name, curve in curves.items():
        few = thinned(curve)
        numbers[name] = {"auc": curve.auc, "error": curve.error, "signal": few.signal, "background": few.background}
        seen = few.background > (0.5 / max(curve.background_events, 1) if logarithmic else -math.inf)
        x, y = few.signal[seen], 1 / few.background[seen] if logarithmic else 1 - few.background[seen]
        if name in weakest:
            at = weakest.index(name)
            label = literal(f"{style.shorten(name, 20)}: {auc_text(curve.auc, curve.error)}", 60)
            ax.plot(x, y, color=style.COLOURS[at], ls=("-", "--", "-.", ":")[at % 4], label=label, zorder=3)
        else:
            ax.plot(x, y, color="#bbbbbb", lw=0.8, zorder=2)
    if len(curves) > NAMED:
        ax.plot([], [], color="#bbbbbb", lw=0.8, label=f"{len(curves) - NAMED} others, all with a larger AUC")
    ax.set(xlabel="Efficiency of the class", xlim=(0, 1))
    if logarithmic:
        ax.set(ylabel="Rejection of the others $1/\\epsilon$", yscale="log")
        ax.set_ylim(bottom=1)
        style.headroom(ax, 0.35)
    else:
        ax.set(ylabel="Rejection of the others $1 - \\epsilon$", ylim=(0, 1.02))
    ax.legend(loc="upper right" if logarithmic else "lower left", title="AUC, one against the rest", alignment="left")
    return Plot(figure, numbers)


def class_ks(splits: Mapping[str, Sample], classes: Sequence[str]) -> dict[str, KS]:
    """Train against held-out events of each class, by the probability of that class; empty when one of the two is missing."""
    test = held_out(splits)
    if "train" not in splits or test == "train":
        return {}
    a, b = splits["train"], splits[test]
    found: dict[str, KS] = {}
    for index, name in enumerate(classes):
        x, y = a.of(index), b.of(index)
        found[name] = kolmogorov_smirnov(a.scores[x, index], b.scores[y, index], a.weights[x], b.weights[y]) if x.any() and y.any() else NO_KS
    return found


@styled
def plot_class_scores(splits: Mapping[str, Sample], classes: Sequence[str], first: int, ks: Mapping[str, KS]) -> Plot:
    """Probability of each class for its own events and for all others, train filled and held-out as points; PANELS classes from `first`.

    numbers: by class {"own", "rest": held-out density (bins,)}, "edges", and "ks": {class: KS}.
    """
    shown = range(first, min(first + PANELS, len(classes)))
    columns = min(3, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure, grid = style.panels(3.2 * columns + 0.4, 2.5 * rows + 0.8, rows, columns)
    test = held_out(splits)
    edges = np.linspace(0, 1, BINS + 1)
    numbers: dict[str, Any] = {"edges": edges, "ks": {classes[index]: ks[classes[index]] for index in shown if classes[index] in ks}}
    for ax, index in zip(grid, shown, strict=False):
        name = classes[index]
        numbers[name] = _panel(ax, splits, test, index, edges)
        p = f"  KS p = {number(ks[name].p, 2)}" if name in ks else ""
        ax.set_title(literal(name, 22) + p, fontsize=10.5, loc="left")
    for ax in grid[len(shown) :]:
        ax.set_axis_off()
    figure.supxlabel("Probability of the class", fontsize=12)
    figure.legend(handles=_panel_legend(splits, test), loc="outside upper center", ncols=4)
    return Plot(figure, numbers)


def _panel(ax: Axes, splits: Mapping[str, Sample], test: str, index: int, edges: npt.NDArray[np.float64]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for split in dict.fromkeys(name for name in ("train", test) if name in splits):
        sample = splits[split]
        for kind, rows, colour in (("rest", ~sample.of(index), BACKGROUND), ("own", sample.of(index), SIGNAL)):
            weights = sample.weights[rows]
            if weights.sum() <= 0:
                continue
            sums, _ = np.histogram(sample.scores[rows, index], edges, weights=weights)
            squares, _ = np.histogram(sample.scores[rows, index], edges, weights=weights**2)
            density, error = sums / weights.sum() * BINS, np.sqrt(squares) / weights.sum() * BINS
            if split == "train":
                ax.stairs(density, edges, fill=kind == "own", facecolor=colour + "40", edgecolor=colour, lw=1.2)
            else:
                found[kind] = density
                filled = error > 0
                ax.errorbar(((edges[1:] + edges[:-1]) / 2)[filled], density[filled], error[filled], fmt="o", ms=2, lw=0.8, color=colour)
    ax.set_yscale("log")
    ax.set_xlim(0, 1)
    ax.tick_params(labelsize=9)
    low, high = ax.get_ylim()
    ax.set_ylim(max(low, high / 1e5), high)
    return found


def _panel_legend(splits: Mapping[str, Sample], test: str) -> list[Any]:
    handles: list[Any] = []
    for label, colour, face in (("the class", SIGNAL, SIGNAL + "40"), ("all others", BACKGROUND, "none")):
        if "train" in splits:
            handles.append(Patch(edgecolor=colour, facecolor=face, label=f"{label}, train"))
        if test != "train":
            handles.append(Line2D([], [], color=colour, marker="o", ms=4, lw=0.8, label=f"{label}, {literal(test)}"))
    return handles


@styled
def plot_confusion(sample: Sample, classes: Sequence[str]) -> Plot:
    """Share of each true class (row) that is given each class (column): the class with the largest probability, or a cut at 0.5 for two.

    numbers: {"matrix": sums of weights (K, K), "share": (K, K), "accuracy"}.
    """
    k = len(classes)
    predicted = np.argmax(sample.scores, axis=1) if sample.scores.ndim == 2 else (sample.scores >= 0.5).astype(np.int64)
    matrix = confusion(sample.labels, predicted, sample.weights, k)
    total = matrix.sum(axis=1, keepdims=True)
    share = np.where(total > 0, matrix / np.where(total > 0, total, 1), np.nan)
    accuracy = float(np.trace(matrix) / matrix.sum()) if matrix.sum() > 0 else math.nan
    side = min(5.4 + 0.12 * k, 10)
    figure, ax = style.axes(side + 1, side)
    image = ax.imshow(np.ma.masked_invalid(share), cmap="Blues", vmin=0, vmax=1)
    size = 11 if k <= CELLS else 8 if k <= 24 else 6
    labels = [literal(name, 22 if k <= CELLS else 12) for name in classes]
    ax.set_xticks(range(k), labels, rotation=0 if k <= 4 else 90 if k > CELLS else 45, ha="center" if k <= 4 or k > CELLS else "right", fontsize=size)
    ax.set_yticks(range(k), labels, fontsize=size)
    ax.tick_params(which="both", length=0)
    ax.minorticks_off()
    ax.set(xlabel="Predicted class", ylabel="True class")
    if k <= CELLS:
        _write_cells(ax, share)
    figure.colorbar(image, ax=ax, label="Share of the true class", shrink=0.85)
    return Plot(figure, {"matrix": matrix, "share": share, "accuracy": accuracy})


def _write_cells(ax: Axes, share: npt.NDArray[np.float64]) -> None:
    for (row, column), value in np.ndenumerate(share):
        text = "–" if math.isnan(value) else f"{value:.1%}" if len(share) <= 6 else f"{value:.2f}"
        ax.text(column, row, text, ha="center", va="center", fontsize=11 if len(share) <= 6 else 8.5, color="white" if value > 0.55 else "black")


@styled
def plot_confidence(splits: Mapping[str, Sample]) -> Plot:
    """How often the chosen class is right against its probability, per split.

    numbers: by split {"score", "fraction", "error" (m,), "expected": expected calibration error}.
    """
    figure, ax = style.axes()
    ax.plot([0, 1], [0, 1], color="#999999", lw=1, ls=(0, (1, 2)), label="perfect")
    numbers: dict[str, Any] = {}
    for name, sample in splits.items():
        right = np.argmax(sample.scores, axis=1) == sample.labels
        found = calibration(sample.scores.max(axis=1), right, sample.weights)
        numbers[name] = found._asdict()
        colour, line = style.SPLIT_COLOURS.get(name, style.COLOURS[1]), style.SPLIT_LINES.get(name, "-.")
        label = literal(f"{name}: mean deviation {number(found.expected, 2)}", 60)
        ax.errorbar(found.score, found.fraction, found.error, marker="o", ms=5, lw=1.2, ls=line, color=colour, label=label)
    ax.set(xlabel="Probability of the chosen class", ylabel="Share that is right", xlim=(0, 1), ylim=(-0.03, 1.03))
    ax.legend(loc="upper left")
    return Plot(figure, numbers)
