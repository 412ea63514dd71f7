"""The page of a run: one HTML document that needs nothing else."""

from __future__ import annotations

import base64
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mlaas.report import text
from mlaas.report.card import model_card
from mlaas.report.data import ReportData
from mlaas.report.pictures import Picture, by_name
from mlaas.report.plot_binary import auc_text
from mlaas.report.plot_features import ordered, outside
from mlaas.report.style import DPI, number
from mlaas.report.summary import summarise

HISTORY_ROWS = 100
HISTORY_COLUMNS = 10


def page(data: ReportData, pictures: Sequence[Picture]) -> str:
    """The HTML text; every word of the user is escaped, addresses lose their credentials."""
    head = summarise(data, by_name(pictures))
    return (
        environment()
        .get_template("index.html.j2")
        .render(
            data=data,
            head=head,
            commands=commands(data),
            pictures=pictures,
            metrics=metrics_table(data),
            history=history_table(data.history),
            separations={histogram.name: (value, outside(histogram)) for histogram, value in ordered(data.histograms)},
            card=model_card(data, head),
            workflow=text.document(data.workflow) if data.workflow else "",
        )
    )


def environment() -> Environment:
    """Templates of this package, with escaping on and unknown names refused."""
    made = Environment(loader=PackageLoader("mlaas.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {"count": text.count, "size": text.size, "duration": text.duration, "value": text.value, "redact": text.redact}
    made.filters |= {
        "number": number,
        "auc": lambda pair: auc_text(*pair[:2]),
        "uri": _uri,
        "css_width": lambda pixels: round(pixels * 96 / DPI * 0.92),
    }
    made.tests["finite"] = lambda item: isinstance(item, int | float) and math.isfinite(item)
    return made


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def commands(data: ReportData) -> Mapping[str, str]:
    """Title and command line of what can be done with the bundle."""
    if data.commands or not data.bundle:
        return data.commands
    bundle = shlex.quote(data.bundle)
    return {"Predict from raw events": f"mlaas predict {bundle} FILE...", "Train again and compare": f"mlaas replay {bundle} --trust"}


def metrics_table(data: ReportData) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Splits, and by metric its text for each split; an error joins its metric, what is not a scalar is left out."""
    splits = list(data.metrics)
    names = dict.fromkeys(name for split in data.metrics.values() for name, item in split.items() if text.scalar(item))
    rows = []
    for name in names:
        if name.endswith("_error") and name.removesuffix("_error") in names:
            continue
        cells = [_cell(data.metrics[split], name) for split in splits]
        rows.append((name, cells))
    return splits, rows


def _cell(metrics: Mapping[str, Any], name: str) -> str:
    found, error = metrics.get(name), metrics.get(f"{name}_error")
    if isinstance(found, float) and isinstance(error, float):
        return auc_text(found, error)
    return text.value(found) if text.scalar(found) else "–"


def history_table(history: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]], int]:
    """Names, rows of texts and the number of rows left out (between the shown ones) of the training's history."""
    names = list(dict.fromkeys(name for row in history for name, item in row.items() if text.scalar(item)))[:HISTORY_COLUMNS]
    step = max(1, math.ceil(len(history) / HISTORY_ROWS))
    shown = [row for at, row in enumerate(history) if at % step == 0 or at == len(history) - 1]
    rows = [[text.value(row.get(name)) if text.scalar(row.get(name)) else "–" for name in names] for row in shown]
    return names, rows, len(history) - len(shown)
