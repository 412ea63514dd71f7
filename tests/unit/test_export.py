"""Every estimator of the catalogue: written, exported, passed through the parity gate, loaded by both engines, compared."""

from __future__ import annotations

import resource
import warnings

import numpy as np
import onnx
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    BaggingClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from mlaas.errors import BundleError, ModelError, ResourceError
from mlaas.models.bundle import read_bundle, write_bundle
from mlaas.models.engine import load_engine
from mlaas.models.graph import refuse_external_data
from mlaas.models.parity import compare
from mlaas.models.scores import canonical
from tests.support.trained import BINARY, LABELS, MULTI, VALUES, WIDTH, X, files, fitted, logistic, trained

CLASSIFIERS = [
    MLPClassifier((8,), max_iter=50),
    GradientBoostingClassifier(n_estimators=8),
    HistGradientBoostingClassifier(max_iter=8),
    AdaBoostClassifier(n_estimators=5),
    RandomForestClassifier(n_estimators=8),
    DecisionTreeClassifier(),
    KNeighborsClassifier(),
    SVC(),
    LinearSVC(),
    LogisticRegression(),
    SGDClassifier(),
    RidgeClassifier(),
    GaussianNB(),
    make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=50)),
    make_pipeline(StandardScaler(), SVC()),
    BaggingClassifier(DecisionTreeClassifier(max_depth=3), n_estimators=4),
    StackingClassifier([("a", LogisticRegression()), ("b", DecisionTreeClassifier(max_depth=3))], cv=2),
    VotingClassifier([("a", LogisticRegression()), ("b", DecisionTreeClassifier(max_depth=3))], voting="soft"),
]
REGRESSORS = [
    MLPRegressor(hidden_layer_sizes=(8,), max_iter=50),
    GradientBoostingRegressor(n_estimators=8),
    HistGradientBoostingRegressor(max_iter=8),
    AdaBoostRegressor(n_estimators=5),
    RandomForestRegressor(n_estimators=8),
    DecisionTreeRegressor(),
    KNeighborsRegressor(),
    SVR(),
    LinearRegression(),
]
CASES = [(estimator, kind) for estimator in CLASSIFIERS for kind in ("binary", "multi")] + [(estimator, "value") for estimator in REGRESSORS]


def name(case) -> str:
    if isinstance(case, str):
        return case
    return "+".join(type(step).__name__ for _, step in case.steps) if hasattr(case, "steps") else type(case).__name__


def check(folder, model, tolerance=1e-5, **engine):
    """Write, read and load by both engines; the scores must be those of the trained model."""
    manifest = write_bundle(folder, model, {})
    bundle = read_bundle(folder)
    scale = np.abs(model.scores).max() if model.task == "regression" else 1
    assert manifest.onnx.accepted, manifest.onnx.reason
    assert manifest.engine == "onnx"
    for kind in ("auto", "onnx", "native"):
        loaded = load_engine(bundle, kind, **engine)
        assert loaded.kind == ("native" if kind == "native" else "onnx")
        scores = loaded.predict(model.x, model.mask)
        assert scores.dtype == np.float32
        assert scores.shape == model.scores.shape
        np.testing.assert_allclose(scores, model.scores, rtol=0, atol=tolerance * scale)
        one = loaded.predict(model.x[:1], None if model.mask is None else model.mask[:1])
        np.testing.assert_allclose(one, model.scores[:1], rtol=0, atol=tolerance * scale)
        assert loaded.predict(model.x[:0], None if model.mask is None else model.mask[:0]).shape == (0, *model.scores.shape[1:])
    graph = onnx.load(folder / "model.onnx").graph
    assert [value.name for value in graph.input] == (["x", "mask"] if model.wants_mask else ["x"])
    assert [value.name for value in graph.output] == ["scores"]
    return manifest


@pytest.mark.parametrize(("estimator", "kind"), CASES, ids=name)
def test_sklearn(tmp_path, estimator, kind, record_property):
    manifest = check(tmp_path / "b", fitted(estimator, kind))
    record_property("difference", manifest.onnx.difference)
    assert manifest.native.form == "model.skops"
    assert not manifest.native.trust, manifest.native.note


