"""Keras models, trained for real on TensorFlow."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from mlaas.errors import Cancelled, ModelError, ResourceError
from mlaas.training.adapter import Problem, adapt
from mlaas.training.fit import train
from mlaas.training.usermodel import build
from mlaas.workflow import Params
from tests.support import ArrayDataset, blobs, line

L = keras.layers
BINARY = ArrayDataset(*blobs(3000))
MULTI = ArrayDataset(*blobs(3000, classes=3), classes=["a", "b", "c"])
REGRESSION = ArrayDataset(*line(3000), task="regression")
PARAMS = Params(epochs=6, batch_size=64)
TWO = Problem("classification", ("b", "s"), 6)


def net(units=1, activation="sigmoid", loss="binary_crossentropy", width=6, rate=1e-2, **compiled):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([L.Input((width,)), L.Dense(16, activation="relu"), L.Dense(units, activation=activation)])
    model.compile(optimizer=keras.optimizers.Adam(rate), loss=loss, **compiled)
    return model


BINARY_MODELS = {
    "sigmoid": (lambda: net(), "probability", "column"),
    "softmax, one-hot": (lambda: net(2, "softmax", "categorical_crossentropy", metrics=["accuracy"]), "classes", "onehot"),
    "softmax, index": (lambda: net(2, "softmax", keras.losses.SparseCategoricalCrossentropy()), "classes", "index"),
    "two sigmoids": (lambda: net(2, "sigmoid", "binary_crossentropy"), "classes", "onehot"),
    "logit": (lambda: net(1, None, keras.losses.BinaryCrossentropy(from_logits=True)), "logit", "column"),
    "logits": (lambda: net(2, None, keras.losses.SparseCategoricalCrossentropy(from_logits=True)), "logits", "index"),
    "focal loss": (lambda: net(loss=keras.losses.BinaryFocalCrossentropy()), "probability", "column"),
    "mean squared error": (lambda: net(loss="mse"), "probability", "column"),
    "a function": (lambda: net(loss=lambda y, p: keras.ops.mean(keras.ops.square(y - p), axis=-1)), "probability", "column"),
}


@pytest.mark.parametrize("name", BINARY_MODELS)
def test_two_classes(tmp_path, name):
    make, output, target = BINARY_MODELS[name]
    result = train(make(), BINARY, PARAMS, tmp_path)
    assert (result.adapter.output, result.adapter.target) == (output, target)
    assert result.metrics["test"]["auc"] > 0.85
    assert result.samples["test"].scores.shape == (BINARY.events["test"],)
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    by_hand = np.asarray(result.adapter.model(BINARY.part("test")[0]))
    np.testing.assert_allclose(result.adapter.raw(BINARY.part("test")[0], None), by_hand, atol=1e-6)


@pytest.mark.parametrize(
    ("activation", "loss"),
    [
        ("softmax", "categorical_crossentropy"),
        ("softmax", "sparse_categorical_crossentropy"),
        (None, keras.losses.CategoricalCrossentropy(from_logits=True)),
    ],
)
def test_several_classes(tmp_path, activation, loss):
    result = train(net(3, activation, loss), MULTI, PARAMS, tmp_path)
    assert result.metrics["test"]["auc"] > 0.82
    np.testing.assert_allclose(result.samples["test"].scores.sum(axis=1), 1, atol=1e-5)


def test_regression(tmp_path):
    result = train(net(1, None, "mse", width=4, rate=3e-2), REGRESSION, Params(epochs=15, batch_size=64), tmp_path)
    assert result.metrics["test"]["r2"] > 0.97
    assert result.metrics["test"]["loss"] == pytest.approx(result.metrics["test"]["mse"], rel=1e-4)
    flat = keras.Sequential([L.Input((4,)), L.Dense(1), L.Reshape(())])
    flat.compile(optimizer=keras.optimizers.Adam(0.05), loss="mae")
    assert train(flat, REGRESSION, Params(epochs=15, batch_size=64), tmp_path).metrics["test"]["r2"] > 0.9


def test_the_same_steps_as_keras_takes_itself(tmp_path):
    """Batch by batch the same gradients as `fit` on the whole matrix in the same order: the same weights come out."""
    x, y, _ = BINARY.part("train")
    data = ArrayDataset(*blobs(3000), chunk_size=640)
    streamed = train(net(), data, PARAMS, tmp_path).adapter.model
    by_hand = net()
    for begin in range(6 * len(range(0, len(x), 640))):
        rows = slice(begin * 640 % 2560, begin * 640 % 2560 + 640)
        by_hand.fit(x[rows], y[rows], batch_size=64, shuffle=False, verbose=0)
    for ours, theirs in zip(streamed.get_weights(), by_hand.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_the_auc_equals_that_of_the_whole_matrix_in_memory(tmp_path):
    data = ArrayDataset(*blobs(6000), shuffle=True)
    found = train(net(), data, PARAMS, tmp_path).metrics["test"]
    by_hand = net()
    x, y, _ = data.part("train")
    by_hand.fit(x, y, batch_size=64, epochs=6, verbose=0)
    from mlaas.training.metrics import auc

    assert abs(auc(data.part("test")[1], by_hand.predict(data.part("test")[0], verbose=0)[:, 0]) - found["auc"]) < found["auc_error"]


def test_weights_enter_the_loss(tmp_path):
    x, y = blobs(2000)
    weight = np.random.default_rng(1).uniform(0, 2, 2000).astype(np.float32)
    data = ArrayDataset(x, y, weight, chunk_size=5000)
    model = train(net(), data, Params(epochs=1, batch_size=5000), tmp_path).adapter.model
    by_hand = net()
    xt, yt, wt = data.part("train")
    by_hand.fit(xt, yt, sample_weight=wt, batch_size=5000, epochs=1, verbose=0)
    np.testing.assert_allclose(model.get_weights()[0], by_hand.get_weights()[0], atol=1e-5)
    unweighted = net()
    unweighted.fit(xt, yt, batch_size=5000, epochs=1, verbose=0)
    assert np.abs(model.get_weights()[0] - unweighted.get_weights()[0]).max() > 1e-4


def test_validation_loss_is_the_compiled_one(tmp_path):
    result = train(net(loss=keras.losses.BinaryFocalCrossentropy()), BINARY, Params(epochs=1), tmp_path)
    x, y, _ = BINARY.part("validation")
    assert result.history[-1]["val_loss"] == pytest.approx(result.adapter.model.evaluate(x, y, verbose=0, batch_size=8192), rel=1e-4)


def test_own_train_step_and_jit_and_eager(tmp_path):
    class Own(keras.Model):
        def __init__(self, **more) -> None:
            super().__init__(**more)
            self.inner = keras.Sequential([L.Dense(16, activation="relu"), L.Dense(1, activation="sigmoid")])
            self.steps = keras.Variable(0, dtype="int32", trainable=False)

        def call(self, x):
            return self.inner(x)

        def train_step(self, data):
            self.steps.assign_add(1)
            return super().train_step(data)

    for compiled in ({}, {"run_eagerly": True}, {"jit_compile": True}):
        keras.utils.set_random_seed(1)
        model = Own()
        model.compile(optimizer=keras.optimizers.Adam(1e-2), loss="binary_crossentropy", **compiled)
        result = train(model, BINARY, Params(epochs=2, batch_size=100), tmp_path)
        assert int(model.steps) == 2 * 21
        assert result.metrics["test"]["auc"] > 0.8


def test_a_model_with_two_inputs_gets_the_mask(tmp_path):
    x, y = blobs(2000)
    mask = np.zeros(x.shape, bool)
    mask[:, 0] = y == 1  # only the mask tells the classes apart
    x[:] = 0.5
    a, b = L.Input((6,)), L.Input((6,))
    model = keras.Model([a, b], L.Dense(1, activation="sigmoid")(L.Concatenate()([a, b])))
    model.compile(optimizer=keras.optimizers.Adam(0.1), loss="binary_crossentropy")
    result = train(model, ArrayDataset(x, y, mask=mask), PARAMS, tmp_path)
    assert result.adapter.wants_mask
    assert result.metrics["test"]["auc"] == 1


@pytest.mark.parametrize("procedure", ["passes", "chunks"])
def test_both_procedures_with_dropout_and_batch_normalisation(tmp_path, procedure):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [L.Input((6,)), L.Dense(16, activation="relu"), L.BatchNormalization(), L.Dropout(0.2), L.Dense(1, activation="sigmoid")]
    )
    model.compile(optimizer=keras.optimizers.Adam(1e-2), loss="binary_crossentropy", metrics=["accuracy", keras.metrics.AUC(name="auc")])
    result = train(model, BINARY, Params(epochs=5, batch_size=64, procedure=procedure, shuffle=True, early_stopping=3), tmp_path)
    assert result.metrics["test"]["auc"] > 0.85


def test_early_stopping_restores_the_best(tmp_path):
    result = train(net(rate=0.5), BINARY, Params(epochs=30, batch_size=32, early_stopping=2), tmp_path)
    assert result.metrics["validation"]["loss"] == pytest.approx(min(record["val_loss"] for record in result.history), rel=1e-5)


def test_stop_is_asked_inside_a_chunk(tmp_path):
    data = ArrayDataset(*blobs(6000), chunk_size=10_000)
    asked = []
    with pytest.raises(Cancelled):
        train(net(), data, Params(epochs=100, batch_size=8), tmp_path, stop=lambda: bool(asked.append(1)) or len(asked) > 3)
    assert len(asked) == 4, "4200 events are 9 blocks of 64 batches: it stopped inside the first epoch"


def test_the_published_model_file_runs_unchanged(tmp_path):
    path = tmp_path / "model.py"
    path.write_text("""from tensorflow import keras
