"""XGBoost estimators, trained for real on streamed chunks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xgboost

from mlaas.errors import Cancelled, ModelError, ResourceError, WorkflowError
from mlaas.training import checkpoint, metrics
from mlaas.training import run as runs
from mlaas.training.adapter import Problem, adapt
from mlaas.training.fit import train
from mlaas.workflow import Params
from tests.support import ArrayDataset, blobs, line

BINARY = ArrayDataset(*blobs(3000))
MULTI = ArrayDataset(*blobs(3000, classes=3), classes=["a", "b", "c"])
REGRESSION = ArrayDataset(*line(3000), task="regression")
TWO = Problem("classification", ("b", "s"), 6)


def classifier(**more):
    return xgboost.XGBClassifier(**{"n_estimators": 30, "max_depth": 3, "n_jobs": 1} | more)


def log_odds(y_true, y_pred):
    """The logistic loss by hand: gradient and hessian."""
    p = 1 / (1 + np.exp(-y_pred))
    return p - y_true, p * (1 - p)


def misses(y_true, y_pred):
    """A metric of the user's own."""
    return float(np.mean((y_pred > 0.5) != y_true))


BINARY_MODELS = {
    "default": (lambda: classifier(), "classes"),
    "approximate": (lambda: classifier(tree_method="approx"), "classes"),
    "exact": (lambda: classifier(tree_method="exact"), "classes"),
    "linear": (lambda: xgboost.XGBClassifier(booster="gblinear", n_estimators=30, n_jobs=1), "classes"),
    "random forest": (lambda: xgboost.XGBRFClassifier(n_estimators=30, max_depth=4, n_jobs=1), "classes"),
    "dart": (lambda: classifier(booster="dart", rate_drop=0.1), "classes"),
    "raw margins": (lambda: classifier(objective="binary:logitraw"), "logit"),
    "own objective": (lambda: classifier(objective=log_odds), "logit"),
    "own metric": (lambda: classifier(eval_metric=misses), "classes"),
    "several metrics": (lambda: classifier(eval_metric=["error", "auc"]), "classes"),
    "regressor of a probability": (lambda: xgboost.XGBRegressor(objective="binary:logistic", n_estimators=30, max_depth=3, n_jobs=1), "probability"),
}


@pytest.mark.parametrize("name", BINARY_MODELS)
def test_two_classes(tmp_path, name):
    make, output = BINARY_MODELS[name]
    result = train(make(), BINARY, Params(), tmp_path)
    assert result.adapter.output == output
    assert result.metrics["test"]["auc"] > 0.84
    assert len(result.history) == result.epochs == (1 if name == "random forest" else 30)
    assert {record["kind"] for record in result.history} == {"round"}


def test_the_estimator_is_used_as_if_fitted(tmp_path):
    model = train(classifier(), BINARY, Params(), tmp_path).adapter.model
    x, y, _ = BINARY.part("test")
    assert model.classes_.tolist() == [0, 1]
    assert model.n_features_in_ == 6
    assert model.predict(x).shape == y.shape
    assert model.feature_importances_.argmax() in (0, 1)
    np.testing.assert_allclose(model.predict_proba(x)[:, 1], train_scores(model, x), atol=1e-6)


def train_scores(model, x):
    return adapt_fitted(model).predict(x)


def adapt_fitted(model):
    return adapt(model, TWO, Params())


def test_streamed_equals_the_whole_matrix_in_memory(tmp_path):
    """The same trees but for the bins of streamed quantiles: the same AUC within its error, and nearly the same scores."""
    x, y, _ = BINARY.part("train")
    xt, yt, _ = BINARY.part("test")
    found = train(classifier(), BINARY, Params(), tmp_path)
    expected = classifier().fit(x, y).predict_proba(xt)[:, 1]
    assert abs(metrics.auc(yt, expected) - found.metrics["test"]["auc"]) < found.metrics["test"]["auc_error"]
    assert np.corrcoef(expected, found.samples["test"].scores)[0, 1] > 0.98


def test_one_chunk_equals_the_whole_matrix_exactly(tmp_path):
    data = ArrayDataset(*blobs(3000), chunk_size=5000)
    x, y, _ = data.part("train")
    expected = classifier(tree_method="hist").fit(x, y).predict_proba(data.part("test")[0])[:, 1]
    np.testing.assert_allclose(train(classifier(), data, Params(), tmp_path).samples["test"].scores, expected, atol=1e-5)


def test_several_classes(tmp_path):
    result = train(classifier(), MULTI, Params(), tmp_path)
    assert result.metrics["test"]["auc"] > 0.82
    assert result.samples["test"].scores.shape == (450, 3)
    assert result.adapter.model.n_classes_ == 3
    assert result.history[-1]["metric"] == "mlogloss"
    own = train(classifier(objective="multi:softmax", num_class=7), MULTI, Params(), tmp_path)
    np.testing.assert_allclose(own.samples["test"].scores, result.samples["test"].scores, atol=1e-6)


