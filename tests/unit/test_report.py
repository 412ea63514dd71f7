"""The report: figures against references, histograms against NumPy, plots against the numbers they return, the page against what a reader needs."""

from __future__ import annotations

import dataclasses
import html
import json
import math
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib._pylab_helpers import Gcf
from scipy.stats import ks_2samp
from sklearn.metrics import roc_auc_score, roc_curve

from mlaas.data.columns import Columns, Jagged
from mlaas.errors import ResourceError
from mlaas.report import (
    BranchRead,
    FeatureHistogram,
    FeatureHistograms,
    FileRead,
    ModelCard,
    OnnxParity,
    ReportData,
    Scores,
    plot_binary,
    plot_classes,
    plot_cuts,
    plot_features,
    plot_history,
    plot_regression,
    statistics,
    style,
    text,
    write_report,
)
from mlaas.report.histograms import choose_edges
from mlaas.report.pictures import draw, safe, yields
from mlaas.report.roc import band, hanley_mcneil, roc, thinned
from mlaas.report.samples import class_names, clean, held_out, samples
from mlaas.report.summary import summary_of

PNG = b"\x89PNG\r\n\x1a\n"


def binary(n=2000, shift=1.5, seed=1, weights=None):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    scores = 1 / (1 + np.exp(-shift * rng.normal(labels - 0.5, 0.7, n)))
    return Scores(scores.astype(np.float32), labels, weights)


def multi(n=900, k=3, seed=1):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % k
    raw = rng.normal(0, 1, (n, k))
    raw[np.arange(n), labels] += 1.5
    odds = np.exp(raw)
    return Scores((odds / odds.sum(axis=1, keepdims=True)).astype(np.float32), labels)


def regression(n=2000, seed=1):
    rng = np.random.default_rng(seed)
    true = rng.uniform(20, 200, n)
    return Scores((true + 2 + rng.normal(0, 5, n)).astype(np.float32), true)


def run(**given):
    """A binary run with everything in it, changed by what is given."""
    rng = np.random.default_rng(3)
    made = FeatureHistograms({"met": (0, 500), "jet_pt": (0, 900)}, 2)
    labels = np.arange(400) % 2
    counts = rng.poisson(3, 400)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    made.fill(Columns(400, {"met": rng.exponential(50, 400), "jet_pt": Jagged(rng.exponential(80, offsets[-1]), offsets)}), labels)
    history = [{"epoch": at, "loss": 1 / at, "val_loss": 1.1 / at, "val_auc": 1 - 0.3 / at, "seconds": 1.5} for at in range(1, 6)]
    whole = {
        "name": "ttH",
        "framework": "keras",
        "classes": ("0", "1"),
        "created": "2026-01-02T03:04:05Z",
        "duration": 75.0,
        "versions": {"mlaas": "0.1.0"},
        "workflow": {"params": {"epochs": 5, "nan": math.nan}},
        "bundle": "/models/my model/1",
        "files": (FileRead("b.root", "0", 1000, 900, 12345, 900.0, "u1"), FileRead("s.root", "1", 1000, 800, 12345, 80.0, "u2")),
        "width": 13,
        "branches": (BranchRead("met", "flat", "float32", 1, 0, 500, 2), BranchRead("jet_pt", "jagged", "float32", 12, 0, 900)),
        "excluded": {"hlt": "strings cannot be features"},
        "scores": {"train": binary(seed=1), "validation": binary(600, seed=2), "test": binary(600, seed=3)},
        "metrics": {"test": {"auc": 0.8, "auc_error": 0.01, "loss": 0.5, "roc": [1, 2]}},
        "history": history,
        "histograms": made.result(),
        "onnx": OnnxParity(True, 1e-7, 1e-5),
    }
    return ReportData(**{**whole, **given})


class Page(HTMLParser):
    """What the tests look at of a page."""

    def __init__(self, source) -> None:
        super().__init__()
        self.tags, self.words, self.style = [], [], False
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.style = tag == "style"

    def handle_endtag(self, tag):
        self.style = False

    def handle_data(self, data):
        if not self.style:
            self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def page_of(tmp_path, data):
    return Page(write_report(tmp_path / "report", data).read_text(encoding="utf-8"))


# --- statistics -------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounding", [1, 6])
def test_roc_equals_scikit_learn_with_weights_and_ties(rounding):
    rng = np.random.default_rng(5)
    signal = rng.random(700) < 0.4
    scores, weights = np.round(rng.normal(signal, 1.2), rounding), rng.exponential(1, 700)
    curve = roc(scores, signal, weights)
    assert curve.auc == pytest.approx(roc_auc_score(signal, scores, sample_weight=weights), abs=1e-12)
    background, efficiency, _ = roc_curve(signal, scores, sample_weight=weights, drop_intermediate=False)
    np.testing.assert_allclose(curve.background, background, atol=1e-12)
    np.testing.assert_allclose(curve.signal, efficiency, atol=1e-12)


