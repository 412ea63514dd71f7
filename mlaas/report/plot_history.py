"""Curves of the training: loss and metrics against the epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mlaas.report import style
from mlaas.report.style import Plot, literal, nothing, number, styled

TIMES = {"epoch", "step", "chunk", "time", "timestamp", "lr", "learning_rate"}
MARKED = 40  # up to so many points are marked one by one


def series(history: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, npt.NDArray[np.float64]]]:
    """The name of the abscissa and every numeric quantity, (epochs,) each, NaN where one was not recorded.

    The abscissa is "epoch" when it grows along the history; else (several rows per epoch) the position, named "step".
    """
    names = list(dict.fromkeys(name for row in history for name in row))
    found = {name: np.asarray([_value(row.get(name)) for row in history], np.float64) for name in names}
    epoch = found.get("epoch", np.full(len(history), np.nan))
    grows = len(epoch) > 0 and bool(np.isfinite(epoch).all()) and bool((np.diff(epoch) > 0).all())
    found["x"] = epoch if grows else np.arange(1.0, len(history) + 1)
    return "epoch" if grows else "step", found


def _value(item: Any) -> float:
    return float(item) if isinstance(item, int | float | np.number) and not isinstance(item, bool) else math.nan


def best_epoch(history: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    """The epoch of the smallest validation loss, that loss, and the last finite one; NaN without a validation loss."""
    if not history:
        return math.nan, math.nan, math.nan
    _, found = series(history)
    loss = found.get("val_loss", np.empty(0))
    finite = np.flatnonzero(np.isfinite(loss))
    if not len(finite):
        return math.nan, math.nan, math.nan
    at = finite[np.argmin(loss[finite])]
    return float(found["x"][at]), float(loss[at]), float(loss[finite[-1]])


@styled
def plot_loss(history: Sequence[Mapping[str, Any]]) -> Plot:
    """Loss of the training and validation events against the epoch, the smallest validation loss marked.

    numbers: {"x", "loss", "val_loss": (epochs,), "best": (epoch, validation loss)}.
    """
    label, found = series(history) if history else ("", {})
    present: dict[str, Any] = {name: found[name] for name in ("loss", "val_loss") if name in found and np.isfinite(found[name]).any()}
    if not present:
        return nothing("No loss curve: the training recorded no loss (an estimator that is fitted in one go has none).")
    figure, ax = style.axes()
    for name, values in present.items():
        validation = name == "val_loss"
        split = "validation" if validation else "train"
        _line(ax, found["x"], values, style.SPLIT_COLOURS[split], "-" if validation else "--", "validation" if validation else "training")
    best = best_epoch(history)[:2]
    if math.isfinite(best[1]):
        text = f"smallest: {number(best[1], 4)} at {label} {best[0]:g}"
        ax.plot(*best, marker="o", ms=11, mfc="none", mec=style.SIGNAL, mew=1.8, ls="", label=text)
    values = np.concatenate([value[np.isfinite(value)] for value in present.values()])
    if values.min() > 0 and values.max() / values.min() > 50:
        ax.set_yscale("log")
    ax.set(xlabel=label.capitalize(), ylabel="Loss")
    _whole_ticks(ax)
    ax.legend(loc="upper right")
    return Plot(figure, {"x": found["x"], **present, "best": best})


@styled
def plot_metrics(history: Sequence[Mapping[str, Any]]) -> Plot:
    """Every other quantity that was recorded per epoch: shares (AUC, accuracy) together, the rest (rates, seconds) one below another.

    numbers: {"x": (epochs,), name: (epochs,)}.
    """
    label, found = series(history) if history else ("", {})
    skip = TIMES | {"loss", "val_loss", "x"}
    present = {name: values for name, values in found.items() if name not in skip and np.isfinite(values).any()}
    if not present:
        return nothing("No metric curves: the training recorded no metric per epoch.")
    shares = {name: values for name, values in present.items() if _is_share(name, values)}
    others = dict([item for item in present.items() if item[0] not in shares][:4])
    groups: list[dict[str, Any]] = [group for group in [shares, *({name: values} for name, values in others.items())] if group]
    height = 4.8 if len(groups) == 1 else 3.4 + 1.6 * (len(groups) - 1)
    ratios = [3.2 if group is shares else 1.6 for group in groups]
    figure, grid = style.panels(6.4, height, len(groups), 1, sharex=True, height_ratios=ratios)
    for ax, group in zip(grid, groups, strict=True):
        for at, (name, values) in enumerate(group.items()):
            _line(ax, found["x"], values, style.COLOURS[at % len(style.COLOURS)], ("-", "--", "-.", ":")[at % 4], _called(name))
        if group is shares:
            ax.set_ylabel("Value")
            ax.legend(loc="best", ncols=1 + (len(group) > 5))
        else:
            ax.set_title(_called(next(iter(group))), loc="left", fontsize=11)
            ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
            style.headroom(ax, 0.12)
    grid[-1].set_xlabel(label.capitalize())
    _whole_ticks(grid[-1])
    return Plot(figure, {"x": found["x"], **present})


def _is_share(name: str, values: npt.NDArray[np.float64]) -> bool:
    known = any(part in name.lower() for part in ("auc", "acc", "precision", "recall", "f1", "r2", "efficiency"))
    return known and bool(np.nanmax(np.abs(values)) <= 1)


def _called(name: str) -> str:
    special = {"events_per_s": "Events per second", "seconds": "Seconds", "auc": "training AUC", "accuracy": "training accuracy"}
    if name in special:
        return special[name]
    parts = name.removeprefix("val_").removeprefix("train_").replace("_", " ").replace("auc", "AUC")
    return literal(f"validation {parts}" if name.startswith("val_") else f"training {parts}" if name.startswith("train_") else parts)


def _line(ax: Axes, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], colour: str, line: str, label: str) -> None:
    good = np.isfinite(y)
    ax.plot(x[good], y[good], color=colour, ls=line, label=label, marker="o" if good.sum() <= MARKED else None, ms=3.5)


def _whole_ticks(ax: Axes) -> None:
    low, high = ax.get_xlim()
    if high - low < 1:  # a single epoch
        ax.set_xlim(round((low + high) / 2) - 1, round((low + high) / 2) + 1)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    ax.xaxis.set_tick_params(which="minor", bottom=False, top=False)
