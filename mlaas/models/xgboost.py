"""XGBoost: model.ubj, and ONNX through onnxmltools."""

from __future__ import annotations

import copy
import json
import math
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mlaas.errors import BundleError, MissingExtraError
from mlaas.models.graph import Exported
from mlaas.models.manifest import Manifest, NativeRecord
from mlaas.models.scores import Matrix
from mlaas.models.trained import RawPredict, TrainedModel

if TYPE_CHECKING:
    import xgboost

FORM = "model.ubj"
# Objectives whose own prediction is a class, not a probability: the margin is taken instead.
MARGIN = {"multi:softmax", "binary:logitraw"}


def save(trained: TrainedModel, folder: Path) -> NativeRecord:
    """Write the booster with the rounds that count: after early stopping those up to the best one."""
    booster = booster_of(trained.model)
    booster.save_model(folder / FORM)
    missing = missing_of(trained.model)
    return NativeRecord(form=FORM, files=[FORM], method=_objective(booster), missing=None if math.isnan(missing) else missing)


def load(folder: Path, manifest: Manifest, *, trust: bool, threads: int) -> RawPredict:
    """Load model.ubj; the raw output is of the kind that the manifest names."""
    xgb = _import()
    booster = xgb.Booster({"nthread": threads})
    try:
        booster.load_model(folder / manifest.native.form)
    except xgb.core.XGBoostError as error:
        raise BundleError(f"{folder / manifest.native.form} is not an XGBoost model: {str(error).splitlines()[0]}") from error
    booster.set_param({"nthread": threads, "device": "cpu"})
    if booster.num_features() != manifest.width:
        raise BundleError(f"{folder / manifest.native.form} takes {booster.num_features()} features, but the manifest says {manifest.width}")
    missing = math.nan if manifest.native.missing is None else manifest.native.missing
    return raw_predict(booster, manifest.output, missing)


def raw_predict(booster: xgboost.Booster, output: str, missing: float) -> RawPredict:
    """A function that gives the booster's raw output as `output` says; safe to call from several threads."""
    objective = _objective(booster)
    margin = output in ("logit", "logits") or objective in MARGIN
    # inplace_predict needs no copy and no lock, but linear boosters do not have it.
    predict = _linear(booster, margin, missing) if _is_linear(booster) else _trees(booster, margin, missing)

    def raw(x: Matrix, mask: Matrix | None) -> npt.NDArray[Any]:
        found = predict(x)
        if output == "classes" and objective == "multi:softmax":
            powers = np.exp(found - found.max(axis=1, keepdims=True))
            return np.asarray(powers / powers.sum(axis=1, keepdims=True))
        if output in ("classes", "probability") and objective == "binary:logitraw":
            found = 1 / (1 + np.exp(-found))
        if output in ("classes", "logits") and found.ndim == 1:
            zero = np.zeros_like(found) if output == "logits" else 1 - found
            found = np.column_stack([zero, found])
        return np.asarray(found)

    return raw


def to_onnx(trained: TrainedModel) -> Exported:
    """Convert by onnxmltools; a missing value other than NaN is turned into NaN in front of the trees."""
    _import()
    try:
        from onnxmltools.convert import convert_xgboost
        from onnxmltools.convert.common.data_types import FloatTensorType
    except ModuleNotFoundError:
        raise MissingExtraError("onnxmltools", "xgboost") from None
    missing = missing_of(trained.model)
    estimator = copy.copy(trained.model)
    if not math.isnan(missing):
        estimator.missing = math.nan
    model = convert_xgboost(estimator, initial_types=[("x", FloatTensorType([None, trained.width]))])
    outputs = [output.name for output in model.graph.output]
    kind = "classes" if "probabilities" in outputs else trained.output
    return Exported(model, ["x"], outputs[-1], kind, missing=missing)


def booster_of(model: Any) -> xgboost.Booster:
    """The booster of an estimator, cut to its best round if it stopped early."""
    xgb = _import()
    booster: xgboost.Booster = model if isinstance(model, xgb.Booster) else model.get_booster()
    try:
        best = booster.best_iteration
    except AttributeError:
        return booster
    if best + 1 < booster.num_boosted_rounds() and not _is_linear(booster):
        booster = booster[: best + 1]
    return booster


def missing_of(model: Any) -> float:
    """The value that an estimator takes as missing; NaN unless the user chose another."""
    value = getattr(model, "missing", None)
    return math.nan if value is None else float(value)


def _trees(booster: xgboost.Booster, margin: bool, missing: float) -> Any:
    kind = "margin" if margin else "value"
    return lambda x: np.asarray(booster.inplace_predict(x, predict_type=kind, missing=missing, validate_features=False))


def _linear(booster: xgboost.Booster, margin: bool, missing: float) -> Any:
    lock = threading.Lock()

    def predict(x: Matrix) -> npt.NDArray[Any]:
        xgb = _import()
        with lock:
            return np.asarray(booster.predict(xgb.DMatrix(x, missing=missing), output_margin=margin, validate_features=False))

    return predict


def _config(booster: xgboost.Booster) -> dict[str, Any]:
    learner: dict[str, Any] = json.loads(booster.save_config())["learner"]
    return learner


def _objective(booster: xgboost.Booster) -> str:
    return str(_config(booster)["objective"]["name"])


def _is_linear(booster: xgboost.Booster) -> bool:
    return bool(_config(booster)["learner_train_param"]["booster"] == "gblinear")


def _import() -> Any:
    try:
        import xgboost
    except ModuleNotFoundError:
        raise MissingExtraError("xgboost", "xgboost") from None
    return xgboost