def test_auc_error_is_delongs():
    rng = np.random.default_rng(6)
    s, b = rng.normal(1, 1, 60), rng.normal(0, 1, 80)
    wins = (s[:, None] > b).astype(float) + 0.5 * (s[:, None] == b)
    expected = math.sqrt(np.var(wins.mean(axis=1), ddof=1) / 60 + np.var(wins.mean(axis=0), ddof=1) / 80)
    curve = roc(np.concatenate([s, b]), np.arange(140) < 60)
    assert curve.auc == pytest.approx(wins.mean())
    assert curve.error == pytest.approx(expected, rel=1e-9)


def test_hanley_mcneil_is_the_scatter_of_exponential_scores():
    rng = np.random.default_rng(4)
    signal, background = rng.exponential(4, (4000, 30, 1)), rng.exponential(1, (4000, 1, 50))  # the distributions of the paper; AUC 4/5
    areas = (signal > background).mean(axis=(1, 2))
    assert areas.mean() == pytest.approx(0.8, abs=0.005)
    assert hanley_mcneil(0.8, 30, 50) == pytest.approx(areas.std(), rel=0.05)
    assert math.isnan(hanley_mcneil(0.9, 0, 5))
    assert roc(np.array([0.8, 0.2]), np.array([False, True])).error == pytest.approx(hanley_mcneil(0.0, 1, 1))


@given(st.integers(0, 10_000), st.floats(1e-3, 1e3))
def test_auc_ignores_scale_zero_weights_and_cancelling_events(seed, scale):
    rng = np.random.default_rng(seed)
    signal = np.arange(50) % 2 == 0
    scores, weights = rng.normal(signal, 1), rng.exponential(1, 50)
    curve = roc(scores, signal, weights)
    scaled = roc(scores, signal, weights * scale)
    assert scaled.auc == pytest.approx(curve.auc)
    assert scaled.error == pytest.approx(curve.error)
    extra_scores, extra_signal = np.append(scores, [0.3, 0.1, 0.1]), np.append(signal, [True, False, False])
    assert roc(extra_scores, extra_signal, np.append(weights, [0, 2.0, -2.0])).auc == pytest.approx(curve.auc)


@pytest.mark.parametrize(("signal", "weights"), [([], []), ([True, True], [1, 1]), ([True, False], [1, 0]), ([True, False, True], [1, 1, -1])])
def test_roc_without_two_classes_is_empty(signal, weights):
    curve = roc(np.linspace(0, 1, len(signal)), np.asarray(signal, bool), np.asarray(weights, float))
    assert math.isnan(curve.auc)
    assert len(curve.signal) == len(band(curve)) == 0


def test_thinning_keeps_the_curve():
    split = binary(50_000)
    curve = roc(split.scores, split.labels == 1)
    few = thinned(curve)
    assert len(few.signal) < 450 < len(curve.signal)
    grid = np.linspace(0, 1, 1000)
    np.testing.assert_allclose(np.interp(grid, few.background, few.signal), np.interp(grid, curve.background, curve.signal), atol=0.006)


def test_band_is_as_wide_as_repeated_samples_scatter():
    at = []
    for seed in range(60):
        split = binary(400, seed=seed)
        curve = roc(split.scores, split.labels == 1)
        at.append(np.interp(0.6, curve.signal, curve.background))
    curve = roc(binary(400, seed=99).scores, binary(400).labels == 1)
    assert np.interp(0.6, curve.signal, band(curve)) == pytest.approx(np.std(at), rel=0.35)


def test_ks_equals_scipy_for_equal_weights():
    rng = np.random.default_rng(7)
    a, b = np.round(rng.normal(0, 1, 800), 1), np.round(rng.normal(0.1, 1, 900), 1)
    found, expected = statistics.kolmogorov_smirnov(a, b), ks_2samp(a, b, method="asymp")
    assert found.distance == pytest.approx(expected.statistic)
    assert found.p == pytest.approx(expected.pvalue, abs=0.01)
    weighted = statistics.kolmogorov_smirnov(np.append(a, 99), b, np.append(np.full(800, 3.0), 0), None)
    assert weighted.distance == pytest.approx(found.distance)
    assert weighted.p == pytest.approx(found.p)


def test_ks_of_nothing_and_of_the_same():
    assert math.isnan(statistics.kolmogorov_smirnov(np.empty(0), np.ones(3)).p)
    assert math.isnan(statistics.kolmogorov_smirnov(np.ones(2), np.ones(2), np.array([1.0, -1.0])).p)
    assert statistics.kolmogorov_smirnov(np.full(5, 0.5), np.full(9, 0.5)) == (0.0, 1.0, pytest.approx(45 / 14))


def test_sidak():
    assert statistics.sidak(0.01, 1) == pytest.approx(0.01)
    assert statistics.sidak(0.01, 40) == pytest.approx(1 - 0.99**40)
    assert math.isnan(statistics.sidak(math.nan, 3))
    assert statistics.sidak(1.0, 3) == 1.0


