"""scikit-learn estimators, and whatever has their `fit` and `predict`.

With `partial_fit` an estimator learns chunk by chunk; without it, it is fitted once to all data. Scores come from `predict_proba`; an estimator
that has only a `decision_function` (LinearSVC, RidgeClassifier, SVC) gives distances from the boundary: output "logit" (two classes) or "logits",
whose sigmoid or softmax keeps the order of events, and so the ROC, but is not calibrated. One with neither gives 1 for the class that it predicts.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas.data.chunks import Chunk
from mlaas.errors import DataError, ModelError
from mlaas.models.scores import Output
from mlaas.training.adapter import Check, Mask, Matrix, Problem, Streaming, Whole
from mlaas.workflow import Params

# Peak memory of a fit in units of the float32 matrix, that matrix included, measured for 120,000 events x 200 columns with scikit-learn 1.9:
# trees and logistic regression work on it as it is (1.1); HistGradientBoosting takes 5.7, discriminant analysis 5.5, LinearSVC 7.2; a scaler
# before them copies it twice.
_FACTORS = {
    ("DecisionTree", "ExtraTree", "RandomForest", "GradientBoosting", "AdaBoost", "LogisticRegression"): 1.5,
    ("KNeighbors", "Ridge"): 4.0,
    ("HistGradientBoosting",): 6.0,
}
_OTHERS = 8.0
_STEP = 2.0


@dataclass
class _Estimator:
    """What both ways of learning share."""

    model: Any
    problem: Problem
    params: Params
    output: Output
    wants_mask: bool
    notes: list[str]

    def raw(self, x: Matrix, mask: Mask | None) -> npt.NDArray[Any]:
        if self.output == "value":
            found: npt.NDArray[Any] = np.asarray(self.model.predict(x))
            if found.size != len(x):
                raise ModelError(f"{type(self.model).__name__} predicts {found.size // len(x)} values per event: a regression needs 1")
            return found
        if self.output in {"logit", "logits"}:
            return self._distances(x)
        if hasattr(self.model, "predict_proba"):
            return np.asarray(self.model.predict_proba(x))
        return np.eye(self.problem.outputs, dtype=np.float32)[np.asarray(self.model.predict(x)).astype(np.int64)]

    def _distances(self, x: Matrix) -> npt.NDArray[Any]:
        found = np.asarray(self.model.decision_function(x))
        if found.ndim == 2 and found.shape[1] not in (1, self.problem.outputs):
            raise ModelError(f"{type(self.model).__name__} compares classes in pairs: set decision_function_shape='ovr'")
        return found

    def dump(self) -> bytes:
        import skops.io

        try:
            return bytes(skops.io.dumps(self.model))
        except Exception as error:
            note = f"{type(self.model).__name__} cannot be kept in a checkpoint ({error}): a training that is stopped begins anew"
            if note not in self.notes:
                self.notes.append(note)
            return b""

    def load(self, data: bytes) -> None:
        import skops.io

        if not data:
            raise DataError(f"the checkpoint does not hold the {type(self.model).__name__}, which cannot be stored: train anew, without resume")
        from mlaas.models.sklearn_types import TRUSTED

        expected = TRUSTED.union(skops.io.get_untrusted_types(data=skops.io.dumps(self.model)))
        self.model = skops.io.loads(data, trusted=[name for name in skops.io.get_untrusted_types(data=data) if name in expected])

    def _weights(self, method: str, weight: npt.NDArray[np.float32]) -> dict[str, Any]:
        key = weight_key(self.model, method)
        return {key: weight} if key and self.problem.weighted else {}

    def _call(self, method: str, x: Matrix, y: npt.NDArray[Any], **arguments: Any) -> None:
        try:
            getattr(self.model, method)(x, y, **arguments)
        except ValueError as error:
            if self.problem.negative and "negative" in str(error).lower():
                raise ModelError(
                    f"{type(self.model).__name__} refuses negative event weights: set params.negative_weights to abs or zero, or take another model"
                ) from error
            raise

    def _classes_complete(self) -> None:
        seen = getattr(self.model, "classes_", None)
        if self.problem.task == "classification" and isinstance(seen, np.ndarray) and len(seen) != self.problem.outputs:
            missing = [name for index, name in enumerate(self.problem.classes) if index not in seen]
            raise DataError(f"there are no training events of the class {', '.join(missing)}")


@dataclass
class SklearnStreaming(_Estimator, Streaming):
    """An estimator with `partial_fit`: each chunk is given whole, and the estimator makes its own batches."""

    framework = "sklearn"

    def learn(self, chunk: Chunk, check: Check) -> float:
        arguments = self._weights("partial_fit", chunk.weight[chunk.order])
        if "classes" in inspect.signature(self.model.partial_fit).parameters:
            arguments["classes"] = np.arange(self.problem.outputs)
        self._call("partial_fit", chunk.x[chunk.order], chunk.y[chunk.order], **arguments)
        rows = chunk.order[: max(256, len(chunk) // 8)]
        part = Chunk(chunk.x[rows], chunk.y[rows], chunk.weight[rows], None, rows)
        return self.plain_loss(part, self.predict(part.x))


@dataclass
class SklearnWhole(_Estimator, Whole):
    """An estimator that is fitted once."""

    framework = "sklearn"

    def bytes_needed(self, events: int) -> int:
        """The matrix in float32 times a factor measured for the kind of estimator (1.5 for trees, up to 8), and 2 more for each step before it."""
        steps = len(getattr(self.model, "steps", ())) or 1
        name = type(_last_step(self.model)).__name__
        factor = next((factor for names, factor in _FACTORS.items() if name.startswith(names)), _OTHERS) + _STEP * (steps - 1)
        return int(events * (self.problem.width * 4 * factor + 32))

    def fit(self, x: Matrix, y: npt.NDArray[Any], weight: npt.NDArray[np.float32]) -> None:
        self._call("fit", x, y, **self._weights("fit", weight))
        self._classes_complete()


def adapt_sklearn(model: Any, problem: Problem, params: Params) -> SklearnStreaming | SklearnWhole:
    """Check an estimator against the problem and choose how it learns. Raises ModelError with what to change."""
    _kind(model, problem)
    output, notes = _output(model, problem)
    streams = callable(getattr(model, "partial_fit", None))
    if streams and getattr(model, "early_stopping", False) is True:
        streams = False
        notes.append(f"{type(model).__name__} is to stop early by itself: it is fitted once to all training data")
    if problem.weighted and weight_key(model, "partial_fit" if streams else "fit") is None:
        raise ModelError(
            f"{type(model).__name__} cannot use event weights: leave out params.weight, file_weights and class_balance, or take another model"
        )
    if streams:
        notes.append(f"{type(model).__name__} learns chunk by chunk (partial_fit); params.batch_size does not apply")
        return SklearnStreaming(model, problem, params, output, False, notes)
    return SklearnWhole(model, problem, params, output, False, notes)


def _kind(model: Any, problem: Problem) -> None:
    from sklearn.base import is_classifier, is_regressor

    name = type(model).__name__
    try:
        classifier, regressor = is_classifier(model), is_regressor(model)
    except Exception:  # an estimator without scikit-learn's tags
        classifier, regressor = hasattr(model, "predict_proba"), not hasattr(model, "predict_proba")
    if problem.task == "classification" and not classifier:
        hint = ", or set params.task to regression" if regressor else ""
        raise ModelError(f"{name} is no classifier, but the labels are classes: return a classifier{hint}")
    if problem.task == "regression" and not regressor:
        hint = ", or set params.task to classification" if classifier else ""
        raise ModelError(f"{name} is no regressor, but the labels are numbers: return a regressor{hint}")


def _output(model: Any, problem: Problem) -> tuple[Output, list[str]]:
    if problem.task == "regression":
        return "value", []
    if hasattr(model, "predict_proba"):
        return "classes", []
    name = type(model).__name__
    if hasattr(model, "decision_function"):
        how = "sigmoid" if problem.outputs == 2 else "softmax"
        output: Output = "logit" if problem.outputs == 2 else "logits"
        return output, [f"{name} gives no probabilities: its scores are the {how} of its decision function, which ranks events but is not calibrated"]
    return "classes", [f"{name} gives neither probabilities nor a decision function: its scores are 1 for the class that it predicts"]


def _last_step(model: Any) -> Any:
    steps = getattr(model, "steps", None)
    return _last_step(steps[-1][1]) if steps else model


def weight_key(model: Any, method: str = "fit") -> str | None:
    """The name of the argument of `fit` (or `partial_fit`) that takes event weights; None when there is none."""
    steps = getattr(model, "steps", None)
    if steps:
        inner = weight_key(steps[-1][1], method)
        return f"{steps[-1][0]}__{inner}" if inner else None
    function: Callable[..., Any] | None = getattr(model, method, None)
    if function is None:
        return None
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None
    if "sample_weight" in parameters:
        return "sample_weight"
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    parts = [getattr(model, "estimator", None), *(part[1] for part in getattr(model, "estimators", None) or [])]
    found = {weight_key(part, method) for part in parts if part is not None and not isinstance(part, str)}
    return found.pop() if len(found) == 1 else None