def test_regression(tmp_path):
    result = train(xgboost.XGBRegressor(n_estimators=60, max_depth=3, n_jobs=1), REGRESSION, Params(), tmp_path)
    assert result.metrics["test"]["r2"] > 0.97
    assert result.history[-1]["val_r2"] == pytest.approx(result.metrics["validation"]["r2"], abs=1e-5)
    poisson = train(xgboost.XGBRegressor(n_estimators=60, objective="count:poisson", n_jobs=1), REGRESSION, Params(), tmp_path)
    assert poisson.metrics["test"]["r2"] > 0.9


def test_records_are_those_of_the_booster_as_it_stands(tmp_path):
    result = train(classifier(), BINARY, Params(), tmp_path)
    last, validation = result.history[-1], result.metrics["validation"]
    assert last["val_auc"] == pytest.approx(validation["auc"], abs=1e-6)
    assert last["val_loss"] == pytest.approx(validation["log_loss"], abs=1e-5)
    assert last["loss"] < result.history[0]["loss"]
    assert last["events"] == 30 * BINARY.events["train"]


@pytest.mark.parametrize("how", ["params", "estimator", "dart"])
def test_early_stopping_keeps_the_best_rounds(tmp_path, how):
    more = {"n_estimators": 300, "learning_rate": 0.8} | {"estimator": {"early_stopping_rounds": 4}, "dart": {"booster": "dart"}, "params": {}}[how]
    result = train(classifier(**more), BINARY, Params(early_stopping=0 if how == "estimator" else 4), tmp_path)
    losses = [record["val_loss"] for record in result.history]
    assert result.best_epoch == int(np.argmin(losses)) + 1
    assert len(losses) == result.best_epoch + 4
    assert result.adapter.model.get_booster().num_boosted_rounds() == result.best_epoch
    assert result.metrics["validation"]["log_loss"] == pytest.approx(min(losses), abs=1e-5)


def test_early_stopping_goes_up_with_a_metric_that_should_rise(tmp_path):
    result = train(classifier(n_estimators=300, learning_rate=0.8, eval_metric="auc"), BINARY, Params(early_stopping=4), tmp_path)
    areas = [record["val_loss"] for record in result.history]
    assert result.best_epoch == int(np.argmax(areas)) + 1


def test_early_stopping_of_the_estimator_needs_validation_events(tmp_path):
    data = ArrayDataset(*blobs(500), fractions=(0, 0))
    with pytest.raises(WorkflowError, match="early_stopping needs validation events"):
        train(classifier(early_stopping_rounds=3), data, Params(), tmp_path)
    assert "val_loss" not in train(classifier(n_estimators=2), data, Params(), tmp_path).history[0]


def test_procedure_chunks_continues_the_booster(tmp_path):
    result = train(classifier(), BINARY, Params(procedure="chunks", epochs=10), tmp_path)
    assert result.adapter.model.get_booster().num_boosted_rounds() == 30, "10 rounds on each of 3 chunks"
    assert [record["kind"] for record in result.history] == ["chunk"] * 3
    assert result.metrics["test"]["auc"] > 0.84


def test_methods_that_need_all_data_keep_to_the_memory_limit(tmp_path):
    with pytest.raises(ResourceError, match=r"XGBClassifier needs all training data at once: 2100 events x 6 columns take about 0\.3 MB"):
        train(classifier(tree_method="exact"), BINARY, Params(memory_limit="0.1MB"), tmp_path)
    train(classifier(n_estimators=1), BINARY, Params(memory_limit="0.1MB"), tmp_path)
    x, y, _ = BINARY.part("train")
    expected = classifier(tree_method="exact").fit(x, y).predict_proba(BINARY.part("test")[0])[:, 1]
    found = train(classifier(tree_method="exact"), BINARY, Params(), tmp_path).samples["test"].scores
    np.testing.assert_allclose(found, expected, atol=1e-5)
    chunked = train(classifier(tree_method="exact"), BINARY, Params(procedure="chunks", epochs=5), tmp_path)
    assert chunked.metrics["test"]["auc"] > 0.83


def weighted(weight):
    return ArrayDataset(*blobs(2000), weight=weight.astype(np.float32))


def test_weights_enter_and_their_scale_does_not_matter(tmp_path):
    weight = np.random.default_rng(1).uniform(0.1, 3, 2000)
    data = weighted(weight)
    x, y, w = data.part("train")
    found = train(classifier(), data, Params(), tmp_path).samples["test"].scores
    expected = classifier().fit(x, y, sample_weight=w).predict_proba(data.part("test")[0])[:, 1]
    without = classifier().fit(x, y).predict_proba(data.part("test")[0])[:, 1]
    assert np.abs(found - expected).mean() < 0.5 * np.abs(found - without).mean()


