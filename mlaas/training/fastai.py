"""A fastai Learner: its module, loss and optimiser, trained as a torch module on our chunks (its own DataLoaders, metrics and callbacks are not
used).
"""

from __future__ import annotations

from typing import Any

from mlaas.errors import ModelError
from mlaas.training import torchparts as parts
from mlaas.training.adapter import Problem
from mlaas.training.torch import TorchAdapter, adapt_torch
from mlaas.workflow import Params


def adapt_learner(model: Any, problem: Problem, params: Params) -> TorchAdapter:
    """Take a Learner's parts: `model`, `loss_func`, `opt_func` with `lr`, `wd` and `splitter`. Raises ModelError."""
    from fastai.learner import Learner

    if not isinstance(model, Learner):
        raise ModelError(f"model.py returned fastai's {type(model).__name__}: return a Learner")
    adapter = adapt_torch(model.model if model.loss_func is None else (model.model, model.loss_func), problem, params)
    adapter.optimizer = _Stepper(model, adapter.device)
    adapter.closure = False
    adapter.notes.append(
        "the Learner's module, loss and optimiser are trained on the workflow's chunks; its DataLoaders, metrics and callbacks are not used"
    )
    return adapter


class _Stepper:
    """fastai's optimiser with a state that can be stored as plain tensors and numbers."""

    def __init__(self, learner: Any, device: str) -> None:
        self._optimizer = learner.opt_func(learner.splitter(learner.model), lr=learner.lr)
        self._device = device
        if learner.wd is not None:
            self._optimizer.set_hypers(wd=learner.wd)

    def zero_grad(self) -> None:
        self._optimizer.zero_grad()

    def step(self) -> None:
        self._optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        state = self._optimizer.state_dict()
        return {
            "state": [dict(one) for one in state["state"]],
            "hypers": [{name: value for name, value in one.items() if parts.plain(value)} for one in state["hypers"]],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._optimizer.load_state_dict(state)
