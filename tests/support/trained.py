"""Small trained models as training hands them over, shared by the tests of `mlaas.models`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from mlaas.models.scores import canonical
from mlaas.models.trained import TrainedModel

WIDTH = 6
rng = np.random.default_rng(7)
X = rng.normal(size=(300, WIDTH)).astype(np.float32)
MASK = (rng.random(X.shape) < 0.2).astype(np.float32)
PADDED = np.where(MASK > 0, np.float32(0), X)
Z = X[:, 0] + 0.5 * X[:, 1] ** 2 + 0.3 * rng.normal(size=len(X))
BINARY = (Z > 0.4).astype(np.int64)
MULTI = np.digitize(Z, [0.0, 0.8])
VALUES = (100 * Z).astype(np.float32)
LABELS = {"binary": BINARY, "multi": MULTI, "value": VALUES}
CLASSES = {"binary": ["background", "signal"], "multi": ["ttbar", "ttH", "other"], "value": []}

DOCUMENTS = {
    "features.json": {"columns": ["a", "b"], "padding": float("nan")},
    "specs.json": {"minv": [np.float32(1.5)]},
    "model.py": "def model(idim):\n    raise RuntimeError('run without trust')\n",
}


def trained(model: Any, framework: str, output: str, kind: str, raw: Any, **more: Any) -> TrainedModel:
    """A trained model with its own scores on X; kind: binary, multi or value."""
    task = "regression" if kind == "value" else "classification"
    x = more.pop("x", X)
    return TrainedModel(model, framework, output, task, CLASSES[kind], WIDTH, x, canonical(np.asarray(raw), output), **more)  # type: ignore[arg-type]


def fitted(estimator: Any, kind: str) -> TrainedModel:
    """Fit a scikit-learn estimator and hand it over as training does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few iterations: not converged
        estimator.fit(X, LABELS[kind])
    if kind == "value":
        return trained(estimator, "sklearn", "value", kind, estimator.predict(X))
    if hasattr(estimator, "predict_proba"):
        return trained(estimator, "sklearn", "classes", kind, estimator.predict_proba(X))
    return trained(estimator, "sklearn", "logit" if kind == "binary" else "logits", kind, estimator.decision_function(X))


def logistic() -> TrainedModel:
    """The smallest real model."""
    from sklearn.linear_model import LogisticRegression

    return fitted(LogisticRegression(), "binary")


def files(folder: Path) -> set[str]:
    """All names in a folder, hidden ones too."""
    return {path.name for path in folder.iterdir()}
