"""scikit-learn estimators, trained for real: in parts where they can, whole within the memory limit otherwise."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    AdaBoostClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier, SGDClassifier, SGDRegressor
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from mlaas.errors import DataError, ModelError, ResourceError
from mlaas.training import metrics
from mlaas.training.adapter import Problem, adapt
from mlaas.training.fit import train
from mlaas.training.sklearn import SklearnStreaming, SklearnWhole, weight_key
from mlaas.workflow import Params
from tests.support import ArrayDataset, blobs, line

BINARY = ArrayDataset(*blobs(3000))
MULTI = ArrayDataset(*blobs(3000, classes=3), classes=["a", "b", "c"])
REGRESSION = ArrayDataset(*line(3000), task="regression")


def mlp():
    return MLPClassifier((8,), learning_rate_init=0.02, random_state=1)


CLASSIFIERS = {
    "MLP": mlp,
    "GradientBoosting": lambda: GradientBoostingClassifier(n_estimators=20, random_state=1),
    "HistGradientBoosting": lambda: HistGradientBoostingClassifier(max_iter=20, random_state=1),
    "AdaBoost": lambda: AdaBoostClassifier(n_estimators=20, random_state=1),
    "RandomForest": lambda: RandomForestClassifier(n_estimators=20, max_depth=6, random_state=1),
    "DecisionTree": lambda: DecisionTreeClassifier(max_depth=5, random_state=1),
    "kNN": lambda: KNeighborsClassifier(15),
    "SVC": lambda: SVC(),
    "LinearSVC": lambda: LinearSVC(),
    "LogisticRegression": lambda: LogisticRegression(),
    "SGD": lambda: SGDClassifier(loss="log_loss", random_state=1),
    "SGD, hinge": lambda: SGDClassifier(random_state=1),
    "GaussianNB": lambda: GaussianNB(),
    "LDA": lambda: LinearDiscriminantAnalysis(),
    "RidgeClassifier": lambda: RidgeClassifier(),
    "Pipeline": lambda: make_pipeline(StandardScaler(), LogisticRegression()),
    "Pipeline of SVC": lambda: make_pipeline(StandardScaler(), SVC()),
    "hard voting": lambda: VotingClassifier([("a", LogisticRegression()), ("b", GaussianNB())]),
    "grid search": lambda: GridSearchCV(LogisticRegression(), {"C": [0.1, 1]}, cv=2),
}
REGRESSORS = {
    "MLP": lambda: MLPRegressor(hidden_layer_sizes=(16,), learning_rate_init=0.02, random_state=1),
    "GradientBoosting": lambda: GradientBoostingRegressor(n_estimators=50, random_state=1),
    "HistGradientBoosting": lambda: HistGradientBoostingRegressor(max_iter=50, random_state=1),
    "RandomForest": lambda: RandomForestRegressor(n_estimators=20, random_state=1),
    "kNN": lambda: KNeighborsRegressor(5),
    "SVR": lambda: SVR(),
    "linear": lambda: LinearRegression(),
    "SGD": lambda: SGDRegressor(random_state=1),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("dataset", [BINARY, MULTI], ids=["binary", "three classes"])
def test_a_classifier_separates_and_equals_the_one_fitted_by_hand(tmp_path, name, dataset):
    params = Params(epochs=5)
    result = train(CLASSIFIERS[name](), dataset, params, tmp_path)
    test = result.metrics["test"]
    assert test["auc"] > (0.77 if name in {"hard voting", "DecisionTree"} else 0.83)
    by_hand = CLASSIFIERS[name]()
    if hasattr(by_hand, "partial_fit"):
        by_hand.set_params(max_iter=5, tol=None) if hasattr(by_hand, "tol") else None
        by_hand.set_params(batch_size=200) if hasattr(by_hand, "batch_size") else None
    x, y, _ = dataset.part("train")
    if isinstance(by_hand, MLPClassifier):
        by_hand.set_params(tol=0.0, n_iter_no_change=1000)
        with pytest.warns(match="Maximum iterations"):
            by_hand.fit(x, y)
    else:
        by_hand.fit(x, y)
    xt, yt, _ = dataset.part("test")
    reference = result.adapter.__class__(by_hand, result.adapter.problem, params, result.adapter.output, False, []).predict(xt)
    expected = metrics.summary("classification", dataset.classes, yt, reference)["auc"]
    if isinstance(result.adapter, SklearnWhole):
        assert test["auc"] == pytest.approx(expected, abs=1e-6)
    assert abs(test["auc"] - expected) < test["auc_error"] + 0.01


@pytest.mark.parametrize("name", REGRESSORS)
def test_a_regressor_follows_the_line(tmp_path, name):
    result = train(REGRESSORS[name](), REGRESSION, Params(epochs=40), tmp_path)
    assert result.adapter.output == "value"
    assert result.metrics["test"]["r2"] > 0.9
    assert result.samples["test"].scores.shape == (REGRESSION.events["test"],)


@pytest.mark.parametrize(
    ("make", "output", "binary"),
    [
        (LogisticRegression, "classes", "classes"),
        (LinearSVC, "logits", "logit"),
        (RidgeClassifier, "logits", "logit"),
        (SVC, "logits", "logit"),
    ],
)
def test_what_the_output_means(make, output, binary):
    assert adapt(make(), Problem("classification", ("a", "b", "c"), 6), Params()).output == output
    assert adapt(make(), Problem("classification", ("a", "b"), 6), Params()).output == binary


def test_distances_are_announced_and_keep_the_order(tmp_path):
    result = train(LinearSVC(), BINARY, Params(), tmp_path)
    assert any("sigmoid of its decision function" in note for note in result.adapter.notes)
    distance = result.adapter.model.decision_function(BINARY.part("test")[0])
    assert (
        np.argsort(distance, kind="stable") == np.argsort(result.adapter.predict(BINARY.part("test")[0]).astype(float), kind="stable")
    ).mean() > 0.99
    with pytest.raises(ModelError, match="compares classes in pairs: set decision_function_shape='ovr'"):
        train(SVC(decision_function_shape="ovo"), ArrayDataset(*blobs(600, classes=4), classes=list("abcd")), Params(), tmp_path)


def test_in_parts_where_there_is_partial_fit():
    problem = Problem("classification", ("a", "b"), 6)
    assert isinstance(adapt(mlp(), problem, Params()), SklearnStreaming)
    assert isinstance(adapt(MLPClassifier(solver="lbfgs"), problem, Params()), SklearnWhole)
    stops = adapt(MLPClassifier(early_stopping=True), problem, Params())
    assert isinstance(stops, SklearnWhole)
    assert any("stop early by itself" in note for note in stops.notes)


def test_both_procedures_learn(tmp_path):
    for procedure in ("passes", "chunks"):
        result = train(mlp(), BINARY, Params(epochs=5, procedure=procedure), tmp_path / procedure)
        assert result.metrics["test"]["auc"] > 0.83
        assert {record["kind"] for record in result.history} == {"epoch" if procedure == "passes" else "chunk"}


def test_naive_bayes_in_chunks_equals_the_whole(tmp_path):
    result = train(GaussianNB(var_smoothing=0), BINARY, Params(epochs=1), tmp_path)
    x, y, _ = BINARY.part("train")
    expected = GaussianNB(var_smoothing=0).fit(x.astype(np.float64), y).predict_proba(BINARY.part("test")[0])[:, 1]
    np.testing.assert_allclose(result.samples["test"].scores, expected, atol=1e-4)


def test_one_fit_is_said_and_epochs_do_not_matter(tmp_path):
    result = train(GradientBoostingClassifier(n_estimators=5, random_state=1), BINARY, Params(epochs=7), tmp_path)
    assert [record["kind"] for record in result.history] == ["fit"]
    assert result.epochs == 1
    assert result.trained == BINARY.events["train"]


def test_the_memory_limit_refuses_with_numbers_and_cure(tmp_path):
    with pytest.raises(
        ResourceError,
        match=r"needs all training data at once: 2100 events x 6 columns take about 0\.3 MB, the limit is 0\.1 MB; .*about 7\d\d in training",
    ):
        train(KNeighborsClassifier(), BINARY, Params(memory_limit="0.09MB"), tmp_path)
    train(mlp(), BINARY, Params(memory_limit="1kB", epochs=1), tmp_path)


def weighted(weight, **more):
    x, y = blobs(2000)
    return ArrayDataset(x, y, weight=weight.astype(np.float32), **more)


def test_weights_reach_every_kind_of_estimator(tmp_path):
    generator = np.random.default_rng(1)
    weight = generator.choice([0.5, 1.5], 2000)
    x, y, w = weighted(weight).part("train")
    xt = weighted(weight).part("test")[0]
    for make in (LogisticRegression, lambda: make_pipeline(StandardScaler(), LogisticRegression()), GaussianNB):
        found = train(make(), weighted(weight, chunk_size=5000), Params(epochs=1), tmp_path).samples["test"].scores
        model = make()
        expected = model.fit(x, y, **{weight_key(model): w}).predict_proba(xt)[:, 1]
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert np.abs(found - make().fit(x, y).predict_proba(xt)[:, 1]).max() > 1e-4


def test_estimators_without_weights_are_refused_when_there_are_some(tmp_path):
    weight = np.linspace(0.5, 1.5, 2000)
    for model in (KNeighborsClassifier(), make_pipeline(StandardScaler(), KNeighborsClassifier()), LinearDiscriminantAnalysis()):
        with pytest.raises(ModelError, match=r"cannot use event weights: leave out params\.weight"):
            train(model, weighted(weight), Params(), tmp_path)
    assert weight_key(GridSearchCV(LogisticRegression(), {})) == "sample_weight"
    assert weight_key(VotingClassifier([("a", KNeighborsClassifier())])) is None
    assert weight_key(StackingClassifier([("a", LogisticRegression()), ("b", KNeighborsClassifier())])) is None


def test_negative_weights_that_an_estimator_refuses_point_to_the_parameter(tmp_path):
    weight = np.where(np.arange(2000) % 5 == 0, -0.5, 1.0)
    with pytest.raises(ModelError, match=r"AdaBoostClassifier refuses negative event weights: set params\.negative_weights to abs or zero"):
        train(AdaBoostClassifier(n_estimators=3), weighted(weight), Params(), tmp_path)
    for how in ("abs", "zero"):
        assert train(AdaBoostClassifier(n_estimators=20), weighted(weight), Params(negative_weights=how), tmp_path).metrics["test"]["auc"] > 0.8
    assert train(DecisionTreeClassifier(max_depth=3), weighted(weight), Params(), tmp_path).metrics["test"]["auc"] > 0.75


def test_negative_weights_left_out_equal_a_fit_without_those_events(tmp_path):
    weight = np.where(np.arange(2000) % 5 == 0, -1.0, 1.0)
    dataset = weighted(weight)
    result = train(LogisticRegression(), dataset, Params(negative_weights="zero"), tmp_path)
    x, y, w = dataset.part("train")
    expected = LogisticRegression().fit(x[w > 0], y[w > 0]).predict_proba(dataset.part("test")[0])[:, 1]
    np.testing.assert_allclose(result.samples["test"].scores, expected, atol=1e-6)
    assert (result.samples["test"].weights < 0).any()
    assert result.trained == (w > 0).sum()


@pytest.mark.parametrize(
    ("model", "task", "sentence"),
    [
        (LinearRegression(), "classification", "LinearRegression is no classifier, but the labels are classes: .* params.task to regression"),
        (LogisticRegression(), "regression", "LogisticRegression is no regressor, but the labels are numbers: .* params.task to classification"),
        (KMeans(), "classification", "KMeans is no classifier, but the labels are classes: return a classifier$"),
    ],
)
def test_an_estimator_of_the_wrong_kind(model, task, sentence):
    with pytest.raises(ModelError, match=sentence):
        adapt(model, Problem(task, ("a", "b") if task == "classification" else (), 3), Params())


def test_a_class_without_training_events(tmp_path):
    x, y = blobs(500)
    dataset = ArrayDataset(x, y, classes=["a", "b", "never seen"])
    with pytest.raises(DataError, match="no training events of the class never seen"):
        train(LogisticRegression(), dataset, Params(), tmp_path)


def test_an_estimator_of_ones_own_needs_only_fit_and_predict(tmp_path):
    class Nearest:
        def fit(self, x, y):
            self.centres = np.stack([x[y == k].mean(axis=0) for k in (0, 1)])

        def predict(self, x):
            return np.linalg.norm(x[:, None] - self.centres, axis=2).argmin(axis=1)

        def predict_proba(self, x):
            d = np.linalg.norm(x[:, None] - self.centres, axis=2)
            return d[:, ::-1] / d.sum(axis=1, keepdims=True)

    result = train(Nearest(), BINARY, Params(), tmp_path)
    assert result.metrics["test"]["auc"] > 0.85


def test_a_finished_fit_is_resumed_without_fitting_again(tmp_path):
    first = train(RandomForestClassifier(n_estimators=5), BINARY, Params(), tmp_path)
    # no seed: fitting again would give another forest
    again = train(RandomForestClassifier(n_estimators=5), BINARY, Params(), tmp_path, resume=True)
    np.testing.assert_array_equal(again.samples["test"].scores, first.samples["test"].scores)
    assert again.history == first.history


def test_the_estimate_of_memory_knows_the_estimators():
    events, matrix = 1000, 1000 * 6 * 4
    factors = {
        "trees": (RandomForestClassifier(), 1.5),
        "histograms": (HistGradientBoostingClassifier(), 6),
        "others": (LinearSVC(), 8),
        "a scaler before": (make_pipeline(StandardScaler(), LogisticRegression()), 3.5),
    }
    for model, factor in factors.values():
        assert adapt(model, Problem("classification", ("a", "b"), 6), Params()).bytes_needed(events) == int(matrix * factor) + 32 * events
