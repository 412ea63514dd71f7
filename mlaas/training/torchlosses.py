"""The loss of a torch training: found, fitted to the module's output, and made to give one value per event."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal

from mlaas.errors import ModelError, WorkflowError, nearest
from mlaas.models.scores import Output
from mlaas.training.adapter import Problem
from mlaas.training.torchparts import Shape
from mlaas.workflow import Params

Target = Literal["like", "index", "onehot"]

_INDEX_LOSSES = {
    "CrossEntropyLoss",
    "NLLLoss",
    "MultiMarginLoss",
    "cross_entropy",
    "nll_loss",
    "multi_margin_loss",
    "LogNLLLoss",
    "CrossEntropyLossFlat",
}
_LOGIT_LOSSES = {"BCEWithLogitsLoss", "binary_cross_entropy_with_logits", "BCEWithLogitsLossFlat", "SoftMarginLoss", "soft_margin_loss"}
_PROBABILITY_LOSSES = {"BCELoss", "binary_cross_entropy", "BCELossFlat"}


def find_loss(module: Any, given: Any, params: Params) -> Any:
    """The loss given with the module, the module's own, or the workflow's; None to choose by task."""
    for candidate in (given, *(getattr(module, name, None) for name in ("loss", "criterion", "loss_fn"))):
        if isinstance(candidate, str):
            return named_loss(candidate, "the loss in model.py")
        if inspect.isclass(candidate):
            return candidate()
        if callable(candidate):
            return candidate
    return named_loss(params.loss, "params.loss") if params.loss else None


def named_loss(name: str, where: str) -> Any:
    """A loss of torch.nn by name. Raises WorkflowError."""
    import torch

    known = {key: value for key, value in vars(torch.nn).items() if key.endswith("Loss")}
    if name not in known:
        raise WorkflowError(f"{where}: torch.nn has no loss {name!r}{nearest(name, known)}")
    try:
        return known[name]()
    except TypeError:
        raise WorkflowError(f"{where}: the loss {name} needs arguments: make it in model.py as the module's attribute `loss`") from None


def name_of(loss: Any) -> str:
    """The name of a loss, however it is made."""
    inner = loss.func if isinstance(loss, functools.partial) else loss
    return str(getattr(inner, "__name__", None) or type(inner).__name__)


def settle(loss: Any, shape: Shape, problem: Problem, count: int) -> tuple[Any, Output, list[str]]:
    """Join loss and output: the loss, what the output means, and notes. The loss decides where the two disagree."""
    import torch

    if problem.task == "regression":
        return loss or torch.nn.MSELoss(), "value", []
    single = count < 2
    if loss is None:
        return _default(shape, single)
    name = name_of(loss)
    if single and name in _INDEX_LOSSES:
        raise ModelError(f"{name} needs one output per class: give the module 2 outputs, or use BCEWithLogitsLoss")
    if name in _PROBABILITY_LOSSES and shape == "bare":
        raise ModelError(f"{name} needs probabilities, but the module's output leaves [0, 1]: end it with Sigmoid, or use BCEWithLogitsLoss")
    raw: Output = "logit" if single else "logits"
    if name in _INDEX_LOSSES | _LOGIT_LOSSES:
        twice = name in _LOGIT_LOSSES | {"CrossEntropyLoss", "cross_entropy"} and shape != "bare"
        return (
            loss,
            raw,
            [f"the module ends with a {shape} although {name} applies it itself: the loss is believed, and applies it twice"] if twice else [],
        )
    if shape == "bare":
        return loss, raw, [f"the module's output is not bounded to [0, 1]: its scores go through a {'sigmoid' if single else 'softmax'}"]
    return loss, "probability" if single else "classes", []


def _default(shape: Shape, single: bool) -> tuple[Any, Output, list[str]]:
    import torch

    if single:
        bounded = shape == "sigmoid"
        loss: Any = torch.nn.BCELoss() if bounded else torch.nn.BCEWithLogitsLoss()
        return loss, "probability" if bounded else "logit", [f"the module names no loss: {type(loss).__name__}"]
    if shape == "softmax":
        return log_nll, "classes", ["the module names no loss and ends with a softmax: the negative logarithm of its output"]
    return torch.nn.CrossEntropyLoss(), "logits", ["the module names no loss: CrossEntropyLoss"]


def log_nll(output: Any, target: Any, reduction: str = "mean") -> Any:
    """The cross entropy of probabilities."""
    import torch

    return torch.nn.functional.nll_loss(torch.log(output.clamp_min(1e-7)), target, reduction=reduction)


log_nll.__name__ = "LogNLLLoss"


def per_event(loss: Any, weighted: bool) -> Callable[[Any, Any], Any]:
    """The loss with one value per event. Raises ModelError when that cannot be had and weights need it."""
    if hasattr(loss, "reduction"):
        loss = copy.deepcopy(loss)
        loss.reduction = "none"
        return loss  # type: ignore[no-any-return]
    try:
        parameters = inspect.signature(loss).parameters
    except (TypeError, ValueError):
        parameters = {}  # type: ignore[assignment]
    if "reduction" in parameters:
        return functools.partial(loss, reduction="none")
    return _checked(loss) if weighted else loss


def _checked(loss: Any) -> Callable[[Any, Any], Any]:
    @functools.wraps(loss)
    def each(output: Any, target: Any) -> Any:
        found = loss(output, target)
        if found.ndim == 0 and len(output) > 1:
            raise ModelError(f"event weights need a loss with one value per event: let {name_of(loss)} in model.py not average (reduction='none')")
        return found

    return each


def target_of(loss: Any, problem: Problem, count: int) -> Target:
    """The form of the labels: class indices, one-hot, or floats shaped like the output."""
    if problem.task == "regression" or count < 2:
        return "like"
    known = name_of(loss)
    if known in _LOGIT_LOSSES | _PROBABILITY_LOSSES | {"MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "KLDivLoss", "mse_loss", "l1_loss"}:
        return "onehot"
    return "index"


def labels(y: Any, output: Any, target: Target) -> Any:
    """Labels in the form that the loss takes."""
    import torch

    if target == "index":
        return y.long()
    if target == "onehot":
        return torch.nn.functional.one_hot(y.long(), output.shape[1]).to(output.dtype)
    return y.to(output.dtype).reshape(output.shape)
