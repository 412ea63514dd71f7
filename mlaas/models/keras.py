"""Keras: model.keras, the TensorFlow SavedModel where TFaaS looks for it, and ONNX through tf2onnx."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas.console import hushed
from mlaas.errors import BundleError, MissingExtraError
from mlaas.models.graph import Exported
from mlaas.models.manifest import Manifest, NativeRecord
from mlaas.models.order import before_tensorflow
from mlaas.models.scores import Matrix
from mlaas.models.sentences import short
from mlaas.models.staging import is_full
from mlaas.models.trained import RawPredict, TrainedModel
from mlaas.models.usercode import definitions, user_module

FORM = "model.keras"
OPSET = 18
# The nodes that TFaaS (src/Go/tfaas.go) feeds and fetches in every TensorFlow 2 model.
INPUT_NAME = "inputs_input"
INPUT_NODE = "serving_default_inputs_input"
OUTPUT_NODE = "StatefulPartitionedCall"


def save(trained: TrainedModel, folder: Path) -> NativeRecord:
    """Write model.keras; a model that Keras does not load again in safe mode (own layers, lambdas) is noted as one that needs trust."""
    keras = _import()
    with _quiet():
        trained.model.save(folder / FORM)
        try:
            keras.saving.load_model(folder / FORM, compile=False, safe_mode=True)
        except Exception as error:
            if is_full(error):
                raise
            note = f"is loaded only with trust, because it needs model.py or a lambda: {short(error, folder)}"
            return NativeRecord(form=FORM, files=[FORM], trust=True, note=note)
    return NativeRecord(form=FORM, files=[FORM])


def load(folder: Path, manifest: Manifest, *, trust: bool, threads: int) -> RawPredict:
    """Load model.keras: in safe mode, or with trust with the classes of model.py and with lambdas."""
    keras = _import()
    path = folder / manifest.native.form
    if manifest.native.trust and not trust:
        raise BundleError(f"{path} has layers of its own, whose code can do anything; load it with trust only if you know who made it")
    try:
        with _quiet():
            if not manifest.native.trust:
                return raw_predict(keras.saving.load_model(path, compile=False, safe_mode=True), manifest.width, manifest.mask)
            with user_module(folder / "model.py", needed=False) as module:
                model = keras.saving.load_model(path, custom_objects=definitions(module), compile=False, safe_mode=False)
    except BundleError:
        raise
    except Exception as error:
        raise BundleError(f"{path} cannot be loaded: {short(error, folder)}") from error
    return raw_predict(model, manifest.width, manifest.mask)


def raw_predict(model: Any, width: int, wants_mask: bool) -> RawPredict:
    """A function that gives the model's raw output: one TensorFlow graph for batches of any size."""
    tf = _tensorflow()
    spec = tf.TensorSpec((None, width), tf.float32)
    graph = tf.function(_call(model, wants_mask), input_signature=[spec] * (2 if wants_mask else 1))

    def raw(x: Matrix, mask: Matrix | None) -> npt.NDArray[Any]:
        return np.asarray(graph(*(part for part in (x, mask) if part is not None)).numpy())

    return raw


def save_saved_model(trained: TrainedModel, folder: Path) -> tuple[str, str]:
    """Write saved_model.pb, variables/ and assets/ into the bundle; returns the names of the input and the output node.

    The signature `serving_default` takes "inputs_input" (n, width) float32 and gives "scores": probabilities (n, 1) or (n, K), or values (n, 1).
    For a model with a mask NaN marks the padding there, since TFaaS has one input only; the signature `with_mask` takes "x" and "mask".
    """
    keras, tf = _import(), _tensorflow()
    matrix = (None, trained.width)
    call = _call(trained.model, trained.wants_mask)

    def activated(*inputs: Any) -> dict[str, Any]:
        raw = tf.cast(call(*inputs), tf.float32)
        raw = tf.reshape(raw, (-1, 1)) if trained.output in ("probability", "logit", "value") else raw
        if trained.output == "logit":
            raw = tf.sigmoid(raw)
        return {"scores": tf.nn.softmax(raw) if trained.output == "logits" else raw}

    def one_input(x: Any) -> dict[str, Any]:
        if not trained.wants_mask:
            return activated(x)
        padding = tf.math.is_nan(x)
        return activated(tf.where(padding, tf.zeros_like(x), x), tf.cast(padding, tf.float32))

    with _quiet():
        archive = keras.export.ExportArchive()
        archive.track(trained.model)
        archive.add_endpoint("serving_default", one_input, input_signature=[tf.TensorSpec(matrix, tf.float32, name=INPUT_NAME)])
        if trained.wants_mask:
            specs = [tf.TensorSpec(matrix, tf.float32, name=name) for name in ("x", "mask")]
            # TFaaS fetches the first node of its kind, and signatures are numbered in the order of their names.
            archive.add_endpoint("with_mask", activated, input_signature=specs)
        # Written into a folder of its own first: Keras wants to make it.
        archive.write_out(str(folder / "saved_model"), verbose=False)
    for part in sorted((folder / "saved_model").iterdir()):
        part.rename(folder / part.name)
    (folder / "saved_model").rmdir()
    (folder / "assets").mkdir(exist_ok=True)
    return _nodes(folder)


