"""Features: from raw branches to the matrix, whatever their order; JSON and back; missing branches."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas.data.columns import Columns, Jagged
from mlaas.data.features import Features
from mlaas.data.files import Branch
from mlaas.data.layout import make_layout
from mlaas.data.preproc import Preproc, plan
from mlaas.data.specs import Specs
from mlaas.errors import BundleError, DataError

PREPROC = {
    "new_branch": {
        "log_pt": {"def": "log(jet_pt)", "type": "jagged", "cut": ["log_pt>0.5", "any"]},
        "ht2": {"def": "ht**2", "type": "flat", "keys_to_remove": ["ht"]},
        "only_for_a_cut": {"def": "met*2", "type": "flat", "cut": "only_for_a_cut>0", "remove": "True"},
    },
    "flat_cut": {"met": {"cut": "met>=0", "remove": "True"}},
}


def events(n, seed, longest=4):
    rng = np.random.default_rng(seed)
    offsets = np.zeros(n + 1, np.int64)
    np.cumsum(rng.integers(0, longest + 1, n), out=offsets[1:])
    m = int(offsets[-1])
    data = {
        "met": (rng.random(n) * 50).astype("f4"),
        "ht": rng.random(n) * 300,
        "n": rng.integers(0, 9, n).astype("u1"),
        "flag": rng.random(n) < 0.5,
        "jet_pt": Jagged((rng.random(m) * 100 + 1).astype("f4"), offsets),
        "jet_id": Jagged(rng.integers(-5, 5, m).astype("i2"), offsets),
        "jet_tag": Jagged(rng.random(m) < 0.5, offsets),
    }
    data["ht"][rng.random(n) < 0.1] = math.nan
    return Columns(n, data)


def branches(columns):
    return {
        name: Branch(name, column.content.dtype, "jagged", "njet") if isinstance(column, Jagged) else Branch(name, column.dtype, "flat")
        for name, column in columns.data.items()
    }


def make(columns, preproc=PREPROC, padding=math.nan, normalise="minmax"):
    document = Preproc.model_validate(preproc)
    sources = branches(columns)
    wanted = tuple(sources)
    planned = plan(document, {name: branch.kind for name, branch in sources.items()}, wanted)
    specs = Specs()
    specs.update(planned.apply(columns))
    layout = make_layout(specs, planned.outputs, normalise)
    return Features(layout, document, wanted, {name: sources[name] for name in planned.read}, "events", padding)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), padding=st.sampled_from([math.nan, -5.0]), plain=st.booleans(), order=st.randoms(use_true_random=False))
def test_json_and_back_and_any_order_of_branches(seed, padding, plain, order):
    features = make(events(50, seed), {} if plain else PREPROC, padding)
    again = Features.from_json(json.loads(json.dumps(features.to_json(), allow_nan=False)))
    new = events(20, seed + 1, longest=7)
    x, mask = features.vectorise(new)
    assert x.dtype == np.float32
    assert x.shape == mask.shape == (20, features.width)
    assert np.isfinite(x).all()
    assert (x[mask] == (0.0 if math.isnan(padding) else padding)).all()
    names = list(new)
    order.shuffle(names)
    for other, given_events in ((again, new), (features, new.only(names)), (again, new.only(names))):
        x2, mask2 = other.vectorise(given_events)
        np.testing.assert_array_equal(x2, x)
        np.testing.assert_array_equal(mask2, mask)
    assert (again.width, again.columns, again.tree, again.wanted) == (features.width, features.columns, features.tree, features.wanted)
    assert {name: (branch.dtype, branch.kind) for name, branch in again.branches.items()} == {
        name: (branch.dtype, branch.kind) for name, branch in features.branches.items()
    }


def test_nan_becomes_zero_and_padding_what_was_asked():
    columns = Columns(3, {"x": np.array([1.0, math.nan, 3.0]), "y": Jagged(np.array([2.0, math.nan, 4.0]), np.array([0, 2, 3, 3]))})
    for padding, shown in ((math.nan, 0.0), (-9.0, -9.0)):
        x, mask = make(columns, {}, padding).vectorise(columns)
        assert x.tolist() == [[0.0, 0.0, 0.0], [0.0, 1.0, shown], [1.0, shown, shown]]
        assert mask.tolist() == [[False, False, False], [False, False, True], [False, True, True]]


def test_only_the_branches_of_the_matrix_are_needed():
    columns = events(30, 1)
    features = make(columns)
    assert set(features.branches) == {"ht", "n", "flag", "jet_pt", "jet_id", "jet_tag"}
    assert "met" in features.sources  # the cuts of the training
    x, _ = features.vectorise(columns)
    few, _ = features.vectorise(columns.only([name for name in columns if name != "met"]))
    np.testing.assert_array_equal(few, x)
    assert features.has_cuts
    assert not make(columns, {}).has_cuts


def test_no_event_is_left_out_at_prediction_but_the_cuts_are_known():
    columns = events(40, 2)
    features = make(columns)
    assert len(features.vectorise(columns)[0]) == 40
    lists = columns["jet_pt"].lists()
    want = [met > 0 and any(math.log(pt) > 0.5 for pt in pts) for met, pts in zip(columns["met"].tolist(), lists, strict=True)]
    np.testing.assert_array_equal(features.selects(columns), want)
    assert any(want)
    assert not all(want)


@pytest.mark.parametrize("name", ["n", "flag", "jet_id", "jet_pt", "ht"])
def test_a_missing_branch_is_named(name):
    columns = events(10, 3)
    features = make(columns)
    with pytest.raises(DataError, match=name):
        features.vectorise(columns.only([other for other in columns if other != name]))


def test_no_events():
    columns = events(10, 3)
    x, mask = make(columns).vectorise(columns.slice(0, 0))
    assert x.shape == mask.shape == (0, make(columns).width)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": 2}, "needs a newer version"),
        ({"slots": None}, "damaged"),
        ({"slots": [{"name": "x"}]}, "damaged"),
        ({"slots": [{"name": "x", "kind": "flat", "width": "many", "low": 0, "high": 1}]}, "damaged"),
        ({"sources": {"x": {"dtype": "no such type", "kind": "flat"}}}, "damaged"),
        ({"sources": []}, "damaged"),
        ({"preproc": {"flat_cut": 3}}, "damaged"),
        ({"padding": "much"}, "damaged"),
    ],
)
def test_a_damaged_document(change, sentence):
    document = make(events(10, 3)).to_json()
    with pytest.raises(BundleError, match=sentence) as caught:
        Features.from_json(document | change)
    assert "\n" not in str(caught.value)
    for key in document:
        with pytest.raises(BundleError, match=r"features\.json"):
            Features.from_json({name: value for name, value in document.items() if name != key} if key != "width" else {})
