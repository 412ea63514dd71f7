"""What the training asks of a framework, and the choice of the adapter for what `model.py` returned.

A model learns in one of three ways, and its adapter derives from the class for it:

    Streaming    gradient steps, batch by batch: Keras, PyTorch, fastai, scikit-learn estimators with `partial_fit`
    Rounds       boosting rounds over streamed data: XGBoost
    Whole        one fit on all the training data in one matrix: the other scikit-learn estimators
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from mlaas.data.chunks import Chunk, Dataset
from mlaas.errors import ModelError
from mlaas.models.scores import Output, canonical
from mlaas.training import metrics
from mlaas.workflow import Params

if TYPE_CHECKING:
    from mlaas.training.run import Run

Framework = Literal["keras", "torch", "sklearn", "xgboost"]
Matrix = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Check = Callable[[], None]

PREDICT_ROWS = 8192


@dataclass(frozen=True)
class Problem:
    """What is to be learnt: the parts of a dataset that a model must fit to."""

    task: Literal["classification", "regression"]
    classes: tuple[str, ...]
    width: int
    weighted: bool = False
    negative: bool = False

    @classmethod
    def of(cls, dataset: Dataset) -> Problem:
        """The problem that a dataset poses."""
        return cls(dataset.task, tuple(dataset.classes), dataset.width, dataset.weighted, dataset.negative)

    @property
    def outputs(self) -> int:
        """The number of columns of the model's output when it has one per class (1 for regression)."""
        return len(self.classes) if self.task == "classification" else 1


@dataclass
class Adapter(ABC):
    """A model behind one face.

    model: the framework's object; it is the trained one after the training. output: what its raw output means. wants_mask: whether it takes the
    padding mask as a second input. notes: sentences for the log about choices that were made for the user.
    """

    framework: ClassVar[Framework]
    model: Any
    problem: Problem
    params: Params
    output: Output = "value"
    wants_mask: bool = False
    notes: list[str] = field(default_factory=list)

    @abstractmethod
    def raw(self, x: Matrix, mask: Mask | None) -> npt.NDArray[Any]:
        """The model's own output for at most PREDICT_ROWS events."""

    @abstractmethod
    def dump(self) -> bytes:
        """Everything that learning on needs: weights, optimiser, generators of random numbers."""

    @abstractmethod
    def load(self, data: bytes) -> None:
        """Take back what `dump` gave; nothing in `data` is executed."""

    def predict(self, x: Matrix, mask: Mask | None = None) -> npt.NDArray[np.float32]:
        """Canonical scores, float32: shape (n,), or (n, K) for more than two classes.

        x: shape (n, width), float32. mask: shape (n, width), bool, needed when `wants_mask`.
        """
        blocks = [self._block(x, mask, start) for start in range(0, len(x), PREDICT_ROWS)]
        return np.concatenate(blocks) if blocks else np.zeros((0, self.problem.outputs) if self.problem.outputs > 2 else 0, np.float32)

    def _block(self, x: Matrix, mask: Mask | None, start: int) -> npt.NDArray[np.float32]:
        rows = slice(start, start + PREDICT_ROWS)
        with framework_errors("predicting"):
            return canonical(self.raw(x[rows], mask[rows] if mask is not None and self.wants_mask else None), self.output)

    def evaluate(self, chunk: Chunk) -> tuple[npt.NDArray[np.float32], float]:
        """Canonical scores of a chunk, and the mean over its events of weight * loss: of the loss that is minimised, where there is one."""
        scores = self.predict(chunk.x, chunk.mask)
        return scores, self.plain_loss(chunk, scores)

    def plain_loss(self, chunk: Chunk, scores: npt.NDArray[np.float32]) -> float:
        """The mean over the events of weight * log loss (classification) or weight * squared error (regression)."""
        loss = metrics.log_loss if self.problem.task == "classification" else metrics.mse
        value = loss(chunk.y, scores, chunk.weight)
        return value * float(chunk.weight.sum(dtype=np.float64)) / len(chunk)


