"""What a report shows: plain values and NumPy arrays, gathered by the pipeline while it runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Task = Literal["classification", "regression"]


@dataclass(frozen=True, slots=True)
class FileRead:
    """One file of events: `nbytes` is its size, `sum_of_weights` that of its selected events, `label` "" when a branch holds the label."""

    path: str
    label: str = ""
    entries: int = 0
    selected: int = 0
    nbytes: int = 0
    sum_of_weights: float = math.nan
    identity: str = ""


@dataclass(frozen=True, slots=True)
class BranchRead:
    """One branch used as a feature, as the specs describe it: `jdim` is the longest list (1 when flat), `nans` the number of NaN values."""

    name: str
    kind: Literal["flat", "jagged"] = "flat"
    dtype: str = ""
    jdim: int = 1
    minimum: float = math.nan
    maximum: float = math.nan
    nans: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What the model says of one split, and the truth.

    scores: (n,) probability of class index 1 (or the value, in regression), or (n, K) probabilities; (n, 1) and (n, 2) are reduced to (n,).
    labels: (n,) class index, or target. weights: (n,), may be negative; None is 1 for every event.
    Raises ValueError when the lengths differ.
    """

    scores: npt.NDArray[Any]
    labels: npt.NDArray[Any]
    weights: npt.NDArray[Any] | None = None

    def __post_init__(self) -> None:
        scores = np.asarray(self.scores)
        if scores.ndim not in (1, 2):
            raise ValueError(f"scores must have the shape (n,) or (n, K), not {scores.shape}")
        if scores.ndim == 2 and scores.shape[1] in (1, 2):
            scores = scores[:, -1]
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "labels", np.asarray(self.labels).reshape(-1))
        if self.weights is not None:
            object.__setattr__(self, "weights", np.asarray(self.weights).reshape(-1))
        weights = len(scores) if self.weights is None else len(self.weights)
        if len(self.labels) != len(scores) or weights != len(scores):
            raise ValueError(f"there must be as many scores ({len(scores)}) as labels ({len(self.labels)}) and weights ({weights})")

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True, slots=True, eq=False)
class FeatureHistogram:
    """The distribution of one branch per class (of every element, for a jagged branch).

    edges: (bins + 1,). counts, variances: (K, bins), sums of weights and of their squares; K is 1 in regression.
    underflow, overflow: (K,), sums of weights outside the edges. nans: (K,) int64, values left out because they are NaN or infinite.
    discrete: the values are whole numbers and every bin holds one of them.
    """

    name: str
    edges: Floats
    counts: Floats
    variances: Floats
    underflow: Floats
    overflow: Floats
    nans: npt.NDArray[np.int64]
    discrete: bool = False


@dataclass(frozen=True, slots=True)
class OnnxParity:
    """The parity gate: the largest difference between ONNX and native scores, what was allowed, and why ONNX was refused (if it was)."""

    accepted: bool
    difference: float = math.nan
    tolerance: float = math.nan
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What the user says of the model; the report adds to each part what it knows itself. Every part is a list of sentences."""

    intended_use: Sequence[str] = ()
    data: Sequence[str] = ()
    training: Sequence[str] = ()
    metrics: Sequence[str] = ()
    limits: Sequence[str] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class ReportData:
    """Everything the page of one run shows; what is not given is left out of the page.

    classes: names in the order of their index; with two, index 1 is the signal. Empty in regression.
    created: UTC, ISO 8601. duration: s. stages: seconds by the name of the stage.
    workflow: the document as plain values. bundle: where the model is. width: columns of the feature matrix.
    scores: by split ("train", "validation", "test"). metrics: by split, then by name.
    history: one mapping per epoch (epoch, loss, val_loss, val_auc, events_per_s, ...).
    hist: "pdfs" or "pngs" writes one picture per branch besides the overview. commands: title to command line; empty names predict and replay.
    notes: messages of the run that the reader should see. target: name of the regression target.
    """

    name: str
    framework: str
    task: Task = "classification"
    classes: Sequence[str] = ()
    created: str = ""
    duration: float = math.nan
    stages: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    workflow: Mapping[str, Any] = field(default_factory=dict)
    bundle: str = ""
    files: Sequence[FileRead] = ()
    width: int = 0
    branches: Sequence[BranchRead] = ()
    excluded: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, Scores] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    histograms: Sequence[FeatureHistogram] = ()
    hist: Literal["", "pdfs", "pngs"] = ""
    card: ModelCard = ModelCard()
    onnx: OnnxParity | None = None
    commands: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    target: str = ""
