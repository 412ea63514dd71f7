"""The parts of a Keras model: inputs, outputs, loss; checked against the problem."""

from __future__ import annotations

import re
import warnings
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mlaas.errors import ModelError
from mlaas.models.scores import Output
from mlaas.training.adapter import Problem, framework_errors
from mlaas.training.probes import far_inputs

Target = Literal["column", "flat", "onehot", "index"]


def build(model: Any, width: int) -> None:
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


def inputs(model: Any, width: int) -> bool:
    shapes = _shapes(model)
    if len(shapes) > 2:
        raise ModelError(f"the Keras model has {len(shapes)} inputs: it can have one (the columns), or two (the columns and the padding mask)")
    for shape in shapes:
        if len(shape) != 2 or shape[1] not in (None, width):
            wanted = "x".join(str(size) for size in shape[1:])
            raise ModelError(f"the Keras model takes inputs of {wanted} columns, but the data have {width}: use idim, the argument of model(idim)")
    return len(shapes) == 2


def units_of(model: Any, problem: Problem) -> int:
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


def loss_of(model: Any) -> Any:
    loss = model.loss
    if isinstance(loss, dict):
        loss = list(loss.values())
    return loss[0] if isinstance(loss, list | tuple) and loss else loss


def has_loss(model: Any) -> bool:
    return loss_of(model) is not None or overrides(model, "compute_loss")


def overrides(model: Any, name: str) -> bool:
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
    if layer is None or overrides(model, "call"):
        return ""
    if type(layer).__name__ in {"Softmax", "Dropout", "Flatten", "Reshape"}:
        return "softmax" if type(layer).__name__ == "Softmax" else ""
    return str(getattr(getattr(layer, "activation", None), "__name__", ""))


def output_of(model: Any, problem: Problem, units: int, loss: Any, two: bool) -> tuple[Output, list[str]]:
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


def target_of(problem: Problem, units: int, loss: Any, model: Any) -> Target:
    if units < 2:
        return "column" if units else "flat"
    if "sparse" in _loss_name(loss) or loss is None:
        return "index"
    return "onehot"