def test_separation():
    assert statistics.separation(np.array([1.0, 3]), np.array([2.0, 6])) == 0
    assert statistics.separation(np.array([1.0, 0]), np.array([0.0, 5])) == 1
    assert statistics.separation(np.array([3.0, 1]), np.array([1.0, 3])) == pytest.approx(0.25)
    assert math.isnan(statistics.separation(np.zeros(2), np.ones(2)))
    assert statistics.best_separation(np.array([[1.0, 0, 0], [1, 0, 0], [0, 0, 4]])) == 1
    assert math.isnan(statistics.best_separation(np.ones((1, 3))))


def test_significance_and_asimov():
    s, b = np.array([10.0, 10.0, 0.0]), np.array([1e6, 5.0, 0.0])
    np.testing.assert_allclose(statistics.significance(s, b), [10 / math.sqrt(1e6 + 10), 10 / math.sqrt(15), 0])
    found = statistics.asimov(s, b)
    assert found[0] == pytest.approx(10 / 1e3, rel=1e-4)
    assert found[1] == pytest.approx(math.sqrt(2 * (15 * math.log(3) - 10)))
    assert math.isnan(found[2])
    np.testing.assert_allclose(statistics.asimov(s[:2], b[:2], 1e-3 * b[:2] ** 0.5), found[:2], rtol=1e-3)
    assert statistics.asimov(10.0, 1e6, 1e4) == pytest.approx(10 / math.sqrt(1e6 + 1e8), rel=1e-3)


def test_calibration_of_true_probabilities_is_the_diagonal():
    rng = np.random.default_rng(8)
    scores = rng.random(40_000)
    found = statistics.calibration(scores, rng.random(40_000) < scores, np.ones(40_000))
    assert (np.abs(found.fraction - found.score) < 4 * found.error).all()
    assert found.expected < 0.02
    assert len(statistics.calibration(scores, scores > 2, np.zeros(40_000)).score) == 0


def test_confusion_and_residuals():
    matrix = statistics.confusion(np.array([0, 0, 2]), np.array([0, 1, 2]), np.array([1.0, 2.0, -1.0]), 3)
    assert matrix.tolist() == [[1, 2, 0], [0, 0, 0], [0, 0, -1]]
    found = statistics.residuals(np.array([2.0, 4.0]), np.array([1.0, 2.0]), np.array([1.0, 1.0]))
    assert found[:4] == pytest.approx((1.5, 0.5, 1.5, 1 - 5 / 0.5))
    assert math.isnan(statistics.residuals(np.ones(1), np.ones(1), np.zeros(1)).bias)


# --- histograms -------------------------------------------------------------------------------------------------------------------------------------


def columns(n=600, seed=1):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(2, n)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return Columns(
        n,
        {
            "mass": rng.normal(125, 15, n),
            "jet_pt": Jagged(rng.exponential(60, offsets[-1]).astype(np.float32), offsets),
            "jet_eta": Jagged(rng.normal(0, 1, offsets[-1]).astype(np.float32), offsets),
            "njet": counts.astype(np.int32),
            "tight": rng.random(n) < 0.5,
        },
    )


RANGES = dict.fromkeys(("mass", "jet_pt", "jet_eta", "njet", "tight"), (math.nan, math.nan))


def test_histograms_equal_numpy_and_do_not_depend_on_the_chunks():
    data, labels, weights = columns(), np.arange(600) % 2, np.linspace(-1, 2, 600)
    whole, parts = FeatureHistograms(RANGES, 2), FeatureHistograms(RANGES, 2)
    whole.fill(data, labels, weights)
    for start in range(0, 600, 77):
        parts.fill(data.slice(start, start + 77), labels[start : start + 77], weights[start : start + 77])
    jets = data["jet_pt"]
    element_label, element_weight = np.repeat(labels, jets.counts), np.repeat(weights, jets.counts)
    for a, b in zip(whole.result(), parts.result(), strict=True):
        np.testing.assert_allclose(a.edges, b.edges)
        np.testing.assert_allclose(a.counts, b.counts, atol=1e-9)
        np.testing.assert_allclose(a.variances, b.variances, atol=1e-9)
    pt = next(one for one in whole.result() if one.name == "jet_pt")
    for label in (0, 1):
        own = element_label == label
        expected, _ = np.histogram(jets.content[own].astype(float), pt.edges, weights=element_weight[own])
        np.testing.assert_allclose(pt.counts[label], expected, atol=1e-9)
        assert pt.counts[label].sum() + pt.overflow[label] + pt.underflow[label] == pytest.approx(element_weight[own].sum())


def test_edges_are_fixed_early_and_later_values_still_counted():
    made = FeatureHistograms(RANGES, 2, sample=50)
    data = columns()
    for start in range(0, 600, 100):
        made.fill(data.slice(start, start + 100), np.arange(100) % 2)
    assert made._held == {}
    assert all(one.counts.sum() + one.overflow.sum() + one.underflow.sum() > 400 for one in made.result())


def test_memory_is_bounded_when_one_class_comes_much_later():
    made = FeatureHistograms(RANGES, 2, buffer=20_000)
    for seed in range(5):
        made.fill(columns(seed=seed), 1)
        assert made._held_bytes <= 20_000
    made.fill(columns(seed=9), 0)
    mass = made.result()[0]
    assert mass.counts[1].sum() + mass.overflow[1] + mass.underflow[1] == 3000
    assert mass.counts[0].sum() + mass.overflow[0] + mass.underflow[0] == 600