def test_histogram_boosting_with_missing_values_and_ties(tmp_path):
    """Thresholds that no float32 holds, values on both sides of them, and NaN."""
    rng = np.random.default_rng(3)
    x = (rng.integers(0, 40, size=(500, WIDTH)) / 10).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    estimator = HistGradientBoostingClassifier(max_iter=20).fit(x, np.nan_to_num(x[:, 0]) + np.nan_to_num(x[:, 1]) > 4)
    thresholds = np.unique(next(tree.nodes["num_threshold"] for trees in estimator._predictors for tree in trees[:1]))
    near = np.repeat(x[:100], 3, axis=0)
    near[:, 0] = np.resize([np.nextafter(np.float32(t), np.float32(s)) for t in thresholds for s in (-9e9, 9e9)] + list(thresholds), len(near))
    model = trained(estimator, "sklearn", "classes", "binary", estimator.predict_proba(near), x=near)
    assert write_bundle(tmp_path / "b", model, {}).onnx.accepted
    np.testing.assert_allclose(load_engine(tmp_path / "b").predict(near), model.scores, atol=1e-6)


def test_the_gate_refuses_a_wrong_graph(tmp_path):
    """skl2onnx 1.20 converts a binary linear discriminant wrongly."""
    manifest = write_bundle(tmp_path / "b", fitted(LinearDiscriminantAnalysis(), "binary"), {})
    assert not manifest.onnx.accepted
    assert manifest.onnx.difference is not None
    assert manifest.onnx.difference > 0.01
    assert "more than the tolerance 1e-05" in manifest.onnx.reason
    assert manifest.engine == "native"
    assert not (tmp_path / "b" / "model.onnx").exists()
    assert load_engine(tmp_path / "b").kind == "native"
    with pytest.raises(BundleError, match="has no ONNX form"):
        load_engine(tmp_path / "b", "onnx")


def test_the_gate_is_as_strict_as_asked(tmp_path):
    model = fitted(MLPClassifier((8,), max_iter=50), "binary")
    manifest = write_bundle(tmp_path / "strict", model, {}, tolerance=1e-12)
    assert manifest.onnx.accepted is (manifest.onnx.difference == 0)
    assert write_bundle(tmp_path / "loose", model, {}, tolerance=1e-3).onnx.accepted


def test_the_gate_looks_at_single_events_and_all(tmp_path):
    model = logistic()
    assert compare(lambda x, mask: model.scores[: len(x)] if len(x) > 1 else model.scores[:1] + 1, model, 1e-5).accepted is False
    found = compare(lambda x, mask: np.full(len(x), np.nan, np.float32), model, 1e-5)
    assert found.reason == "some scores are not finite"
    assert "shape" in compare(lambda x, mask: np.zeros((len(x), 2), np.float32), model, 1e-5).reason
    row = {x.tobytes(): score for x, score in zip(model.x, model.scores, strict=True)}
    right = compare(lambda x, mask: np.array([row[event.tobytes()] for event in x]), model, 1e-5)
    assert (right.accepted, right.difference) == (True, 0.0)


def test_no_events_to_compare(tmp_path):
    model = logistic()
    empty = trained(model.model, "sklearn", "classes", "binary", np.zeros((0, 2)), x=X[:0])
    manifest = write_bundle(tmp_path / "b", empty, {})
    assert manifest.onnx.reason == "there are no events to compare"
    np.testing.assert_array_equal(load_engine(tmp_path / "b").predict(X), model.scores)


def test_estimator_that_cannot_be_converted(tmp_path):
    from sklearn.neighbors import NearestCentroid

    manifest = write_bundle(tmp_path / "b", fitted(NearestCentroid(), "multi"), {})
    assert "conversion failed: MissingShapeCalculator" in manifest.onnx.reason
    assert load_engine(tmp_path / "b").kind == "native"


def test_classifier_that_only_predicts(tmp_path):
    estimator = VotingClassifier([("a", LogisticRegression()), ("b", DecisionTreeClassifier())], voting="hard").fit(X, MULTI)
    model = trained(estimator, "sklearn", "classes", "multi", np.eye(3)[estimator.predict(X)])
    manifest = write_bundle(tmp_path / "b", model, {})
    assert manifest.onnx.reason == "conversion failed: ValueError: the estimator gives classes only, no scores"
    np.testing.assert_array_equal(load_engine(tmp_path / "b").predict(X), model.scores)


# --- XGBoost --------------------------------------------------------------------------------------------------------------------------------


