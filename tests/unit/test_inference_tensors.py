"""Tensors of the Open Inference Protocol: every form of an array is the same array; what does not fit is refused with a sentence."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from mlaas.data.files import Branch
from mlaas.errors import DataError
from mlaas.inference import tensors
from mlaas.inference.events import columns_of
from mlaas.models.events import to_columns
from mlaas.web.problem import Problem

NUMBERS = [dtype for name, dtype in tensors.DTYPES.items() if name != "BYTES"]
arrays = st.sampled_from(NUMBERS).flatmap(
    lambda dtype: nps.arrays(
        dtype, nps.array_shapes(max_dims=3, min_side=0, max_side=4), elements=nps.from_dtype(dtype, allow_nan=False, allow_infinity=False)
    )
)


@given(arrays)
def test_bytes_go_both_ways(array):
    name = tensors.dtype_name(array.dtype)
    found = tensors.from_bytes("t", name, list(array.shape), memoryview(tensors.to_bytes(array)))
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@given(arrays, st.booleans())
def test_json_goes_both_ways_nested_and_flat(array, flat):
    data = orjson.loads(orjson.dumps((array.ravel() if flat else array).tolist()))
    found = tensors.from_list("t", tensors.dtype_name(array.dtype), list(array.shape), data)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@given(st.lists(st.binary(max_size=9), max_size=6))
def test_texts_go_both_ways(values):
    array = np.empty(len(values), object)
    array[:] = values
    found = tensors.from_bytes("t", "BYTES", [len(values)], tensors.to_bytes(array))
    assert found.tolist() == values


@given(st.binary(max_size=40), st.integers(0, 5))
def test_no_bytes_make_it_fall(data, size):
    with suppress(Problem):
        assert tensors.from_bytes("t", "BYTES", [size], data).shape == (size,)


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "said"),
    [
        ("FP32", [2], [1.0], "1 elements, but its shape"),
        ("FP32", [1, 2], [[1.0], [2.0]], "nested as"),
        ("FP32", [2, 2], [[1.0], [2.0, 3.0]], "lists of the same length"),
        ("FP32", [1], ["a"], "must hold numbers"),
        ("FP32", [1], [True], "must hold numbers"),
        ("FP32", [1], {"a": 1}, "must be a list"),
        ("FP32", [1], [[{}]], "must hold numbers"),
        ("INT8", [1], [128], "from -128 to 127"),
        ("UINT64", [1], [-1], "from 0 to"),
        ("INT32", [1], [1.5], "whole numbers"),
        ("INT32", [1], [None], "whole numbers"),
        ("BOOL", [1], [1], "true and false"),
        ("BYTES", [1], [1], "strings"),
        ("BF16", [1], [1], "must be one of"),
        ("FP32", [-1], [1], "shape must be"),
        ("FP32", "1", [1], "shape must be"),
        ("FP32", [True], [1], "shape must be"),
        ("FP32", [2**60, 2**60], [], "shape must be"),
        ("FP32", [1] * 40, [1], "shape must be"),
        (None, [1], [1], "must be one of"),
    ],
)
def test_what_does_not_fit(datatype, shape, data, said):
    with pytest.raises(Problem, match=said) as caught:
        tensors.from_list("t", datatype, shape, data)
    assert caught.value.status == 400
    assert caught.value.field.startswith("inputs.t")


LONG = ["a" * 10**6, *[""] * 10**6]  # 4 MB in a request; as an array of NumPy's own texts 4 TB


@pytest.mark.parametrize("data", [LONG, [LONG], [1.0, *LONG]])
def test_text_among_numbers_takes_no_memory(data):
    with pytest.raises(Problem, match="must hold numbers"):
        tensors.from_list("t", "FP32", [1], data)
    with pytest.raises(Problem, match="one list of numbers"):
        columns_of({"jet_pt": {"offsets": [0, 1], "values": data}})
    with pytest.raises(DataError, match="'jet_pt' must hold numbers"):
        to_columns({"jet_pt": [data]}, {"jet_pt": Branch("jet_pt", np.dtype("f4"), "jagged")})


def test_null_is_nan():
    np.testing.assert_array_equal(tensors.from_list("t", "FP32", [2], [None, 1]), np.array([np.nan, 1], np.float32))


@pytest.mark.parametrize("shape", [[3], [1, 1], [2**30, 2**30]])
def test_bytes_must_be_as_many_as_the_shape_takes(shape):
    with pytest.raises(Problem, match="has 8 bytes, but FP32 of shape"):
        tensors.from_bytes("t", "FP32", shape, bytes(8))


def test_what_numpy_has_and_the_protocol_has_not():
    with pytest.raises(ValueError, match="no name"):
        tensors.dtype_name(np.dtype("c8"))


@given(st.lists(st.lists(st.integers(-5, 5), max_size=4), max_size=6))
def test_offsets_and_values_are_lists(lists):
    offsets = np.cumsum([0, *map(len, lists)]).tolist()
    found = columns_of({"jet_pt": {"offsets": offsets, "values": [value for part in lists for value in part]}})
    assert found["jet_pt"].lists() == lists


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"offsets": [0, 1]}, "offsets and values"),
        ({"offsets": [0, 1], "values": [1], "more": 1}, "offsets and values"),
        ({"offsets": [], "values": []}, "one more than"),
        ({"offsets": [0, 1.5], "values": [1]}, "whole numbers"),
        ({"offsets": "01", "values": [1]}, "whole numbers"),
        ({"offsets": [0, 2, 1], "values": [1]}, "never decrease"),
        ({"offsets": [1, 1], "values": [1]}, "begin with 0"),
        ({"offsets": [0, 2], "values": [1]}, "end with 1"),
        ({"offsets": [0, 1], "values": [[1]]}, "one list"),
        ({"offsets": [0, 1], "values": 3}, "one list"),
        ({"offsets": [0, 2**70], "values": [1]}, "whole numbers"),
    ],
)
def test_offsets_that_are_none(parts, said):
    with pytest.raises(Problem, match=said):
        columns_of({"jet_pt": parts})