def test_matrix_and_columns_give_the_same():
    rng = np.random.default_rng(2)
    values, labels = rng.uniform(10, 90, (300, 3)), np.arange(300) % 2
    mask = np.zeros((300, 3), bool)
    mask[::3, 2] = True
    counts = 2 - mask[:, 2]
    lists = Jagged(values[:, 1:][~mask[:, 1:]], np.concatenate([[0], np.cumsum(counts)]))
    ranges = {"met": (10.0, 90.0), "jet_pt": (10.0, 90.0)}
    raw, matrix = FeatureHistograms(ranges, 2), FeatureHistograms(ranges, 2)
    raw.fill(Columns(300, {"met": values[:, 0], "jet_pt": lists, "other": values[:, 0]}), labels)
    scaled = np.where(mask, 0, (values - 10) / 80)
    matrix.fill_matrix(scaled, ["met", "jet_pt[0]", "jet_pt[1]"], labels, mask=mask, normalised=True)
    for a, b in zip(raw.result(), matrix.result(), strict=True):
        np.testing.assert_allclose(a.edges, b.edges, atol=1e-6)
        np.testing.assert_allclose(a.counts.sum(axis=1), b.counts.sum(axis=1))
        np.testing.assert_allclose(a.counts, b.counts, atol=2)  # a value on an edge may fall to either side


def test_a_long_tail_does_not_squeeze_the_rest():
    values = np.append(np.random.default_rng(1).normal(100, 10, 5000), [1e9])
    made = FeatureHistograms({"x": (0, 1e9)}, 2)
    made.fill(Columns(5001, {"x": values}), np.arange(5001) % 2)
    (found,) = made.result()
    assert found.edges[-1] < 200
    assert (found.counts.sum(axis=0) > 0).sum() > 30
    assert plot_features.outside(found) == pytest.approx(found.overflow.sum() / 5001 + found.underflow.sum() / 5001)


@pytest.mark.parametrize(
    ("values", "limits", "edges", "discrete"),
    [
        (np.array([0, 1, 1, 3]), (0, 4), [-0.5, 0.5, 1.5, 2.5, 3.5, 4.5], True),
        (np.array([True, False]), (0, 1), [-0.5, 0.5, 1.5], True),
        (np.array([7.0, 7.0]), (7, 7), [6.5, 7.5], True),
    ],
)
def test_whole_numbers_get_a_bin_each(values, limits, edges, discrete):
    found, whole = choose_edges(values, np.zeros(len(values), np.int64), limits)
    assert found.tolist() == edges
    assert whole is discrete


@pytest.mark.parametrize("values", [[0.25], [-7e307, 7e307], [1e-300, 2e-300], [5e15, 6e15], [0.1, 0.1], [-3.5, 0.5], [1e16, 1e16 + 4], [0, 10_000]])
def test_edges_of_anything_hold_all_values(values):
    values = np.asarray(values, float)
    edges, _ = choose_edges(values, np.zeros(len(values), np.int64))
    assert np.isfinite(edges).all()
    assert (np.diff(edges) >= 0).all()
    assert edges[0] <= values.min()
    assert values.max() <= edges[-1]


def test_values_too_wide_for_any_bin_are_outside():
    made = FeatureHistograms({"x": (0, 1)}, 0)
    made.fill(Columns(3, {"x": np.array([-1.7e308, 0.0, 1.7e308])}), 0)
    (found,) = made.result()
    assert (found.underflow[0], found.counts.sum(), found.overflow[0]) == (1, 1, 1)


def test_nan_is_counted_and_left_out():
    made = FeatureHistograms({"x": (0, 1), "empty": (math.nan, math.nan)}, 2)
    made.fill(Columns(4, {"x": np.array([0.1, np.nan, np.inf, 0.9]), "empty": np.full(4, np.nan)}), np.array([0, 0, 1, 1]))
    (found,) = made.result()
    assert found.nans.tolist() == [1, 1]
    assert found.counts.sum(axis=1).tolist() == [1, 1]


def test_events_limits_each_class_and_a_strange_class_is_refused():
    made = FeatureHistograms({"mass": (0, 300)}, 2, events=100)
    for seed in range(3):
        made.fill(columns(seed=seed), np.arange(600) % 2)
    assert made.result()[0].counts.sum() + made.result()[0].overflow.sum() + made.result()[0].underflow.sum() == 200
    with pytest.raises(ValueError, match="class indices must be from 0 to 1"):
        made.fill(columns(), 2)


def test_regression_needs_no_label():
    made = FeatureHistograms(RANGES, 0)
    made.fill(columns(), np.linspace(0, 1, 600))
    assert [one.counts.shape[0] for one in made.result()] == [1] * 5


# --- scores -----------------------------------------------------------------------------------------------------------------------------------------


