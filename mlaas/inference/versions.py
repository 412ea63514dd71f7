"""One version of a model, as it is served: inside the worker, or in a process of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from mlaas.data.features import Features
from mlaas.errors import DataError, MLaaSError
from mlaas.inference.hosts import Remote
from mlaas.inference.served import Array, Tensor
from mlaas.models.bundle import Bundle
from mlaas.models.catalogue import Found
from mlaas.models.engine import Engine
from mlaas.models.manifest import TensorsRecord
from mlaas.models.scores import Matrix, Scores
from mlaas.models.tensors import DTYPES, check_feed, matrix_width
from mlaas.web.problem import Problem


class Version:
    """What both kinds have in common (`mlaas.inference.served.Served`). record: inputs and outputs. size: bytes that it takes in this process."""

    inline = False
    platform = ""

    def __init__(self, found: Found, bundle: Bundle, features: Features | None, record: TensorsRecord) -> None:
        manifest = bundle.manifest
        self.found = found
        self.reference = f"{found.tenant}:{found.model}@{found.version}"
        self.tenant = found.tenant
        self.model = found.model
        self.version = found.version
        self.manifest = manifest
        self.features = features
        self.record = record
        self.width: int | None = manifest.width if manifest.tensors is None else matrix_width(record) or None
        self.mask = manifest.mask
        self.classes: Sequence[str] = manifest.classes
        self.task: str = manifest.task if manifest.tensors is None or manifest.classes else ""
        self.inputs = [Tensor(tensor.name, tensor.dtype, tuple(tensor.shape)) for tensor in record.inputs]
        self.outputs = [Tensor(tensor.name, tensor.dtype, tuple(tensor.shape)) for tensor in record.outputs]
        self.size = 0

    def run(self, x: Matrix, mask: Matrix | None = None) -> Scores:
        """Canonical scores at once; only where `inline`."""
        raise Problem(500, f"the model {self.model!r} has a process of its own and cannot be run at once")

    async def infer(self, x: Matrix, mask: Matrix | None = None) -> Scores:
        """Canonical scores of a matrix."""
        raise NotImplementedError

    async def infer_tensors(self, tensors: Mapping[str, Array], outputs: Collection[str] = ()) -> dict[str, Array]:
        """Named outputs of named inputs."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of whatever serves it."""


class Inline(Version):
    """A plain, fast ONNX graph that this worker runs itself. memory: bytes that it took when it was tried out."""

    inline = True
    platform = "onnxruntime_onnx"

    def __init__(self, found: Found, bundle: Bundle, features: Features | None, record: TensorsRecord, engine: Engine, memory: int = 0) -> None:
        super().__init__(found, bundle, features, record)
        self._run = engine.run
        self.size = max(memory, 2 * (bundle.path / "model.onnx").stat().st_size)

    def run(self, x: Matrix, mask: Matrix | None = None) -> Scores:
        """Canonical scores of a matrix (n, width), at once."""
        return self._run(x, mask)

    async def infer(self, x: Matrix, mask: Matrix | None = None) -> Scores:
        """The same."""
        return self._run(x, mask)

    async def infer_tensors(self, tensors: Mapping[str, Array], outputs: Collection[str] = ()) -> dict[str, Array]:
        """The output `scores` of the inputs `x` (and `mask`)."""
        try:
            check_feed(self.record, tensors, outputs)
        except DataError as error:
            raise Problem(400, str(error)) from None
        mask = tensors.get("mask")
        if mask is not None and len(mask) != len(tensors["x"]):
            raise Problem(400, f"the input 'mask' has {len(mask)} rows, but 'x' has {len(tensors['x'])}")
        return {"scores": self._run(tensors["x"], mask)}


class Isolated(Version):
    """A model in a process of its own: native forms, models that were trained elsewhere, and ONNX graphs that are slow or not plain."""

    def __init__(self, found: Found, bundle: Bundle, features: Features | None, record: TensorsRecord, remote: Remote) -> None:
        super().__init__(found, bundle, features, record)
        self.remote = remote
        self.platform = _platform(bundle)

    async def infer(self, x: Matrix, mask: Matrix | None = None) -> Scores:
        """Canonical scores; of a model that was trained elsewhere, what it answers for rows of numbers: (n,) or (n, K)."""
        if self.manifest.tensors is None:
            feed: dict[str, Array] = {"x": x} if mask is None or not self.mask else {"x": x, "mask": mask}
            return _float32((await self.remote.call(feed, ["scores"]))["scores"])
        answer = (await self.remote.call(self._rows(x), [self.record.answer]))[self.record.answer]
        return _flat(answer, len(x))

    async def infer_tensors(self, tensors: Mapping[str, Array], outputs: Collection[str] = ()) -> dict[str, Array]:
        """Named outputs of named inputs."""
        return await self.remote.call(tensors, outputs)

    def close(self) -> None:
        """Let go of the process, once the requests under way have their answers."""
        self.remote.close()

    def _rows(self, x: Matrix) -> dict[str, Array]:
        (only, *others) = self.record.inputs
        if others or len(only.shape) != 2 or only.dtype == "BYTES":
            raise Problem(400, f"the model {self.model!r} does not take rows of numbers; send it tensors by the protocol v2")
        return {only.name: x.astype(DTYPES[only.dtype], copy=False)}


def features_of(bundle: Bundle) -> Features | None:
    """How raw events become the matrix of a bundle; None for one that was trained elsewhere. Raises DataError, BundleError when it is damaged."""
    if bundle.manifest.tensors is not None or "features.json" not in bundle.manifest.files:
        return None
    try:
        found = Features.from_json(bundle.json("features.json"))
    except MLaaSError:
        raise
    except Exception as error:
        raise DataError(f"features.json of the model is damaged: {error}") from error
    if found.width != bundle.manifest.width:
        raise DataError(f"features.json gives {found.width} columns, but the model takes {bundle.manifest.width}")
    return found


def _platform(bundle: Bundle) -> str:
    manifest = bundle.manifest
    if manifest.tensors is not None:
        return {"frozen": "tensorflow_graphdef", "saved_model": "tensorflow_savedmodel", "onnx": "onnxruntime_onnx"}[manifest.tensors.form]
    return "onnxruntime_onnx" if manifest.engine == "onnx" else {"torch": "pytorch"}.get(manifest.framework, manifest.framework)


def _float32(scores: Array) -> Scores:
    return np.ascontiguousarray(scores, np.float32)


def _flat(answer: Array, rows: int) -> Scores:
    """One or several numbers per row. Raises Problem when the model does not answer per row, or not with numbers."""
    if answer.dtype == object or answer.ndim == 0 or len(answer) != rows:
        raise Problem(400, f"the model answers with {answer.dtype} of shape {list(answer.shape)}, not with numbers per row; use the protocol v2")
    flat: Any = answer.reshape(rows, -1)
    return _float32(flat[:, 0] if flat.shape[1] == 1 else flat)
