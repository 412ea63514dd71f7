"""Selecting events from columns equals the obvious way, whatever the types, slices and shared offsets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas.data.columns import Columns, Jagged

DTYPES = ["?", "i1", "u2", "f2", "i4", "f4", "u8", "f8", "g"]


@st.composite
def batches(draw):
    n = draw(st.integers(0, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    data = {}
    for group in range(draw(st.integers(0, 3))):
        before, behind = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        offsets = np.zeros(n + 1, np.int64)
        np.cumsum(rng.integers(0, 4, n), out=offsets[1:])
        offsets += before
        for dtype in draw(st.lists(st.sampled_from(DTYPES), min_size=1, max_size=3, unique=True)):
            content = (rng.random(int(offsets[-1]) + behind) * 100).astype(dtype)
            data[f"{group}_{dtype}"] = Jagged(content, offsets)
    for dtype in draw(st.lists(st.sampled_from(DTYPES), max_size=3, unique=True)):
        data[dtype] = (rng.random(2 * n) * 100).astype(dtype)[:: draw(st.sampled_from([1, 2]))][:n]
    return Columns(n, data), np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)), bool)


@settings(max_examples=100, deadline=None)
@given(batches())
def test_select_equals_the_obvious_way(drawn):
    columns, keep = drawn
    selected = columns.select(keep)
    assert selected.n == keep.sum()
    assert list(selected) == list(columns)
    shared = {}
    for name, column in columns.data.items():
        found = selected[name]
        if isinstance(column, Jagged):
            assert found.content.dtype == column.content.dtype
            assert found.lists() == [values for values, kept in zip(column.lists(), keep, strict=True) if kept]
            assert shared.setdefault(id(column.offsets), found.offsets) is found.offsets
        else:
            assert found.dtype == column.dtype
            np.testing.assert_array_equal(found, column[keep])


@settings(max_examples=50, deadline=None)
@given(batches())
def test_rebased_keeps_values_and_sharing(drawn):
    columns, _ = drawn
    based = columns.rebased()
    shared = {}
    for name, column in columns.data.items():
        found = based[name]
        if isinstance(column, Jagged):
            assert found.lists() == column.lists()
            assert found.offsets[0] == 0
            assert found.offsets[-1] == len(found.content)
            assert shared.setdefault(id(column.offsets), found.offsets) is found.offsets
        else:
            assert found is column
    assert based.rebased() is based


def test_keeping_all_copies_nothing():
    columns = Columns(2, {"x": Jagged(np.arange(3.0), np.array([0, 1, 3])), "m": np.arange(2)})
    assert columns.select(np.ones(2, bool)) is columns


def test_keeping_none():
    columns = Columns(2, {"x": Jagged(np.arange(3.0), np.array([0, 1, 3])), "m": np.arange(2)})
    nothing = columns.select(np.zeros(2, bool))
    assert (nothing.n, nothing["x"].lists(), nothing["m"].tolist()) == (0, [], [])


@pytest.mark.parametrize("writeable", [True, False])
def test_contents_that_may_not_be_written(writeable):
    content = np.arange(3.0)
    content.flags.writeable = writeable
    columns = Columns(2, {"x": Jagged(content, np.array([0, 1, 3]))})
    assert columns.select(np.array([False, True]))["x"].lists() == [[1.0, 2.0]]
