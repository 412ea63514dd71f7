"""Predictions, free of any protocol: which model is meant, whether the input fits it, its scores."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from mlaas.auth.identity import Identity
from mlaas.data.columns import Columns
from mlaas.data.features import Features
from mlaas.data.files import Branch
from mlaas.data.layout import Layout, Slot
from mlaas.data.preproc import Preproc
from mlaas.errors import nearest
from mlaas.inference.batching import Load, Queue
from mlaas.inference.events import columns_of
from mlaas.inference.served import Array, NotLoaded, Pool, Served
from mlaas.inference.tensors import dtype_name
from mlaas.models.events import to_columns
from mlaas.models.scores import Matrix, Scores
from mlaas.web.problem import Problem

EVENTS = 8192  # made into a matrix at a time
BRIEF = 64  # events that are made into a matrix in the event loop
NUMBERS = frozenset({float, int, type(None)})


class Predictions:
    """The models of this process behind their queues."""

    def __init__(self, pool: Pool, load: Load) -> None:
        self.pool = pool
        self.load = load
        self._queues: WeakKeyDictionary[Served, Queue] = WeakKeyDictionary()
        self._compiled = False

    async def warm_up(self) -> None:
        """Compile what makes matrices of raw events, in a thread: it takes seconds where numba has not kept it."""
        branch = Branch("x", np.dtype("f4"), "flat")
        features = Features(Layout((Slot("x", "flat", 1, 0.0, 1.0),)), Preproc(), ("x",), {"x": branch}, "")
        await asyncio.to_thread(features.vectorise, Columns(1, {"x": np.zeros(1, np.float32)}))
        self._compiled = True

    async def model(self, reference: Any, identity: Identity) -> Served:
        """The model that a caller means. Raises Problem (404, 503)."""
        if not isinstance(reference, str) or not 0 < len(reference) <= 310:
            raise Problem(400, "model must be the name of a model: name, name@version, name@alias or tenant:name", field="model")
        try:
            return self.pool.get(reference, identity)
        except NotLoaded:
            return await self.pool.load(reference, identity)

    def queue(self, served: Served) -> Queue:
        """What waits for a model."""
        found = self._queues.get(served)
        if found is None:
            found = self._queues[served] = Queue(served, self.load)
        return found

    def row(self, served: Served, values: Any, keys: Any = None) -> asyncio.Future[Scores]:
        """The scores of one event of normalised features, shape (1,) or (1, K).

        values: a list of numbers, None for NaN. keys: their names, in any order; without them the order of the features. Raises Problem 400, 503.
        """
        if not isinstance(values, list) or not NUMBERS.issuperset(map(type, values)):
            raise Problem(400, "values must be a list of numbers", field="values")
        width = served.width
        if len(values) != width:
            raise _wrong_width(served, len(values))
        if keys and (order := _order(served, keys)) is not None:
            values = [values[index] for index in order]
        return self.queue(served).row(values)

    def matrix(self, served: Served, x: Array, mask: Array | None = None) -> asyncio.Future[Scores]:
        """The scores of normalised features (n, width), n from 1 on. mask: the same shape; None where NaN marks padding. Raises Problem 400, 503."""
        if x.ndim != 2 or x.shape[1] != served.width or not len(x):
            raise Problem(400, f"x has shape {list(x.shape)}, but the model {served.reference} takes [n, {served.width}]", field="inputs.x")
        if mask is not None and not served.mask:
            raise Problem(400, f"the model {served.reference} takes no mask", field="inputs.mask")
        if mask is not None and mask.shape != x.shape:
            raise Problem(400, f"the mask has shape {list(mask.shape)}, but x has {list(x.shape)}", field="inputs.mask")
        return self.queue(served).matrix(_float32(x), None if mask is None else _float32(mask))

    async def events(self, served: Served, events: Any) -> Scores:
        """The scores of raw events, as `mlaas.models.events.to_columns` takes them. Raises DataError, Problem."""
        features = served.features
        if features is None:
            raise Problem(400, f"the model {served.reference} was not trained here: it does not say how raw events become its input", field="model")
        columns = to_columns(events, features.branches)
        if not columns.n:
            return np.zeros((0, len(served.classes)) if len(served.classes) > 2 else (0,), np.float32)
        parts = [await self._piece(served, features, columns.slice(start, start + EVENTS)) for start in range(0, columns.n, EVENTS)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    async def _piece(self, served: Served, features: Features, columns: Columns) -> Scores:
        brief = columns.n <= BRIEF and self._compiled
        x, mask = features.vectorise(columns) if brief else await asyncio.to_thread(features.vectorise, columns)
        return await self.queue(served).matrix(x, mask.astype(np.float32) if served.mask else None)

    async def tensors(self, served: Served, inputs: Mapping[str, Array], outputs: Collection[str] = ()) -> dict[str, Array]:
        """Named outputs of named inputs: features `x` (and `mask`), raw branches, or whatever an uploaded model takes. Raises Problem."""
        known = [tensor.name for tensor in served.outputs]
        for name in outputs:
            if name not in known:
                raise Problem(400, f"the model {served.reference} has no output {name!r}{nearest(name, known)}", field="outputs")
        if not trained_here(served):
            return await self._uploaded(served, inputs, outputs)
        if "x" in inputs or served.features is None:
            return {known[0]: await self._features(served, inputs)}
        return {known[0]: await self.events(served, branches_of(inputs))}

    async def _features(self, served: Served, inputs: Mapping[str, Array]) -> Scores:
        for name, array in inputs.items():
            if name not in ("x", "mask"):
                raise Problem(
                    400, f"the model {served.reference} has no input {name!r}; it takes x{' and mask' * served.mask}", field=f"inputs.{name}"
                )
            if array.dtype.kind not in ("fiub" if name == "mask" else "fiu"):
                raise Problem(400, f"the input {name} must hold numbers, not {dtype_name(array.dtype)}", field=f"inputs.{name}.datatype")
        if "x" not in inputs:
            raise Problem(400, f"the model {served.reference} needs the input x", field="inputs")
        return await self.matrix(served, inputs["x"], inputs.get("mask"))

    async def _uploaded(self, served: Served, inputs: Mapping[str, Array], outputs: Collection[str]) -> dict[str, Array]:
        check_tensors(served, inputs)
        self.load.enter()
        try:
            return await served.infer_tensors(inputs, outputs)
        finally:
            self.load.leave()


def trained_here(served: Served) -> bool:
    """Whether the model has the signature of our bundles: features in, canonical scores out."""
    return served.width is not None and served.inputs[0].name == "x" and [tensor.name for tensor in served.outputs] == ["scores"]


def check_tensors(served: Served, inputs: Mapping[str, Array]) -> None:
    """Raise Problem unless these are the inputs of a model, by name, dtype and shape."""
    expected = {tensor.name: tensor for tensor in served.inputs}
    for name in inputs:
        if name not in expected:
            raise Problem(400, f"the model {served.reference} has no input {name!r}{nearest(name, expected)}", field=f"inputs.{name}")
    for name, tensor in expected.items():
        if name not in inputs:
            raise Problem(400, f"the model {served.reference} needs the input {name}", field="inputs")
        array = inputs[name]
        if dtype_name(array.dtype) != tensor.dtype:
            raise Problem(400, f"the input {name} must be {tensor.dtype}, not {dtype_name(array.dtype)}", field=f"inputs.{name}.datatype")
        if len(array.shape) != len(tensor.shape) or any(want not in (-1, have) for want, have in zip(tensor.shape, array.shape, strict=True)):
            raise Problem(
                400, f"the input {name} has shape {list(array.shape)}, but the model takes {list(tensor.shape)}", field=f"inputs.{name}.shape"
            )


def branches_of(inputs: Mapping[str, Array]) -> Any:
    """Raw events from tensors by branch name: a flat branch is a tensor [n]; a jagged one [n, k], or the two `name.offsets` and `name.values`."""
    found: dict[str, Any] = {}
    for name, array in inputs.items():
        branch, _, part = name.rpartition(".")
        if part == "values" and f"{branch}.offsets" in inputs:
            found[branch] = {"offsets": inputs[f"{branch}.offsets"], "values": array}
        elif not (part == "offsets" and f"{branch}.values" in inputs):
            found[name] = array
    return columns_of(found)


def _wrong_width(served: Served, given: int) -> Problem:
    if served.width is None:
        return Problem(400, f"the model {served.reference} takes tensors, not one list of values: use /v2/models or /image", field="model")
    return Problem(400, f"values has {given} numbers, but the model {served.reference} takes {served.width}", field="values")


def _order(served: Served, keys: Any) -> tuple[int, ...] | None:
    """Where each feature stands in the values, None when they are in order. Models without known features take the values as they are."""
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Problem(400, "keys must be a list of names", field="keys")
    return None if served.features is None else _placed(tuple(served.features.columns), tuple(keys))


@lru_cache(256)
def _placed(columns: Sequence[str], keys: Sequence[str]) -> tuple[int, ...] | None:
    if columns == keys:
        return None
    places = {key: index for index, key in enumerate(keys)}
    for key in keys:
        if key not in columns:
            raise Problem(400, f"keys: the model has no feature {key!r}{nearest(key, columns)}", field="keys")
    if len(places) != len(columns) or len(keys) != len(columns):
        missing = next((name for name in columns if name not in places), "")
        raise Problem(400, f"keys must name each feature once; {missing!r} is missing", field="keys")
    return tuple(places[name] for name in columns)


def _float32(values: Array) -> Matrix:
    with np.errstate(over="ignore"):  # beyond float32 is infinite, which is refused
        return np.ascontiguousarray(values, dtype=np.float32)
