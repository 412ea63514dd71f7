"""Specs against the plain definition, whatever the batches, their order and what the branches hold; the published form and its override."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas.data.columns import Columns, Jagged, concatenate
from mlaas.data.specs import Specs, override, published
from mlaas.errors import DataError

DTYPES = ["?", "i1", "u2", "i4", "u8", "f2", "f4", "f8", "g"]
SPECIAL = [math.nan, math.inf, -math.inf, 0.0, -0.0]


def column(rng, n, dtype):
    values = (rng.random(n) * 200 - 100 if np.dtype(dtype).kind in "fi" else rng.random(n) * 100).astype(dtype)
    if np.dtype(dtype).kind == "f":
        for index in range(n):
            if rng.random() < 0.2:
                values[index] = rng.choice(SPECIAL)
    return values


@st.composite
def events(draw):
    n = draw(st.integers(0, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    data = {f"flat_{dtype}": column(rng, n, dtype) for dtype in DTYPES}
    offsets = np.zeros(n + 1, np.int64)
    np.cumsum(rng.integers(0, draw(st.integers(1, 5)), n), out=offsets[1:])
    for dtype in DTYPES:
        data[f"list_{dtype}"] = Jagged(column(rng, int(offsets[-1]), dtype), offsets)
    data["all_nan"] = np.full(n, np.nan)
    data["no_values"] = Jagged(np.empty(0, "f4"), np.zeros(n + 1, np.int64))
    return Columns(n, data)


def of(columns):
    specs = Specs()
    specs.update(columns)
    return specs


def check(specs, columns):
    """By the definition."""
    assert specs.events == columns.n
    assert set(specs.branches) == set(columns)
    for name, found in specs.branches.items():
        values = columns[name]
        if isinstance(values, Jagged):
            longest = max((len(part) for part in values.lists()), default=0)
            values = values.flat
        else:
            longest = 1
        plain = [float(value) for value in values]
        finite = [value for value in plain if math.isfinite(value)]
        assert (found.low, found.high) == ((min(finite), max(finite)) if finite else (math.inf, -math.inf))
        assert found.empty == (not finite)
        assert found.longest == longest
        assert found.values == len(plain)
        assert found.nans == sum(map(math.isnan, plain))
        assert found.infinities == sum(map(math.isinf, plain))


@settings(max_examples=60, deadline=None)
@given(events())
def test_the_definition(columns):
    check(of(columns), columns)


@settings(max_examples=60, deadline=None)
@given(events(), st.lists(st.integers(0, 30), max_size=6), st.randoms(use_true_random=False))
def test_any_batches_merged_in_any_order_give_the_whole(columns, cuts, random: Random):
    edges = sorted({0, columns.n, *(cut for cut in cuts if cut < columns.n)})
    batches = [columns.slice(a, b) for a, b in pairwise(edges)]
    in_turn = Specs()
    for batch in batches:
        in_turn.update(batch)
    merged = Specs()
    random.shuffle(batches)
    for batch in batches:
        merged.merge(of(batch))
    if columns.n:
        assert in_turn.branches == of(columns).branches == merged.branches
    assert in_turn.events == merged.events == columns.n


@settings(max_examples=30, deadline=None)
@given(events())
def test_json_and_back(columns):
    specs = of(columns)
    text = json.dumps(specs.to_json(), allow_nan=False)
    again = Specs.from_json(json.loads(text))
    assert again == specs


def test_merging_does_not_change_the_other():
    one, other = of(Columns(2, {"x": np.array([1.0, 2.0])})), of(Columns(1, {"x": np.array([5.0])}))
    one.merge(other)
    one.update(Columns(1, {"x": np.array([9.0])}))
    assert (other.branches["x"].high, other.events) == (5.0, 1)
    fresh = Specs().merge(other)
    fresh.update(Columns(1, {"x": np.array([9.0])}))
    assert other.branches["x"].high == 5.0


def test_one_nan_does_not_spoil_the_range_and_an_empty_batch_does_not_widen_it():
    """Both were faults of the original."""
    batch = Columns(3, {"x": np.array([1.0, math.nan, 3.0]), "y": Jagged(np.array([2.0, 4.0]), np.array([0, 2, 2, 2]))})
    nothing = Columns(2, {"x": np.array([2.0, 2.0]), "y": Jagged(np.empty(0), np.array([0, 0, 0]))})
    specs = of(concatenate([batch, nothing]))
    assert (specs.branches["x"].low, specs.branches["x"].high, specs.branches["x"].nans) == (1.0, 3.0, 1)
    assert (specs.branches["y"].low, specs.branches["y"].high, specs.branches["y"].longest) == (2.0, 4.0, 2)


SPECS = of(
    Columns(
        3,
        {
            "met": np.array([-10.0, 30.0, 5.0], "f4"),
            "one": np.array([7, 7, 7]),
            "bad": np.full(3, np.nan),
            "jet_pt": Jagged(np.array([20.0, 60.0]), np.array([0, 2, 2, 2])),
            "none": Jagged(np.empty(0), np.zeros(4, np.int64)),
        },
    )
)


def test_the_published_form():
    document = published(SPECS, [("a.root", 2), ("b.root", 1)])
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document == {
        "jdim": {"jet_pt": 2, "none": 0},
        "minv": {"bad": None, "met": -10.0, "one": 7.0, "jet_pt": 20.0, "none": None},
        "maxv": {"bad": None, "met": 30.0, "one": 7.0, "jet_pt": 60.0, "none": None},
        "fkeys": ["bad", "met", "one"],
        "jkeys": ["jet_pt", "none"],
        "nans": {"bad": 0.0, "met": 0.25, "one": 0.0, "jet_pt": -0.5, "none": 0.0},
        "events": {"a.root": 2, "b.root": 1, "total": 3},
    }


def test_where_zero_lies_in_extreme_ranges():
    specs = of(Columns(2, {"wide": np.array([-1.7e308, 1.7e308]), "narrow": np.array([0.0, 5e-324])}))
    assert published(specs, [])["nans"] == {"wide": 0.5, "narrow": 0.0}


def given_specs(**changes):
    document = published(SPECS, [])
    for key, change in changes.items():
        document[key] = {**document[key], **change}
    return document


def test_override_takes_ranges_and_lengths_and_keeps_the_counts():
    found = override(SPECS, given_specs(minv={"met": 0, "bad": 1}, maxv={"met": 50, "bad": 2}, jdim={"jet_pt": 5}) | {"extra": 1})
    assert (found.branches["met"].low, found.branches["met"].high) == (0.0, 50.0)
    assert not found.branches["bad"].empty
    assert found.branches["jet_pt"].longest == 5
    assert found.branches["met"].values == 3
    assert found.events == 3
    assert SPECS.branches["met"].high == 30.0


def test_override_by_the_same_specs_changes_nothing():
    assert override(SPECS, published(SPECS, [])) == SPECS


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"minv": {"met": "low"}}, r"specs: the entry of 'met' is not a number"),
        ({"maxv": {"met": [1]}}, r"specs: the entry of 'met' is not a number"),
        ({"jdim": {"jet_pt": "x"}}, r"specs: the entry of 'jet_pt' is not a number"),
        ({"jdim": {"jet_pt": None}}, r"specs: the entry of 'jet_pt' is not a number"),
        ({"jdim": {"jet_pt": math.inf}}, r"specs: the entry of 'jet_pt' is not a number"),
        ({"jdim": {"jet_pt": 2.5}}, r"specs: jdim of 'jet_pt' is 2.5"),
        ({"jdim": {"jet_pt": 1}}, r"specs: jdim of 'jet_pt' is 1, but the files hold lists of 2"),
        ({"minv": {"met": 40}}, r"specs: the range of 'met' is 40 to 30; give finite numbers with minv <= maxv"),
        ({"minv": {"met": math.nan}}, r"specs: the range of 'met' is nan to 30"),
        ({"maxv": {"met": math.inf}}, r"specs: the range of 'met' is -10 to inf"),
        ({"maxv": {"met": None}}, r"specs: the range of 'met' is -10 to -inf"),
    ],
)
def test_wrong_entries_are_named(changes, sentence):
    with pytest.raises(DataError, match=sentence):
        override(SPECS, given_specs(**changes))


@pytest.mark.parametrize("document", [{}, {"minv": {}, "maxv": {}}, {"minv": [], "maxv": {}}, {"minv": None}, {"minv": 3, "maxv": 4, "jdim": 5}])
def test_what_is_no_specs_file(document):
    with pytest.raises(DataError, match="specs: "):
        override(SPECS, document)


def test_a_missing_branch_and_its_nearest():
    document = published(of(Columns(1, {"met_pt": np.ones(1)})), [])
    with pytest.raises(DataError, match=r"lack 'met' \(did you mean 'met_pt'\?\); they belong to other files"):
        override(of(Columns(1, {"met": np.ones(1)})), document)
