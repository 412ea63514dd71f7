"""Keras bundles: SavedModel as TFaaS loads it, model.keras in safe mode, ONNX; what an archive for TFaaS must look like."""

from __future__ import annotations

import json
import resource
import tarfile
import warnings

import numpy as np
import pytest

from mlaas.errors import BundleError, ResourceError
from mlaas.models.archive import pack
from mlaas.models.bundle import read_bundle, write_bundle
from mlaas.models.engine import load_engine
from tests.support.trained import BINARY, MASK, MULTI, PADDED, VALUES, WIDTH, X, logistic, trained

# TensorFlow's own Python: distutils and NumPy calls that it has not renewed, seen in tensorflow 2.21 with Keras 3.15.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow.*"),
]


def network(outputs: int, activation: str | None):
    """Normalization, BatchNormalization and Dropout: layers that behave otherwise in training."""
    import keras

    layers = keras.layers
    normalise = layers.Normalization()
    normalise.adapt(X)
    return keras.Sequential(
        [
            keras.Input((WIDTH,)),
            normalise,
            layers.Dense(8, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(outputs, activation=activation),
        ]
    )


def masked():
    import keras

    values, padding = keras.Input((WIDTH,)), keras.Input((WIDTH,))
    joined = keras.layers.Concatenate()([values, padding])
    return keras.Model([values, padding], keras.layers.Dense(1, activation="sigmoid")(keras.layers.Dense(8, activation="relu")(joined)))


CASES = {
    "sigmoid": ("probability", "binary", 1, "sigmoid"),
    "logit": ("logit", "binary", 1, None),
    "softmax of two": ("classes", "binary", 2, "softmax"),
    "softmax": ("classes", "multi", 3, "softmax"),
    "logits": ("logits", "multi", 3, None),
    "regression": ("value", "value", 1, None),
    "mask": ("probability", "binary", 1, "sigmoid"),
}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Each model, trained a little, and its bundle."""
    import keras

    keras.utils.set_random_seed(1)
    folder = tmp_path_factory.mktemp("keras")
    made = {}
    for name, (output, kind, outputs, activation) in CASES.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # as above: fixtures do not see pytestmark
            model = masked() if name == "mask" else network(outputs, activation)
            if activation is not None:
                model.compile("adam", {"sigmoid": "binary_crossentropy", "softmax": "sparse_categorical_crossentropy"}[activation])
            else:
                model.compile("adam", "mse")
            inputs = [PADDED, MASK] if name == "mask" else X
            target = {"binary": BINARY, "multi": MULTI, "value": VALUES}[kind]
            model.fit(inputs, np.eye(3)[target] if output == "logits" else target, epochs=1, verbose=0)
            raw = np.asarray(model(inputs, training=False))
            more = {"x": PADDED, "mask": MASK, "wants_mask": True} if name == "mask" else {}
            known = trained(model, "keras", output, kind, raw, **more)
            made[name] = (known, folder / name.replace(" ", "-"), raw)
            write_bundle(made[name][1], known, {"model.py": "raise RuntimeError"})
    return made


@pytest.mark.parametrize("name", CASES)
def test_every_form_gives_the_scores(bundles, name):
    known, folder, _ = bundles[name]
    manifest = read_bundle(folder).manifest
    assert manifest.onnx.accepted, manifest.onnx.reason
    assert manifest.saved_model is not None
    assert manifest.saved_model.accepted, manifest.saved_model.reason
    assert not manifest.native.trust
    for kind in ("onnx", "native"):
        engine = load_engine(folder, kind)
        np.testing.assert_allclose(engine.predict(known.x, known.mask), known.scores, rtol=1e-5, atol=1e-5)
        one = engine.predict(known.x[:1], None if known.mask is None else known.mask[:1])
        np.testing.assert_allclose(one, known.scores[:1], rtol=1e-5, atol=1e-5)


def run_as_tfaas(folder, x):
    """What tfaas.go does: load with the tag "serve", feed and fetch nodes of the graph by their fixed names."""
    import tensorflow as tf

    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        tf.compat.v1.saved_model.load(session, ["serve"], str(folder))
        return session.run("StatefulPartitionedCall:0", {"serving_default_inputs_input:0": x})


@pytest.mark.parametrize("name", CASES)
def test_tfaas_predicts(bundles, name):
    known, folder, _ = bundles[name]
    x = np.where(MASK > 0, np.float32(np.nan), PADDED) if name == "mask" else X
    probabilities = run_as_tfaas(folder, x)
    assert probabilities.ndim == 2  # tfaas.go reads [][]float32
    assert probabilities.dtype == np.float32
    two = name == "softmax of two"
    found = probabilities[:, 1] if two else probabilities if probabilities.shape[1] > 1 else probabilities[:, 0]
    np.testing.assert_allclose(found, known.scores, rtol=1e-5, atol=1e-5)
    assert run_as_tfaas(folder, x[:1]).shape == (1, probabilities.shape[1])


def test_saved_model_loads_by_itself(bundles):
    import tensorflow as tf

    _, folder, raw = bundles["sigmoid"]
    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
    np.testing.assert_allclose(signature(inputs_input=tf.constant(X))["scores"].numpy(), raw, atol=1e-6)
    _, folder, raw = bundles["mask"]
    signature = tf.saved_model.load(str(folder)).signatures["with_mask"]
    np.testing.assert_allclose(signature(x=tf.constant(PADDED), mask=tf.constant(MASK))["scores"].numpy(), raw, atol=1e-6)


def test_files_for_tfaas(bundles, tmp_path):
    _, folder, _ = bundles["softmax"]
    assert {"saved_model.pb", "variables", "assets", "params.json", "labels.txt"} <= {path.name for path in folder.iterdir()}
    params = json.loads((folder / "params.json").read_text())
    assert params["name"] == "softmax"
    assert params["model"] == "saved_model.pb"
    assert params["labels"] == "labels.txt"
    assert params["options"] == []
    for one, other in [("input_node", "inputNode"), ("output_node", "outputNode")]:
        assert params[one] == params[other]
    assert (params["inputNode"], params["outputNode"]) == ("serving_default_inputs_input", "StatefulPartitionedCall")
    assert (folder / "labels.txt").read_text().split() == ["ttbar", "ttH", "other"]
    with tarfile.open(pack(folder, tmp_path / "x.tar.gz")) as archive:
        members = {member.name: member for member in archive.getmembers()}
    # TFaaS unpacks into its model folder, makes only folders that have an entry of their own, and wants assets/ to be there.
    assert members["softmax"].isdir()
    assert members["softmax/assets"].isdir()
    assert members["softmax/variables"].isdir()
    order = list(members)
    assert all(order.index(name.rpartition("/")[0]) < order.index(name) for name in order if "/" in name)
    opened = read_bundle(tmp_path / "x.tar.gz")
    np.testing.assert_allclose(run_as_tfaas(opened.path, X[:4]), bundles["softmax"][2][:4], atol=1e-6)


def test_bundles_of_other_frameworks_name_their_own_nodes(tmp_path):
    write_bundle(tmp_path / "b", logistic(), {})
    params = json.loads((tmp_path / "b" / "params.json").read_text())
    assert (params["model"], params["inputNode"], params["outputNode"]) == ("model.onnx", "x", "scores")
    assert not (tmp_path / "b" / "saved_model.pb").exists()


OWN_LAYER = """
import keras

class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x

def model(idim):
    return keras.Sequential([keras.Input((idim,)), Twice(), keras.layers.Dense(1)])
"""


def test_own_layers_need_trust(tmp_path):
    space = {"__name__": "mlaas_user_model"}
    exec(OWN_LAYER, space)  # noqa: S102
    model = space["model"](WIDTH)
    known = trained(model, "keras", "logit", "binary", np.asarray(model(X)))
    manifest = write_bundle(tmp_path / "b", known, {"model.py": OWN_LAYER})
    assert manifest.native.trust
    assert manifest.onnx.accepted  # so that the model can be served without trust
    np.testing.assert_allclose(load_engine(tmp_path / "b").predict(X), known.scores, atol=1e-5)
    with pytest.raises(BundleError, match=r"layers of its own.*trust"):
        load_engine(tmp_path / "b", "native")
    np.testing.assert_allclose(load_engine(tmp_path / "b", "native", trust=True).predict(X), known.scores, atol=1e-5)


def test_a_lambda_is_not_run_whatever_the_manifest_says(tmp_path):
    import keras

    marker = tmp_path / "ran"

    def evil(x, path=str(marker)):
        from pathlib import Path

        Path(path).touch()
        return x

    model = keras.Sequential([keras.Input((WIDTH,)), keras.layers.Lambda(evil, output_shape=(WIDTH,)), keras.layers.Dense(1)])
    known = trained(model, "keras", "logit", "binary", np.asarray(model(X)))
    write_bundle(tmp_path / "b", known, {})
    marker.unlink()
    document = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert document["native"]["trust"] is True
    document["native"]["trust"] = False
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(BundleError, match=r"model\.keras cannot be loaded"):
        load_engine(tmp_path / "b", "native")
    assert not marker.exists()


@pytest.mark.parametrize("part", ["model.keras", "saved_model.pb", "model.onnx"])
def test_disk_full_while_keras_and_tensorflow_write(tmp_path, bundles, part):
    """The kernel refuses writes beyond a limit, those of TensorFlow's C++ too, while the file before that one still fits."""
    known, folder, _ = bundles["sigmoid"]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((folder / part).stat().st_size - 1, limits[1]))
    try:
        with pytest.raises(ResourceError, match="disk is full"):
            write_bundle(tmp_path / "b", known, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