def test_scores_take_the_published_shapes_only():
    assert Scores(np.array([[0.2, 0.8]]), [1]).scores.tolist() == [0.8]
    assert Scores(np.array([[0.3]]), [1]).scores.tolist() == [0.3]
    with pytest.raises(ValueError, match="as many scores"):
        Scores(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match="shape"):
        Scores(np.zeros((1, 2, 3)), np.zeros(1))


def test_clean_drops_what_is_not_finite_or_no_class():
    split = Scores(np.array([0.1, np.nan, 0.3, 0.4, 0.5]), np.array([0, 0, 1, 7, 1]), np.array([1, 1, np.inf, 1, -2.0]))
    found = clean(split, 2)
    assert found.scores.tolist() == [0.1, 0.5]
    assert (found.dropped, found.weights.tolist()) == (3, [1, -2])


def test_held_out_is_the_test_or_else_the_validation():
    assert [held_out(names) for names in (["train", "validation", "test"], ["train", "validation"], ["train"], [])] == [
        "test",
        "validation",
        "train",
        "",
    ]


def test_classes_are_called_signal_and_background():
    assert class_names(["0", "1"]) == ["background (label 0)", "signal (label 1)"]
    assert class_names(["QCD", "ttH"]) == ["QCD (background)", "ttH (signal)"]
    assert class_names(["Background", "my signal"]) == ["Background", "my signal"]
    assert class_names(["ttH"])[1].startswith("signal")


# --- plots ------------------------------------------------------------------------------------------------------------------------------------------


def test_plots_leave_matplotlib_as_it_was():
    before = dict(mpl.rcParams)
    pictures = draw(run())
    assert dict(mpl.rcParams) == before
    assert Gcf.figs == {}
    assert all(picture.png.startswith(PNG) for picture in pictures)


def test_roc_plot_draws_its_numbers():
    data = run()
    curves = plot_binary.curves(samples(data))
    for logarithmic in (False, True):
        plot = plot_binary.plot_roc(curves, logarithmic=logarithmic)
        lines = {line.get_label().split(":")[0].strip(): line for line in plot.figure.axes[0].lines}
        assert plot.numbers["test"]["auc"] == curves["test"].auc
        np.testing.assert_array_equal(lines["test"].get_xdata()[-5:], plot.numbers["test"]["signal"][-5:])
        assert len(plot.figure.axes[0].collections) == 1  # the band of the held-out curve only


def test_score_plot_is_normalised_and_gives_ks():
    splits = samples(run())
    plot = plot_binary.plot_scores(splits, ["b", "s"])
    for density in plot.numbers["density"].values():
        assert density.sum() / plot_binary.SCORE_BINS == pytest.approx(1)
    own, other = splits["train"], splits["test"]
    expected = ks_2samp(own.scores[own.labels == 1], other.scores[other.labels == 1]).statistic
    assert plot.numbers["ks"]["s"].distance == pytest.approx(expected)


def test_significance_finds_the_best_cut_and_distrusts_empty_tails():
    split = binary(4000)
    sample = clean(split, 2)
    plot = plot_cuts.plot_significance(sample, (1000.0, 50.0))
    best = plot.numbers["best"]["simple"]
    cut = sample.scores >= best["cut"]
    s, b = 50 * cut[sample.labels == 1].mean(), 1000 * cut[sample.labels == 0].mean()
    assert (best["signal"], best["background"]) == (pytest.approx(s), pytest.approx(b))
    assert best["value"] == pytest.approx(s / math.sqrt(s + b))
    assert cut[sample.labels == 0].sum() >= plot_cuts.FEWEST
    assert (
        plot_cuts.plot_significance(sample, (1000.0, 50.0), uncertainty=0.3).numbers["best"]["asimov"]["value"]
        < plot.numbers["best"]["asimov"]["value"]
    )


def test_one_vs_rest_and_confusion():
    sample = clean(multi(), 3)
    curves = plot_classes.one_vs_rest(sample, ["a", "b", "c"])
    assert curves["b"].auc == pytest.approx(roc_auc_score(sample.labels == 1, sample.scores[:, 1]))
    plot = plot_classes.plot_confusion(sample, ["a", "b", "c"])
    assert plot.numbers["accuracy"] == pytest.approx(np.mean(sample.scores.argmax(axis=1) == sample.labels))
    np.testing.assert_allclose(plot.numbers["share"].sum(axis=1), 1)


def test_regression_plots_give_bias_and_unit_pulls():
    splits = {"train": clean(regression(6000), 0), "test": clean(regression(6000, 2), 0)}
    assert plot_regression.plot_residuals(splits).numbers["test"]["bias"] == pytest.approx(2, abs=0.3)
    assert plot_regression.plot_predicted(splits).numbers["r2"] == pytest.approx(0.99, abs=0.01)
    assert plot_regression.plot_pulls(splits).numbers["rms"] == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(np.nanmean(plot_regression.plot_profile(splits).numbers["rms"]), 5, rtol=0.05)


