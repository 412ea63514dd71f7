"""What a reader should know first: the figures of the run and what to think of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from mlaas.report.data import ReportData
from mlaas.report.plot_binary import auc_text
from mlaas.report.plot_classes import macro, one_vs_rest, quick
from mlaas.report.plot_features import ordered
from mlaas.report.plot_history import best_epoch, series
from mlaas.report.samples import Sample, class_names, held_out, samples
from mlaas.report.statistics import KS, sidak
from mlaas.report.style import number
from mlaas.report.text import count, duration, size

SMALL_DISTANCE = 0.02  # a KS distance below this is of no consequence, however significant
SMALL_LOSS_OF_AUC = 0.01


class Fact(NamedTuple):
    """One figure at the top of the page."""

    label: str
    value: str
    detail: str = ""


class Verdict(NamedTuple):
    """A sentence of judgement."""

    level: Literal["good", "note", "bad"]
    text: str


class Summary(NamedTuple):
    """The head of the page. quality: AUC (or R²) by split, with error; ks: by class."""

    facts: list[Fact]
    verdicts: list[Verdict]
    split: str
    quality: dict[str, tuple[float, float]]
    ks: dict[str, KS]
    per_class: dict[str, tuple[float, float, float]]  # AUC, its error, effective events


def summary_of(data: ReportData) -> Summary:
    """The figures and verdicts alone, for a terminal: draws nothing into files and takes a fraction of a second."""
    from mlaas.report.pictures import by_name, draw

    return summarise(data, by_name(draw(dataclasses.replace(data, histograms=()))))


def summarise(data: ReportData, numbers: Mapping[str, Mapping[str, Any]]) -> Summary:
    """Read the figures off the run and off the plots' numbers."""
    splits = samples(data)
    split = held_out(splits)
    quality, ks, per_class = _quality(data, numbers, splits, split)
    head = Summary([], [], split, quality, ks, per_class)
    verdicts = [*_performance(data, head), *_agreement(head), *_training(data), *_inputs(data, splits), *_onnx(data)]
    verdicts += [Verdict("note", note) for note in data.notes]
    return head._replace(facts=list(_facts(data, numbers, splits, head)), verdicts=verdicts)


def _quality(
    data: ReportData, numbers: Mapping[str, Mapping[str, Any]], splits: Mapping[str, Sample], split: str
) -> tuple[dict[str, tuple[float, float]], dict[str, KS], dict[str, tuple[float, float, float]]]:
    if data.task == "regression":
        residual = numbers.get("residuals", {})
        found = {name: (item["r2"], math.nan) for name, item in residual.items() if isinstance(item, dict)}
        return found, {"residuals": residual["ks"]} if "ks" in residual else {}, {}
    if len(data.classes) > 2:
        return _many(data, numbers, splits, split)
    quality = {name: (item["auc"], item["error"]) for name, item in numbers.get("roc", {}).items() if isinstance(item, dict)}
    return quality, dict(numbers.get("scores", {}).get("ks", {})), {}


def _many(
    data: ReportData, numbers: Mapping[str, Mapping[str, Any]], splits: Mapping[str, Sample], split: str
) -> tuple[dict[str, tuple[float, float]], dict[str, KS], dict[str, tuple[float, float, float]]]:
    classes = [str(name) for name in data.classes]
    drawn = {name: (item["auc"], item["error"]) for name, item in numbers.get("roc", {}).items() if isinstance(item, dict)}
    quality = {split: macro(drawn.values())} if drawn else {}
    if "train" in splits and split != "train":
        curves = one_vs_rest(quick(splits["train"], len(classes)), classes)
        quality["train"] = macro((curve.auc, curve.error) for curve in curves.values())
    ks = {name: item for key, found in numbers.items() if key.startswith("scores") for name, item in found.get("ks", {}).items()}
    return quality, ks, {name: (*drawn[name], splits[split].events(index)) for index, name in enumerate(classes) if name in drawn}


