"""Keras 3 models on TensorFlow.

The user's own `train_step`, loss and metrics are used. The batches of a block run inside one `tf.function`: measured at twice the rate of
`train_on_batch` and at 3 (chunks of 10,000 events) to 10 times (1,000) that of `fit` per chunk, because both pay Python and dataset overhead per
batch or per chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas.data.chunks import Chunk
from mlaas.errors import ModelError
from mlaas.models.scores import canonical
from mlaas.training import arrays, kerasparts
from mlaas.training.adapter import Check, Mask, Matrix, Problem, Streaming, framework_errors
from mlaas.workflow import Params

BLOCK_BATCHES = 64
LOSS_ROWS = 8192


@dataclass
class KerasAdapter(Streaming):
    """A compiled Keras model; see `adapt_keras`. target: the form of the labels that its loss takes."""

    framework = "keras"
    target: kerasparts.Target = "column"

    def __post_init__(self) -> None:
        self._has_loss = kerasparts.has_loss(self.model)
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
        kerasparts.build(model, problem.width)
    wants_mask = kerasparts.inputs(model, problem.width)
    units = kerasparts.units_of(model, problem)
    loss = kerasparts.loss_of(model)
    if not kerasparts.has_loss(model) and not kerasparts.overrides(model, "train_step"):
        raise ModelError("the Keras model is compiled without a loss: give one to compile, e.g. loss='binary_crossentropy'")
    output, notes = kerasparts.output_of(model, problem, units, loss, wants_mask)
    return KerasAdapter(model, problem, params, output, wants_mask, notes, kerasparts.target_of(problem, units, loss, model))
