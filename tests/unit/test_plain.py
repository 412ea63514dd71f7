"""Which graphs a worker runs itself: none in which a value decides how much there is to do."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, checker, helper, numpy_helper, save

from mlaas.inference.isolated import describe, load
from mlaas.inference.plain import is_plain
from mlaas.inference.probes import is_fast
from mlaas.models.bundle import read_bundle, write_bundle
from tests.support import trained

ONE = numpy_helper.from_array(np.array([1], np.int64), "one")
TWO = numpy_helper.from_array(np.array([2, 2], np.int64), "two")
node = helper.make_node


def graph(path, *nodes, inputs=("x",), more=()):
    """A graph of these nodes from x (and mask) to scores, which a last node makes of `made`."""
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in inputs]
    first = node("ReduceSum", ["x", "one"], ["base"], keepdims=0)
    last = [
        node("Cast", ["made"], ["m"], to=TensorProto.FLOAT),
        node("ReduceSum", ["m"], ["sum"], keepdims=0),
        node("Add", ["base", "sum"], ["scores"]),
    ]
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n"])
    made = helper.make_model(
        helper.make_graph([first, *nodes, *last], "g", given, [scores], [ONE, TWO, *more]), opset_imports=[helper.make_opsetid("", 18)]
    )
    checker.check_model(made)
    save(made, path)
    return path


LENGTH = [
    node("ReduceMax", ["x"], ["most"], keepdims=0),
    node("Cast", ["most"], ["whole"], to=TensorProto.INT64),
    node("Reshape", ["whole", "one"], ["k"]),
]
KEYS = node("Concat", ["k", "k"], ["kk"], axis=0)


@pytest.mark.parametrize(
    "nodes",
    [
        [*LENGTH, node("ConstantOfShape", ["k"], ["made"])],
        [*LENGTH, node("Expand", ["base", "k"], ["made"])],
        [*LENGTH, KEYS, node("Tile", ["x", "kk"], ["made"])],
        [*LENGTH, KEYS, node("Resize", ["x", "", "", "kk"], ["made"])],
        [*LENGTH, node("Concat", ["k", "k", "k", "k"], ["pads"], axis=0), node("Pad", ["x", "pads"], ["made"])],
        [*LENGTH, node("Squeeze", ["k"], ["depth"]), node("Range", ["depth", "depth", "depth"], ["made"])],
        [*LENGTH, node("OneHot", ["k", "k", "two"], ["made"])],
        [*LENGTH, node("Slice", ["x", "k", "k"], ["made"])],
        [node("NonZero", ["x"], ["made"])],
        # by a detour: how many there are of them is a value, too
        [node("NonZero", ["x"], ["there"]), node("Shape", ["there"], ["s"]), node("ConstantOfShape", ["s"], ["made"])],
        [*LENGTH, node("Identity", ["k"], ["again"]), node("ConstantOfShape", ["again"], ["made"])],
    ],
)
def test_a_value_that_decides_a_size_keeps_a_graph_out(tmp_path, nodes):
    assert not is_plain(graph(tmp_path / "m.onnx", *nodes))


def test_branches_and_other_files_keep_a_graph_out(tmp_path):
    branch = helper.make_graph([node("Identity", ["x"], ["y"])], "b", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])])
    yes = numpy_helper.from_array(np.array(True), "yes")
    assert not is_plain(graph(tmp_path / "if.onnx", node("If", ["yes"], ["made"], then_branch=branch, else_branch=branch), more=[yes]))


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Shape", ["x"], ["s"]), node("ConstantOfShape", ["s"], ["zeros"]), node("Add", ["x", "zeros"], ["made"])],
        [node("Shape", ["x"], ["s"]), node("Expand", ["one", "s"], ["made"])],
        [node("Range", ["r0", "r1", "r1"], ["made"])],
        [node("Reshape", ["x", "flat"], ["made"])],
    ],
)
def test_sizes_by_the_number_of_rows_are_fine(tmp_path, nodes):
    more = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in (("r0", 0), ("r1", 1), ("flat", [-1]))]
    assert is_plain(graph(tmp_path / "m.onnx", *nodes, more=more))


def test_an_own_model_is_plain_and_fast(tmp_path):
    write_bundle(tmp_path / "m", trained.logistic(), {"model.py": ""})
    found = describe(load(read_bundle(tmp_path / "m"), 1))
    assert found["plain"]
    assert set(found["seconds"]) == {"1", "64", "1024"}
    assert is_fast(found | {"seconds": dict.fromkeys(found["seconds"], 1e-4)})  # this machine may be busy
