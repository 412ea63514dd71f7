"""Which pictures a run gets: draws them, renders them, and says in words what each shows."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from mlaas.report import plot_binary, plot_classes, plot_cuts, plot_features, plot_history, plot_regression
from mlaas.report.data import ReportData
from mlaas.report.plot_binary import auc_text
from mlaas.report.samples import Sample, class_names, held_out, samples
from mlaas.report.style import Plot, number, render

Section = Literal["performance", "training", "features"]


class Picture:
    """A plot ready for the page.

    name: stem of its file. alt: what one sees, with the numbers. numbers: those of the plot; `reason` explains why nothing was drawn.
    """

    def __init__(self, name: str, section: Section, title: str, plot: Plot, alt: str, caption: str = "") -> None:
        self.name, self.section, self.title, self.alt, self.caption = name, section, title, alt, caption
        self.numbers = plot.numbers
        self._figure = plot.figure

    @functools.cached_property
    def png(self) -> bytes | None:
        """The rendered plot, None when there was nothing to draw; asked for the first time it is rendered and its figure let go."""
        figure, self._figure = self._figure, None
        return None if figure is None else render(figure)

    @property
    def reason(self) -> str:
        """Why there is no plot."""
        return str(self.numbers.get("reason", ""))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, from the PNG's header; (0, 0) without one."""
        return (0, 0) if self.png is None else (int.from_bytes(self.png[16:20], "big"), int.from_bytes(self.png[20:24], "big"))


def draw(data: ReportData) -> Iterator[Picture]:
    """All pictures of the page, in its order, one after another so that few figures are in memory."""
    splits = samples(data)
    if data.task == "regression":
        yield from _regression(data, splits)
    elif len(data.classes) > 2:
        yield from _classes(data, splits)
    else:
        yield from _binary(data, splits)
    yield from _training(data)
    yield from _features(data)


def yields(data: ReportData) -> tuple[float, float] | None:
    """Sums of weights (background, signal) of all events read, when every file has the label of a class; else None."""
    classes = [str(name) for name in data.classes]
    if len(classes) != 2 or not data.files or any(file.label not in classes or not math.isfinite(file.sum_of_weights) for file in data.files):
        return None
    background, signal = (sum(file.sum_of_weights for file in data.files if file.label == name) for name in classes)
    return background, signal


def _binary(data: ReportData, splits: Mapping[str, Sample]) -> Iterator[Picture]:
    names = class_names(data.classes)
    curves = plot_binary.curves(splits)
    areas = "; ".join(f"{name} AUC {auc_text(curve.auc, curve.error)}" for name, curve in curves.items())
    band = "The band is one standard deviation (binomial in both efficiencies); the error of the AUC is DeLong's."
    yield Picture("roc", "performance", "ROC curve", plot_binary.plot_roc(curves), f"Background rejection against signal efficiency: {areas}.", band)
    rejection = plot_binary.plot_roc(curves, logarithmic=True)
    alt = f"Inverse background efficiency against signal efficiency: {areas}."
    caption = "The same curve, logarithmic: how many background events there are for each one that passes."
    yield Picture("rejection", "performance", "Background rejection", rejection, alt, caption)
    scores = plot_binary.plot_scores(splits, names)
    found = ", ".join(f"{name} p = {number(ks.p)}, largest distance {number(ks.distance)}" for name, ks in scores.numbers.get("ks", {}).items())
    test = scores.numbers.get("split", "held-out")
    caption = "Left linear, right logarithmic. Filled: training events; points: held-out events with statistical errors."
    if found:
        caption += f" Kolmogorov-Smirnov test of train against {test} with the effective numbers of events: {found}."
    alt = f"Score distributions of {names[0]} and {names[1]}. {found}"
    yield Picture("scores", "performance", "Score distributions", scores, alt, caption)
    yield from _cuts(data, splits)


