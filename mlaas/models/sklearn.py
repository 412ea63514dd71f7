"""scikit-learn: model.skops (types named one by one), model.pickle when nothing safer can hold it, and ONNX through skl2onnx."""

from __future__ import annotations

import logging
import pickle
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas.errors import BundleError, ModelError
from mlaas.models.graph import Exported
from mlaas.models.manifest import Manifest, NativeRecord
from mlaas.models.scores import Matrix, Output, canonical
from mlaas.models.sentences import short
from mlaas.models.sklearn_types import TRUSTED
from mlaas.models.staging import is_full, write_bytes
from mlaas.models.trained import RawPredict, TrainedModel
from mlaas.models.trees import check_trees
from mlaas.models.usercode import user_module

log = logging.getLogger(__name__)

FORM = "model.skops"
PICKLE = "model.pickle"


def save(trained: TrainedModel, folder: Path) -> NativeRecord:
    """Write model.skops, or model.pickle with a note when skops cannot hold the estimator."""
    method = method_of(trained.model, trained.output)
    reason = _save_skops(trained, method, folder / FORM)
    if reason is None:
        foreign = untrusted(folder / FORM)
        note = f"holds {_listed(foreign)}, so it is loaded only with trust" if foreign else ""
        return NativeRecord(form=FORM, files=[FORM], method=method, trust=bool(foreign), note=note)
    (folder / FORM).unlink(missing_ok=True)
    try:
        data = pickle.dumps(trained.model, protocol=5)
    except Exception as error:
        raise ModelError(f"the {type(trained.model).__name__} cannot be saved: skops: {reason}; pickle: {short(error)}") from error
    write_bytes(folder / PICKLE, data)
    note = f"kept as a pickle, which can run any code and is loaded only with trust, because skops cannot hold it: {reason}"
    return NativeRecord(form=PICKLE, files=[PICKLE], method=method, trust=True, note=note)


def load(folder: Path, manifest: Manifest, *, trust: bool, threads: int) -> RawPredict:
    """Load the estimator; types that are not known to be harmless, and pickles, only with trust."""
    path = folder / manifest.native.form
    estimator = _load_pickle(path, manifest, trust) if path.name == PICKLE else _load_skops(path, manifest, trust)
    return raw_predict(estimator, manifest.native.method, manifest.output, len(manifest.classes))


def raw_predict(estimator: Any, method: str, output: Output, classes: int) -> RawPredict:
    """A function that gives the estimator's raw output by one of its methods; a classifier that only predicts gives 1 for the class predicted."""
    if method not in ("predict_proba", "decision_function", "predict"):
        raise BundleError(f"native.method: {method!r} is not one of predict_proba, decision_function, predict")
    function = getattr(estimator, method)

    def raw(x: Matrix, mask: Matrix | None) -> npt.NDArray[Any]:
        with warnings.catch_warnings():
            # Estimators fitted on named columns (a pandas frame) warn that the matrix has no names.
            warnings.filterwarnings("ignore", message="X does not have valid feature names", category=UserWarning)
            found = np.asarray(function(x))
        if method == "predict" and output == "classes":
            return np.eye(classes, dtype=np.float32)[found.astype(np.int64)]
        return found[:, 1] if method == "predict_proba" and output == "probability" else found

    return raw


def method_of(estimator: Any, output: Output) -> str:
    """The method whose result has the kind `output`."""
    wanted = {"value": "predict", "logit": "decision_function", "logits": "decision_function"}.get(output, "predict_proba")
    return wanted if hasattr(estimator, wanted) else "predict"


def to_onnx(trained: TrainedModel) -> Exported:
    """Convert by skl2onnx with a raw float32 input and without ZipMap."""
    from mlaas.models.sklearn_onnx import convert

    method = method_of(trained.model, trained.output)
    if method == "predict" and trained.output != "value":
        raise ValueError("the estimator gives classes only, no scores")
    model = convert(trained.model, method, trained.width)
    # A binary decision function comes as two columns, [-d, d].
    binary = method == "decision_function" and trained.output == "logit"
    kind: Output = "classes" if method == "predict_proba" else trained.output
    return Exported(model, ["x"], model.graph.output[-1].name, kind, column=1 if binary else None)


def untrusted(path: Path) -> list[str]:
    """The types in a skops file that neither skops nor `TRUSTED` knows to be harmless."""
    from skops import io

    return sorted(set(io.get_untrusted_types(file=path)) - TRUSTED)


def _save_skops(trained: TrainedModel, method: str, path: Path) -> str | None:
    """Write the skops form, read it and predict with it; returns why it cannot be used, or None."""
    from skops import io

    try:
        io.dump(trained.model, path)
        again = io.load(path, trusted=io.get_untrusted_types(file=path))
        if len(trained.x):
            # skops drops the content of some containers (collections.deque) without a word.
            predict = raw_predict(again, method, trained.output, len(trained.classes))
            scores = canonical(predict(trained.x, None), trained.output)
            if not np.allclose(scores, trained.scores, rtol=1e-5, atol=1e-5, equal_nan=True):
                return "what it gives back predicts something else"
    except Exception as error:
        if is_full(error):
            raise
        return short(error, path.parent)
    return None


def _load_skops(path: Path, manifest: Manifest, trust: bool) -> Any:
    from skops import io

    try:
        foreign = untrusted(path)
        if foreign and not trust:
            raise BundleError(f"{path} holds {_listed(foreign)}, which can run code when loaded; load it with trust only if you know who made it")
        types = sorted(TRUSTED.intersection(io.get_untrusted_types(file=path)) | set(foreign))
        with user_module(path.parent / "model.py", needed=False) if foreign else nullcontext():
            estimator = io.load(path, trusted=types)
    except BundleError:
        raise
    except Exception as error:
        raise BundleError(f"{path} cannot be loaded: {short(error)}") from error
    check_trees(estimator, manifest.width, path)
    return estimator


def _load_pickle(path: Path, manifest: Manifest, trust: bool) -> Any:
    if not trust:
        raise BundleError(f"{path} is a pickle, which can run any code when loaded; load it with trust only if you know who made it")
    try:
        with user_module(path.parent / "model.py", needed=False), path.open("rb") as file:
            return pickle.load(file)  # noqa: S301 the user asked for it
    except BundleError:
        raise
    except Exception as error:
        raise BundleError(f"{path} cannot be loaded: {short(error)}") from error


def _listed(types: list[str]) -> str:
    return ", ".join(types[:3]) + (f" and {len(types) - 3} more" if len(types) > 3 else "")