def saved_model_predict(folder: Path, input_node: str, output_node: str, wants_mask: bool) -> RawPredict:
    """Run the SavedModel as TFaaS does: by the names of nodes in its graph, tag "serve". Never done for a bundle of unknown origin."""
    tf = _tensorflow()
    with _quiet():
        session = tf.compat.v1.Session(graph=tf.Graph())
        with session.graph.as_default():
            tf.compat.v1.saved_model.load(session, ["serve"], str(folder))

    def raw(x: Matrix, mask: Matrix | None) -> npt.NDArray[Any]:
        padded = np.where(mask > 0, np.float32(np.nan), x) if wants_mask and mask is not None else x
        return np.asarray(session.run(f"{output_node}:0", {f"{input_node}:0": padded}))

    return raw


def to_onnx(trained: TrainedModel) -> Exported:
    """Freeze the model's graph and convert it by tf2onnx.

    tf2onnx.convert.from_function would leave the constants of Normalization layers as inputs that nobody feeds; the frozen graph has none.
    """
    tf = _tensorflow()
    try:
        import tf2onnx
    except ModuleNotFoundError:
        raise MissingExtraError("tf2onnx", "keras") from None
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    names = ["x", "mask"] if trained.wants_mask else ["x"]
    specs = [tf.TensorSpec((None, trained.width), tf.float32, name=name) for name in names]
    with _quiet():
        concrete = tf.function(_call(trained.model, trained.wants_mask), input_signature=specs).get_concrete_function()
        frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=False)
        inputs = [tensor.name for tensor in frozen.inputs]
        if len(inputs) != len(names):
            raise BundleError(f"the frozen graph has the inputs {', '.join(inputs)} instead of {', '.join(names)}")
        outputs = [tensor.name for tensor in frozen.outputs]
        model, _ = tf2onnx.convert.from_graph_def(frozen.graph.as_graph_def(), input_names=inputs, output_names=outputs, opset=OPSET)
    return Exported(model, inputs, outputs[0], trained.output)


def _call(model: Any, wants_mask: bool) -> Any:
    if wants_mask:
        return lambda x, mask: model([x, mask], training=False)
    return lambda x: model(x, training=False)


def _nodes(folder: Path) -> tuple[str, str]:
    """The names of the nodes of `serving_default`, read from the graph."""
    from tensorflow.core.protobuf import saved_model_pb2

    document = saved_model_pb2.SavedModel()
    document.ParseFromString((folder / "saved_model.pb").read_bytes())
    signature = document.meta_graphs[0].signature_def["serving_default"]
    return signature.inputs[INPUT_NAME].name.split(":")[0], signature.outputs["scores"].name.split(":")[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Converting logs and warns about TensorFlow's own insides; failures still raise."""
    loggers = [logging.getLogger(name) for name in ("tensorflow", "tf2onnx")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _import() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    before_tensorflow()
    try:
        with hushed():
            import keras
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "keras", "keras") from None
    return keras


def _tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    before_tensorflow()
    try:
        with hushed():
            import tensorflow
    except ModuleNotFoundError:
        raise MissingExtraError("tensorflow", "keras") from None
    return tensorflow
