"""Keras 3 models on TensorFlow.

The user's own `train_step`, loss and metrics are used. The batches of a block run inside one `tf.function`: measured at twice the rate of
`train_on_batch` and at 3 (chunks of 10,000 events) to 10 times (1,000) that of `fit` per chunk, because both pay Python and dataset overhead per
batch or per chunk.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mlaas.data.chunks import Chunk
from mlaas.errors import ModelError
from mlaas.models.scores import Output, canonical
from mlaas.training import arrays
from mlaas.training.adapter import Check, Mask, Matrix, Problem, Streaming, framework_errors
from mlaas.training.probes import far_inputs
from mlaas.workflow import Params

BLOCK_BATCHES = 64
LOSS_ROWS = 8192
Target = Literal["column", "flat", "onehot", "index"]


@dataclass
class KerasAdapter(Streaming):
    """A compiled Keras model; see `adapt_keras`. target: the form of the labels that its loss takes."""

    framework = "keras"
    target: Target = "column"

    def __post_init__(self) -> None:
        self._has_loss = _has_loss(self.model)
        self._steps: Any = None
        self._forward = _forward(self.model)
        optimizer = self.model.optimizer
        if optimizer is not None and not optimizer.built:
            optimizer.build(self.model.trainable_variables)

    def raw(self, x: Matrix, mask: Mask | None) -> npt.NDArray[Any]:
        import tensorflow as tf

        found: npt.NDArray[Any] = self._forward(tf.constant(x), None if mask is None else tf.constant(mask, tf.float32)).numpy()
        return found

    def learn(self, chunk: Chunk, check: Check) -> float:
        import tensorflow as tf

        if self._steps is None:
            self._steps = _steps(self.model)
        x, y = tf.convert_to_tensor(chunk.x), tf.convert_to_tensor(self._labels(chunk.y))
        weight = tf.convert_to_tensor(chunk.weight) if self.problem.weighted else None
        mask = tf.convert_to_tensor(chunk.mask) if self.wants_mask else None
        size = self.params.batch_size
        self.model.reset_metrics()
        for start in range(0, len(chunk), size * BLOCK_BATCHES):
            rows = tf.convert_to_tensor(chunk.order[start : start + size * BLOCK_BATCHES])
            self._steps(x, mask, y, weight, rows, tf.constant(size, tf.int64))
            check()
        found = self.model.get_metrics_result()
        if self._has_loss and "loss" in found:
            return float(found["loss"])
        return self.evaluate(_head(chunk))[1]

    def _labels(self, y: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if self.target == "index":
            return y.astype(np.int64)
        if self.target == "onehot":
            return np.eye(self.problem.outputs, dtype=np.float32)[y.astype(np.int64)]
        values = y.astype(np.float32)
        return values[:, None] if self.target == "column" else values

    def evaluate(self, chunk: Chunk) -> tuple[npt.NDArray[np.float32], float]:
        if not self._has_loss:
            return super().evaluate(chunk)
        scores, total = [], 0.0
        for start in range(0, len(chunk), LOSS_ROWS):
            rows = slice(start, start + LOSS_ROWS)
            mask = chunk.mask[rows] if self.wants_mask and chunk.mask is not None else None
            found = self.raw(chunk.x[rows], mask)
            scores.append(canonical(found, self.output))
            total += self._loss(chunk, rows, mask, found) * len(found)
        return np.concatenate(scores), total / len(chunk)

    def _loss(self, chunk: Chunk, rows: slice, mask: Mask | None, found: npt.NDArray[Any]) -> float:
        x: Any = chunk.x[rows] if mask is None else [chunk.x[rows], mask.astype(np.float32)]
        weight = chunk.weight[rows] if self.problem.weighted else None
        return float(self.model.compute_loss(x=x, y=self._labels(chunk.y[rows]), y_pred=found, sample_weight=weight, training=False))

    def dump(self) -> bytes:
        return arrays.pack([variable.numpy() for variable in self._variables()])

    def load(self, data: bytes) -> None:
        _assign(self._variables(), arrays.unpack(data))

    def weights(self) -> bytes:
        return arrays.pack([variable.numpy() for variable in _state(self.model)])

    def restore(self, data: bytes) -> None:
        _assign(_state(self.model), arrays.unpack(data))

    def _variables(self) -> list[Any]:
        optimizer = self.model.optimizer
        return _state(self.model) + (list(optimizer.variables) if optimizer is not None else [])


def _head(chunk: Chunk) -> Chunk:
    rows = chunk.order[:LOSS_ROWS]
    mask = None if chunk.mask is None else chunk.mask[rows]
    return Chunk(chunk.x[rows], chunk.y[rows], chunk.weight[rows], mask, np.arange(len(rows)))


def _state(model: Any) -> list[Any]:
    """Weights, statistics and the generators of Dropout and the like; not the metrics."""
    metrics = {id(variable) for variable in model.metrics_variables}
    return [variable for variable in model.variables if id(variable) not in metrics]


def _assign(variables: list[Any], values: list[npt.NDArray[Any]]) -> None:
    if len(variables) != len(values) or any(tuple(a.shape) != b.shape for a, b in zip(variables, values, strict=True)):
        raise ValueError("its arrays have other shapes")
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _forward(model: Any) -> Any:
    import tensorflow as tf

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def forward(x: Any, mask: Any) -> Any:
        return model(x if mask is None else [x, mask], training=False)

    return forward


def _steps(model: Any) -> Any:
    """A function that takes the gradient steps of one block of events."""
    import tensorflow as tf

    step = tf.function(model.train_step, jit_compile=True, reduce_retracing=True) if model.jit_compile is True else model.train_step

    def steps(x: Any, mask: Any, y: Any, weight: Any, order: Any, size: Any) -> None:
        for start in tf.range(0, tf.size(order, tf.int64), size):
            rows = order[start : start + size]
            seen = tf.gather(x, rows)
            inputs = seen if mask is None else (seen, tf.cast(tf.gather(mask, rows), tf.float32))
            step((inputs, tf.gather(y, rows), None if weight is None else tf.gather(weight, rows)))

    return steps if model.run_eagerly else tf.function(steps, reduce_retracing=True)


def adapt_keras(model: Any, problem: Problem, params: Params) -> KerasAdapter:
    """Check a Keras model against the problem before it is trained. Raises ModelError with what to change in model.py."""
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ModelError(f"Keras runs on {keras.backend.backend()} here: set KERAS_BACKEND=tensorflow")
    if not isinstance(model, keras.Model):
        raise ModelError(f"model.py returned a Keras {type(model).__name__}, which is not a model: return a keras.Model or keras.Sequential")
    if not model.compiled:
        raise ModelError("the Keras model is not compiled: call model.compile(optimizer=..., loss=...) before returning it")
    if model.optimizer is None:
        raise ModelError("the Keras model has no optimiser: give one to compile, e.g. optimizer='adam'")
    with framework_errors(f"calling the Keras model with {problem.width} columns"):
        _build(model, problem.width)
    wants_mask = _inputs(model, problem.width)
    units = _units(model, problem)
    loss = _loss_of(model)
    if not _has_loss(model) and not _overrides(model, "train_step"):
        raise ModelError("the Keras model is compiled without a loss: give one to compile, e.g. loss='binary_crossentropy'")
    output, notes = _output(model, problem, units, loss, wants_mask)
    return KerasAdapter(model, problem, params, output, wants_mask, notes, _target(problem, units, loss, model))


def _build(model: Any, width: int) -> None:
    """Give its weights to a model that was made without an input shape."""
    if not model.built or not _shapes(model):
        model(np.zeros((2, width), np.float32))


def _shapes(model: Any) -> list[tuple[int | None, ...]]:
    """The shapes of the inputs; empty for a subclassed model, which does not tell."""
    try:
        inputs = model.inputs
    except AttributeError:
        return []
    return [tuple(tensor.shape) for tensor in inputs or []]


def _inputs(model: Any, width: int) -> bool:
    shapes = _shapes(model)
    if len(shapes) > 2:
        raise ModelError(f"the Keras model has {len(shapes)} inputs: it can have one (the columns), or two (the columns and the padding mask)")
    for shape in shapes:
        if len(shape) != 2 or shape[1] not in (None, width):
            wanted = "x".join(str(size) for size in shape[1:])
            raise ModelError(f"the Keras model takes inputs of {wanted} columns, but the data have {width}: use idim, the argument of model(idim)")
    return len(shapes) == 2


def _units(model: Any, problem: Problem) -> int:
    """The number of outputs; 0 for an output of shape (n,)."""
    with framework_errors("calling the Keras model"):
        found = _probe(model, problem.width, len(_shapes(model)) == 2, rows=3)
    if not isinstance(found, np.ndarray):
        raise ModelError("the Keras model has several outputs: return a model with one")
    if found.ndim not in (1, 2) or len(found) != 3:
        raise ModelError(f"the Keras model's output has the shape {found.shape} for 3 events: it must be (3, outputs)")
    units = found.shape[1] if found.ndim == 2 else 0
    allowed = {0, 1} if problem.task == "regression" else {problem.outputs} | ({0, 1} if problem.outputs == 2 else set())
    if units not in allowed:
        raise ModelError(f"the Keras model has {units} outputs, but {_wanted(problem)}")
    return units


def _wanted(problem: Problem) -> str:
    if problem.task == "regression":
        return "a regression needs 1"
    if problem.outputs == 2:
        return "two classes need 1 output (sigmoid) or 2 (softmax)"
    return f"{problem.outputs} classes need {problem.outputs} outputs (softmax)"


def _probe(model: Any, width: int, two: bool, rows: int = 256) -> Any:
    """The output for inputs far beyond the usual range."""
    x, mask = far_inputs(rows, width)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You are using a softmax over axis")  # refused below, in our words
        found = model([x, mask] if two else x, training=False)
    return found if isinstance(found, list | tuple | dict) else np.asarray(found)


def _loss_of(model: Any) -> Any:
    loss = model.loss
    if isinstance(loss, dict):
        loss = list(loss.values())
    return loss[0] if isinstance(loss, list | tuple) and loss else loss


def _has_loss(model: Any) -> bool:
    return _loss_of(model) is not None or _overrides(model, "compute_loss")


def _overrides(model: Any, name: str) -> bool:
    owner = next(cls for cls in type(model).__mro__ if name in vars(cls))
    return not owner.__module__.startswith("keras.")


def _loss_name(loss: Any) -> str:
    """The loss's name as binary_crossentropy, however it was given."""
    if loss is None:
        return ""
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", None) or type(loss).__name__
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", str(name)).lower()