def worst_ks(ks: Mapping[str, KS]) -> tuple[float, float]:
    """The smallest p-value, corrected for the number of classes, and the largest distance; NaN without any."""
    known = [item for item in ks.values() if math.isfinite(item.p)]
    if not known:
        return math.nan, math.nan
    return sidak(min(item.p for item in known), len(known)), max(item.distance for item in known)


def _facts(data: ReportData, numbers: Mapping[str, Mapping[str, Any]], splits: Mapping[str, Sample], head: Summary) -> Iterator[Fact]:
    value, error = head.quality.get(head.split, (math.nan, math.nan))
    where = f"{head.split} events" if head.split else "no events were scored"
    if data.task == "regression":
        found = numbers.get("predicted", {})
        yield Fact("R²", number(value, 4), where)
        yield Fact("RMS residual", number(found.get("rms", math.nan), 4), f"bias {number(found.get('bias', math.nan))}")
    else:
        yield Fact("Mean AUC" if len(data.classes) > 2 else "AUC", auc_text(value, error), where)
        if len(data.classes) > 2:
            yield Fact("Accuracy", number(numbers.get("confusion", {}).get("accuracy", math.nan), 4), where)
    p, distance = worst_ks(head.ks)
    if math.isfinite(p):
        yield Fact("KS train/held-out", f"p = {number(p, 2)}", f"largest distance {number(distance, 2)}")
    read, selected = sum(file.entries for file in data.files), sum(file.selected for file in data.files)
    shown = ", ".join(f"{name} {count(len(item))}" for name, item in data.scores.items())
    if data.files:
        total = size(sum(file.nbytes for file in data.files))
        yield Fact("Events", count(selected), f"of {count(read)} read ({total})" + (f"; {shown}" if shown else ""))
    elif shown:
        yield Fact("Events", count(sum(len(item) for item in data.scores.values())), shown)
    if data.branches or data.width:
        yield Fact("Features", count(len(data.branches)), f"branches, {count(data.width)} columns" if data.width else "branches")
    if math.isfinite(data.duration):
        rate = f"{count(round(selected / data.duration))} events/s" if data.duration > 0 and selected else ""
        yield Fact("Time", duration(data.duration), rate)


def _performance(data: ReportData, head: Summary) -> Iterator[Verdict]:
    if not head.split:
        yield Verdict("bad", "No event was scored: nothing is known about the quality of this model.")
        return
    value, error = head.quality.get(head.split, (math.nan, math.nan))
    area = f"{'mean ' * (len(data.classes) > 2)}AUC {auc_text(value, error)}"
    if head.split == "train":
        yield Verdict("bad", "There are no held-out events: the figures are those of the training events and flatter the model.")
    if not math.isfinite(value):
        reason = (
            "the true values do not vary" if data.task == "regression" else "its events do not include two classes with a positive sum of weights"
        )
        yield Verdict("bad", f"The {head.split} split cannot measure the model: {reason}.")
    elif data.task == "regression":
        yield Verdict(
            "good" if value > 0 else "bad",
            f"The model explains {max(value, 0):.1%} of the variance of the {head.split} events (R² = {number(value)}).",
        )
    elif value - 0.5 < 2 * (error if math.isfinite(error) else 0):
        yield Verdict("bad", f"With {area} on {head.split} events the model does not separate the classes better than chance.")
    elif value > 0.995:
        yield Verdict("note", f"Separation is nearly perfect ({area}): make sure that no branch gives the label away.")
    else:
        yield Verdict("good", f"The model separates the classes: {area} on {head.split} events.")
    told = data.metrics.get(head.split, {}).get("auc")
    if (
        isinstance(told, float)
        and math.isfinite(told)
        and math.isfinite(value)
        and abs(told - value) > max(0.002, error if math.isfinite(error) else 0)
    ):
        yield Verdict("note", f"The metrics record an AUC of {told:.4f} for the {head.split} events, the scores shown here give {value:.4f}.")


