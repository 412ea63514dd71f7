"""The parts of a torch training: module, loss, optimiser; found, checked and fitted to each other."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mlaas.errors import ModelError, WorkflowError, nearest
from mlaas.models.scores import Output
from mlaas.training.adapter import Problem
from mlaas.training.probes import far_inputs
from mlaas.workflow import Params

Target = Literal["like", "index", "onehot"]
Shape = Literal["sigmoid", "softmax", "bare"]

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


def split(model: Any) -> tuple[Any, Any, Any]:
    """Module, loss, optimiser of what model.py returned (None where not given); told apart by what they are, not by their places."""
    import torch

    if isinstance(model, torch.nn.Module):
        return model, None, None
    if isinstance(model, dict):
        unknown = [str(key) for key in model if key not in {"model", "module", "loss", "optimizer"}]
        if unknown:
            raise ModelError(
                f"model.py returned a dict with the key {unknown[0]!r}{nearest(unknown[0], ['model', 'loss', 'optimizer'])}: "
                "it can hold model, loss, optimizer"
            )
        module, loss, optimizer = model.get("model", model.get("module")), model.get("loss"), model.get("optimizer")
    else:
        module, loss, optimizer = _by_kind(list(model))
    if not isinstance(module, torch.nn.Module):
        raise ModelError("model.py returned no torch module beside its loss and optimiser: return (module, loss, optimizer)")
    return module, loss, optimizer


def _by_kind(items: list[Any]) -> tuple[Any, Any, Any]:
    module, loss, optimizer = None, None, None
    for item in items:
        if module is None:
            module = item
        elif _is_optimizer(item):
            optimizer = item
        elif callable(item) or isinstance(item, str):
            loss = item
        elif item is not None:
            raise ModelError(f"model.py returned {type(item).__name__} beside the torch module: return (module, loss, optimizer)")
    return module, loss, optimizer


def _is_optimizer(item: Any) -> bool:
    """An optimiser, its class, or a partial of the class."""
    import torch

    made = item.func if isinstance(item, functools.partial) else item
    return isinstance(item, torch.optim.Optimizer) or (inspect.isclass(made) and issubclass(made, torch.optim.Optimizer))


def wants_mask(module: Any) -> bool:
    """Whether `forward` takes two inputs, the second being the padding mask."""
    parameters = [
        p
        for p in inspect.signature(module.forward).parameters.values()
        if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD} and p.default is p.empty
    ]
    if len(parameters) > 2:
        raise ModelError(
            f"forward of the torch module takes {len(parameters)} inputs: it can take one (the columns), or two (the columns and the padding mask)"
        )
    named = "mask" in inspect.signature(module.forward).parameters
    return len(parameters) == 2 or named


def probe(module: Any, width: int, mask: bool, device: str) -> npt.NDArray[Any]:
    """The output for inputs (and masks) far beyond the usual range, shape (256, ...); generators of random numbers are left as they were."""
    import torch

    x, padding = (torch.as_tensor(array, device=device) for array in far_inputs(256, width))
    state = torch.get_rng_state()
    module.eval()
    with torch.no_grad():
        found = module(x, padding) if mask else module(x)
    torch.set_rng_state(state)
    if not isinstance(found, torch.Tensor):
        raise ModelError(f"the torch module returns {type(found).__name__}: it must return one tensor")
    values: npt.NDArray[Any] = found.float().cpu().numpy()
    return values


def units(found: npt.NDArray[Any], problem: Problem) -> int:
    """The number of outputs (0 for an output of shape (n,)). Raises ModelError when it does not fit the problem."""
    if found.ndim not in (1, 2) or len(found) != 256:
        raise ModelError(f"the torch module's output has the shape {found.shape} for 256 events: it must be (256, outputs)")
    count = found.shape[1] if found.ndim == 2 else 0
    allowed = {0, 1} if problem.task == "regression" else {problem.outputs} | ({0, 1} if problem.outputs == 2 else set())
    if count not in allowed:
        wanted = "1" if problem.task == "regression" else "1 or 2" if problem.outputs == 2 else str(problem.outputs)
        raise ModelError(f"the torch module has {count} outputs, but this {problem.task} needs {wanted}")
    return count


def shape_of(module: Any, found: npt.NDArray[Any], count: int) -> Shape:
    """Whether the module ends with a sigmoid, with a softmax, or bare: by its last part, else by the range of its outputs."""
    leaves = [part for part in module.modules() if not list(part.children())]
    last = type(leaves[-1]).__name__ if leaves else ""
    inside = bool((found >= 0).all() and (found <= 1).all())
    if inside and count >= 2 and (last == "Softmax" or np.allclose(found.sum(axis=1), 1, atol=1e-4)):
        return "softmax"
    varies = bool(np.ptp(found) > 0) and not (last == "Linear" and type(module).__name__ == "Sequential")
    return "sigmoid" if inside and (varies or last == "Sigmoid") else "bare"


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


def find_optimizer(module: Any, given: Any, params: Params) -> tuple[Any, Any]:
    """The optimiser and the learning rate's scheduler (or None), in the order that `adapt_torch` names."""
    if given is not None:
        return _given(given, module, params), None
    configure = getattr(module, "configure_optimizers", None)
    if callable(configure):
        return _configured(configure())
    own = getattr(module, "optimizer", None)
    if own is not None and hasattr(own, "step"):
        return own, None
    return named_optimizer(params)(module.parameters(), lr=params.learning_rate), None


