"""Histograms of every branch per class, filled chunk by chunk in bounded memory.

The edges come from the first events, not from the extremes: with a long tail, equal bins from minimum to maximum put everything into one bin.
What lies outside is counted as underflow and overflow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mlaas.data.columns import Columns, Jagged
from mlaas.report.data import FeatureHistogram

if TYPE_CHECKING:
    from hist import Hist

Values = npt.NDArray[Any]
Range = tuple[float, float]
Piece = tuple[Values, npt.NDArray[np.int64], Values]  # values, class index of each, weight of each
UNKNOWN: Range = (math.nan, math.nan)
WIDEST = 8e307  # twice this is still a finite width
TAIL = 0.005  # share of the first values that may lie outside on each side


class FeatureHistograms:
    """Collects one histogram per branch and class; `result()` gives them.

    ranges: minimum and maximum of each branch, from the specs; NaN where unknown. Only these branches are filled.
    classes: number of classes (0 or 1: a single histogram, as in regression). bins: at most this many per branch.
    sample: events of each class that are kept to choose the edges; chosen earlier when `buffer` bytes are kept, or at `result()`.
    events: stop after this many events (per class); None fills all.
    """

    def __init__(
        self, ranges: Mapping[str, Range], classes: int, *, bins: int = 40, sample: int = 5000, buffer: int = 64 << 20, events: int | None = None
    ) -> None:
        self._ranges = dict(ranges)
        self._classes = max(classes, 1)
        self._bins = bins
        self._sample, self._buffer, self._events = sample, buffer, events
        self._seen = np.zeros(self._classes, np.int64)
        self._held: dict[str, list[Piece]] = {name: [] for name in ranges}
        self._held_bytes = 0
        self._hists: dict[str, Hist[Any]] = {}
        self._discrete: set[str] = set()
        self._nans = {name: np.zeros(self._classes, np.int64) for name in ranges}

    def fill(self, columns: Columns, label: int | Values, weight: Values | None = None) -> None:
        """Add events in their raw columns; branches without a range are left out.

        label: class index, one for all or (n,); ignored when there are no classes. weight: (n,), may be negative; the elements of a list have
        their event's. Raises ValueError when a class index is not one of the classes.
        """
        label, weight = self._per_event(label, weight, len(columns))
        keep = self._admit(label)
        if keep is None:
            return
        shared: dict[int, tuple[Values, Values]] = {}
        for name in columns:
            if name not in self._ranges:
                continue
            column = columns[name]
            if isinstance(column, Jagged):
                key = id(column.offsets)
                if key not in shared:
                    shared[key] = (np.repeat(np.where(keep, label, -1), column.counts), np.repeat(weight, column.counts))
                self._add(name, column.flat, *shared[key])
            else:
                self._add(name, column, np.where(keep, label, -1), weight)
        self._settle()

    def fill_matrix(
        self,
        x: npt.NDArray[np.float32],
        columns: Sequence[str],
        label: int | Values,
        weight: Values | None = None,
        mask: npt.NDArray[np.bool_] | None = None,
        *,
        normalised: bool = False,
    ) -> None:
        """Add events as rows of a feature matrix, (n, width), whose columns are named "met" or "jet_pt[3]".

        mask: (n, width), true where there is padding; None says that there is none, so padded lists need it.
        normalised: x is (v - min) / (max - min); the branch's range turns it back into v.
        """
        label, weight = self._per_event(label, weight, len(x))
        keep = self._admit(label)
        if keep is None:
            return
        index = np.where(keep, label, -1)
        for position, column in enumerate(columns):
            name = column if column in self._ranges else column.rpartition("[")[0]
            if name not in self._ranges:
                continue
            low, high = self._ranges[name]
            values = x[:, position].astype(np.float64)
            if normalised and high > low:
                values = values * (high - low) + low
            real = slice(None) if mask is None else ~mask[:, position]
            self._add(name, values[real], index[real], weight[real])
        self._settle()

    def result(self) -> list[FeatureHistogram]:
        """The histograms of all branches that had a finite value, in the order of `ranges`."""
        self._choose_edges()
        return [self._one(name) for name in self._ranges if name in self._hists]

    def _per_event(self, label: int | Values, weight: Values | None, n: int) -> tuple[npt.NDArray[np.int64], Values]:
        single = self._classes == 1
        labels = np.zeros(n, np.int64) if single else np.broadcast_to(np.asarray(label, np.int64), (n,))
        if n and (labels.min() < 0 or labels.max() >= self._classes):
            raise ValueError(f"class indices must be from 0 to {self._classes - 1}, not {labels.min()} to {labels.max()}")
        return labels, np.ones(n) if weight is None else np.asarray(weight, np.float64)

    def _admit(self, label: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_] | None:
        """Which events to fill: all, or the first `events` of each class; None when none is left."""
        keep = np.ones(len(label), np.bool_)
        if self._events is not None:
            for index in range(self._classes):
                rows = np.flatnonzero(label == index)
                keep[rows[max(self._events - int(self._seen[index]), 0) :]] = False
        self._seen += np.bincount(label[keep], minlength=self._classes)
        return keep if keep.any() else None

    def _add(self, name: str, values: Values, label: npt.NDArray[np.int64], weight: Values) -> None:
        good = (label >= 0) & np.isfinite(values)
        if not good.all():
            lost = (label >= 0) & ~good
            self._nans[name] += np.bincount(label[lost], minlength=self._classes)
            values, label, weight = values[good], label[good], weight[good]
        if name in self._hists:
            self._hists[name].fill(label, values.astype(np.float64, copy=False), weight=weight)
        elif len(values):
            piece = (values.copy(), label.copy(), weight.copy())
            self._held[name].append(piece)
            self._held_bytes += sum(part.nbytes for part in piece)

    def _settle(self) -> None:
        if not self._held:
            return
        if bool((self._seen >= self._sample).all()) or self._held_bytes > self._buffer:
            self._choose_edges()

    def _choose_edges(self) -> None:
        for name, pieces in self._held.items():
            if not pieces:
                continue
            values, label, weight = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
            edges, discrete = choose_edges(values, label, self._ranges[name], self._bins)
            self._hists[name] = _empty(edges, self._classes)
            self._hists[name].fill(label, values.astype(np.float64, copy=False), weight=weight)
            if discrete:
                self._discrete.add(name)
        self._held = {name: [] for name in self._ranges if name not in self._hists}
        self._held_bytes = 0

    def _one(self, name: str) -> FeatureHistogram:
        histogram = self._hists[name]
        view: Any = histogram.view(flow=True)
        sums, squares = view.value[:, :], view.variance[:, :]
        return FeatureHistogram(
            name,
            np.asarray(histogram.axes[1].edges, np.float64),
            sums[:, 1:-1].copy(),
            squares[:, 1:-1].copy(),
            sums[:, 0].copy(),
            sums[:, -1].copy(),
            self._nans[name],
            name in self._discrete,
        )


def choose_edges(values: Values, label: npt.NDArray[np.int64], limits: Range = UNKNOWN, bins: int = 40) -> tuple[npt.NDArray[np.float64], bool]:
    """Edges of equal bins for finite `values`, and whether each bin holds one whole number.

    The range runs over the 0.5 % and 99.5 % quantiles of every class, and to the limits where these add less than a quarter of that range.
    """
    low, high = (min(max(end, -WIDEST), WIDEST) for end in _span(values, label))
    smallest, largest = (min(max(end, -WIDEST), WIDEST) for end in _limits(values, limits))
    if _whole(values) and largest - smallest < bins:
        return _whole_edges(smallest, largest, 1), True
    width = high - low
    if width <= 0:
        low, high = smallest, largest
        width = high - low
    if width <= 0:
        margin = max(abs(low) * 0.05, 0.5)
        return np.linspace(low - margin, low + margin, 11), False
    low = smallest if low - smallest < width / 4 else low
    high = largest if largest - high < width / 4 else high
    if _whole(values):
        step = math.ceil((high - low + 1) / bins)
        return _whole_edges(low, high, step), step == 1
    top = math.nextafter(high, math.inf) if high == largest else high  # the last bin is open above; the maximum belongs to it
    return np.linspace(low, max(top, high + width * 1e-9), bins + 1), False


def _span(values: Values, label: npt.NDArray[np.int64]) -> Range:
    """The widest quantile range of any class."""
    parts = [values[label == index].astype(np.float64) for index in np.unique(label)]
    ranges = np.asarray([np.quantile(part, [TAIL, 1 - TAIL], method="nearest") for part in parts])
    return float(ranges[:, 0].min()), float(ranges[:, 1].max())


def _limits(values: Values, limits: Range) -> Range:
    low, high = float(values.min()), float(values.max())
    return min(low, limits[0]) if math.isfinite(limits[0]) else low, max(high, limits[1]) if math.isfinite(limits[1]) else high


def _whole(values: Values) -> bool:
    return values.dtype.kind in "biu" or bool((values == np.rint(values)).all())


def _whole_edges(low: float, high: float, step: int) -> npt.NDArray[np.float64]:
    first = math.floor(low)
    return first - 0.5 + step * np.arange((math.floor(high) - first) // step + 2, dtype=np.float64)


def _empty(edges: npt.NDArray[np.float64], classes: int) -> Hist[Any]:
    import hist

    kinds = hist.axis.Integer(0, classes, name="label", flow=False)
    values = hist.axis.Regular(len(edges) - 1, float(edges[0]), float(edges[-1]), name="value")
    return hist.Hist(kinds, values, storage=hist.storage.Weight())
