"""The model card: what the user says of the model, completed with what the run knows.

After Mitchell et al., "Model Cards for Model Reporting", FAT* 2019, arXiv:1810.03993.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from mlaas.report.data import ReportData
from mlaas.report.plot_binary import auc_text
from mlaas.report.style import number
from mlaas.report.summary import Summary, worst_ks
from mlaas.report.text import count, duration, redact, size, value

Part = tuple[str, list[str]]


def model_card(data: ReportData, head: Summary) -> list[Part]:
    """Headings and their sentences, in the order of the page; no part is empty."""
    card = data.card
    return [
        ("Intended use", [*card.intended_use, *(_use(data) if not card.intended_use else [])]),
        ("Data", [*card.data, *_data(data)]),
        ("Training", [*card.training, *_training(data)]),
        ("Metrics", [*card.metrics, *_metrics(data, head)]),
        ("Limits", [*card.limits, *_limits(data, head)]),
        ("Provenance", _provenance(data)),
    ]


def _use(data: ReportData) -> Iterator[str]:
    if data.task == "regression":
        yield f"Estimates {data.target or 'the target'} of events that have the branches listed on this page."
    else:
        names = " from ".join(str(name) for name in data.classes) if len(data.classes) == 2 else f"{len(data.classes)} classes apart"
        yield f"Tells {names}, event by event."
    yield "For events selected and simulated as those below; the user has not described any other use."


def _data(data: ReportData) -> Iterator[str]:
    if data.files:
        read, selected = sum(file.entries for file in data.files), sum(file.selected for file in data.files)
        total = f"{count(len(data.files))} file{'s' * (len(data.files) != 1)} ({size(sum(file.nbytes for file in data.files))})"
        yield f"{total}, {count(selected)} events selected of {count(read)} read."
    if data.scores:
        yield "Events by split: " + ", ".join(f"{name} {count(len(split))}" for name, split in data.scores.items()) + "."
    flat = sum(branch.kind == "flat" for branch in data.branches)
    if data.branches:
        jagged = len(data.branches) - flat
        yield f"{count(flat)} flat and {count(jagged)} jagged branches" + (f", {count(data.width)} columns." if data.width else ".")
    if not data.files and not data.scores:
        yield "The run recorded no data."


def _training(data: ReportData) -> Iterator[str]:
    params = data.workflow.get("params", {})
    keys = ("procedure", "epochs", "batch_size", "chunk_size", "seed", "weight", "negative_weights", "class_balance", "early_stopping")
    told = ", ".join(f"{key} {value(params[key])}" for key in keys if key in params and params[key] not in ("", None))
    yield f"Framework {data.framework}" + (f"; {told}." if told else ".")
    if data.history:
        yield f"{count(len(data.history))} epoch{'s' * (len(data.history) != 1)} recorded."
    if math.isfinite(data.duration):
        yield f"The whole run took {duration(data.duration)}."


def _metrics(data: ReportData, head: Summary) -> Iterator[str]:
    name = "R²" if data.task == "regression" else "mean AUC, one against the rest" if len(data.classes) > 2 else "AUC"
    for split, (area, error) in head.quality.items():
        yield f"{name}, {split}: {number(area, 4) if data.task == 'regression' else auc_text(area, error)}."
    p, distance = worst_ks(head.ks)
    if math.isfinite(p):
        yield f"Kolmogorov-Smirnov, train against {head.split}: p = {number(p, 2)}, largest distance {number(distance, 2)}."
    if not head.quality:
        yield "No quality could be measured."


def _limits(data: ReportData, head: Summary) -> Iterator[str]:
    yield "Valid for values inside the ranges of the branches in the table; outside them the model extrapolates."
    yield "Measured on events like those of training, usually simulated; how well these describe recorded data is not part of this report."
    if any(split.weights is not None and (split.weights < 0).any() for split in data.scores.values()):
        yield "Some events have negative weights."
    for verdict in head.verdicts:
        if verdict.level == "bad":
            yield verdict.text


def _provenance(data: ReportData) -> list[str]:
    told = [f"{name}: {redact(str(item))}" for name, item in data.card.provenance.items()]
    told += [f"Created {data.created}."] if data.created else []
    told += ["Software: " + ", ".join(f"{name} {version}" for name, version in data.versions.items()) + "."] if data.versions else []
    if data.onnx is not None:
        figures = f"largest difference {number(data.onnx.difference, 2)}, tolerance {number(data.onnx.tolerance, 2)}"
        reason = f", {data.onnx.reason}" if data.onnx.reason else ""
        told.append(f"ONNX form {'accepted' if data.onnx.accepted else 'refused'} ({figures}{reason}).")
    return told or ["Not recorded."]
