"""The optimiser of a torch training, and the schedule of its learning rate."""

from __future__ import annotations

import inspect
from typing import Any

from mlaas.errors import ModelError, WorkflowError, nearest
from mlaas.workflow import Params


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