def test_negative_weights(tmp_path):
    weight = np.where(np.arange(2000) % 5 == 0, -0.5, 1.0)
    with pytest.raises(WorkflowError, match=r"params\.negative_weights: XGBoost refuses negative event weights; set abs or zero"):
        train(classifier(), weighted(weight), Params(), tmp_path)
    for how in ("abs", "zero"):
        result = train(classifier(), weighted(weight), Params(negative_weights=how), tmp_path)
        assert result.metrics["test"]["auc"] > 0.83
        assert result.metrics["validation"]["loss"] == pytest.approx(result.history[-1]["val_loss"], abs=1e-5)
        assert (result.samples["validation"].weights < 0).any()


def test_xgboost_itself_refuses_negative_weights():
    """If this fails one day, the sentence above can go."""
    with pytest.raises(xgboost.core.XGBoostError, match=r"[Ww]eights must be"):
        classifier(n_estimators=1).fit(np.zeros((4, 1)), [0, 1, 0, 1], sample_weight=[1, -1, 1, 1])


def test_missing_values_of_the_estimator_are_kept(tmp_path):
    x, y = blobs(2000)
    x[:, 0] = np.where(np.random.default_rng(0).random(2000) < 0.5, 0, x[:, 0])
    result = train(classifier(missing=0.0), ArrayDataset(x, y, chunk_size=5000), Params(), tmp_path)
    data = ArrayDataset(x, y)
    expected = classifier(missing=0.0).fit(*data.part("train")[:2]).predict_proba(data.part("test")[0])[:, 1]
    np.testing.assert_allclose(result.samples["test"].scores, expected, atol=1e-5)


def test_callbacks_of_the_estimator_are_called(tmp_path):
    result = train(
        classifier(callbacks=[xgboost.callback.LearningRateScheduler(lambda round_: 0.3 if round_ < 5 else 0.0)]), BINARY, Params(), tmp_path
    )
    losses = [record["loss"] for record in result.history]
    assert losses[5] == pytest.approx(losses[-1], abs=1e-6)


def test_stop_resume_and_the_stream(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "CHECKPOINT_SECONDS", 1e9)
    seen = []
    with pytest.raises(Cancelled, match="its last checkpoint is"):
        train(classifier(), BINARY, Params(), tmp_path / "part", on_record=seen.append, stop=lambda: len(seen) >= 12)
    assert checkpoint.load(tmp_path / "part" / checkpoint.NAME).state.epoch == 12
    resumed = train(classifier(), BINARY, Params(), tmp_path / "part", resume=True)
    whole = train(classifier(), BINARY, Params(), tmp_path / "whole")
    np.testing.assert_allclose(resumed.samples["test"].scores, whole.samples["test"].scores, atol=1e-6)
    lines = [json.loads(text) for text in (tmp_path / "part" / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in lines if record["kind"] == "round"] == list(range(1, 31))
    again = train(classifier(), BINARY, Params(), tmp_path / "part", resume=True)
    np.testing.assert_array_equal(again.samples["test"].scores, resumed.samples["test"].scores)
    assert again.adapter.model.n_classes_ == 2


def test_ctrl_c_while_the_data_are_streamed_is_not_lost(tmp_path):
    data = ArrayDataset(*blobs(2000))
    original = data.chunks

    def interrupted(split, **more):
        yield next(original(split, **more))
        raise KeyboardInterrupt

    data.chunks = interrupted
    with pytest.raises(Cancelled, match="there was no checkpoint yet"):
        train(classifier(), data, Params(), tmp_path)


@pytest.mark.parametrize(
    ("make", "problem", "sentence"),
    [
        (lambda: xgboost.XGBRegressor(), TWO, "XGBRegressor is no classifier, but the labels are classes: return an XGBClassifier"),
        (lambda: classifier(), Problem("regression", (), 6), "XGBClassifier is no regressor, but the labels are numbers: return an XGBRegressor"),
        (lambda: xgboost.XGBRanker(), TWO, "XGBoost's XGBRanker: return an XGBClassifier or an XGBRegressor"),
        (lambda: xgboost.Booster(), TWO, "XGBoost's Booster: return an XGBClassifier"),
    ],
)
def test_what_does_not_fit_is_refused(make, problem, sentence):
    with pytest.raises(ModelError, match=sentence):
        adapt(make(), problem, Params())


def test_a_wrong_parameter_of_the_estimator_is_one_sentence(tmp_path):
    with pytest.raises(ModelError, match=r"XGBoost failed: XGBoostError: .*max_depth") as caught:
        train(classifier(max_depth=-3), BINARY, Params(), tmp_path)
    assert "\n" not in str(caught.value)


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr("mlaas.training.xgboost.gpu_present", lambda: False)
    with pytest.raises(ResourceError, match=r"params\.device is gpu, but XGBoost sees no GPU"):
        adapt(classifier(), TWO, Params(device="gpu"))
