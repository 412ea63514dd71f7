"""Task and classes from what the user gives and the files hold."""

from __future__ import annotations

import math

import pytest

from mlaas.data.handled import Summary
from mlaas.data.labels import label_name, make_labels
from mlaas.data.specs import Specs
from mlaas.errors import DataError


def summary(values=None, *, whole=True, events=10):
    return Summary("key", 10, events, Specs(), values, whole, (10.0, 10.0, 1.0), [], True, 100)


def files(*summaries):
    return [(f"{number}.root", found) for number, found in enumerate(summaries)]


TWO = files(summary(), summary())
THREE = files(summary(), summary(), summary())


@pytest.mark.parametrize(
    ("given", "classes", "expected", "of_file"),
    [
        ([1, 0], [], [0.0, 1.0], [1, 0]),
        (["1", 0.0], [], [0.0, 1.0], [1, 0]),
        (["signal", "background"], [], ["background", "signal"], [1, 0]),
        (["signal", "background"], ["signal", "background"], ["signal", "background"], [0, 1]),
        ([1, 0], [1, 0], [1.0, 0.0], [0, 1]),
        ([10, 9], [], [9.0, 10.0], [1, 0]),
        (["b", 3], [], [3.0, "b"], [1, 0]),
        (["nan", "inf"], [], ["inf", "nan"], [1, 0]),
        (["1_0", 10], [], [10.0, "1_0"], [1, 0]),
        ([-1.5, 2.5], [], [-1.5, 2.5], [0, 1]),
    ],
)
def test_a_label_per_file(given, classes, expected, of_file):
    labels = make_labels(given, "auto", classes, TWO)
    assert (labels.task, labels.classes, labels.of_file) == ("classification", expected, of_file)


def test_several_files_of_a_class():
    labels = make_labels(["tt", "ttH", "tt"], "classification", [], THREE)
    assert (labels.classes, labels.of_file) == (["tt", "ttH"], [0, 1, 0])


@pytest.mark.parametrize(
    ("given", "task", "classes", "found", "sentence"),
    [
        ([1, 1], "auto", [], TWO, "all files have the label 1; classification needs at least two classes"),
        ([1, "1.0"], "auto", [], TWO, "all files have the label 1;"),
        ([1, 0], "regression", [], TWO, "regression needs the name of a branch"),
        ([1, 2], "auto", [0, 1], TWO, r"1.root has the label 2, which is not one of params.classes 0, 1"),
        ([0, 1], "auto", [0, 1, 2], TWO, "no event of class 2 is left after cuts"),
        ([0, 1], "auto", [0, 1, 1.0], TWO, "params.classes: 1 is named twice"),
        ([0, 1], "auto", [], files(summary(), summary(events=0)), "no event of class 1 is left after cuts"),
    ],
)
def test_labels_that_do_not_fit(given, task, classes, found, sentence):
    with pytest.raises(DataError, match=sentence):
        make_labels(given, task, classes, found)


@pytest.mark.parametrize(
    ("values", "whole", "task", "classes", "expected"),
    [
        ([[0.0, 1.0], [1.0, 2.0]], True, "auto", [], ("classification", [0.0, 1.0, 2.0])),
        ([[0.0], [1.0]], True, "auto", [], ("classification", [0.0, 1.0])),
        ([[0.0, 1.0], [0.0]], True, "classification", ["1", "0"], ("classification", [1.0, 0.0])),
        ([[0.5, 1.0], [0.0]], False, "auto", [], ("regression", [])),
        ([[0.5, 1.5], [0.5]], False, "auto", [0.5, 1.5], ("classification", [0.5, 1.5])),
        ([[0.0, 1.0], [0.0]], True, "regression", [], ("regression", [])),
        ([None, None], False, "auto", [], ("regression", [])),
    ],
)
def test_a_label_branch(values, whole, task, classes, expected):
    labels = make_labels("y", task, classes, files(*(summary(found, whole=whole) for found in values)))
    assert (labels.task, labels.classes) == expected
    assert labels.of_file == [None, None]


def test_files_without_events_have_no_say():
    labels = make_labels("y", "auto", [], files(summary([0.0, 1.0]), summary(None, whole=False, events=0)))
    assert labels.classes == [0.0, 1.0]


@pytest.mark.parametrize(
    ("values", "whole", "task", "classes", "sentence"),
    [
        ([[0.0], [0.0]], True, "auto", [], "branch 'y' holds only the value 0; classification needs at least two"),
        ([[0.0, 1.0], [3.0]], True, "auto", [0, 1], "branch 'y' of 1.root holds 3, which is not one of params.classes 0, 1"),
        ([[0.0, 1.0], None], True, "auto", [], "of 1.root holds more than 1000 different values; set params.task to regression"),
        ([[0.5, 1.0], [0.5]], False, "classification", [], "holds values that are not whole numbers; set params.task to regression"),
        ([[0.0, 1.0], [0.0]], True, "auto", ["signal", "background"], "params.classes: 'signal' is not a number"),
        ([[0.0, 1.0], [0.0]], True, "auto", [0, 1, 2], "no event of class 2 is left after cuts"),
        ([[0.0, 1.0], [0.0]], True, "auto", [0, 1, 0], "params.classes: 0 is named twice"),
    ],
)
def test_label_branches_that_do_not_fit(values, whole, task, classes, sentence):
    with pytest.raises(DataError, match=sentence):
        make_labels("y", task, classes, files(*(summary(found, whole=whole) for found in values)))


@pytest.mark.parametrize(
    ("label", "text"),
    [(1.0, "1"), (0, "0"), (-3.0, "-3"), (1000021.0, "1000021"), (0.5, "0.5"), (0.1 + 0.2, "0.30000000000000004"), ("ttH", "ttH"), (math.inf, "inf")],
)
def test_labels_as_text(label, text):
    assert label_name(label) == text