def _cuts(data: ReportData, splits: Mapping[str, Sample]) -> Iterator[Picture]:
    test = held_out(splits)
    if not test:
        return
    total = yields(data)
    cut = plot_cuts.plot_significance(splits[test], total)
    best = cut.numbers.get("best", {}).get("asimov", {})
    told = f"{number(best.get('value', math.nan))} at {number(best.get('cut', math.nan))}"
    alt = f"Significance against the cut on the score; best Asimov significance {told}."
    source = "the sums of weights of the files" if total else f"the sums of weights of the {test} events"
    caption = (
        f"Efficiencies of the {test} events times {source}; with other yields the best cut moves. A cut that leaves fewer than ten effective "
        "background events is never the best. Asimov: Cowan et al., EPJC 71 (2011) 1554, eq. 97."
    )
    yield Picture("significance", "performance", "Significance against the cut", cut, alt, caption)
    calibration = plot_cuts.plot_calibration(splits)
    caption = "On the diagonal a score is the probability of being signal, for the mixture of classes in these events (weights included)."
    yield Picture(
        "calibration", "performance", "Calibration", calibration, f"Observed signal fraction against mean score. {_expected(calibration)}", caption
    )
    confusion = plot_classes.plot_confusion(splits[test], class_names(data.classes))
    alt = f"Confusion matrix of the {test} events at a cut of 0.5; accuracy {number(confusion.numbers['accuracy'])}."
    yield Picture("confusion", "performance", "Confusion at a cut of 0.5", confusion, alt, f"Rows add up to 100 %; {test} events.")


def _expected(plot: Plot) -> str:
    found = [f"{name}: mean deviation {number(item['expected'])}" for name, item in plot.numbers.items() if isinstance(item, dict)]
    return "; ".join(found)


def _classes(data: ReportData, splits: Mapping[str, Sample]) -> Iterator[Picture]:
    classes = [str(name) for name in data.classes]
    test = held_out(splits)
    curves = plot_classes.one_vs_rest(splits[test], classes) if test else {}
    auc = auc_text(*plot_classes.macro((curve.auc, curve.error) for curve in curves.values()))
    alt = f"One-vs-rest ROC curves of {len(curves)} classes of the {test or 'missing'} events; mean AUC {auc}."
    caption = f"Each class against all others by its probability; {test} events. Mean AUC {auc}." if curves else ""
    yield Picture("roc", "performance", "ROC curves, one against the rest", plot_classes.plot_one_vs_rest(curves), alt, caption)
    rejection = plot_classes.plot_one_vs_rest(curves, logarithmic=True)
    yield Picture("rejection", "performance", "Rejection of the other classes", rejection, f"Inverse efficiency of the others. {alt}")
    if not test:
        return
    confusion = plot_classes.plot_confusion(splits[test], classes)
    accuracy = number(confusion.numbers["accuracy"])
    alt = f"Confusion matrix of the {test} events; accuracy {accuracy}."
    yield Picture(
        "confusion",
        "performance",
        "Confusion matrix",
        confusion,
        alt,
        f"The class with the largest probability; rows add up to 100 %. Accuracy {accuracy}.",
    )
    confidence = plot_classes.plot_confidence(splits)
    yield Picture(
        "calibration",
        "performance",
        "Calibration of the chosen class",
        confidence,
        f"Share of right answers against probability. {_expected(confidence)}",
    )
    ks = plot_classes.class_ks(splits, classes)
    for first in range(0, len(classes), plot_classes.PANELS):
        plot = plot_classes.plot_class_scores(splits, classes, first, ks)
        last = min(first + plot_classes.PANELS, len(classes))
        title = "Probability of each class" if len(classes) <= plot_classes.PANELS else f"Probability of classes {first + 1} to {last}"
        alt = f"Distribution of the probability of {', '.join(classes[first:last])}, for events of the class and all others, train and {test}."
        caption = "Filled: training events; points: held-out events. KS compares the two for the class's own events."
        stem = "scores" if first == 0 else f"scores_{first // plot_classes.PANELS + 1}"
        yield Picture(stem, "performance", title, plot, alt, caption)


