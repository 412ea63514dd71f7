"""A trained model as training hands it over, before it is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas.errors import ModelError
from mlaas.models.scores import OUTPUTS, Matrix, Output, Scores, Task, score_shape

RawPredict = Callable[[Matrix, Matrix | None], npt.NDArray[Any]]
"""x: (n, width) float32, mask: the same shape, float32, 1 where padding (None unless the model asks for it) -> the model's raw output."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainedModel:
    """A trained framework object and the events on which every form of it must agree.

    model: Keras model, torch module, scikit-learn or XGBoost estimator (or Booster).
    framework: "keras", "torch", "sklearn" or "xgboost"; "fastai" is taken as torch.
    output: what the raw output means (`mlaas/README.md`, "Scores"). wants_mask: whether the model takes (x, mask).
    classes: the labels in order of their index; empty for regression.
    x: (n, width) float32, a slice of validation events; mask: the same shape, or None. scores: their canonical scores by the trained model.
    """

    model: Any
    framework: str
    output: Output
    task: Task
    classes: Sequence[str]
    width: int
    x: Matrix
    scores: Scores
    mask: npt.NDArray[Any] | None = None
    wants_mask: bool = False

    def check(self) -> TrainedModel:
        """Return itself with arrays as float32 if its parts agree; raises ModelError."""
        framework = "torch" if self.framework == "fastai" else self.framework
        if framework not in ("keras", "torch", "sklearn", "xgboost"):
            raise ModelError(f"framework: {self.framework!r} is not one of keras, torch, sklearn, xgboost, fastai")
        if self.output not in OUTPUTS:
            raise ModelError(f"output: {self.output!r} is not one of {', '.join(OUTPUTS)}")
        if self.task == "classification" and len(self.classes) < 2:
            raise ModelError(f"a classification needs at least 2 classes, not {len(self.classes)}")
        if (self.task == "regression") != (self.output == "value"):
            raise ModelError(f"output: {self.output!r} does not fit the task {self.task}")
        if self.task == "classification" and len(self.classes) > 2 and self.output in ("probability", "logit"):
            raise ModelError(f"output: {self.output!r} is one number per event, but there are {len(self.classes)} classes")
        x = np.ascontiguousarray(self.x, dtype=np.float32)
        if x.ndim != 2 or x.shape[1] != self.width:
            raise ModelError(f"the slice for the parity gate has shape {x.shape}, but the model takes (n, {self.width})")
        if self.wants_mask and (self.mask is None or self.mask.shape != x.shape):
            raise ModelError("the model takes a mask: the slice for the parity gate needs one of the same shape as x")
        mask = np.ascontiguousarray(self.mask, dtype=np.float32) if self.wants_mask else None
        scores = np.ascontiguousarray(self.scores, dtype=np.float32)
        shape = score_shape(len(x), self.task, len(self.classes))
        if scores.shape != shape:
            raise ModelError(f"the slice for the parity gate has scores of shape {scores.shape}, not {shape}")
        return TrainedModel(
            self.model, framework, self.output, self.task, [str(c) for c in self.classes], self.width, x, scores, mask, self.wants_mask
        )


def finite_or_none(value: float) -> float | None:
    """JSON has no NaN and no infinities: they become null."""
    return value if math.isfinite(value) else None