class Streaming(Adapter):
    """Learns batch by batch."""

    @abstractmethod
    def learn(self, chunk: Chunk, check: Check) -> float:
        """Learn from the events of a chunk, in its order, once; returns the mean over them of weight * loss. `check` is called now and then and may
        raise.
        """

    def end_epoch(self, val_loss: float | None) -> None:
        """Called after each epoch (for schedules of the learning rate)."""

    def weights(self) -> bytes:
        """What `restore` needs to have this very model again."""
        return self.dump()

    def restore(self, data: bytes) -> None:
        """Become the model that `weights` saved."""
        self.load(data)


class Whole(Adapter):
    """Needs all training data at once."""

    @abstractmethod
    def bytes_needed(self, events: int) -> int:
        """An estimate of the memory that `fit` takes, the matrix of `events` rows included."""

    @abstractmethod
    def fit(self, x: Matrix, y: npt.NDArray[Any], weight: npt.NDArray[np.float32]) -> None:
        """Fit once; x: shape (n, width)."""


class Rounds(Adapter):
    """Adds trees round by round, itself in charge of the loop."""

    @abstractmethod
    def boost(self, run: Run) -> None:
        """Learn from run.dataset; metrics, checkpoints and stopping go through `run`."""


class framework_errors:  # noqa: N801 (a context manager, used like a function)
    """Turn what a framework or the user's model raises into a ModelError that says during what and where in model.py."""

    def __init__(self, doing: str) -> None:
        self.doing = doing

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        from mlaas.errors import MLaaSError

        if isinstance(error, Exception) and not isinstance(error, MLaaSError):
            from mlaas.training.usermodel import describe

            raise ModelError(f"{self.doing} failed: {describe(error)}") from error


def adapt(model: Any, problem: Problem, params: Params) -> Adapter:
    """Choose the adapter for a model by its type, importing no framework that is not loaded already.

    model: a compiled Keras model; a torch `nn.Module`, alone or with its loss and optimiser in a tuple or a dict; a fastai Learner; an XGBoost or
    scikit-learn estimator. Raises ModelError when it is none of these, or does not fit the problem.
    """
    if model is None:
        raise ModelError("the function model returned nothing: end it with `return`")
    if inspect.isclass(model):
        raise ModelError(f"the function model returned the class {model.__name__}: return an instance, {model.__name__}(...)")
    origins = _origins(model)
    if "tf_keras" in origins:
        raise ModelError("the model is made with tf_keras (Keras 2): make it with `keras`, version 3")
    if "keras" in origins:
        from mlaas.training.keras import adapt_keras

        return adapt_keras(model, problem, params)
    if "fastai" in origins:
        from mlaas.training.fastai import adapt_learner

        return adapt_learner(model, problem, params)
    if "torch" in origins or _holds_torch(model):
        from mlaas.training.torch import adapt_torch

        return adapt_torch(model, problem, params)
    if "xgboost" in origins:
        from mlaas.training.xgboost import adapt_xgboost

        return adapt_xgboost(model, problem, params)
    if callable(getattr(model, "fit", None)) and callable(getattr(model, "predict", None)):
        from mlaas.training.sklearn import adapt_sklearn

        return adapt_sklearn(model, problem, params)
    raise ModelError(
        f"the function model returned {_article(type(model).__name__)}; return a compiled Keras model, a torch nn.Module, "
        "a fastai Learner, or a scikit-learn or XGBoost estimator"
    )


def _origins(model: Any) -> set[str]:
    return {base.__module__.partition(".")[0] for base in type(model).__mro__}


def _holds_torch(model: Any) -> bool:
    parts = list(model.values()) if isinstance(model, dict) else list(model) if isinstance(model, tuple | list) else []
    return any("torch" in _origins(part) for part in parts)


def _article(name: str) -> str:
    return f"an {name}" if name[0].lower() in "aeiou" else f"a {name}"
