"""The user's model.py from a bundle: run only when the user trusts the bundle."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from mlaas.errors import BundleError
from mlaas.models.sentences import short

MODULE = "mlaas_user_model"  # training imports model.py by this name, and pickles of its classes hold it


@contextmanager
def user_module(path: Path, *, needed: bool = True) -> Iterator[ModuleType]:
    """Run model.py as the module by which its classes are found while a form is loaded; without the file an empty module, unless it is `needed`.

    An earlier module of that name (another bundle's, or a training's in this process) is put back afterwards. Raises BundleError.
    """
    module = ModuleType(MODULE)
    module.__file__ = str(path)
    earlier = sys.modules.get(MODULE)
    sys.modules[MODULE] = module
    try:
        if path.is_file():
            _run(path, module)
        elif needed:
            raise BundleError(f"{path.parent} needs its model.py to be loaded, but has none")
        yield module
    finally:
        if earlier is not None:
            sys.modules[MODULE] = earlier


def build(module: ModuleType, width: int) -> Any:
    """Call `model(width)` of a model.py."""
    function = getattr(module, "model", None)
    if not callable(function):
        raise BundleError(f"{module.__file__} does not define a function model(idim)")
    try:
        return function(width)
    except Exception as error:
        raise BundleError(f"model({width}) of {module.__file__} failed: {short(error)}") from error


def definitions(module: ModuleType) -> dict[str, Any]:
    """The classes and functions that a model.py defines itself, by name."""
    own = {name: value for name, value in vars(module).items() if inspect.isclass(value) or inspect.isfunction(value)}
    return {name: value for name, value in own.items() if value.__module__ == MODULE}


def _run(path: Path, module: ModuleType) -> None:
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)  # noqa: S102 the user asked for it
    except Exception as error:
        raise BundleError(f"{path} failed when it was run: {short(error)}") from error