def boosted(kind: str, x=X, **options):
    import xgboost

    estimator = (xgboost.XGBRegressor if kind == "value" else xgboost.XGBClassifier)(**{"n_estimators": 8, **options})
    more = {"eval_set": [(x[:60], LABELS[kind][:60])], "verbose": False} if "early_stopping_rounds" in options else {}
    estimator.fit(x, LABELS[kind], **more)
    raw = estimator.predict(x) if kind == "value" else estimator.predict_proba(x)
    return trained(estimator, "xgboost", "value" if kind == "value" else "classes", kind, raw, x=x)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("binary", {}),
        ("multi", {}),
        ("value", {}),
        ("binary", {"base_score": 0.2}),
        ("binary", {"n_estimators": 60, "early_stopping_rounds": 2, "learning_rate": 1.0}),
        ("value", {"objective": "reg:absoluteerror"}),
    ],
    ids=str,
)
def test_xgboost(tmp_path, kind, options):
    manifest = check(tmp_path / "b", boosted(kind, **options))
    assert manifest.native.form == "model.ubj"
    assert not manifest.native.trust


def test_xgboost_early_stopping_keeps_the_best_rounds(tmp_path):
    import xgboost

    model = boosted("binary", n_estimators=60, early_stopping_rounds=2, learning_rate=1.0)
    assert model.model.best_iteration + 1 < model.model.get_booster().num_boosted_rounds()
    write_bundle(tmp_path / "b", model, {})
    booster = xgboost.Booster(model_file=tmp_path / "b" / "model.ubj")
    assert booster.num_boosted_rounds() == model.model.best_iteration + 1


@pytest.mark.parametrize("missing", [np.nan, 0.0, -999.0])
def test_xgboost_missing_values(tmp_path, missing):
    x = X.copy()
    x[np.random.default_rng(1).random(x.shape) < 0.3] = missing
    check(tmp_path / "b", boosted("binary", x, missing=missing))


@pytest.mark.parametrize(
    ("options", "output"),
    [({"booster": "gblinear"}, "classes"), ({"booster": "dart", "rate_drop": 0.3}, "classes"), ({"objective": "binary:logitraw"}, "logit")],
    ids=str,
)
def test_xgboost_that_only_the_native_engine_serves(tmp_path, options, output):
    import xgboost

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gblinear says that it is old
        estimator = xgboost.XGBClassifier(n_estimators=8, **options).fit(X, BINARY)
        raw = estimator.predict(X, output_margin=True) if output == "logit" else estimator.predict_proba(X)
        model = trained(estimator, "xgboost", output, "binary", raw)
        manifest = write_bundle(tmp_path / "b", model, {})
        scores = load_engine(tmp_path / "b").predict(X)
    assert manifest.onnx.reason.startswith("conversion failed")
    np.testing.assert_allclose(scores, model.scores, atol=1e-6)


def test_xgboost_booster_alone(tmp_path):
    import xgboost

    booster = xgboost.train({"objective": "multi:softprob", "num_class": 3}, xgboost.DMatrix(X, MULTI), 5)
    model = trained(booster, "xgboost", "classes", "multi", booster.predict(xgboost.DMatrix(X)))
    write_bundle(tmp_path / "b", model, {})
    np.testing.assert_allclose(load_engine(tmp_path / "b", "native").predict(X), model.scores, atol=1e-6)


def test_xgboost_damaged_file(tmp_path):
    write_bundle(tmp_path / "b", boosted("binary"), {})
    (tmp_path / "b" / "model.ubj").write_bytes(b"not a model")
    with pytest.raises(BundleError, match="not an XGBoost model"):
        load_engine(read_bundle(tmp_path / "b", verify=False), "native")


# --- PyTorch --------------------------------------------------------------------------------------------------------------------------------


def networks():
    import torch
    from torch import nn

    torch.manual_seed(1)

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, 1))

        def forward(self, values, padding):
            return self.layers(values * (1 - padding)).squeeze(-1)

    def dense(outputs, *last):
        return nn.Sequential(nn.Linear(WIDTH, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, outputs), *last)

    return {
        "logit": (dense(1), "logit", "binary"),
        "sigmoid": (dense(1, nn.Sigmoid(), nn.Flatten(0)), "probability", "binary"),
        "two logits": (dense(2), "logits", "binary"),
        "logits": (dense(3), "logits", "multi"),
        "softmax": (dense(3, nn.Softmax(1)), "classes", "multi"),
        "regression": (dense(1), "value", "value"),
        "mask": (Masked(), "logit", "binary"),
    }