def test_history_takes_gaps_steps_and_other_things():
    history = [
        {"epoch": 1, "loss": 2.0},
        {"epoch": 1, "loss": 1.0, "val_loss": math.nan},
        {"epoch": 2, "loss": None, "val_loss": 0.5, "note": "x", "ok": True},
    ]
    label, found = plot_history.series(history)
    assert label == "step"
    assert found["x"].tolist() == [1, 2, 3]
    assert plot_history.plot_loss(history).numbers["best"] == (3, 0.5)
    assert plot_history.plot_metrics(history).figure is None
    assert plot_history.plot_metrics([{"epoch": 1, "val_auc": 0.6}, {"epoch": 2, "val_auc": 0.7}]).numbers["val_auc"].tolist() == [0.6, 0.7]
    assert plot_history.plot_loss([]).numbers["reason"].startswith("No loss curve")


def test_features_come_ordered_by_separation():
    flat = np.ones(4)

    def one(name, counts):
        return FeatureHistogram(name, np.arange(5.0), np.array(counts), np.array(counts), np.zeros(2), np.zeros(2), np.zeros(2, np.int64))

    found = plot_features.ordered([one("same", [flat, flat]), one("empty", [flat * 0, flat]), one("apart", [[1.0, 1, 0, 0], [0, 0, 1, 1.0]])])
    assert [item[0].name for item in found] == ["apart", "same", "empty"]
    assert plot_features.plot_overview(found, ["b", "s"]).numbers["apart"] == 1


@pytest.mark.parametrize("name", ["_hidden", "$x", "$a$b$", "a\nb", "日本", "x" * 500, "%s{0}\\", "<b>", ""])
def test_any_name_can_be_drawn(name):
    histogram = dataclasses.replace(run().histograms[0], name=name)
    plot = plot_features.plot_branch(histogram, 0.5, [name, name])
    assert style.render(plot.figure).startswith(PNG)
    assert style.render(plot_features.plot_overview([(histogram, 0.5)], [name, name]).figure).startswith(PNG)


def test_pictures_are_the_same_every_time():
    histogram = run().histograms[0]
    pictures = [style.render(plot_features.plot_branch(histogram, 0.1, ["b", "s"]).figure) for _ in range(2)]
    assert pictures[0] == pictures[1]


# --- the page ---------------------------------------------------------------------------------------------------------------------------------------


def test_page_is_complete_and_needs_nothing_else(tmp_path):
    data = run()
    path = write_report(tmp_path / "report", data)
    source = path.read_text(encoding="utf-8")
    page = Page(source)
    assert path == tmp_path / "report" / "index.html"
    for attributes in page.all("img"):
        assert attributes["src"].startswith("data:image/png;base64,")
        assert len(attributes["alt"]) > 20
        assert int(attributes["width"]) > 100
    assert all(attributes["href"].startswith("#") for attributes in page.all("a"))
    assert page.all("script") == page.all("link") == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["href"][1:] for attributes in page.all("a")} <= set(ids)
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.all("th"))
    assert "prefers-color-scheme: dark" in source
    files = {file.name for file in path.parent.iterdir()}
    assert {"index.html", "roc.png", "rejection.png", "scores.png", "significance.png", "calibration.png", "loss.png", "features_1.png"} <= files
    assert len(page.all("img")) == len(files) - 1


def test_page_opens_with_the_summary(tmp_path):
    text_of = page_of(tmp_path, run()).text
    curve = plot_binary.curves(samples(run()))["test"]
    opening = text_of[: text_of.index("Performance")]
    assert plot_binary.auc_text(curve.auc, curve.error) in opening
    for expected in (
        "KS train/held-out",
        "1 min 15 s",
        "1 700",
        "mlaas predict '/models/my model/1' FILE...",
        "mlaas replay",
        "distributions agree",
    ):
        assert expected in opening
    for expected in ("Model card", "Intended use", "Limits", "Provenance", "strings cannot be features", "0.800 ± 0.010", "b.root"):
        assert expected in text_of


def test_user_text_is_escaped_and_credentials_are_hidden(tmp_path):
    evil = "<script>alert('x')</script>&\"{{ 7*7 }}"
    data = run(
        name=evil,
        classes=(evil, "s"),
        files=(FileRead("https://me:hunter2@host/f.root?authz=s3cr3t&x=1", evil, 1, 1, 1, 1.0, evil),),
        excluded={evil: evil},
        notes=(evil,),
        card=ModelCard(intended_use=(evil,), provenance={"source": "root://u:hunter2@h//f", evil: evil}),
        workflow={"files": ["s3://key:hunter2@bucket/f?token=s3cr3t"], "password": "hunter2", "x": evil},
        versions={evil: evil},
        metrics={evil: {evil: evil}},
        branches=(BranchRead(evil),),
        bundle=evil,
    )
    source = write_report(tmp_path / "report", data).read_text(encoding="utf-8")
    assert "<script" not in source
    assert "hunter2" not in source
    assert "s3cr3t" not in source
    assert html.escape("{{ 7*7 }}") in source
    assert "x=1" in source


