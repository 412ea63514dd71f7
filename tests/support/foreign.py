"""Models that were trained elsewhere, as users upload them to the inference service."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from mlaas.models.bundle import finish, write_bundle
from mlaas.models.manifest import NativeRecord, read_manifest
from mlaas.models.order import before_tensorflow
from tests.support import trained

WEIGHTS = np.arange(8, dtype=np.float32).reshape(4, 2) / 10


def expected(x: np.ndarray) -> np.ndarray:
    """What `frozen_graph`, `saved_model` and `onnx_graph` answer for rows of four numbers."""
    z = np.asarray(x, np.float32) @ WEIGHTS
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def frozen_graph(path: Path, input_node: str = "dense_4_input", output_node: str = "output_node0") -> None:
    """A graph of TensorFlow 1: softmax(x @ WEIGHTS)."""
    before_tensorflow()
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name=input_node)
        tf.nn.softmax(x @ tf.constant(WEIGHTS), name=output_node)
    path.write_bytes(graph.as_graph_def().SerializeToString())


def saved_model(folder: Path, name: str = "whatever_it_is_called", kind: str = "rows") -> None:
    """A SavedModel of TensorFlow 2. kind: rows (as the frozen graph), image (28 x 28 grey, ten classes), two (integers and floats in, two out)."""
    before_tensorflow()
    import tensorflow as tf

    module = tf.Module()
    module.w = tf.Variable(WEIGHTS)
    if kind == "rows":
        spec = [tf.TensorSpec([None, 4], tf.float32, name=name)]
        function = tf.function(lambda x: {"answer": tf.nn.softmax(x @ module.w)}, input_signature=spec)
    elif kind == "image":
        spec = [tf.TensorSpec([None, 28, 28, 1], tf.float32, name=name)]
        # class k: how bright the rows 2k and 2k+1 are
        function = tf.function(lambda x: {"classes": tf.reduce_mean(tf.reshape(x[:, :20], [-1, 10, 56]), 2) / 255}, input_signature=spec)
    else:
        spec = [tf.TensorSpec([None, 2], tf.int64, name="counts"), tf.TensorSpec([None], tf.float32, name="scale")]
        function = tf.function(
            lambda counts, scale: {"total": tf.cast(tf.reduce_sum(counts, 1), tf.float32) * scale, "most": tf.reduce_max(counts, 1)},
            input_signature=spec,
        )
    tf.saved_model.save(module, str(folder), signatures={"my_signature": function})


def onnx_graph(path: Path, custom: bool = False) -> None:
    """An ONNX graph as the frozen graph is."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["z"], domain="odd" if custom else ""), helper.make_node("Softmax", ["z"], ["p"], axis=1)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid("odd", 1)] if custom else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


def tarball(folder: Path, top: str | None = None) -> bytes:
    """A folder as .tar.gz, as `tar cfz` makes it."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.add(folder, top or folder.name)
    return stream.getvalue()


def form(name: str, model: Path, params: dict[str, Any] | None = None, labels: str = "") -> dict[str, Any]:
    """The form of POST /upload, for httpx."""
    document = {"name": name, "model": model.name, "labels": "labels.txt"} | (params or {})
    files = {"params": ("params.json", json.dumps(document)), "model": (model.name, model.read_bytes())}
    return {"data": {"name": name}, "files": files | ({"labels": ("labels.txt", labels)} if labels else {})}


def png(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """An image file."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


EVIL = """
import os, re, time
import numpy as np

def reached(places):
    found = 0
    for place in places:
        try:
            open(place).close()
            found += 1
        except OSError:
            pass
    for attempt in (os.fork, lambda: __import__('socket').socket(), lambda: os.kill(os.getppid(), 0)):
        try:
            attempt()
            found += 1
        except OSError:
            pass
    return found

class Evil:
    def predict_proba(self, x):
        what = int(x[0, 0])
        if what == 1:
            os.abort()
        if what == 2:
            re.match('(a+)+$', 'a' * 60 + 'b')  # for hours, and no other thread gets a turn
        if what == 3:
            kept = b'x' * LARGE
            time.sleep(3600)
        if what == 4:
            raise RuntimeError('no such thing')
        if what == 5:
            kept = np.ones(10**11)
        score = min(1.0, reached(PLACES) / 10) if what == 6 else 0.5
        return np.tile([1 - score, score], (len(x), 1))
"""


class _Code:
    """Unpickles as whatever an expression gives."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> Any:
        return eval, (self.code,)


def evil_bundle(folder: Path, places: list[Path], large: int) -> None:
    """A bundle that does harm when the first number is 1 (abort), 2 (hang), 3 (eat memory), 4 (raise), 5 (ask for too much), 6 (reach out).

    places: files that it tries to open; for each thing that it reaches the score grows by 0.1.
    """
    write_bundle(folder, trained.logistic(), {"model.py": ""}, tolerance=-1.0)
    namespace = f"{{'PLACES': {list(map(str, places))!r}, 'LARGE': {large}}}"
    code = f"(lambda space: (exec({EVIL!r}, space), space['Evil']())[1])({namespace})"
    (folder / "model.pickle").write_bytes(pickle.dumps(_Code(code)))
    _refinish(folder, native=NativeRecord(form="model.pickle", files=["model.pickle"], trust=True, method="predict_proba"))


def onnx_bundle(folder: Path, kind: str) -> None:
    """A trained bundle with another graph. kind: slow (some 10 ms for 64 rows), endless (a loop that does not end), damaged (no graph)."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    write_bundle(folder, trained.logistic(), {"model.py": ""})
    if kind == "damaged":
        (folder / "model.onnx").write_bytes(b"no graph")
        return _refinish(folder)
    size = 3000
    large = numpy_helper.from_array(np.full((size, size), 1e-4, np.float32), "large")
    nodes = [helper.make_node("Gemm", ["x", "first"], ["h0"])]
    nodes += [helper.make_node("MatMul", [f"h{step}", "large"], [f"h{step + 1}"]) for step in range(4)]
    if kind == "endless":
        state = helper.make_tensor_value_info("state", TensorProto.FLOAT, ["n", size])
        body = helper.make_graph(
            [helper.make_node("Identity", ["go_in"], ["go"]), helper.make_node("MatMul", ["state_in", "large"], ["state"])],
            "body",
            [
                helper.make_tensor_value_info("i", TensorProto.INT64, []),
                helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
                helper.make_tensor_value_info("state_in", TensorProto.FLOAT, ["n", size]),
            ],
            [helper.make_tensor_value_info("go", TensorProto.BOOL, []), state],
        )
        nodes.append(helper.make_node("Loop", ["", "true", "h4"], ["h5"], body=body))
    last = "h5" if kind == "endless" else "h4"
    nodes += [
        helper.make_node("ReduceMean", [last, "axes"], ["mean"], keepdims=0),
        helper.make_node("Sigmoid", ["mean"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", trained.WIDTH])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n"])],
        [
            large,
            numpy_helper.from_array(np.full((trained.WIDTH, size), 0.01, np.float32), "first"),
            numpy_helper.from_array(np.array([1]), "axes"),
            numpy_helper.from_array(np.array(True), "true"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "model.onnx")
    return _refinish(folder)


def _refinish(folder: Path, **update: Any) -> None:
    finish(folder, read_manifest(folder).model_copy(update=update))