def _agreement(head: Summary) -> Iterator[Verdict]:
    p, distance = worst_ks(head.ks)
    if math.isfinite(p):
        told = f"KS p = {number(p, 2)}, largest distance {number(distance, 2)}"
        thing = "residual" if "residuals" in head.ks else "score"
        if p >= 0.05:
            yield Verdict("good", f"Train and {head.split} {thing} distributions agree ({told}).")
        elif p >= 0.01 or distance < SMALL_DISTANCE:
            yield Verdict("note", f"Train and {head.split} {thing} distributions differ a little ({told}).")
        else:
            yield Verdict(
                "bad", f"Train and {head.split} {thing} distributions differ ({told}): the model is overtrained, or the splits are not alike."
            )
    if "train" in head.quality and head.split in head.quality and head.split != "train":
        (train, a), (test, b) = head.quality["train"], head.quality[head.split]
        if train - test > SMALL_LOSS_OF_AUC and (not math.isfinite(a + b) or train - test > 3 * math.hypot(a, b)):
            name = "R²" if "residuals" in head.ks else "AUC"
            yield Verdict(
                "note",
                f"The {name} falls from {train:.3f} (train) to {test:.3f} ({head.split}): the model has learned some details of the training events.",
            )


def _training(data: ReportData) -> Iterator[Verdict]:
    if any(isinstance(row.get("loss"), float) and not math.isfinite(row["loss"]) for row in data.history):
        yield Verdict("bad", "The training loss was NaN or infinite in some epochs: lower the learning rate or look for extreme inputs.")
    epoch, best, last = best_epoch(data.history)
    if not math.isfinite(best):
        return
    label, found = series(data.history)
    if epoch == found["x"][-1] and len(data.history) > 2:
        yield Verdict("note", "The validation loss was still falling at the end: more epochs may help.")
    elif last > best + 0.02 * abs(best):
        yield Verdict("note", f"The validation loss was lowest at {label} {epoch:g} and rose afterwards ({number(best, 4)} to {number(last, 4)}).")


def _inputs(data: ReportData, splits: Mapping[str, Sample]) -> Iterator[Verdict]:
    for name in data.scores:
        dropped = splits[name].dropped if name in splits else len(data.scores[name])
        if dropped:
            yield Verdict(
                "bad", f"{count(dropped)} of {count(len(data.scores[name]))} {name} events have no finite score, label or weight and are left out."
            )
    for name, sample in splits.items():
        negative = float(-sample.weights[sample.weights < 0].sum() / abs(sample.weights).sum()) if (sample.weights < 0).any() else 0.0
        if negative:
            yield Verdict("note", f"Negative weights make up {negative:.1%} of the absolute weights of the {name} events; figures keep their sign.")
    for histogram, value in ordered(data.histograms):
        if not value > 0.9:
            break
        yield Verdict(
            "note",
            f"Branch {histogram.name} alone separates the classes almost completely ({value:.3f}): make sure that it does not give the label away.",
        )
    constant = [branch.name for branch in data.branches if branch.minimum == branch.maximum]
    if constant:
        listed = ", ".join(constant[:5]) + (f" and {len(constant) - 5} more" if len(constant) > 5 else "")
        yield Verdict("note", f"{'Branches that are' if len(constant) > 1 else 'A branch that is'} constant and cannot help: {listed}.")
    if data.task == "classification" and splits:
        names = class_names(data.classes)
        test = held_out(splits)
        few = [name for index, name in enumerate(names) if splits[test].events(index) < 50]
        if few:
            listed = ", ".join(few[:5]) + (f" and {len(few) - 5} more" if len(few) > 5 else "")
            yield Verdict("note", f"Fewer than 50 effective {test} events of {listed}: the figures are uncertain.")


def _onnx(data: ReportData) -> Iterator[Verdict]:
    if data.onnx is None:
        return
    if data.onnx.accepted:
        told = f"largest difference {number(data.onnx.difference, 2)}, allowed {number(data.onnx.tolerance, 2)}"
        if data.task == "regression":
            told += " times the root mean square of the values"
        yield Verdict("good", f"The ONNX form gives the same scores as the native model ({told}).")
    else:
        yield Verdict("note", f"No ONNX form; the native model serves: {data.onnx.reason or 'its scores differ from the native ones'}.")
