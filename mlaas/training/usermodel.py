"""The user's `model.py`: loaded as a module of its own, called once, and every way in which it can fail told in one sentence.

The file is the user's own code and runs with the rights of this process; a service runs the whole training in a sandbox.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from mlaas.errors import MissingExtraError, MLaaSError, ModelError, nearest
from mlaas.training import devices, legacy
from mlaas.workflow import Params

MODULE = "mlaas_user_model"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_EXTRAS = {"tensorflow": "keras", "keras": "keras", "torch": "torch", "xgboost": "xgboost", "fastai": "fastai"}


@dataclass(frozen=True)
class UserModel:
    """A loaded model.py: its path, its function `model(idim)`, and the packages that it imports."""

    path: Path
    function: Callable[[int], Any]
    imports: frozenset[str] = frozenset()

    def __call__(self, width: int) -> Any:
        """Call `model(width)`. Raises ModelError with the line when it raises or returns nothing."""
        with _importing(self.path), legacy.shims(self.imports), _telling(self.path, "model"):
            made = self.function(width)
        if made is None:
            raise ModelError(f"{self.path}: the function model (line {_line(self.function)}) returned nothing: end it with `return`")
        return made


def build(path: Path, width: int, params: Params) -> Any:
    """Load model.py, set the device and the seeds, and return what `model(width)` returns.

    Everything is set before the user's code makes a weight, so that the same `params.seed` gives the same model. Raises ModelError,
    MissingExtraError, ResourceError (a GPU was asked for and there is none).
    """
    function = load(path, params)
    devices.seed(params.seed)
    return function(width)


def load(path: Path, params: Params | None = None) -> UserModel:
    """Execute the file as the module `mlaas_user_model` and return its function. Raises ModelError or MissingExtraError."""
    code, imports = _compile(path)
    if params is not None:
        devices.prepare(params.device, imports)
    module = ModuleType(MODULE)
    module.__file__ = str(path)
    sys.modules[MODULE] = module
    with _importing(path), legacy.shims(imports), _telling(path, "it"):
        exec(code, module.__dict__)  # noqa: S102 (running the user's model file is what this module is for)
    function = _function(path, module)
    return UserModel(path, function, frozenset(imports))


def _compile(path: Path) -> tuple[CodeType, set[str]]:
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ModelError(f"model: {path} cannot be read: {error.strerror or error}") from None
    try:
        tree = ast.parse(source, str(path))
        return compile(tree, str(path), "exec"), _imports(tree)
    except SyntaxError as error:
        raise ModelError(f"{path}, line {error.lineno}: not Python: {error.msg}") from None
    except ValueError as error:
        raise ModelError(f"{path}: not a Python file: {error}") from None


def _imports(tree: ast.Module) -> set[str]:
    """The top-level packages that the file imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def _function(path: Path, module: ModuleType) -> Callable[[int], Any]:
    function = module.__dict__.get("model")
    if function is None:
        own = [name for name, value in module.__dict__.items() if inspect.isfunction(value) and value.__module__ == MODULE]
        raise ModelError(f"{path} does not define the function model(idim){nearest('model', own)}")
    if not callable(function) or _is_model(function):
        raise ModelError(f"{path}: `model` is of type {type(function).__name__}, not a function: write `def model(idim):` and return it from there")
    try:
        inspect.signature(function).bind(1)
    except TypeError:
        given = f"model{inspect.signature(function)}"
        raise ModelError(
            f"{path}, line {_line(function)}: {given} must take exactly one argument, the number of input columns: def model(idim)"
        ) from None
    except ValueError:
        pass  # built-in callables have no signature
    return function  # type: ignore[no-any-return]


def _is_model(value: Any) -> bool:
    """Whether a callable object is itself a model (Keras and torch models can be called)."""
    return not inspect.isroutine(value) and not inspect.isclass(value) and (hasattr(value, "fit") or hasattr(value, "forward"))


def _line(function: Any) -> int:
    code = getattr(function, "__code__", None)
    return code.co_firstlineno if code else 1


@contextmanager
def _importing(path: Path) -> Iterator[None]:
    """Let model.py import files that lie beside it."""
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


@contextmanager
def _telling(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, MLaaSError):
        raise
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name in _EXTRAS:
            raise MissingExtraError(name, _EXTRAS[name]) from error
        raise ModelError(f"{where(error, path)}: imports {error.name}, which is not installed here") from error
    except BaseException as error:  # SystemExit of the user's code too
        raise ModelError(f"{where(error, path)}: {what} raised {_short(error)}") from error


def where(error: BaseException, path: Path) -> str:
    """The file and, when it took part in the error, its line."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}, line {lines[-1]}" if lines else str(path)


def describe(error: BaseException) -> str:
    """The type and first line of a framework's error, with the line of model.py that it passed through, if it did."""
    module = sys.modules.get(MODULE)
    path = getattr(module, "__file__", None)
    place = where(error, Path(path)) if path else ""
    return f"{_short(error)} ({place})" if ", line" in place else _short(error)


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith("Exception encountered when calling"):  # Keras puts the cause below
        lines = lines[1:]
    text = lines[0] if lines else ""
    text = text if len(text) <= 300 else text[:297] + "..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
