"""TensorFlow models that were made elsewhere: SavedModels, whatever their signature is called, and graphs of TensorFlow 1 with frozen variables."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlaas.errors import BundleError, DataError, MissingExtraError
from mlaas.models.manifest import TensorRecord, TensorsRecord
from mlaas.models.order import before_tensorflow
from mlaas.models.sentences import short
from mlaas.models.tensors import Array, TensorModel, answer_of, name_of

SIGNATURE = "serving_default"
IGNORED = {"Const", "NoOp", "Assert", "Placeholder", "PlaceholderWithDefault"}


def load(folder: Path, form: str, record: TensorsRecord, threads: int = 1) -> TensorModel:
    """Load a SavedModel or a frozen graph. Raises BundleError (not one, no usable signature or nodes), MissingExtraError."""
    tf = _tensorflow(threads)
    return _frozen(tf, folder / form, record) if record.form == "frozen" else _saved_model(tf, folder, record)


def _saved_model(tf: Any, folder: Path, record: TensorsRecord) -> TensorModel:
    try:
        loaded = tf.saved_model.load(str(folder))
    except Exception as error:
        raise BundleError(f"the SavedModel cannot be loaded: {short(error, folder)}") from error
    name, function = _signature(dict(loaded.signatures), record.signature)
    inputs = [_spec(key, spec) for key, spec in sorted(function.structured_input_signature[1].items())]
    outputs = [_spec(key, spec) for key, spec in sorted(function.structured_outputs.items())]
    if not inputs or not outputs:
        raise BundleError(f"the signature {name!r} of the SavedModel has no input or no output")

    def run(feed: Mapping[str, Array], keep: Any = loaded) -> dict[str, Array]:  # `keep`: signatures do not hold the variables
        return _arrays(lambda: function(**{key: tf.constant(value) for key, value in feed.items()}))

    update = {"inputs": inputs, "outputs": outputs, "signature": name, "answer": answer_of(outputs, record.answer)}
    return TensorModel(record.model_copy(update=update), run)


def _signature(signatures: dict[str, Any], wanted: str) -> tuple[str, Any]:
    """The signature to serve: the one that was chosen before, the default one, or the first that has an input and an output."""
    for name in [wanted, SIGNATURE, *sorted(signatures)]:
        if name in signatures and signatures[name].structured_input_signature[1] and signatures[name].structured_outputs:
            return name, signatures[name]
    raise BundleError("the SavedModel has no signature with an input and an output; save it with signatures (tf.saved_model.save, model.export)")


def _frozen(tf: Any, path: Path, record: TensorsRecord) -> TensorModel:
    graph = _graph_def(tf, path)
    feeds = [entry.node for entry in record.inputs if entry.node] or _placeholders(graph)
    fetches = [entry.node for entry in record.outputs if entry.node] or _ends(graph)
    try:
        whole = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph, name=""), [])
        function = whole.prune([_element(whole, node) for node in feeds], [_element(whole, node) for node in fetches])
    except BundleError:
        raise
    except Exception as error:
        raise BundleError(f"the graph cannot be loaded: {short(error)}") from error
    inputs = [_node(node, tensor) for node, tensor in zip(feeds, function.inputs, strict=True)]
    outputs = [_node(node, tensor) for node, tensor in zip(fetches, function.outputs, strict=True)]

    def run(feed: Mapping[str, Array]) -> dict[str, Array]:
        found = _arrays(lambda: dict(enumerate(function(*(tf.constant(feed[entry.name]) for entry in inputs)))))
        return {entry.name: found[position] for position, entry in enumerate(outputs)}

    return TensorModel(record.model_copy(update={"inputs": inputs, "outputs": outputs, "answer": answer_of(outputs, record.answer)}), run)


def _graph_def(tf: Any, path: Path) -> Any:
    graph = tf.compat.v1.GraphDef()
    try:
        graph.ParseFromString(path.read_bytes())
    except Exception as error:
        raise BundleError(f"{path.name} is no TensorFlow graph: {short(error)}") from None
    if not graph.node:
        raise BundleError(f"{path.name} is no TensorFlow graph: it has no nodes")
    if any(node.op in ("VariableV2", "VarHandleOp") for node in graph.node):
        raise BundleError(f"{path.name} has variables; freeze them first (tf.compat.v1.graph_util.convert_variables_to_constants)")
    return graph


def _placeholders(graph: Any) -> list[str]:
    found = [node.name for node in graph.node if node.op == "Placeholder"]
    if not found:
        raise BundleError("the graph has no placeholder that could be its input; name it as inputNode in params.json")
    return found


def _ends(graph: Any) -> list[str]:
    used = {name.split(":")[0].lstrip("^") for node in graph.node for name in node.input}
    found = [node.name for node in graph.node if node.name not in used and node.op not in IGNORED]
    if not found:
        raise BundleError("the graph has no node that could be its output; name it as outputNode in params.json")
    return found


def _element(function: Any, node: str) -> Any:
    try:
        return function.graph.as_graph_element(node if ":" in node else f"{node}:0")
    except (KeyError, ValueError):
        raise BundleError(f"the graph has no node {node!r}; params.json must name its inputNode and outputNode") from None


def _node(node: str, tensor: Any) -> TensorRecord:
    found = _spec(node.split(":")[0], tensor)
    return found.model_copy(update={"node": node})


def _spec(name: str, spec: Any) -> TensorRecord:
    if spec.dtype.base_dtype.as_numpy_dtype is None or spec.shape.rank is None:
        raise BundleError(f"the tensor {name!r} of the model has no fixed number of dimensions or no known type")
    return TensorRecord(
        name=name, dtype=name_of(spec.dtype.base_dtype.as_numpy_dtype), shape=[-1 if size is None else int(size) for size in spec.shape]
    )


def _arrays(call: Callable[[], Mapping[Any, Any]]) -> dict[Any, Array]:
    try:
        return {key: np.asarray(value.numpy()) for key, value in call().items()}
    except Exception as error:
        raise DataError(f"TensorFlow cannot run the model on this: {short(error)}") from error


def _tensorflow(threads: int) -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    before_tensorflow()
    try:
        import tensorflow as tf
    except ImportError:
        raise MissingExtraError("tensorflow", "keras") from None
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:  # it runs already; then with the threads that it has
        return tf
    return tf
