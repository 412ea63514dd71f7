"""Models for the tests of the inference service: trained ones in a repository, with features, and one in NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mlaas.data.features import Features
from mlaas.data.files import Branch
from mlaas.data.layout import Layout, Slot
from mlaas.data.preproc import Preproc
from mlaas.models.bundle import write_bundle
from mlaas.models.repository import Repository
from mlaas.models.scores import Matrix, Scores
from mlaas.models.trained import TrainedModel
from tests.support.trained import WIDTH, fitted

FLAT = ("eta", "met", "njet", "phi")


def features(flat: tuple[str, ...] = FLAT, jagged: int = WIDTH - len(FLAT)) -> Features:
    """Flat branches in 0..10, and one jagged branch jet_pt in 0..100 that is `jagged` wide."""
    slots = (*(Slot(name, "flat", 1, 0.0, 10.0) for name in sorted(flat)), Slot("jet_pt", "jagged", jagged, 0.0, 100.0))
    sources = {name: Branch(name, np.dtype("f8"), "flat") for name in flat} | {"jet_pt": Branch("jet_pt", np.dtype("f4"), "jagged")}
    return Features(Layout(slots), Preproc(), (*flat, "jet_pt"), sources, "events")


def publish(repository: Path, name: str, model: TrainedModel, tenant: str = "local", of: Features | None = None) -> Any:
    """Write a bundle and publish it as the next version."""
    folder = repository.parent / f".made-{name}"
    write_bundle(folder, model, {"features.json": (of or features()).to_json()}, name=name, replace=True)
    return Repository(repository).publish(folder, tenant, name)


def classifier(kind: str = "binary", seed: int = 1) -> TrainedModel:
    """A small network on six features, of scikit-learn; kind: binary, multi or value."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    network = MLPRegressor if kind == "value" else MLPClassifier
    return fitted(network(hidden_layer_sizes=(8,), max_iter=20, random_state=seed), kind)


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
