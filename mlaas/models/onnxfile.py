"""ONNX graphs that were made elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlaas.errors import BundleError, DataError
from mlaas.models.graph import refuse_external_data
from mlaas.models.manifest import TensorRecord, TensorsRecord
from mlaas.models.sentences import short
from mlaas.models.tensors import Array, TensorModel, answer_of, name_of

KINDS = {
    "float16": np.float16,
    "float": np.float32,
    "double": np.float64,
    "bool": np.bool_,
    "string": np.object_,
    **{f"{sign}int{bits}": np.dtype(f"{sign}int{bits}").type for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


def load(folder: Path, form: str, record: TensorsRecord, threads: int = 1) -> TensorModel:
    """Load an ONNX graph, whatever its inputs are. Raises BundleError (not one, wants other files, operators that ONNX Runtime lacks)."""
    session = _session((folder / form).read_bytes(), threads)
    inputs = [_tensor(entry) for entry in session.get_inputs()]
    outputs = [_tensor(entry) for entry in session.get_outputs()]
    if not inputs or not outputs:
        raise BundleError("the ONNX graph has no input or no output")

    def run(feed: Mapping[str, Array]) -> dict[str, Array]:
        try:
            found = session.run([output.name for output in outputs], dict(feed))
        except Exception as error:
            raise DataError(f"ONNX Runtime cannot run the model on this: {short(error)}") from error
        return {output.name: np.asarray(value) for output, value in zip(outputs, found, strict=True)}

    update = {"inputs": inputs, "outputs": outputs, "answer": answer_of(outputs, record.answer)}
    return TensorModel(record.model_copy(update=update), run)


def _session(data: bytes, threads: int) -> Any:
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, threads)
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    for key in ("session.intra_op.allow_spinning", "session.inter_op.allow_spinning"):
        options.add_session_config_entry(key, "0")
    try:
        refuse_external_data(onnx.load_from_string(data))
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except BundleError:
        raise
    except Exception as error:
        raise BundleError(f"the file is no ONNX graph that ONNX Runtime can load: {short(error)}") from error


def _tensor(entry: Any) -> TensorRecord:
    kind = KINDS.get(str(entry.type).removeprefix("tensor(").removesuffix(")"))
    if kind is None:
        raise BundleError(f"the ONNX graph has {entry.name!r} of type {entry.type}, which cannot be sent")
    shape = [size if isinstance(size, int) and size >= 0 else -1 for size in entry.shape]
    return TensorRecord(name=entry.name, dtype=name_of(kind), shape=shape)
