"""ONNX graphs brought to one signature: inputs "x" (and "mask") [batch, width], one output "scores": canonical scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mlaas.errors import BundleError
from mlaas.models.scores import Output

if TYPE_CHECKING:
    import onnx

MAX_BYTES = 2**31 - 2**20
MAX_IR = 10  # what ONNX Runtime 1.18 reads; newer files only add types that no model here uses
PREFIX = "model/"


@dataclass(frozen=True, slots=True)
class Exported:
    """A graph as a converter left it.

    inputs: the names of its inputs for x and, if there is one, the mask. output: the name of the output to keep. kind: what that output means.
    column: the only column of that output to keep. missing: a value of x that stands for NaN.
    """

    model: onnx.ModelProto
    inputs: list[str]
    output: str
    kind: Output
    column: int | None = None
    missing: float | None = field(default=None)


def canonical_graph(exported: Exported, width: int, classes: int) -> onnx.ModelProto:
    """Rename the inputs, keep one output, add the nodes that make canonical scores of it, and drop what is no longer needed."""
    import onnx
    from onnx import TensorProto, compose, helper

    model = compose.add_prefix(exported.model, PREFIX)
    graph = model.graph
    kinds = {output.name: output.type.tensor_type.elem_type for output in graph.output}
    del graph.input[:], graph.value_info[:], graph.output[:]
    for name, inner in zip(("x", "mask"), exported.inputs, strict=False):
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width]))
        for position, node in enumerate(_entrance(name, PREFIX + inner, exported.missing if name == "x" else None)):
            graph.node.insert(position, node)
    raw = PREFIX + exported.output
    graph.node.extend(_exit(raw, kinds.get(raw, TensorProto.FLOAT), exported, classes))
    several = exported.kind in ("classes", "logits") and classes > 2
    graph.output.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", classes] if several else ["batch"]))
    _prune(graph)
    _opset(model)
    model.ir_version = min(model.ir_version, MAX_IR)
    model.producer_name = "mlaas"
    onnx.checker.check_model(model)
    return model


def serialise(model: onnx.ModelProto) -> bytes:
    """The bytes of a graph. Raises BundleError above the 2 GB that one ONNX file can hold."""
    if model.ByteSize() > MAX_BYTES:
        raise BundleError("the ONNX form is larger than 2 GB")
    return bytes(model.SerializeToString(deterministic=True))


def refuse_external_data(model: onnx.ModelProto) -> None:
    """Raise BundleError if a graph would read tensors from other files: a bundle's graph never does."""
    from onnx import TensorProto

    for tensor in _tensors(model.graph):
        if tensor.data_location == TensorProto.EXTERNAL:
            raise BundleError(f"model.onnx wants to read other files (tensor {tensor.name!r}); such a graph is not loaded")


def _entrance(name: str, inner: str, missing: float | None) -> list[onnx.NodeProto]:
    from onnx import helper, numpy_helper

    if missing is None or math.isnan(missing):
        return [helper.make_node("Identity", [name], [inner])]
    nan = numpy_helper.from_array(np.array(np.nan, np.float32))
    value = numpy_helper.from_array(np.array(missing, np.float32))
    return [
        helper.make_node("Constant", [], ["missing"], value=value),
        helper.make_node("Constant", [], ["nan"], value=nan),
        helper.make_node("Equal", [name, "missing"], ["is_missing"]),
        helper.make_node("Where", ["is_missing", "nan", name], [inner]),
    ]


def _exit(raw: str, kind: int, exported: Exported, classes: int) -> list[onnx.NodeProto]:
    """The nodes from the raw output to "scores", as `scores.canonical` computes them."""
    from onnx import TensorProto, helper, numpy_helper

    steps: list[tuple[str, dict[str, int], np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None]] = []
    if kind != TensorProto.FLOAT:
        steps.append(("Cast", {"to": TensorProto.FLOAT}, None))
    if exported.column is not None:
        steps.append(("Gather", {"axis": 1}, np.array(exported.column)))
    if exported.kind == "logits":
        steps.append(("Softmax", {"axis": 1}, None))
    if exported.kind in ("classes", "logits"):
        if classes <= 2:
            steps.append(("Gather", {"axis": 1}, np.array(1)))
    else:
        steps.append(("Reshape", {}, np.array([-1])))
    if exported.kind == "logit":
        steps.append(("Sigmoid", {}, None))
    nodes, name = [], raw
    for position, (operator, attributes, constant) in enumerate(steps or [("Identity", {}, None)]):
        inputs = [name]
        if constant is not None:
            inputs.append(f"constant_{position}")
            nodes.append(helper.make_node("Constant", [], [inputs[1]], value=numpy_helper.from_array(constant.astype(np.int64))))
        name = "scores" if position == max(len(steps), 1) - 1 else f"step_{position}"
        nodes.append(helper.make_node(operator, inputs, [name], name=None, domain=None, **dict[str, Any](attributes)))
    return nodes


def _opset(model: onnx.ModelProto) -> None:
    """Name the default operator set, which a graph of tree ensembles alone does not."""
    from onnx import helper

    if not any(entry.domain in ("", "ai.onnx") for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid("", 13))


def _prune(graph: onnx.GraphProto) -> None:
    """Remove nodes and initializers on which the output does not depend."""
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(_names(node))
            kept.append(node)
    nodes = list(reversed(kept))
    initializers = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(initializers)


def _names(node: onnx.NodeProto) -> Iterator[str]:
    """The names a node reads, also inside the graphs of If, Loop and Scan."""
    yield from node.input
    for inner in _subgraphs(node):
        yield from (output.name for output in inner.output)
        for child in inner.node:
            yield from _names(child)


def _subgraphs(node: onnx.NodeProto) -> Iterable[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
        for inner in _subgraphs(node):
            yield from _tensors(inner)
