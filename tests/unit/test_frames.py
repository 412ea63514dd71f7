"""Messages between workers and the processes of models: what is sent arrives, and whatever else is sent is refused."""

from __future__ import annotations

import json
import socket
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlaas.errors import DataError
from mlaas.inference import frames
from mlaas.models.tensors import DTYPES

KINDS = [np.dtype(kind) for kind in DTYPES.values() if np.dtype(kind) != object]
NUMBERS = st.sampled_from(KINDS).flatmap(lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)))


def sent(header, tensors):
    data = b"".join(bytes(part) for part in frames.pack(header, tensors))
    sizes = frames.lengths(data[: frames.PREFIX.size])
    rest = data[frames.PREFIX.size :]
    assert len(rest) == sum(sizes)
    return frames.unpack(rest[: sizes[0]], rest[sizes[0] :])


@given(st.dictionaries(st.text(max_size=5), NUMBERS, max_size=3), st.integers())
@settings(deadline=None)
def test_what_is_sent_arrives(tensors, number):
    message = sent({"id": number}, tensors)
    assert message.header == {"id": number}
    assert set(message.tensors) == set(tensors)
    for name, array in tensors.items():
        assert message.tensors[name].dtype == array.dtype
        assert message.tensors[name].shape == array.shape
        assert message.tensors[name].tobytes() == np.ascontiguousarray(array).tobytes()


@given(hnp.arrays(object, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3), elements=st.binary(max_size=9)))
@settings(deadline=None)
def test_text_arrives(array):
    found = sent({}, {"t": array}).tensors["t"]
    assert found.shape == array.shape
    assert found.tolist() == array.tolist()


def test_arrays_in_any_order_in_memory_arrive():
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)[::-1]
    assert (sent({}, {"x": array}).tensors["x"] == array).all()


@given(st.binary(max_size=60), st.binary(max_size=60))
@settings(deadline=None)
def test_noise_is_refused_with_a_sentence(header, body):
    try:
        frames.unpack(header, body)
    except DataError:
        return
    assert isinstance(json.loads(header), dict)


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "x", "dtype": "FP32", "shape": [2], "size": 4},
        {"name": "x", "dtype": "FP32", "shape": [-1], "size": 4},
        {"name": "x", "dtype": "FP32", "shape": [2**62, 2**62], "size": 4},
        {"name": "x", "dtype": "O", "shape": [1], "size": 4},
        {"name": "x", "dtype": "FP32", "shape": [1.0], "size": 4},
        {"name": "x", "dtype": "FP32", "shape": [1] * 17, "size": 4},
        {"name": "x", "dtype": "BYTES", "shape": [2], "size": 4},
        {"name": "x", "dtype": "FP32", "shape": [1]},
        "x",
    ],
)
def test_tensors_that_do_not_fit_together(entry):
    with pytest.raises(DataError):
        frames.unpack(json.dumps({"tensors": [entry]}).encode(), b"\1\0\0\0")


def test_lengths_are_bounded():
    for header, body in ((2**31, 0), (0, 2**60)):
        with pytest.raises(DataError, match="too large"):
            frames.lengths(struct.pack("<IQ", header, body))


def test_a_connection_that_ends_gives_no_half_message():
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.sendall(b"".join(bytes(part) for part in frames.pack({"id": 1}, {"x": np.zeros(9)}))[:-1])
        assert frames.receive(ours) is None
