"""Labels: the task, the classes, and which class each file belongs to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mlaas.data.handled import MANY_LABELS, Summary
from mlaas.errors import DataError

Label = str | int | float

_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")  # not nan, inf or 1_000: those are names


@dataclass(frozen=True)
class Labels:
    """task; the class labels in order of their index (empty for regression); the class index of each file, or None when events carry labels."""

    task: Literal["classification", "regression"]
    classes: list[float | str]
    of_file: list[int | None]


def make_labels(given: str | Sequence[Label | None], task: str, classes: Sequence[Label], files: Sequence[tuple[str, Summary]]) -> Labels:
    """Find task and classes from what the user gave and the files hold.

    given: the label branch, or a label per file. files: (path, summary). Raises DataError when labels and classes do not fit.
    """
    if isinstance(given, str):
        return _from_branch(given, task, classes, files)
    if task == "regression":
        raise DataError("labels: regression needs the name of a branch that holds the target, not one label per file")
    known = [_normal(label) for label in given if label is not None]
    order = _once([_normal(value) for value in classes]) or _ascending(known)
    if len(set(order)) < 2:
        raise DataError(f"labels: all files have the label {label_name(order[0])}; classification needs at least two classes")
    for (path, _), label in zip(files, known, strict=True):
        if label not in order:
            raise DataError(
                f"labels: {path} has the label {label_name(label)}, which is not one of params.classes {', '.join(map(label_name, order))}"
            )
    missing = [
        label_name(value) for value in order if not any(label == value and summary.events for label, (_, summary) in zip(known, files, strict=True))
    ]
    if missing:
        raise DataError(f"labels: no event of class {missing[0]} is left after cuts, so it cannot be learned")
    return Labels("classification", order, [order.index(label) for label in known])


def _from_branch(branch: str, task: str, classes: Sequence[Label], files: Sequence[tuple[str, Summary]]) -> Labels:
    of_file: list[int | None] = [None] * len(files)
    filled = [(path, summary) for path, summary in files if summary.events]
    whole = all(summary.whole_labels for _, summary in filled)
    if task == "regression" or (task == "auto" and not whole and not classes):
        return Labels("regression", [], of_file)
    order = _once([_number(value) for value in classes])
    values: set[float] = set()
    for path, summary in filled:
        if summary.label_values is None:
            raise DataError(
                f"labels: branch {branch!r} of {path} holds more than {MANY_LABELS} different values;"
                " set params.task to regression, or choose a branch that holds classes"
            )
        outside = [value for value in summary.label_values if order and value not in order]
        if outside:
            allowed = ", ".join(map(label_name, order))
            raise DataError(f"labels: branch {branch!r} of {path} holds {label_name(outside[0])}, which is not one of params.classes {allowed}")
        values.update(summary.label_values)
    if not whole and not classes:
        raise DataError(f"labels: branch {branch!r} holds values that are not whole numbers; set params.task to regression or list params.classes")
    found: list[float | str] = [*(order or sorted(values))]
    if len(values) < 2:
        raise DataError(
            f"labels: branch {branch!r} holds only the value {label_name(next(iter(values), 0))}; classification needs at least two classes"
        )
    missing = [label_name(value) for value in order if value not in values]
    if missing:
        raise DataError(f"labels: no event of class {missing[0]} is left after cuts, so it cannot be learned")
    return Labels("classification", found, of_file)


def _number(value: Label) -> float:
    try:
        return float(value)
    except ValueError:
        raise DataError(f"params.classes: {value!r} is not a number, but the label branch holds numbers") from None


def _normal(label: Label) -> float | str:
    """1, 1.0 and "1" are the same label."""
    text = str(label).strip()
    return float(text) if _NUMBER.fullmatch(text) else text


def _once(order: list[Any]) -> list[Any]:
    """The classes as given; each may be named once only."""
    twice = [value for number, value in enumerate(order) if value in order[:number]]
    if twice:
        raise DataError(f"params.classes: {label_name(twice[0])} is named twice")
    return order


def label_name(label: float | str) -> str:
    """A label as text, as the user wrote it: 1, not 1.0, and all digits of a large number."""
    if isinstance(label, str):
        return label
    return str(int(label)) if float(label).is_integer() and abs(label) < 1e16 else repr(float(label))


def _ascending(labels: Sequence[float | str]) -> list[float | str]:
    numbers = sorted({label for label in labels if isinstance(label, float)})
    return [*numbers, *sorted({label for label in labels if isinstance(label, str)})]