def _regression(data: ReportData, splits: Mapping[str, Sample]) -> Iterator[Picture]:
    predicted = plot_regression.plot_predicted(splits, data.target)
    found = predicted.numbers
    told = ", ".join(f"{name} {number(found[key])}" for name, key in (("R²", "r2"), ("RMS residual", "rms"), ("bias", "bias")) if key in found)
    split = found.get("split", "")
    yield Picture(
        "predicted",
        "performance",
        "Predicted against true",
        predicted,
        f"Predicted against true value. {told}",
        f"{split} events: {told}." if told else "",
    )
    residuals = plot_regression.plot_residuals(splits, data.target)
    ks = residuals.numbers.get("ks")
    caption = f"Kolmogorov-Smirnov test of train against {split}: p = {number(ks.p)}, largest distance {number(ks.distance)}." if ks else ""
    yield Picture(
        "residuals", "performance", "Residuals", residuals, f"Distribution of the residuals of the training and {split} events. {caption}", caption
    )
    profile = plot_regression.plot_profile(splits, data.target)
    yield Picture("profile", "performance", "Residual against true value", profile, "Mean and RMS of the residual in slices of the true value.")
    pulls = plot_regression.plot_pulls(splits)
    caption = "The resolution is the RMS residual of the training events in ten slices of the predicted value."
    alt = f"Pulls beside a unit Gaussian: mean {number(pulls.numbers.get('mean', math.nan))}, RMS {number(pulls.numbers.get('rms', math.nan))}."
    yield Picture("pulls", "performance", "Pulls", pulls, alt, caption)


def _training(data: ReportData) -> Iterator[Picture]:
    loss = plot_history.plot_loss(data.history)
    epoch, value, last = plot_history.best_epoch(data.history)
    alt = f"Loss against the epoch; smallest validation loss {number(value, 4)} at epoch {number(epoch)}, last {number(last, 4)}."
    yield Picture("loss", "training", "Loss", loss, alt)
    metrics = plot_history.plot_metrics(data.history)
    names = ", ".join(name for name in metrics.numbers if name not in ("x", "reason"))
    yield Picture("metrics", "training", "Metrics and rates", metrics, f"Per epoch: {names}.")


def _features(data: ReportData) -> Iterator[Picture]:
    found = plot_features.ordered(data.histograms)
    names = class_names(data.classes) if len(data.classes) == 2 else [str(name) for name in data.classes]
    per_page = plot_features.PER_PAGE
    pages = math.ceil(len(found) / per_page)
    for at in range(pages):
        page = found[at * per_page : (at + 1) * per_page]
        plot = plot_features.plot_overview(page, names)
        title = f"Branches {at * per_page + 1} to {at * per_page + len(page)} of {len(found)}"
        alt = "Distributions of " + ", ".join(f"{histogram.name} ({value:.3f})" if value == value else histogram.name for histogram, value in page)
        yield Picture(f"features_{at + 1}", "features", title, plot, alt)


def branch_files(data: ReportData) -> Iterator[tuple[str, bytes]]:
    """One picture per branch, named and numbered by separation, as PDF or PNG; nothing unless `data.hist` asks for it."""
    if not data.hist:
        return
    kind = "pdf" if data.hist == "pdfs" else "png"
    names = class_names(data.classes) if len(data.classes) == 2 else [str(name) for name in data.classes]
    for at, (histogram, value) in enumerate(plot_features.ordered(data.histograms), 1):
        plot = plot_features.plot_branch(histogram, value, names)
        if plot.figure is not None:
            yield f"{at:03d}_{safe(histogram.name)}.{kind}", render(plot.figure, kind)


def safe(name: str) -> str:
    """A file name for a branch: letters, digits, "_" and "-" stay (80 characters at most), anything else becomes "_"."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)[:80]


def by_name(pictures: Iterable[Picture]) -> dict[str, Mapping[str, Any]]:
    """The numbers of each picture by its name."""
    return {picture.name: picture.numbers for picture in pictures}
