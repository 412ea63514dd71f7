"""A torch module taken apart: what model.py returned, its inputs and outputs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mlaas.errors import ModelError, nearest
from mlaas.training.adapter import Problem
from mlaas.training.probes import far_inputs

Shape = Literal["sigmoid", "softmax", "bare"]


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
