"""The scores of a split without what cannot be used, and with the names of the classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas.report.data import Floats, ReportData, Scores
from mlaas.report.statistics import effective


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Finite scores (n,) or (n, K), labels (n,) and weights (n,) float64; `dropped` events were left out for a NaN or infinite value."""

    scores: npt.NDArray[Any]
    labels: npt.NDArray[Any]
    weights: Floats
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, index: int) -> npt.NDArray[np.bool_]:
        """True where the event is of this class."""
        return np.asarray(self.labels == index)

    def events(self, index: int) -> float:
        """Effective number of events of a class."""
        return effective(self.weights[self.of(index)])


def clean(split: Scores, classes: int) -> Sample:
    """Drop events whose score, label or weight is not finite, or (with classes) whose label is not the index of one."""
    scores, labels = split.scores, split.labels
    weights = np.ones(len(split)) if split.weights is None else np.asarray(split.weights, np.float64)
    good = np.isfinite(scores) if scores.ndim == 1 else np.isfinite(scores).all(axis=1)
    good &= np.isfinite(labels) & np.isfinite(weights)
    if classes:
        good &= (labels >= 0) & (labels < classes)
    dropped = int(np.count_nonzero(~good))
    if dropped:
        scores, labels, weights = scores[good], labels[good], weights[good]
    return Sample(scores, labels.astype(np.int64) if classes else labels, weights, dropped)


def samples(data: ReportData) -> dict[str, Sample]:
    """The splits that hold events after cleaning, in the order train, validation, test, others."""
    known = {"train": 0, "validation": 1, "test": 2}
    names = sorted(data.scores, key=lambda name: known.get(name, 3))
    classes = max(len(data.classes), 2) if data.task == "classification" else 0
    return {name: sample for name in names if len(sample := clean(data.scores[name], classes))}


def held_out(splits: Iterable[str]) -> str:
    """The split that figures are quoted for: the test, or else validation, or else whatever there is; "" when there is none."""
    names = list(splits)
    return next((name for name in ("test", "validation", *names) if name in names), "")


def class_names(classes: Sequence[str]) -> list[str]:
    """How the two classes are called in plots: "background" and "signal" are always said."""
    given = [*[str(name) for name in classes], "0", "1"][:2] if len(classes) < 2 else [str(name) for name in classes]
    if len(given) != 2:
        return given
    roles = ("background", "signal")
    bare = {"0", "1", "0.0", "1.0", "True", "False", "-1"}
    return [
        name if role in name.lower() else f"{role} (label {name})" if name in bare else f"{name} ({role})"
        for name, role in zip(given, roles, strict=True)
    ]
