"""The frameworks behind one door: write a native form, load it, convert it to ONNX."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType

from mlaas.errors import BundleError
from mlaas.models.graph import Exported
from mlaas.models.manifest import Framework, Manifest, NativeRecord
from mlaas.models.trained import RawPredict, TrainedModel

# A manifest may name no other file: what a loader does can depend on the file's extension.
FORMS: dict[Framework, frozenset[str]] = {
    "keras": frozenset({"model.keras"}),
    "torch": frozenset({"model.pt2", "weights.safetensors"}),
    "sklearn": frozenset({"model.skops", "model.pickle"}),
    "xgboost": frozenset({"model.ubj"}),
    "tensorflow": frozenset(),
    "onnx": frozenset(),
}


def save(trained: TrainedModel, folder: Path) -> NativeRecord:
    """Write the framework's own form into a folder."""
    record: NativeRecord = _module(trained.framework).save(trained, folder)
    return record


def load(folder: Path, manifest: Manifest, *, trust: bool, threads: int) -> RawPredict:
    """Load the framework's own form; raises BundleError when that needs trust, MissingExtraError when the framework is not installed."""
    if manifest.tensors is not None:
        raise BundleError(f"{folder} was trained elsewhere: it takes tensors, which only the inference service gives it")
    if manifest.native.form not in FORMS[manifest.framework]:
        raise BundleError(
            f"{folder}: {manifest.native.form!r} is not a form of {manifest.framework} ({', '.join(sorted(FORMS[manifest.framework]))})"
        )
    raw: RawPredict = _module(manifest.framework).load(folder, manifest, trust=trust, threads=threads)
    return raw


def to_onnx(trained: TrainedModel) -> Exported:
    """Convert the trained model by its framework's converter."""
    exported: Exported = _module(trained.framework).to_onnx(trained)
    return exported


def _module(framework: str) -> ModuleType:
    # Set before any of the heavy libraries is imported; their own default is to report every start.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return importlib.import_module(f"mlaas.models.{framework}")
