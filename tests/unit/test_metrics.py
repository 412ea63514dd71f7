"""Figures of merit, against scikit-learn, against the definition pair by pair, and against toy experiments."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from mlaas.training import metrics


def sample(n=400, seed=0, ties=True, weighted=True):
    """Labels, scores and weights; with `ties` the scores take few values."""
    generator = np.random.default_rng(seed)
    y = generator.integers(0, 2, n)
    score = generator.normal(y * 0.8, 1.0)
    score = np.round(score, 1) if ties else score
    return y, score, generator.uniform(0.1, 3, n) if weighted else np.ones(n)


def pairs(y, score, weight):
    """The AUC by its definition: over all pairs of a signal and a background event."""
    s, b = y == 1, y == 0
    wins = (score[s][:, None] > score[b]) + 0.5 * (score[s][:, None] == score[b])
    return (weight[s][:, None] * weight[b] * wins).sum() / (weight[s].sum() * weight[b].sum())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(10, 200), st.booleans(), st.booleans())
def test_auc_equals_the_definition_and_scikit_learn(seed, n, ties, weighted):
    y, score, weight = sample(n, seed, ties, weighted)
    y[:2] = 0, 1
    found = metrics.auc(y, score, weight)
    assert found == pytest.approx(pairs(y, score, weight), abs=1e-12)
    assert found == pytest.approx(reference.roc_auc_score(y, score, sample_weight=weight), abs=1e-12)


def test_auc_with_negative_weights_is_the_signed_sum():
    y, score, weight = sample(n=300, weighted=True)
    weight[::7] *= -1
    assert metrics.auc(y, score, weight) == pytest.approx(pairs(y, score, weight), abs=1e-12)


def test_an_event_and_its_counter_event_cancel():
    y, score, weight = sample()
    doubled = (np.append(y, [1, 1]), np.append(score, [0.3, 0.3]), np.append(weight, [5.0, -5.0]))
    assert metrics.auc(*doubled) == pytest.approx(metrics.auc(y, score, weight), abs=1e-12)


def test_auc_leaves_no_bounds_and_says_when_it_is_undefined():
    assert metrics.auc([1, 1, 0, 0], [3, 1, 2, 0], [3.0, -2.0, 1.0, 1.0]) == 1.0
    assert np.isnan(metrics.auc([1, 1], [0.1, 0.2]))
    assert np.isnan(metrics.auc([1, 1, 0], [0.1, 0.2, 0.3], [1.0, -1.0, 1.0]))
    assert metrics.auc_with_error([0, 1], [0.0, 1.0]) == (1.0, 0.0)


def test_error_is_the_spread_of_repeated_experiments():
    for weighted in (False, True):
        found = [metrics.auc_with_error(*sample(400, seed, ties=False, weighted=weighted)) for seed in range(400)]
        areas, errors = np.array(found).T
        assert np.mean(errors) == pytest.approx(np.std(areas), rel=0.12)


def test_error_without_weights_is_delongs():
    y, score, _ = sample(120, seed=3)
    s, b = score[y == 1], score[y == 0]
    psi = (s[:, None] > b) + 0.5 * (s[:, None] == b)
    expected = np.sqrt(np.var(psi.mean(axis=1), ddof=1) / len(s) + np.var(psi.mean(axis=0), ddof=1) / len(b))
    assert metrics.auc_with_error(y, score)[1] == pytest.approx(expected, rel=1e-12)


def test_scaled_weights_change_nothing_and_weight_zero_equals_absence():
    y, score, weight = sample()
    assert metrics.auc_with_error(y, score, weight * 1e4) == pytest.approx(metrics.auc_with_error(y, score, weight), rel=1e-9)
    weight[:50] = 0
    assert metrics.auc_with_error(y, score, weight) == pytest.approx(metrics.auc_with_error(y[50:], score[50:], weight[50:]), rel=1e-9)
    whole, part = metrics.roc(y, score, weight), metrics.roc(y[50:], score[50:], weight[50:])
    assert np.interp(0.3, whole.fpr, whole.tpr) == pytest.approx(np.interp(0.3, part.fpr, part.tpr))


def test_roc_equals_scikit_learn_at_every_threshold():
    y, score, weight = sample()
    curve = metrics.roc(y, score, weight)
    fpr, tpr, thresholds = reference.roc_curve(y, score, sample_weight=weight, drop_intermediate=False)
    np.testing.assert_allclose(curve.fpr, fpr, atol=1e-12)
    np.testing.assert_allclose(curve.tpr, tpr, atol=1e-12)
    np.testing.assert_allclose(curve.thresholds[1:], thresholds[1:])


def test_roc_of_many_scores_is_thinned_along_the_curve():
    y, score, weight = sample(20_000, ties=False)
    curve = metrics.roc(y, score, weight, points=200)
    assert len(curve.fpr) <= 202
    assert (curve.fpr[0], curve.tpr[0], curve.fpr[-1], curve.tpr[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(curve.tpr, curve.fpr) == pytest.approx(curve.auc, abs=1e-3)
    assert np.diff(curve.fpr + curve.tpr).max() < 0.02


def test_roc_with_negative_weights_is_monotonic_within_bounds():
    y, score, weight = sample(1000)
    weight[np.random.default_rng(1).random(1000) < 0.3] *= -1
    curve = metrics.roc(y, score, weight)
    for rate in (curve.fpr, curve.tpr):
        assert (np.diff(rate) >= 0).all()
        assert rate[0] == 0
        assert rate[-1] == 1
    assert (curve.low <= curve.tpr).all()
    assert (curve.tpr <= curve.high).all()


def test_band_covers_the_true_efficiency_as_often_as_one_standard_deviation_should():
    covered = []
    for seed in range(300):
        y, score, _ = sample(400, seed, ties=False, weighted=False)
        curve = metrics.roc(y, score)
        at = np.searchsorted(-curve.thresholds, -0.8)  # the truth there: half of the signal passes
        covered.append(curve.low[at] <= 0.5 <= curve.high[at])
    assert np.mean(covered) == pytest.approx(0.683, abs=0.08)


def test_wilson_stays_within_bounds():
    low, high = metrics.wilson([0.0, 0.5, 1.0], 10)
    assert low[0] == 0
    assert 0.05 < high[0] < 0.15
    assert high[2] == 1
    assert metrics.wilson([0.3], 0)[1][0] == 1


def test_losses_equal_scikit_learn():
    y, score, weight = sample()
    p = 1 / (1 + np.exp(-score))
    assert metrics.accuracy(y, p, weight) == pytest.approx(reference.accuracy_score(y, p >= 0.5, sample_weight=weight))
    assert metrics.log_loss(y, p, weight) == pytest.approx(reference.log_loss(y, p, sample_weight=weight))
    assert metrics.mse(y, score, weight) == pytest.approx(reference.mean_squared_error(y, score, sample_weight=weight))
    assert metrics.mae(y, score, weight) == pytest.approx(reference.mean_absolute_error(y, score, sample_weight=weight))
    assert metrics.r2(y, score, weight) == pytest.approx(reference.r2_score(y, score, sample_weight=weight))
    assert np.isnan(metrics.r2(np.ones(5), np.ones(5)))
    assert metrics.log_loss([1, 0], [0.0, 1.0]) == pytest.approx(-np.log(1e-7))


def test_several_classes_are_each_against_the_rest():
    generator = np.random.default_rng(5)
    y = generator.integers(0, 3, 500)
    p = generator.dirichlet(np.ones(3), 500) + 0.3 * np.eye(3)[y]
    p /= p.sum(axis=1, keepdims=True)
    weight = generator.uniform(0.5, 2, 500)
    found = metrics.summary("classification", ["a", "b", "c"], y, p, weight)
    assert found["auc"] == pytest.approx(np.mean([reference.roc_auc_score(y == k, p[:, k], sample_weight=weight) for k in range(3)]))
    assert found["auc_per_class"]["b"]["auc"] == pytest.approx(reference.roc_auc_score(y == 1, p[:, 1], sample_weight=weight))
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(y, p.argmax(axis=1), sample_weight=weight))
    assert found["log_loss"] == pytest.approx(reference.log_loss(y, p, sample_weight=weight))


def test_undefined_figures_are_null_in_json():
    found = metrics.summary("classification", ["b", "s"], np.ones(3, int), np.full(3, 0.7))
    assert found["auc"] is None
    assert found["accuracy"] == 1
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert metrics.summary("regression", [], np.array([1.0, 2.0]), np.array([1.0, 2.0]))["r2"] == 1
