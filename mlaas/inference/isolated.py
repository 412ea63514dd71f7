"""What the process of an isolated model does with the model: load it, say what it takes, time it, predict. Runs in the sandbox only."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlaas.errors import DataError
from mlaas.inference.plain import is_plain
from mlaas.models.bundle import Bundle
from mlaas.models.engine import load_engine
from mlaas.models.manifest import Manifest, TensorRecord, TensorsRecord
from mlaas.models.tensors import DTYPES, Array, TensorModel, load_tensors, matrix_width

ROWS = (1, 64, 1024)
REPEATS = 20
PATIENCE = 0.5  # s; a model that takes longer for its rows is slow anyway


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in its process. rows: whether requests may be put together along the first axis of every tensor.

    before: the most memory in bytes that the process had without the model.
    """

    model: TensorModel
    rows: bool
    plain: bool
    before: int


def load(bundle: Bundle, threads: int) -> Loaded:
    """Load a bundle of any kind; its code may run. Raises BundleError, MissingExtraError."""
    manifest = bundle.manifest
    before = _peak_without_model(manifest)
    if manifest.tensors is None:
        return Loaded(_trained(bundle, threads), rows=True, plain=manifest.engine == "onnx" and is_plain(bundle.path / "model.onnx"), before=before)
    model = load_tensors(bundle.path, manifest.native.form, manifest.tensors, threads)
    return Loaded(model, rows=_by_rows(model.record), plain=False, before=before)


def describe(loaded: Loaded) -> dict[str, Any]:
    """What the workers must know: inputs, outputs, whether it is plain, the seconds that it takes for some rows of zeros, and the bytes for the most.

    Raises what the model raises on zeros of a fully known shape; a model whose shapes are open is not timed when it refuses them.
    """
    record = loaded.model.record
    seconds = {str(rows): seconds for rows in ROWS if (seconds := _seconds(loaded, rows)) is not None}
    return {
        "record": record.model_dump(),
        "plain": loaded.plain,
        "rows": loaded.rows,
        "seconds": seconds,
        "memory": max(0, _peak() - loaded.before),
    }


def _peak_without_model(manifest: Manifest) -> int:
    """What the process takes by itself, with the library that graphs need in every process."""
    if manifest.engine == "onnx":
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    return _peak()


def _peak() -> int:
    """The most memory that this process has had, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _trained(bundle: Bundle, threads: int) -> TensorModel:
    engine = load_engine(bundle, trust=True, threads=threads)
    manifest = bundle.manifest

    def run(feed: Mapping[str, Array]) -> dict[str, Array]:
        return {"scores": engine.predict(feed["x"], feed.get("mask"))}

    return TensorModel(trained_record(manifest), run)


def trained_record(manifest: Manifest) -> TensorsRecord:
    """The inputs and the output of a bundle that was trained here: x (and mask), scores in canonical form."""
    names = ["x", "mask"] if manifest.mask else ["x"]
    classes = len(manifest.classes)
    shape = [-1, classes] if manifest.task == "classification" and classes > 2 else [-1]
    inputs = [TensorRecord(name=name, dtype="FP32", shape=[-1, manifest.width]) for name in names]
    return TensorsRecord(form="onnx", inputs=inputs, outputs=[TensorRecord(name="scores", dtype="FP32", shape=shape)], answer="scores")


def _by_rows(record: TensorsRecord) -> bool:
    return matrix_width(record) > 0 and all(output.shape[:1] == [-1] for output in record.outputs)


def _seconds(loaded: Loaded, rows: int) -> float | None:
    feed = {tensor.name: _zeros(tensor, rows) for tensor in loaded.model.record.inputs}
    known = all(size > 0 for tensor in loaded.model.record.inputs for size in tensor.shape[1:])
    try:
        return _fastest(lambda: loaded.model.predict(feed))
    except DataError:
        if known and rows == 1:
            raise
        return None


def _zeros(tensor: TensorRecord, rows: int) -> Array:
    shape = [rows if axis == 0 and size == -1 else max(size, 1) for axis, size in enumerate(tensor.shape)]
    zeros: Array = np.zeros(shape, DTYPES[tensor.dtype])
    if tensor.dtype == "BYTES":
        zeros.fill(b"")
    return zeros


def _fastest(call: Callable[[], Any]) -> float:
    """The least time of several calls: what the model needs when nobody disturbs it. The first one, which may build things, does not count."""
    call()
    begun, best = time.perf_counter(), float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() - begun > PATIENCE:
            break
    return best