def _from_logits(loss: Any) -> bool:
    given = getattr(loss, "from_logits", None)
    keywords = getattr(loss, "keywords", None) or {}
    return bool(keywords.get("from_logits", False) if given is None else given)


def _last_activation(model: Any) -> str:
    """The name of the last layer's activation: "sigmoid", "softmax", "linear", ...; "" when it cannot be told."""
    layer = model.layers[-1] if model.layers else None
    if layer is None or _overrides(model, "call"):
        return ""
    if type(layer).__name__ in {"Softmax", "Dropout", "Flatten", "Reshape"}:
        return "softmax" if type(layer).__name__ == "Softmax" else ""
    return str(getattr(getattr(layer, "activation", None), "__name__", ""))


def _output(model: Any, problem: Problem, units: int, loss: Any, two: bool) -> tuple[Output, list[str]]:
    """What the raw output means, with notes where it had to be guessed."""
    if problem.task == "regression":
        return "value", []
    name, activation = _loss_name(loss), _last_activation(model)
    single = units < 2
    if single and activation == "softmax":
        raise ModelError("the Keras model ends with a softmax over one output, which is always 1: use sigmoid, or 2 outputs")
    if single and "categorical" in name:
        raise ModelError(f"the loss {name} needs one output per class: use 2 outputs with softmax, or binary_crossentropy with sigmoid")
    raw: Output = "logit" if single else "logits"
    if _from_logits(loss):
        if activation in {"sigmoid", "softmax"}:
            return raw, [f"the model ends with {activation} although its loss is told from_logits=True: the loss is believed, and applies it twice"]
        return raw, []
    if activation in {"sigmoid", "softmax"} or (activation != "linear" and _bounded(_probe(model, problem.width, two))):
        return ("probability" if single else "classes"), []
    if "crossentropy" in name:
        wanted = "sigmoid" if single else "softmax"
        raise ModelError(
            f"the Keras model's output is no probability, as the loss {name} wants it: end with activation='{wanted}', "
            "or give the loss from_logits=True"
        )
    return raw, [f"the model's output is not bounded to [0, 1]: its scores go through a {'sigmoid' if single else 'softmax'}"]


def _bounded(found: npt.NDArray[Any]) -> bool:
    return bool((found >= 0).all() and (found <= 1).all() and np.ptp(found) > 0)


def _target(problem: Problem, units: int, loss: Any, model: Any) -> Target:
    if units < 2:
        return "column" if units else "flat"
    if "sparse" in _loss_name(loss) or loss is None:
        return "index"
    return "onehot"
