"""Models that were trained elsewhere: named tensors in, named tensors out. Loading one can run whatever its graph holds: only in a sandbox."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas.errors import BundleError, DataError
from mlaas.models.manifest import TensorRecord, TensorsRecord

Array = npt.NDArray[Any]

DTYPES: dict[str, npt.DTypeLike] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
_NAMES = {np.dtype(kind): name for name, kind in DTYPES.items()}
MODULES = {"frozen": "mlaas.models.tensorflow", "saved_model": "mlaas.models.tensorflow", "onnx": "mlaas.models.onnxfile"}


@dataclass(frozen=True, slots=True, eq=False)
class TensorModel:
    """A loaded model. record: its inputs and outputs as they were found. run: named arrays in, named arrays out."""

    record: TensorsRecord
    run: Callable[[Mapping[str, Array]], dict[str, Array]]

    def predict(self, feed: Mapping[str, Array], wanted: Collection[str] = ()) -> dict[str, Array]:
        """The outputs, all unless some are named. Raises DataError naming the tensor that is missing, unknown or of another kind or shape."""
        check_feed(self.record, feed, wanted)
        found = self.run(feed)
        return {name: found[name] for name in (wanted or [output.name for output in self.record.outputs])}


def load_tensors(folder: Path, form: str, record: TensorsRecord, threads: int = 1) -> TensorModel:
    """Load a model; form: its file in the folder. Inputs and outputs that the record does not name yet are found. Raises BundleError."""
    model: TensorModel = importlib.import_module(MODULES[record.form]).load(folder, form, record, threads)
    return model


def name_of(dtype: Any) -> str:
    """The name that the Open Inference Protocol has for a NumPy type. Raises BundleError when it has none."""
    kind = np.dtype(dtype)
    found = _NAMES.get(np.dtype(object) if kind.kind in "SUO" else kind)
    if found is None:
        raise BundleError(f"the model has a tensor of type {kind}, which cannot be sent")
    return found


def check_feed(record: TensorsRecord, feed: Mapping[str, Array], wanted: Collection[str] = ()) -> None:
    """Compare arrays with the inputs of a model, and names with its outputs. Raises DataError."""
    known = {tensor.name: tensor for tensor in record.inputs}
    for name in known:
        if name not in feed:
            raise DataError(f"the input {name!r} is missing; the model takes {', '.join(known)}")
    for name, array in feed.items():
        if name not in known:
            raise DataError(f"the model has no input {name!r}; it takes {', '.join(known)}")
        check_tensor(known[name], array)
    names = [tensor.name for tensor in record.outputs]
    for name in wanted:
        if name not in names:
            raise DataError(f"the model has no output {name!r}; it gives {', '.join(names)}")


def check_tensor(tensor: TensorRecord, array: Array) -> None:
    """Raise DataError when an array is not of the type and shape of an input."""
    if name_of(array.dtype) != tensor.dtype:
        raise DataError(f"the input {tensor.name!r} has the type {name_of(array.dtype)}, but the model takes {tensor.dtype}")
    fits = len(array.shape) == len(tensor.shape) and all(size in (-1, given) for size, given in zip(tensor.shape, array.shape, strict=True))
    if not fits:
        raise DataError(f"the input {tensor.name!r} has the shape {list(array.shape)}, but the model takes {tensor.shape} (-1: any length)")


def answer_of(outputs: list[TensorRecord], said: str) -> str:
    """The output that calls with one answer give back: the one that the user named (as tensor or node), else the first."""
    plain = said.split(":")[0]
    named = [output.name for output in outputs if said and plain in (output.name, output.node.split(":")[0])]
    return (named or [output.name for output in outputs] or [""])[0]


def matrix_width(record: TensorsRecord) -> int:
    """The number of columns of a model that takes one matrix of float32 and nothing else; 0 for others."""
    if len(record.inputs) != 1 or record.inputs[0].dtype != "FP32" or len(record.inputs[0].shape) != 2:
        return 0
    return max(0, record.inputs[0].shape[1])