@pytest.mark.parametrize("which", ["logit", "sigmoid", "two logits", "logits", "softmax", "regression", "mask"])
def test_torch(tmp_path, which):
    import torch

    from tests.support.trained import MASK, PADDED

    module, output, kind = networks()[which]
    masked = which == "mask"
    inputs = [torch.from_numpy(part) for part in ([PADDED, MASK] if masked else [X])]
    with torch.no_grad():
        module(*inputs)  # gives BatchNorm its statistics
        raw = module.eval()(*inputs).numpy()
    module.train()
    more = {"mask": MASK, "wants_mask": True, "x": PADDED} if masked else {}
    model = trained(module, "torch", output, kind, raw, **more)
    manifest = check(tmp_path / "b", model, trust=True)
    assert module.training  # the user's module is left as it was
    assert set(manifest.native.files) == {"model.pt2", "weights.safetensors"}
    with pytest.raises(BundleError, match="holds pickled parts"):
        load_engine(tmp_path / "b", "native")


@pytest.mark.parametrize("part", ["weights.safetensors", "model.pt2"])
def test_disk_full_while_torch_writes(tmp_path, part):
    import torch

    module = torch.nn.Sequential(torch.nn.Linear(WIDTH, 64), torch.nn.Linear(64, 1))
    with torch.no_grad():
        model = trained(module, "torch", "logit", "binary", module(torch.from_numpy(X)).numpy())
    write_bundle(tmp_path / "whole", model, {})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "whole" / part).stat().st_size - 1, limits[1]))
    try:
        with pytest.raises(ResourceError, match="disk is full"):
            write_bundle(tmp_path / "b", model, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files(tmp_path) == {"whole"}


CONTROL_FLOW = """
import torch

class Signed(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = torch.nn.Linear(width, 1)

    def forward(self, x):
        return self.layer(x) if float(x.sum()) > -1e9 else self.layer(-x)

def model(idim):
    return Signed(idim), torch.nn.BCEWithLogitsLoss()
"""


def test_torch_that_cannot_be_followed_keeps_its_weights(tmp_path, monkeypatch):
    import torch

    space = {"__name__": "mlaas_user_model"}
    exec(CONTROL_FLOW, space)  # noqa: S102
    torch.manual_seed(5)
    module, _ = space["model"](WIDTH)
    with torch.no_grad():
        model = trained(module, "fastai", "logit", "binary", module(torch.from_numpy(X)).numpy())
    manifest = write_bundle(tmp_path / "b", model, {"model.py": CONTROL_FLOW})
    assert manifest.framework == "torch"
    assert manifest.native.files == ["weights.safetensors"]
    assert "torch.export cannot follow it" in manifest.native.note
    assert not manifest.onnx.accepted
    with pytest.raises(BundleError, match=r"needs the bundle's model.py to be run.*trust"):
        load_engine(tmp_path / "b")
    np.testing.assert_allclose(load_engine(tmp_path / "b", trust=True).predict(X), model.scores, atol=1e-6)


# --- graphs and scores ----------------------------------------------------------------------------------------------------------------------


def test_graphs_that_read_other_files_are_not_loaded(tmp_path):
    write_bundle(tmp_path / "b", logistic(), {})
    path = tmp_path / "b" / "model.onnx"
    graph = onnx.load(path)
    tensor = graph.graph.initializer.add()
    tensor.name, tensor.data_type, tensor.data_location = "secret", onnx.TensorProto.FLOAT, onnx.TensorProto.EXTERNAL
    tensor.dims.append(1)
    tensor.external_data.add(key="location", value="../../secret")
    with pytest.raises(BundleError, match="wants to read other files"):
        refuse_external_data(graph)
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(BundleError, match="wants to read other files"):
        load_engine(read_bundle(tmp_path / "b", verify=False))


def test_canonical_scores():
    logits = np.array([[-1000.0, 0.0], [0.0, 1000.0], [3.0, 3.0]])
    np.testing.assert_allclose(canonical(logits, "logits"), [1, 1, 0.5])
    np.testing.assert_allclose(canonical(np.array([-800.0, 0, 800]), "logit"), [0, 0.5, 1])
    np.testing.assert_allclose(canonical([[0.2], [0.7]], "probability"), [0.2, 0.7])
    assert canonical(np.array([1, 2, 3]), "value").dtype == np.float32
    assert canonical(np.zeros((0, 3)), "classes").shape == (0, 3)
    for raw, output in [(np.zeros((3, 2)), "logit"), (np.zeros(3), "classes"), (np.zeros((3, 1)), "logits"), (np.float32(1), "value")]:
        with pytest.raises(ModelError, match="must have shape"):
            canonical(raw, output)


def test_large_regression_values_are_compared_relatively(tmp_path):
    estimator = LinearRegression().fit(X, VALUES * 1e6)
    manifest = check(tmp_path / "b", trained(estimator, "sklearn", "value", "value", estimator.predict(X)))
    assert manifest.onnx.difference is not None
    assert manifest.onnx.difference > 1e-5
