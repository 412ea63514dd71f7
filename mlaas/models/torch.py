"""PyTorch: model.pt2 (torch.export), weights.safetensors beside model.py, and ONNX through the exporter of torch.onnx.

Both native forms need trust: torch.export.load unpickles parts of model.pt2 and evaluates its symbolic sizes, and weights alone are loaded
into the module that model.py builds. The ONNX form, which needs neither, is therefore the engine of torch models wherever it passes the gate.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas.errors import BundleError, MissingExtraError, ModelError
from mlaas.models.graph import Exported
from mlaas.models.manifest import Manifest, NativeRecord
from mlaas.models.scores import Matrix
from mlaas.models.sentences import short
from mlaas.models.staging import write_bytes
from mlaas.models.trained import RawPredict, TrainedModel
from mlaas.models.usercode import build, user_module

FORM = "model.pt2"
WEIGHTS = "weights.safetensors"
NOISY = ("torch.onnx", "torch.export", "torch._export", "torch.fx", "torch._dynamo")


def save(trained: TrainedModel, folder: Path) -> NativeRecord:
    """Write the exported program, if torch.export can follow the module, and the weights."""
    torch = _import()
    from safetensors.torch import save_model

    module = _for_inference(trained.model)
    save_model(module, str(folder / WEIGHTS))
    program = io.BytesIO()  # written by ourselves: torch does not say why a write failed
    try:
        with _quiet():
            torch.export.save(_export(module, trained), program)
    except Exception as error:
        note = f"only the weights are kept, for the module that model.py builds, because torch.export cannot follow it: {short(error, folder)}"
        return NativeRecord(form=WEIGHTS, files=[WEIGHTS], trust=True, note=note)
    write_bytes(folder / FORM, program.getvalue())
    note = "model.pt2 holds pickled parts, and weights.safetensors needs model.py: both are loaded only with trust"
    return NativeRecord(form=FORM, files=[FORM, WEIGHTS], trust=True, note=note)


def load(folder: Path, manifest: Manifest, *, trust: bool, threads: int) -> RawPredict:
    """Load the exported program, or else the weights into the module of model.py; only with trust."""
    torch = _import()
    path = folder / manifest.native.form
    if not trust:
        what = "holds pickled parts" if path.name == FORM else "needs the bundle's model.py to be run"
        raise BundleError(f"{path} {what}, which can run any code; load it with trust only if you know who made it")
    try:
        with _quiet():
            module = torch.export.load(path).module() if path.name == FORM else _rebuild(folder, manifest)
    except BundleError:
        raise
    except Exception as error:
        raise BundleError(f"{path} cannot be loaded: {short(error, folder)}") from error
    return raw_predict(module)


def raw_predict(module: Any) -> RawPredict:
    """A function that gives the module's raw output, on the CPU."""
    torch = _import()

    def raw(x: Matrix, mask: Matrix | None) -> npt.NDArray[Any]:
        inputs = [torch.from_numpy(np.ascontiguousarray(part)) for part in (x, mask) if part is not None]
        with torch.inference_mode():
            return np.asarray(module(*inputs).numpy())

    return raw


def to_onnx(trained: TrainedModel) -> Exported:
    """Convert by torch.onnx.export (dynamo) with a batch of any size."""
    torch = _import()
    try:
        import onnxscript  # noqa: F401
    except ModuleNotFoundError:
        raise MissingExtraError("onnxscript", "torch") from None
    names = ["x", "mask"] if trained.wants_mask else ["x"]
    with _quiet():
        program = _export(_for_inference(trained.model), trained)
        model = torch.onnx.export(program, dynamo=True, verbose=False, input_names=names, output_names=["raw"])
    return Exported(model.model_proto, names, "raw", trained.output)


def _export(module: Any, trained: TrainedModel) -> Any:
    torch = _import()
    inputs = tuple(torch.zeros(3, trained.width) for _ in range(2 if trained.wants_mask else 1))
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        # By position: the names of the arguments of forward are the user's.
        return torch.export.export(module, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))


def _for_inference(module: Any) -> Any:
    """A copy on the CPU in evaluation mode; the user's module stays as it is."""
    return copy.deepcopy(module_of(module)).to("cpu").eval()


def _rebuild(folder: Path, manifest: Manifest) -> Any:
    from safetensors.torch import load_model

    with user_module(folder / "model.py") as source:
        built = build(source, manifest.width)
    module = module_of(built)
    load_model(module, str(folder / WEIGHTS))
    return module.to("cpu").eval()


def module_of(built: Any) -> Any:
    """The module in what `model(idim)` returned: itself, or a part of a tuple, dict or Learner. Raises ModelError when there is none."""
    torch = _import()
    parts: list[Any] = [built, getattr(built, "model", None)]
    if isinstance(built, tuple | list):
        parts.extend(built)
    elif isinstance(built, dict):
        parts.extend(built.values())
    for part in parts:
        if isinstance(part, torch.nn.Module):
            return part
    raise ModelError(f"{type(built).__name__} is no torch module and holds none")


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporting logs and warns about torch's own insides; failures still raise."""
    loggers = [logging.getLogger(name) for name in NOISY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        # Graphs that cannot be followed are printed in full; the reason is in the exception.
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _import() -> Any:
    try:
        import torch
    except ModuleNotFoundError:
        raise MissingExtraError("torch", "torch") from None
    return torch