from keras.models import Sequential
from keras.layers import Dense, Dropout

def model(idim):
    "Simple Keras model for testing purposes"
    ml_model = Sequential([Dense(128,
        activation='relu', input_shape=(idim,)),
        Dropout(0.5),
        Dense(64, activation='relu'),
        Dropout(0.5),
        Dense(1, activation='sigmoid')])
    ml_model.compile(optimizer=keras.optimizers.Adam(lr=1e-3),
        loss=keras.losses.BinaryCrossentropy(),
        metrics=[keras.metrics.AUC(name='auc')])
    return ml_model
""")
    with pytest.warns(FutureWarning, match=r"lr is called learning_rate in Keras 3: took 0\.001"):
        model = build(path, 6, PARAMS)
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-3)
    assert train(model, BINARY, PARAMS, tmp_path / "run").metrics["test"]["auc"] > 0.85


def test_decay_becomes_the_schedule_that_it_was(tmp_path):
    path = tmp_path / "model.py"
    path.write_text("""import keras
def model(idim):
    net = keras.Sequential([keras.layers.Dense(2, input_dim=idim, activation="softmax")])
    net.compile(optimizer=keras.optimizers.SGD(lr=0.1, decay=0.5), loss="categorical_crossentropy", metrics=["accuracy"])
    return net