VALUES = {"task": "regression", "classes": ()}
TRUE = np.linspace(0, 9, 99)
EDGES = {
    "nothing": {"scores": {}, "history": (), "histograms": (), "files": (), "branches": (), "metrics": {}, "classes": ()},
    "one class only": {"scores": {"train": binary(50), "test": Scores(np.linspace(0, 1, 40), np.ones(40, int))}},
    "single class name": {"classes": ("1",), "scores": {"test": Scores(np.linspace(0, 1, 40), np.zeros(40, int))}},
    "empty splits": {"scores": {"train": binary(50), "validation": Scores(np.empty(0), np.empty(0)), "test": Scores(np.empty(0), np.empty(0))}},
    "all NaN": {"scores": {"train": binary(50), "test": Scores(np.full(30, np.nan), np.arange(30) % 2)}},
    "some NaN": {"scores": {"test": Scores(np.append(np.linspace(0, 1, 40), [np.nan, np.inf]), np.arange(42) % 2)}},
    "constant": {"scores": {"train": Scores(np.full(40, 0.5), np.arange(40) % 2), "test": Scores(np.full(40, 0.5), np.arange(40) % 2)}},
    "constant outside [0, 1]": {"scores": {"test": Scores(np.full(40, 7.0), np.arange(40) % 2)}},
    "one event": {"scores": {"train": Scores(np.array([0.3]), np.array([1])), "test": Scores(np.array([0.3]), np.array([0]))}},
    "two events": {"scores": {"train": Scores(np.array([0.3, 0.9]), np.array([0, 1])), "test": Scores(np.array([0.3, 0.2]), np.array([0, 1]))}},
    "negative weights": {"scores": {"train": binary(99, weights=np.tile([1, -0.5, 1], 33)), "test": binary(99, weights=np.tile([1, 1, -0.5], 33))}},
    "negative sum": {"scores": {"test": binary(40, weights=np.full(40, -1.0))}},
    "zero weights": {"scores": {"train": binary(40), "test": binary(40, weights=np.zeros(40))}},
    "perfect": {"scores": {"test": Scores((np.arange(200) % 2) * 1.0, np.arange(200) % 2)}},
    "logits": {"scores": {"train": Scores(np.linspace(-5, 9, 60), np.arange(60) % 2), "test": Scores(np.linspace(-5, 9, 60), np.arange(60) % 2)}},
    "three classes, one missing": {"classes": ("a", "b", "c"), "scores": {"train": multi(), "test": Scores(multi(90).scores, np.arange(90) % 2)}},
    "three classes, one event": {"classes": ("a", "b", "c"), "scores": {"test": Scores(np.array([[0.2, 0.3, 0.5]]), np.array([1]))}},
    "three classes, nothing": {"classes": ("a", "b", "c"), "scores": {"train": Scores(np.empty((0, 3)), np.empty(0))}},
    "regression, one event": {**VALUES, "scores": {"train": regression(1), "test": regression(1)}},
    "regression, constant": {
        "task": "regression",
        "classes": (),
        "scores": {"train": Scores(np.ones(9), np.ones(9)), "test": Scores(np.ones(9), np.ones(9))},
    },
    "regression, zero weights": {**VALUES, "scores": {"test": Scores(np.ones(9), np.ones(9), np.zeros(9))}},
    "regression, negative weights": {
        "task": "regression",
        "classes": (),
        "scores": {"test": Scores(TRUE + 1, TRUE, np.tile([1, -0.5, 1], 33))},
    },
    "infinite loss": {"history": [{"epoch": 1, "loss": math.inf, "val_loss": math.nan}, {"epoch": 2, "loss": 1.0, "val_loss": math.inf}]},
    "one epoch": {"history": [{"epoch": 1, "loss": 0.5, "val_loss": 0.6, "val_auc": 0.7}]},
}


@pytest.mark.parametrize("case", EDGES)
def test_every_edge_gives_a_page_without_nan(tmp_path, case):
    page = page_of(tmp_path, run(**{"histograms": (), "history": (), **EDGES[case]}))
    words = page.text.replace("NaN", "")
    assert " nan" not in words
    assert " inf " not in words
    assert "Model card" in words


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({"scores": {}}, "bad", "No event was scored"),
        ({"scores": {"train": binary()}}, "bad", "no held-out events"),
        ({"scores": EDGES["one class only"]["scores"]}, "bad", "cannot measure the model"),
        ({"scores": {"train": binary(shift=9), "test": binary(shift=0.05, seed=4)}}, "bad", "overtrained"),
        ({"scores": {"test": Scores(np.random.default_rng(1).random(2000), np.arange(2000) % 2)}}, "bad", "better than chance"),
        (EDGES["perfect"], "note", "nearly perfect"),
        (EDGES["some NaN"], "bad", "2 of 42 test events"),
        (EDGES["negative weights"], "note", "make up 20.0% of the absolute weights of the test"),
        (
            {"onnx": OnnxParity(False, 0.1, 1e-5, "the difference is too large")},
            "note",
            "No ONNX form; the native model serves: the difference is too large",
        ),
        ({"onnx": OnnxParity(True, 1e-7, 1e-5)}, "good", "The ONNX form gives the same scores"),
        (VALUES | {"onnx": OnnxParity(True, 1e-4, 1e-5)}, "good", "allowed 1e-05 times the root mean square of the values"),
        ({"metrics": {"test": {"auc": 0.5}}}, "note", "The metrics record an AUC of 0.5000"),
        ({"branches": (BranchRead("flat", minimum=1, maximum=1),)}, "note", "constant and cannot help: flat"),
        ({"history": [{"epoch": 1, "val_loss": 1.0}, {"epoch": 2, "val_loss": 2.0}]}, "note", "lowest at epoch 1"),
        (EDGES["infinite loss"], "bad", "loss was NaN or infinite"),
        ({"notes": ("Look here.",)}, "note", "Look here."),
        (EDGES["one event"], "note", "Fewer than 50 effective test events"),
    ],
)
def test_verdicts(changes, level, words):
    found = [verdict for verdict in summary_of(run(**changes)).verdicts if words in verdict.text]
    assert [verdict.level for verdict in found] == [level]