def _given(given: Any, module: Any, params: Params) -> Any:
    """An optimiser as it is, of a class with params.learning_rate, or of a function of the parameters."""
    if hasattr(given, "step") and not inspect.isclass(given):
        return given
    rate: dict[str, Any] = {"lr": params.learning_rate} if inspect.isclass(given) else {}
    return given(module.parameters(), **rate)


def _configured(found: Any) -> tuple[Any, Any]:
    """What Lightning allows `configure_optimizers` to return, for one optimiser."""
    if isinstance(found, dict):
        optimizer, scheduler = found.get("optimizer"), found.get("lr_scheduler")
    elif isinstance(found, tuple | list) and len(found) == 2 and isinstance(found[0], tuple | list):
        optimizer, scheduler = (part[0] if part else None for part in found)
    else:
        optimizer, scheduler = (found[0] if isinstance(found, tuple | list) and len(found) == 1 else found), None
    scheduler = scheduler.get("scheduler") if isinstance(scheduler, dict) else scheduler
    if not hasattr(optimizer, "step"):
        raise ModelError("configure_optimizers of the torch module must return one torch optimiser (with a scheduler or without)")
    return optimizer, scheduler


def named_optimizer(params: Params) -> Any:
    """The class of params.optimizer in torch.optim; Adam when empty. Raises WorkflowError."""
    import torch

    known = {
        key: value
        for key, value in vars(torch.optim).items()
        if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer) and key != "Optimizer"
    }
    name = params.optimizer or "Adam"
    if name not in known:
        same = [key for key in known if key.lower() == name.lower()]
        hint = f" (did you mean {same[0]!r}?)" if same else nearest(name, known)
        raise WorkflowError(f"params.optimizer: torch.optim has no optimiser {name!r}{hint}")
    return known[name]


@contextmanager
def single_event(module: Any, events: int) -> Iterator[None]:
    """Let a batch of one event through batch normalisation, which has no spread to learn from then: it uses its running one."""
    import torch

    frozen = [part for part in module.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm) and part.training] if events == 1 else []
    for part in frozen:
        part.eval()
    try:
        yield
    finally:
        for part in frozen:
            part.train()


def plain(value: Any) -> bool:
    """Whether a value of a scheduler's state can be stored without pickling code."""
    if isinstance(value, dict):
        return all(plain(item) for item in value.values())
    if isinstance(value, list | tuple):
        return all(plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)