""")
    with pytest.warns(FutureWarning) as caught:
        model = build(path, 6, PARAMS)
    assert ["lr is called" in str(one.message) or "decay=0.5 became" in str(one.message) for one in caught] == [True, True]
    model.optimizer.iterations.assign(4)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1 / (1 + 0.5 * 4))
    with pytest.raises(ValueError, match="not recognized"):
        keras.optimizers.Adam(lr=0.1)


def test_the_same_seed_gives_the_same_model(tmp_path):
    path = tmp_path / "model.py"
    path.write_text("import keras\ndef model(idim):\n    return keras.Sequential([keras.layers.Input((idim,)), keras.layers.Dense(3)])\n")
    first, second = (build(path, 6, Params(seed=7)).get_weights()[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def uncompiled(*layers):
    return keras.Sequential([L.Input((6,)), *layers])


def compiled_without_loss():
    model = uncompiled(L.Dense(1))
    model.compile(optimizer="adam")
    return model


def many_inputs():
    inputs = [L.Input((6,)) for _ in range(3)]
    model = keras.Model(inputs, L.Dense(1, activation="sigmoid")(L.Concatenate()(inputs)))
    model.compile(optimizer="adam", loss="binary_crossentropy")
    return model


def many_outputs():
    x = L.Input((6,))
    model = keras.Model(x, [L.Dense(1)(x), L.Dense(1)(x)])
    model.compile(optimizer="adam", loss=["mse", "mse"])
    return model


def failing():
    class Failing(keras.Model):
        def call(self, x):
            raise ValueError("not today")

    model = Failing()
    model.compile(optimizer="adam", loss="mse")
    return model


REFUSED = {
    "not compiled": (lambda: uncompiled(L.Dense(1)), r"not compiled: call model\.compile"),
    "no loss": (compiled_without_loss, "compiled without a loss"),
    "a layer": (lambda: L.Dense(1), "returned a Keras Dense, which is not a model"),
    "width": (lambda: net(width=5), "takes inputs of 5 columns, but the data have 6: use idim"),
    "outputs": (lambda: net(3, "softmax", "categorical_crossentropy"), r"has 3 outputs, but two classes need 1 output \(sigmoid\) or 2 \(softmax\)"),
    "three inputs": (many_inputs, "has 3 inputs: it can have one"),
    "two outputs": (many_outputs, "several outputs"),
    "softmax over one": (lambda: net(1, "softmax"), "softmax over one output, which is always 1"),
    "categorical with one": (lambda: net(1, "sigmoid", "categorical_crossentropy"), "needs one output per class"),
    "no probability": (lambda: net(1, None), r"is no probability, as the loss binary_crossentropy wants it: end with activation='sigmoid'"),
    "raises": (failing, "calling the Keras model with 6 columns failed: ValueError: not today"),
    "an image": (lambda: many_dimensions(), r"takes inputs of 3x2 columns, but the data have 6|calling the Keras model"),
}


def many_dimensions():
    model = keras.Sequential([L.Input((3, 2)), L.Flatten(), L.Dense(1, activation="sigmoid")])
    model.compile(optimizer="adam", loss="binary_crossentropy")
    return model


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_before_the_training(name):
    make, sentence = REFUSED[name]
    with pytest.raises(ModelError, match=sentence):
        adapt(make(), TWO, PARAMS)


def test_a_regression_needs_one_output():
    with pytest.raises(ModelError, match="has 2 outputs, but a regression needs 1"):
        adapt(net(2, None, "mse"), Problem("regression", (), 6), PARAMS)


def test_a_loss_that_says_logits_is_believed_and_said():
    adapter = adapt(net(1, "sigmoid", keras.losses.BinaryCrossentropy(from_logits=True)), TWO, PARAMS)
    assert adapter.output == "logit"
    assert "applies it twice" in adapter.notes[0]


def test_a_diverging_training_says_what_to_look_at(tmp_path):
    x, y = line(500)
    data = ArrayDataset(x * np.float32(1e15), y, task="regression", chunk_size=100)
    with pytest.raises(ModelError, match=r"became (nan|inf).*lower the learning rate|not numbers"):
        train(net(1, None, "mse", width=4, rate=1e20), data, PARAMS, tmp_path)


def test_a_gpu_that_is_not_there(tmp_path, monkeypatch):
    path = tmp_path / "model.py"
    path.write_text("import keras\ndef model(idim):\n    return None\n")
    monkeypatch.setattr("tensorflow.config.list_physical_devices", lambda kind=None: [])
    with pytest.raises(ResourceError, match=r"params\.device is gpu, but TensorFlow sees no GPU"):
        build(path, 6, Params(device="gpu"))


def test_large_samples_are_predicted_in_blocks(monkeypatch):
    adapter = adapt(net(), TWO, PARAMS)
    x = np.random.default_rng(0).random((10_000, 6)).astype(np.float32)
    sizes = []
    monkeypatch.setattr(adapter, "raw", lambda part, mask, raw=adapter.raw: sizes.append(len(part)) or raw(part, mask))
    assert adapter.predict(x).shape == (10_000,)
    assert sizes == [8192, 1808]
    assert adapter.predict(x[:0]).shape == (0,)