def test_a_good_run_has_no_warning():
    summary = summary_of(run())
    assert "bad" not in {verdict.level for verdict in summary.verdicts}
    assert summary.split == "test"


def test_yields_come_from_the_files_when_every_label_is_a_class():
    assert yields(run()) == (900, 80)
    assert yields(run(files=(FileRead("x", "", 1, 1, 1, 5.0),))) is None


def test_many_classes_and_branches_are_paged(tmp_path):
    rng = np.random.default_rng(1)
    made = FeatureHistograms({f"branch {at}": (0, 1) for at in range(50)}, 13)
    made.fill(Columns(200, {f"branch {at}": rng.random(200) for at in range(50)}), np.arange(200) % 13)
    scores = {"train": multi(400, 13), "test": multi(400, 13, 2)}
    folder = write_report(tmp_path, run(classes=[f"class {at}" for at in range(13)], scores=scores, histograms=made.result(), history=())).parent
    assert {file.name for file in folder.glob("features_*.png")} == {"features_1.png", "features_2.png", "features_3.png"}
    assert {file.name for file in folder.glob("scores*.png")} == {"scores.png", "scores_2.png"}


@pytest.mark.parametrize(("hist", "magic"), [("pdfs", b"%PDF"), ("pngs", PNG)])
def test_one_picture_per_branch_stays_in_its_folder(tmp_path, hist, magic):
    histogram = run().histograms[0]
    hostile = [dataclasses.replace(histogram, name=name) for name in ("../../etc/passwd", "a/b", "A/B", "é" * 300, "")]
    folder = write_report(tmp_path / "report", run(histograms=hostile, hist=hist)).parent
    files = sorted((folder / "branches").iterdir())
    assert len(files) == 5
    assert all(file.read_bytes().startswith(magic) for file in files)
    assert {file.suffix for file in files} == {f".{hist[:3]}"}
    assert {path.name for path in tmp_path.iterdir()} == {"report"}
    assert safe("../x y") == "___x_y"


def test_a_failed_report_leaves_the_former_one(tmp_path):
    path = write_report(tmp_path, run(histograms=()))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    loop: dict[str, object] = {}
    loop["self"] = loop
    with pytest.raises(RecursionError):
        write_report(tmp_path, run(workflow=loop, histograms=(), history=()))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    (tmp_path / "mine.txt").write_text("kept")
    (tmp_path / "features_9.png").write_bytes(b"from an earlier run")
    assert write_report(tmp_path, run(histograms=(), history=())) == path
    left = {file.name for file in tmp_path.iterdir()}
    assert "mine.txt" in left
    assert not left & {"features_9.png", "loss.png"}
    assert not [name for name in left if name.startswith(".")]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResourceError, match="file/report"):
        write_report(tmp_path / "file" / "report", run())


# --- text -------------------------------------------------------------------------------------------------------------------------------------------


def test_texts():
    assert [text.duration(item) for item in (0.5, 59.97, 60, 3599.7, 7385, math.nan)] == [
        "0.5 s",
        "60 s",
        "1 min 00 s",
        "1 h 00 min",
        "2 h 03 min",
        "–",
    ]
    assert [text.size(item) for item in (0, 999, 1000, 999_700, 83_900_000, 5e18)] == ["0 B", "999 B", "1 kB", "1 MB", "83.9 MB", "5e+06 TB"]
    values = [(1234567, "1\u202f234\u202f567"), (0.5, "0.5"), (math.nan, "–"), (-math.inf, "−∞"), (None, "–"), (True, "yes"), ("x", "x")]
    assert [text.value(item) for item, _ in values] == [shown for _, shown in values]
    assert text.redact("root://a.b//f?x=1") == "root://a.b//f?x=1"
    assert json.loads(text.document({"token": "t", "path": Path("/a"), "n": [1, {"secret": ["s"]}]})) == {
        "token": "[hidden]",
        "path": "/a",
        "n": [1, {"secret": ["[hidden]"]}],
    }
    assert plot_binary.auc_text(0.87503, 0.00203) == "0.8750 ± 0.0020"
    assert plot_binary.auc_text(1.0, 0.0) == "1.0000"
    assert plot_binary.auc_text(math.nan, 1) == "–"
