"""A small real pool for the tests of the protocols: ONNX models of a repository, loaded when asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from starlette.types import ASGIApp

from mlaas.auth.identity import Identity
from mlaas.errors import BundleError
from mlaas.inference.app import App
from mlaas.inference.served import Array, NotLoaded, Served, Tensor
from mlaas.models.catalogue import Catalogue
from mlaas.models.predict import Predictor
from mlaas.models.scores import Matrix, Scores
from mlaas.places import Places
from mlaas.settings import Settings
from mlaas.web.problem import Problem


class Loaded:
    """A bundle in this process."""

    platform = "onnxruntime_onnx"

    def __init__(self, predictor: Predictor, tenant: str, inline: bool = True) -> None:
        manifest = predictor.bundle.manifest
        self.tenant, self.model, self.version = tenant, manifest.name, manifest.version
        self.reference = f"{tenant}:{manifest.name}@{manifest.version}"
        self.width, self.mask, self.classes, self.task = manifest.width, manifest.mask, manifest.classes, manifest.task
        self.features = predictor.features
        self.inline = inline
        self.inputs = [Tensor(name, "FP32", (-1, manifest.width)) for name in ("x", "mask")[: 1 + manifest.mask]]
        self.outputs = [Tensor("scores", "FP32", (-1, len(self.classes)) if len(self.classes) > 2 else (-1,))]
        self._run = predictor.engine.run

    def run(self, x: Matrix, mask: Matrix | None = None) -> Scores:
        return self._run(x, mask)

    async def infer(self, x: Matrix, mask: Matrix | None = None) -> Scores:
        return self._run(x, mask)

    async def infer_tensors(self, tensors: Mapping[str, Array], outputs: Collection[str] = ()) -> dict[str, Array]:
        raise NotImplementedError


class RepositoryPool:
    """All models that a catalogue resolves, kept for ever."""

    def __init__(self, places: Places) -> None:
        self._catalogue = Catalogue(places.repository)
        self._known: dict[Any, Served] = {}

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        self._known.clear()

    def get(self, reference: str, identity: Identity) -> Served:
        try:
            return self._known[reference, identity.tenant]
        except KeyError:
            raise NotLoaded(reference) from None

    async def load(self, reference: str, identity: Identity) -> Served:
        try:
            found = self._catalogue.resolve(reference, identity.tenant, identity.groups)
            served = Loaded(Predictor(found.path), found.tenant)
        except BundleError as error:
            raise Problem(404, str(error)) from None
        self._known[reference, identity.tenant] = served
        return served

    def versions(self, reference: str, identity: Identity) -> list[int]:
        found = self._catalogue.resolve(reference, identity.tenant, identity.groups)
        return self._catalogue.repository.versions(found.tenant, found.model)


def create(settings: Settings) -> ASGIApp:
    """The application on that pool."""
    places = Places.of(settings)
    return App(settings, places, RepositoryPool(places))


class Weights:
    """A model in NumPy: scores are a fixed function of each row alone."""

    tenant, model, version, reference, platform = "local", "weights", 1, "local:weights@1", "numpy"
    classes, task, features, inputs, outputs = ("background", "signal"), "classification", None, (), ()

    def __init__(self, width: int = 3, mask: bool = False, inline: bool = True) -> None:
        self.width, self.mask, self.inline = width, mask, inline
        self.sizes: list[int] = []

    def run(self, x: Matrix, mask: Matrix | None = None) -> Scores:
        self.sizes.append(len(x))
        weights = np.arange(1, self.width + 1, dtype=np.float32)
        return np.asarray(x @ weights + (0 if mask is None else 1000 * mask.sum(axis=1)), np.float32)

    async def infer(self, x: Matrix, mask: Matrix | None = None) -> Scores:
        return self.run(x, mask)
