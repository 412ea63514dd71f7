"""Lets published model files run unchanged: Keras 2 arguments and the `MLaaS4HEP` package of the original, while model.py runs only."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from mlaas.models.order import before_tensorflow


@contextmanager
def shims(imports: Collection[str]) -> Iterator[None]:
    """Apply the shims for the packages that model.py imports."""
    with ExitStack() as stack:
        if {"keras", "tensorflow"} & set(imports) and find_spec("keras") is not None:
            stack.enter_context(_keras_two())
        if "MLaaS4HEP" in imports and find_spec("torch") is not None:
            stack.enter_context(_original_package())
        if "fastai" in imports:
            stack.enter_context(warnings.catch_warnings())
            # fastai's own use of torch, which its user cannot change
            warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)
        yield


@contextmanager
def _keras_two() -> Iterator[None]:
    """Accept `lr` and `decay` of Keras 2 optimisers, each with a warning, and say nothing about `input_shape`."""
    before_tensorflow()
    import keras

    base: Any = next(cls for cls in keras.optimizers.Optimizer.__mro__ if cls.__name__ == "BaseOptimizer")
    original = base.__init__
    base.__init__ = _translating(original)
    try:
        with warnings.catch_warnings():
            # Keras 3 works as Keras 2 did with it; the published files have it everywhere
            warnings.filterwarnings("ignore", message="Do not pass an `input_shape`/`input_dim`", category=UserWarning)
            yield
    finally:
        base.__init__ = original


def _translating(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def init(self: Any, learning_rate: Any = 0.001, *args: Any, **kwargs: Any) -> None:
        if "lr" in kwargs:
            learning_rate = kwargs.pop("lr")
            warnings.warn(
                f"model.py: the optimiser's argument lr is called learning_rate in Keras 3: took {learning_rate}", FutureWarning, stacklevel=3
            )
        decay = kwargs.pop("decay", None)
        if decay:
            import keras

            learning_rate = keras.optimizers.schedules.InverseTimeDecay(learning_rate, 1, decay)
            warnings.warn(
                f"model.py: the optimiser's argument decay={decay} became the schedule InverseTimeDecay of Keras 3", FutureWarning, stacklevel=3
            )
        original(self, learning_rate, *args, **kwargs)

    return init


@contextmanager
def _original_package() -> Iterator[None]:
    """Offer `MLaaS4HEP.jarray.pytorch.JaggedArrayLinear`; padding is 0 here, so that a plain linear layer computes the same."""
    if "MLaaS4HEP" in sys.modules or find_spec("MLaaS4HEP") is not None:
        yield
        return
    names = ["MLaaS4HEP", "MLaaS4HEP.jarray", "MLaaS4HEP.jarray.pytorch"]
    modules = {name: ModuleType(name) for name in names}
    modules[names[2]].JaggedArrayLinear = _jagged_linear  # type: ignore[attr-defined]
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)


def _jagged_linear(in_features: int, out_features: int, bias: bool = True, verbose: int = 0) -> Any:
    import torch

    return torch.nn.Linear(in_features, out_features, bias)
