"""What the protocols know of the models: a model that is served, and the pool that finds and loads it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from mlaas.auth.identity import Identity
from mlaas.data.features import Features
from mlaas.errors import MLaaSError
from mlaas.models.bundle import Bundle
from mlaas.models.manifest import TensorsRecord
from mlaas.models.scores import Matrix, Scores

Array = npt.NDArray[Any]


class NotLoaded(MLaaSError):  # noqa: N818 - a state, which `load` mends
    """The model is not in this process: `Pool.load` may bring it, or say that there is none."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or an output of a model.

    dtype: as the Open Inference Protocol names it (FP32, INT64, BOOL, BYTES, ...). shape: -1 where any length is taken, the batch first.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


class Served(Protocol):
    """One version of a model, loaded. The object stays the same as long as the version is loaded; it can be a key of a dictionary.

    reference: the full name, tenant:model@version.
    width: the numbers of one event, where the model takes one matrix of them (what is trained here does; an uploaded model may); else None.
    mask: whether it takes the mask of padding. classes: empty for regression and where nobody knows. task: "classification", "regression" or "".
    features: from raw events to the matrix; None where the bundle has none.
    inline: `run` may be called in the event loop: a probed graph that takes at most some milliseconds for 64 rows.
    platform: as the Open Inference Protocol names it, e.g. "onnxruntime_onnx". aliases: at present.
    """

    @property
    def reference(self) -> str: ...
    @property
    def tenant(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def width(self) -> int | None: ...
    @property
    def mask(self) -> bool: ...
    @property
    def classes(self) -> Sequence[str]: ...
    @property
    def task(self) -> str: ...
    @property
    def inputs(self) -> Sequence[Tensor]: ...
    @property
    def outputs(self) -> Sequence[Tensor]: ...
    @property
    def features(self) -> Features | None: ...
    @property
    def inline(self) -> bool: ...
    @property
    def platform(self) -> str: ...

    def run(self, x: Matrix, mask: Matrix | None = None) -> Scores:
        """Canonical scores of a matrix (n, width), at once; only where `inline`. mask: float32, 1 where padded. Raises Problem or BundleError."""
        ...

    async def infer(self, x: Matrix, mask: Matrix | None = None) -> Scores:
        """Canonical scores of a matrix, wherever the model runs. Raises Problem: 503 (it died, it restarts), 504 (it took too long)."""
        ...

    async def infer_tensors(self, tensors: Mapping[str, Array], outputs: Collection[str] = ()) -> dict[str, Array]:
        """Named outputs (all unless given) of named inputs, each already of the dtype and rank in `inputs`. Raises Problem as `infer`, 400 for what
        the model itself refuses."""
        ...


class Pool(Protocol):
    """The models that are loaded in this process, and the way to those that are not."""

    async def start(self) -> None:
        """Begin to look after the repository."""
        ...

    async def stop(self) -> None:
        """Let go of all models; requests under way may still finish."""
        ...

    def get(self, reference: str, identity: Identity) -> Served:
        """The model that a caller means, if it is loaded: a dictionary look-up. Raises NotLoaded."""
        ...

    async def load(self, reference: str, identity: Identity) -> Served:
        """The model that a caller means, loaded first where needed (seconds). Raises Problem: 404 (none for them), 503 (it cannot be loaded)."""
        ...

    def versions(self, reference: str, identity: Identity) -> list[int]:
        """The versions of the model that a caller means. Raises Problem 404."""
        ...

    async def probe(self, folder: Path, tenant: str) -> TensorsRecord:
        """Load and run the bundle in a folder in a process of its own, and say what it takes. Raises Problem 422 with the reason."""
        ...

    async def adopt(self, folder: Path, bundle: Bundle) -> None:
        """Let the process that tried a folder out serve the version that it became; the folder may go."""
        ...

    async def states(self, identity: Identity) -> list[dict[str, Any]]:
        """The models of a caller that are loaded here: name, version, where they run, and why one is not served."""
        ...
