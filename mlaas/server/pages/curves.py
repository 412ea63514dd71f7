"""The curves of a training as SVG: drawn here, coloured by the style sheet, readable as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TITLES = {
    "val_auc": "AUC",
    "val_accuracy": "Accuracy",
    "val_mse": "Mean squared error",
    "val_r2": "R²",
}
WIDTH, HEIGHT = 420, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 30
MOST_POINTS = 400


@dataclass(frozen=True)
class Curve:
    """A polyline: its name, SVG points, and the last value."""

    name: str
    points: str
    marks: tuple[tuple[float, float], ...]
    last: float


@dataclass(frozen=True)
class Chart:
    """A picture of one figure over the epochs; ticks are (place, text)."""

    title: str
    curves: tuple[Curve, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]

    @property
    def summary(self) -> str:
        """What the picture shows, for who does not see it."""
        return f"{self.title}: " + ", ".join(f"{curve.name} {curve.last:.4g}" for curve in self.curves)


def charts(epochs: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """The charts of a metrics stream: the loss, then each validated figure that there is."""
    groups = [("Loss", {"training": "loss", "validation": "val_loss"})]
    groups += [(title, {"validation": key}) for key, title in TITLES.items()]
    made = [_chart(title, {name: _values(epochs, key) for name, key in names.items()}) for title, names in groups]
    return [chart for chart in made if chart.curves]


def _values(epochs: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    """Place (from 1 on) and value of the lines that have a figure; thinned out where nobody could see all."""
    step = max(1, math.ceil(len(epochs) / MOST_POINTS))
    found = [(place, epoch.get(key)) for place, epoch in enumerate(epochs, 1) if place % step == 0 or place in {1, len(epochs)}]
    return [(place, float(value)) for place, value in found if isinstance(value, int | float) and math.isfinite(value) and abs(value) < 1e30]


def _chart(title: str, series: Mapping[str, list[tuple[int, float]]]) -> Chart:
    points = [point for values in series.values() for point in values]
    last = max((place for place, _ in points), default=0)
    if last < 2:  # one point is no curve; the figures stand below
        return Chart(title, (), (), ())
    ticks = _ticks(min(value for _, value in points), max(value for _, value in points))
    low, high = ticks[0], ticks[-1]

    def x(place: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (place - 1) / (last - 1), 1)

    def y(value: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low), 1)

    curves = tuple(_curve(name, [(x(place), y(value)) for place, value in values], values[-1][1]) for name, values in series.items() if values)
    return Chart(
        title,
        curves,
        tuple((x(place), str(place)) for place in _places(last)),
        tuple((y(value), _label(value, ticks[1] - ticks[0])) for value in ticks),
    )


def _curve(name: str, points: list[tuple[float, float]], last: float) -> Curve:
    return Curve(name, " ".join(f"{x},{y}" for x, y in points), tuple(points) if len(points) <= 30 else (), last)


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round values that span the data."""
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
        low, high = low - (abs(low) / 2 or 1), high + (abs(high) / 2 or 1)
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    first, end = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, end + 1)]


def _label(value: float, step: float) -> str:
    """A tick's value with the digits that tell it from the next."""
    if not 1e-6 < step < 1e6:
        return f"{value:.3g}"
    digits = max(0, 1 - math.floor(math.log10(step)))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _places(last: int) -> list[int]:
    """Places on the horizontal axis that get a number: the first, the last, and some round ones between."""
    step = next(step for step in (size * 10**power for power in range(7) for size in (1, 2, 5)) if last / step <= 6)
    inner = [place for place in range(step, last, step) if place > 1 and last - place >= step / 2]
    return sorted({1, *inner, last})
