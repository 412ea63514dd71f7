"""The feature matrix against a plain reference, value by value."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas.data import kernels
from mlaas.data.columns import Columns, Jagged, concatenate
from mlaas.data.layout import Layout, Slot, layout_from_json, layout_to_json, make_layout
from mlaas.data.specs import Specs
from mlaas.errors import DataError

DTYPES = ["?", "i1", "u1", "i2", "u4", "i8", "u8", "f2", "f4", "f8"]
LARGEST = float(np.finfo(np.float32).max)


def values(rng, n, dtype):
    out = (rng.random(n) * (200 if np.dtype(dtype).kind in "uf" else 100) - (50 if np.dtype(dtype).kind in "if" else 0)).astype(dtype)
    if np.dtype(dtype).kind == "f" and n:
        special = rng.random(n) < 0.25
        out[special] = rng.choice([math.nan, math.inf, -math.inf, 0.0], int(special.sum()))
    return out


@st.composite
def batches(draw, least=1):
    """Columns of every type; offsets shared by some, starting above 0, with content before and behind."""
    n = draw(st.integers(least, 25))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    data = {}
    for dtype in draw(st.lists(st.sampled_from(DTYPES), max_size=4, unique=True)):
        data[f"flat_{dtype}"] = values(rng, n, dtype)
    for group in range(draw(st.integers(0, 2))):
        offsets = np.zeros(n + 1, np.int64)
        np.cumsum(rng.integers(0, draw(st.sampled_from([1, 3, 6])), n), out=offsets[1:])
        offsets += draw(st.integers(0, 3))
        for dtype in draw(st.lists(st.sampled_from(DTYPES), min_size=1, max_size=3, unique=True)):
            data[f"list{group}_{dtype}"] = Jagged(values(rng, int(offsets[-1]) + 2, dtype), offsets)
    data["constant"] = np.full(n, 7.5)
    return Columns(n, data)


def expected(slot, value, nan):
    """One value by the definition: (v - low) / (high - low), a constant branch as it is; infinities at the ends; finite in float32."""
    value = float(value)
    if math.isnan(value):
        return nan
    if slot.high == slot.low:
        value = slot.high * (value > 0) if math.isinf(value) else value
    elif math.isinf(value):
        value = float(value > 0)
    else:
        value = (value - slot.low) / (slot.high - slot.low)
    return min(max(value, -LARGEST), LARGEST)


def reference(layout, columns, events, pad, nan):
    """Matrix and mask, the plain way."""
    x = np.full((len(events), layout.width), pad, np.float64)
    mask = np.ones((len(events), layout.width), bool)
    for row, event in enumerate(events):
        start = 0
        for slot in layout.slots:
            column = columns[slot.name]
            items = column.lists()[event] if isinstance(column, Jagged) else [column[event]]
            for index, value in enumerate(items[: slot.width]):
                x[row, start + index] = expected(slot, value, nan)
                mask[row, start + index] = False
            start += slot.width
    return x.astype(np.float32), mask


def specs_of(columns):
    specs = Specs()
    specs.update(columns)
    return specs


@settings(max_examples=150, deadline=None)
@given(
    training=batches(),
    seed=st.integers(0, 999),
    pad=st.sampled_from([math.nan, 0.0, -7.25]),
    nan=st.sampled_from([math.nan, 0.0, 3.0]),
    normalise=st.sampled_from(["minmax", "none"]),
    masked=st.booleans(),
)
def test_fill_equals_the_reference(training, seed, pad, nan, normalise, masked):
    layout = make_layout(specs_of(training), list(training), normalise)
    rng = np.random.default_rng(seed)
    events = rng.integers(0, training.n, rng.integers(0, 30))
    x = np.full((len(events) + 3, layout.width), 99.0, np.float32)
    mask = np.zeros(x.shape, bool)
    rows = layout.bind(training).fill(x, mask if masked else None, 2, events, pad=pad, nan=nan)
    assert rows == len(events)
    want, want_mask = reference(layout, training, events, pad, nan)
    np.testing.assert_allclose(x[2 : 2 + rows], want, rtol=2e-7, atol=1e-12)
    assert (x[:2] == 99).all()
    assert (x[2 + rows :] == 99).all()
    if masked:
        np.testing.assert_array_equal(mask[2 : 2 + rows], want_mask)
    assert not mask[:2].any()


@settings(max_examples=60, deadline=None)
@given(training=batches(), other=batches(), pad=st.sampled_from([math.nan, 0.0]))
def test_new_events_with_longer_lists_and_values_outside(training, other, pad):
    """At prediction: lists are cut at jdim, values may leave 0..1, everything stays finite."""
    both = [name for name in training if name in other]
    training, other = training.only(both), other.only(both)
    layout = make_layout(specs_of(training), both)
    x, mask = np.empty((other.n, layout.width), np.float32), np.empty((other.n, layout.width), bool)
    layout.bind(other).fill(x, mask, 0, pad=pad, nan=0.0)
    want, want_mask = reference(layout, other, range(other.n), pad, 0.0)
    np.testing.assert_allclose(x, want, rtol=2e-7, atol=1e-12)
    np.testing.assert_array_equal(mask, want_mask)
    assert np.isfinite(x[~mask]).all()


@settings(max_examples=40, deadline=None)
@given(columns=batches(least=3), block=st.sampled_from([64, 4000]))
def test_neither_slices_nor_joining_nor_blocks_change_anything(columns, block):
    layout = make_layout(specs_of(columns), list(columns))
    whole = np.empty((columns.n, layout.width), np.float32)
    layout.bind(columns).fill(whole, None, 0)
    parts = [columns.slice(0, columns.n // 2), columns.slice(columns.n // 2, columns.n)]
    for pieces in (parts, [concatenate(parts)]):
        again = np.empty_like(whole)
        row = 0
        for piece in pieces:
            row += layout.bind(piece).fill(again, None, row)
        np.testing.assert_array_equal(again, whole)


def test_more_rows_than_a_block():
    rng = np.random.default_rng(1)
    n = 40_000
    columns = Columns(n, {f"x{i}": rng.random(n) for i in range(40)})
    layout = make_layout(specs_of(columns), list(columns), "none")
    x = np.empty((n, layout.width), np.float32)
    layout.bind(columns).fill(x, None, 0)
    np.testing.assert_array_equal(x, np.stack([columns[slot.name] for slot in layout.slots], axis=1).astype(np.float32))


@pytest.mark.parametrize(
    ("low", "high"),
    [(-1.7e308, 1.7e308), (0.0, 5e-324), (1.0, np.nextafter(1.0, 2)), (0.0, 1e-40), (-1e308, 1e308), (-LARGEST, LARGEST)],
)
def test_extreme_ranges_stay_finite(low, high):
    layout = Layout((Slot("x", "flat", 1, low, high),))
    given_values = np.array([low, high, 0.0, 1.7e308, -1.7e308, math.inf, -math.inf, math.nan])
    x = np.empty((len(given_values), 1), np.float32)
    layout.bind(Columns(len(x), {"x": given_values})).fill(x, None, 0, nan=0.0)
    assert np.isfinite(x).all()
    if high - low > 1e-300:
        np.testing.assert_allclose(x[:2, 0], [0, 1], atol=1e-6)
        np.testing.assert_allclose(x[5:7, 0], [1, 0], atol=1e-6)


def test_values_beyond_float32_are_finite_without_normalisation():
    columns = Columns(3, {"x": np.array([1e300, -1e300, 1.0])})
    layout = make_layout(specs_of(columns), ["x"], "none")
    x = np.empty((3, 1), np.float32)
    layout.bind(columns).fill(x, None, 0)
    assert x[:, 0].tolist() == [LARGEST, -LARGEST, 1.0]


def test_the_order_of_columns_and_their_names():
    offsets = np.array([0, 2, 3])
    columns = Columns(2, {"z": Jagged(np.arange(3.0), offsets), "b": np.arange(2.0), "a": Jagged(np.arange(3), offsets), "A": np.arange(2)})
    layout = make_layout(specs_of(columns), list(columns))
    assert layout.columns == ["A", "b", "a[0]", "a[1]", "z[0]", "z[1]"]
    assert layout.width == 6
    assert layout.starts.tolist() == [0, 1, 2, 4, 6]


def test_a_list_that_is_always_empty_has_no_column():
    columns = Columns(2, {"x": np.arange(2.0), "y": Jagged(np.empty(0), np.zeros(3, np.int64))})
    layout = make_layout(specs_of(columns), ["x", "y"])
    assert layout.columns == ["x"]
    later = Columns(1, {"x": np.ones(1), "y": Jagged(np.ones(2), np.array([0, 2]))})
    x, mask = np.empty((1, 1), np.float32), np.empty((1, 1), bool)
    layout.bind(later).fill(x, mask, 0)
    assert x.tolist() == [[1.0]]
    assert not mask.any()


def test_nothing_but_empty_lists():
    columns = Columns(2, {"y": Jagged(np.empty(0), np.zeros(3, np.int64))})
    layout = make_layout(specs_of(columns), ["y"])
    assert layout.width == 0
    assert layout.bind(columns).fill(np.empty((2, 0), np.float32), None, 0) == 2


def test_json_and_back():
    layout = Layout((Slot("x", "flat", 1, -1.5, 2.25), Slot("y", "jagged", 4, 0.0, 0.1)))
    assert layout_from_json(layout_to_json(layout)) == layout


def test_what_does_not_fit_is_named():
    layout = Layout((Slot("x", "flat", 1, 0, 1), Slot("y", "jagged", 2, 0, 1)))
    flat, lists = np.ones(2), Jagged(np.ones(3), np.array([0, 1, 3]))
    with pytest.raises(DataError, match="branch 'y' is missing"):
        layout.bind(Columns(2, {"x": flat}))
    with pytest.raises(DataError, match="branch 'y' must be jagged"):
        layout.bind(Columns(2, {"x": flat, "y": flat}))
    with pytest.raises(DataError, match="branch 'x' must be flat"):
        layout.bind(Columns(2, {"x": lists, "y": lists}))


@pytest.mark.parametrize("shape", [(2, 2), (1, 3), (2, 4)])
def test_a_matrix_that_does_not_fit_is_refused(shape):
    layout = Layout((Slot("x", "flat", 1, 0, 1), Slot("y", "jagged", 2, 0, 1)))
    bound = layout.bind(Columns(2, {"x": np.ones(2), "y": Jagged(np.ones(3), np.array([0, 1, 3]))}))
    with pytest.raises(ValueError, match="3 columns and room for 2 rows"):
        bound.fill(np.empty(shape, np.float32), None, 0)
    with pytest.raises(ValueError, match="C-contiguous"):
        bound.fill(np.empty((3, 2), np.float32).T, None, 0)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), itemsize=st.sampled_from([1, 2, 4, 8]), header=st.sampled_from([0, 10]))
def test_strip_equals_numpy(seed, itemsize, header):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 5, rng.integers(0, 12))
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts * itemsize + header, out=starts[1:])
    source = rng.integers(0, 256, int(starts[-1]), dtype=np.uint8)
    out = np.empty(int(counts.sum()) * itemsize, np.uint8)
    kernels.strip(source, starts, header, itemsize, out)
    want = b"".join(bytes(source[a + header : b]) for a, b in pairwise(starts))
    big = np.dtype(f">u{itemsize}")
    np.testing.assert_array_equal(out.view(big.newbyteorder("=")), np.frombuffer(want, big))
