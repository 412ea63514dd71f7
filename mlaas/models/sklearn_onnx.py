"""What skl2onnx needs beside the estimator: options, and exact conversions of histogram gradient boosting and of XGBoost in pipelines."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

OLDER = {"": 15, "ai.onnx.ml": 3}


def convert(estimator: Any, method: str, width: int) -> onnx.ModelProto:
    """Convert a fitted estimator with a raw float32 input; its last output is what `method` gives. Raises whatever skl2onnx raises."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType

    _register()
    estimator = convertible(estimator)
    failure: Exception | None = None
    for option, opset in product(_options(estimator, method), (None, OLDER)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # skl2onnx warns about its own use of NumPy and ONNX
                model: onnx.ModelProto = to_onnx(estimator, initial_types=[("x", FloatTensorType([None, width]))], options=option, target_opset=opset)
                return model
        except NameError as error:  # the estimator has no such option
            failure = error
        except RuntimeError as error:  # a converter from another package knows only older operators
            if "target_opset" not in str(error) or opset is not None:
                raise
            failure = error
    raise failure or ValueError("skl2onnx does not know this estimator")


def _options(estimator: Any, method: str) -> Iterator[dict[int, dict[str, Any]] | None]:
    """The options to try in turn: not every estimator knows each of them, and those of a pipeline belong to its last step."""
    last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    if method == "decision_function":
        yield {id(last): {"zipmap": False, "raw_scores": True}}
        yield {id(last): {"raw_scores": True}}
    elif method == "predict_proba":
        yield {id(last): {"zipmap": False}}
    yield None


def _register() -> None:
    """Tell skl2onnx how to convert what it cannot, or not exactly (more than once does no harm)."""
    _register_histogram_boosting()
    if "xgboost" in sys.modules:
        _register_xgboost()


def convertible(estimator: Any) -> Any:
    """The estimator, or a copy that skl2onnx converts without loss and that predicts the same.

    Histogram gradient boosting: thresholds that are float32 numbers: x <= t with float32 x and float64 t equals x <= f with f the largest
    float32 not above t. Voting: without the option of `transform` that skl2onnx refuses. Pipelines: their steps.
    """
    if hasattr(estimator, "steps"):
        steps = [(name, convertible(step)) for name, step in estimator.steps]
        if all(new is old for (_, new), (_, old) in zip(steps, estimator.steps, strict=True)):
            return estimator
        pipeline = copy.copy(estimator)
        pipeline.steps = steps
        return pipeline
    if getattr(estimator, "flatten_transform", False):
        voting = copy.copy(estimator)
        voting.flatten_transform = False
        return voting
    if not hasattr(estimator, "_predictors"):
        return estimator
    exact = copy.copy(estimator)
    exact._predictors = [[_exact(tree) for tree in trees] for trees in estimator._predictors]
    return exact


def _exact(tree: Any) -> Any:
    if np.any(tree.nodes["is_categorical"]):
        raise ValueError("splits on categories cannot be written as ONNX")
    found = copy.copy(tree)
    found.nodes = tree.nodes.copy()
    threshold = tree.nodes["num_threshold"]
    with np.errstate(over="ignore"):
        rounded = threshold.astype(np.float32)
    above = rounded.astype(np.float64) > threshold
    rounded[above] = np.nextafter(rounded[above], np.float32(-np.inf))
    found.nodes["num_threshold"] = rounded
    return found


class _Integers:
    """A container of ONNX nodes that takes booleans where ONNX wants integers (skl2onnx 1.20 with onnx 1.19 and later)."""

    def __init__(self, container: Any) -> None:
        self._container = container

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def add_node(self, *args: Any, **attributes: Any) -> Any:
        key = "nodes_missing_value_tracks_true"
        if key in attributes:
            attributes[key] = [int(value) for value in attributes[key]]
        return self._container.add_node(*args, **attributes)


def _with_integers(convert: Any) -> Any:
    def wrapped(scope: Any, operator: Any, container: Any) -> Any:
        return convert(scope, operator, _Integers(container))

    return wrapped


def _register_histogram_boosting() -> None:
    from skl2onnx import update_registered_converter
    from skl2onnx.common._registration import get_converter, get_shape_calculator
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    flags: list[Any] = [True, False]
    known = {
        HistGradientBoostingClassifier: {"zipmap": [*flags, "columns"], "raw_scores": flags, "output_class_labels": flags, "nocl": flags},
        HistGradientBoostingRegressor: {"raw_scores": flags},
    }
    for estimator, allowed in known.items():
        alias = f"Sklearn{estimator.__name__}"
        convert = get_converter(alias)
        if getattr(convert, "_integers", False):
            continue
        wrapped = _with_integers(convert)
        wrapped._integers = True
        update_registered_converter(estimator, alias, get_shape_calculator(alias), wrapped, overwrite=True, options=allowed)


def _register_xgboost() -> None:
    """XGBoost estimators as the last step of a pipeline."""
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes, calculate_linear_regressor_output_shapes

    try:
        from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost
        from xgboost import XGBClassifier, XGBRegressor
    except ImportError:
        return
    flags: dict[str, list[Any]] = {"nocl": [True, False], "zipmap": [True, False, "columns"]}
    shapes = calculate_linear_classifier_output_shapes
    update_registered_converter(XGBClassifier, "XGBoostXGBClassifier", shapes, convert_xgboost, overwrite=True, options=flags)
    update_registered_converter(XGBRegressor, "XGBoostXGBRegressor", calculate_linear_regressor_output_shapes, convert_xgboost, overwrite=True)
