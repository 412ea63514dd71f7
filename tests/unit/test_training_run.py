"""The loop around every model: procedures, records, early stopping, weights, stopping, and what is refused."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier

from mlaas.console import SILENT
from mlaas.data.chunks import Chunk
from mlaas.errors import Cancelled, DataError, ModelError, ResourceError, WorkflowError
from mlaas.training import checkpoint, run
from mlaas.training.adapter import Problem, Streaming
from mlaas.training.fit import TRAIN_SAMPLE, train
from mlaas.training.run import treat_negative
from mlaas.workflow import Params
from tests.support import ArrayDataset, blobs


def dataset(n=2000, **more):
    return ArrayDataset(*blobs(n), chunk_size=400, **more)


def mlp():
    return MLPClassifier((8,), learning_rate_init=0.02, random_state=1)


class Recorder(Streaming):
    """Learns nothing, but writes down what it is given; its validation losses are set beforehand."""

    framework = "sklearn"
    seen: list
    losses: list
    loss = 0.5
    state = 0

    def learn(self, chunk, check):
        check()
        self.state += 1
        self.seen.append((chunk.x[chunk.order].copy(), chunk.weight[chunk.order].copy()))
        return self.loss

    def raw(self, x, mask):
        return np.full(len(x), 0.5)

    def evaluate(self, chunk):
        return self.predict(chunk.x), self.losses[min(len(self.seen) // self.per_epoch, len(self.losses)) - 1]

    def dump(self):
        return str(self.state).encode()

    def load(self, data):
        self.state = int(data)


def recorder(data, params, losses=(0.5,)):
    adapter = Recorder(None, Problem.of(data), params, "probability")
    adapter.seen, adapter.losses, adapter.per_epoch = [], list(losses), -(-data.events["train"] // data.chunk_size)
    return adapter


def test_every_event_is_learnt_once_per_epoch(tmp_path):
    data, params = dataset(shuffle=True), Params(epochs=3)
    adapter = recorder(data, params)
    result = train(adapter, data, params, tmp_path)
    expected = np.sort(data.part("train")[0][:, 0])
    seen = np.concatenate([x for x, _ in adapter.seen])[:, 0].reshape(3, -1)
    for epoch in seen:
        np.testing.assert_array_equal(np.sort(epoch), expected)
    assert (seen[0] != seen[1]).any(), "another order in each epoch"
    assert result.epochs == 3
    assert result.trained == 3 * data.events["train"]


def test_procedure_chunks_repeats_each_chunk(tmp_path):
    data, params = dataset(), Params(epochs=3, procedure="chunks", shuffle=True)
    adapter = recorder(data, params)
    train(adapter, data, params, tmp_path)
    chunks = [np.sort(x[:, 0]) for x, _ in adapter.seen]
    assert len(chunks) == 3 * 4
    for first, second, third in zip(chunks[::3], chunks[1::3], chunks[2::3], strict=True):
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(first, third)
    assert (adapter.seen[1][0] != adapter.seen[2][0]).any(), "each repetition has its own order"


def test_early_stopping_keeps_the_best_model(tmp_path):
    data, params = dataset(), Params(epochs=20, early_stopping=2)
    adapter = recorder(data, params, [0.9, 0.7, 0.5, 0.6, 0.5, 0.1])
    result = train(adapter, data, params, tmp_path)
    assert result.epochs == 5
    assert result.best_epoch == 3
    assert adapter.state == 3 * 4
    assert train(recorder(data, params), data, params, tmp_path, resume=True).best_epoch == 3


def test_without_early_stopping_the_last_model_stays(tmp_path):
    data, params = dataset(), Params(epochs=4)
    adapter = recorder(data, params, [0.1, 0.5, 0.5, 0.9])
    assert train(adapter, data, params, tmp_path).best_epoch is None
    assert adapter.state == 4 * 4


def test_early_stopping_needs_validation_events(tmp_path):
    data = dataset(fractions=(0.0, 0.3))
    with pytest.raises(WorkflowError, match=r"params\.early_stopping needs validation events: raise params\.split"):
        train(mlp(), data, Params(early_stopping=1), tmp_path)


def test_records_have_every_figure_and_reach_the_callback_and_the_file(tmp_path):
    seen = []
    result = train(mlp(), dataset(), Params(epochs=3), tmp_path, on_record=seen.append)
    lines = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == seen
    assert [record for record in lines if record["kind"] != "interval"] == result.history
    names = {"time", "kind", "epoch", "chunk", "events", "loss", "val_loss", "val_auc", "val_accuracy", "events_per_s", "seconds"}
    for number, record in enumerate(result.history, 1):
        assert set(record) == names
        assert record["epoch"] == number
        assert record["events"] == number * 1400
        assert record["events_per_s"] > 0
    assert result.history[-1]["val_loss"] < result.history[0]["val_loss"]


def test_intervals_are_written_in_between_and_stay_out_of_the_history(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "INTERVAL_SECONDS", 0.0)
    result = train(mlp(), dataset(), Params(epochs=2), tmp_path)
    kinds = [json.loads(text)["kind"] for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert kinds == ["interval"] * 4 + ["epoch"] + ["interval"] * 4 + ["epoch"]
    assert len(result.history) == 2


def test_final_figures_are_those_of_the_scores(tmp_path):
    data = dataset()
    result = train(mlp(), data, Params(epochs=2), tmp_path)
    for split in ("train", "validation", "test"):
        sample, figures = result.samples[split], result.metrics[split]
        assert len(sample) == data.events[split] == figures["events"]
        np.testing.assert_array_equal(np.sort(sample.labels), np.sort(data.part(split)[1]))
        np.testing.assert_allclose(np.sort(sample.scores), np.sort(result.adapter.predict(data.part(split)[0])))
        assert figures["accuracy"] == pytest.approx(np.mean((sample.scores >= 0.5) == sample.labels))
    assert result.history[-1]["val_loss"] == pytest.approx(result.metrics["validation"]["loss"])


def test_the_train_sample_is_bounded(tmp_path, monkeypatch):
    assert TRAIN_SAMPLE == 200_000
    monkeypatch.setattr("mlaas.training.fit.TRAIN_SAMPLE", 500)
    assert len(train(GaussianNB(), dataset(), Params(epochs=1), tmp_path).samples["train"]) == 500


def test_splits_without_events_are_said_to_be_empty(tmp_path):
    result = train(GaussianNB(), dataset(fractions=(0, 0)), Params(epochs=2), tmp_path)
    assert result.metrics["test"] == {"events": 0}
    assert len(result.samples["validation"]) == 0
    assert "val_loss" not in result.history[0]


def test_nothing_to_learn_from(tmp_path):
    with pytest.raises(DataError, match="no events to train on"):
        train(mlp(), dataset(fractions=(0.5, 0.5)), Params(), tmp_path)
    with pytest.raises(DataError, match=r"one class only \(signal\)"):
        train(mlp(), dataset(classes=["signal"]), Params(), tmp_path)


def test_weights_reach_the_model_and_negative_ones_are_dealt_with(tmp_path):
    x, y = blobs(2000)
    weight = np.random.default_rng(1).choice([-1.0, 0.5, 2.0], 2000).astype(np.float32)
    data = ArrayDataset(x, y, weight, chunk_size=400)
    given = np.sort(data.part("train")[2])
    for how, expected in {"keep": given, "abs": np.sort(np.abs(given)), "zero": given[given > 0]}.items():
        params = Params(epochs=1, negative_weights=how)
        adapter = recorder(data, params)
        result = train(adapter, data, params, tmp_path / how)
        np.testing.assert_array_equal(np.sort(np.concatenate([weights for _, weights in adapter.seen])), expected)
        assert (result.samples["validation"].weights < 0).any(), "evaluation keeps the sign"
        assert result.trained == len(expected)


def test_leaving_out_negative_weights_keeps_rows_and_order_together():
    x = np.arange(10, dtype=np.float32).reshape(5, 2)
    weight = np.array([1, -1, 2, -2, 3], np.float32)
    chunk = Chunk(x, np.arange(5), weight, x > 3, np.array([4, 3, 0, 1, 2]))
    kept = treat_negative(chunk, "zero")
    assert kept.weight.tolist() == [3, 1, 2]
    assert kept.y.tolist() == [4, 0, 2]
    np.testing.assert_array_equal(kept.x, x[[4, 0, 2]])
    np.testing.assert_array_equal(kept.mask, (x > 3)[[4, 0, 2]])
    assert kept.order.tolist() == [0, 1, 2]
    assert treat_negative(chunk, "keep") is chunk


def test_weight_zero_equals_leaving_out_and_scale_changes_nothing(tmp_path):
    """The dataset removes weights of zero and scales the rest to a mean of 1; what is left is that metrics and models agree."""
    x, y = blobs(3000)
    weight = np.random.default_rng(2).uniform(0.2, 2.0, 3000).astype(np.float32)
    found = [
        train(LogisticRegression(C=1e6), ArrayDataset(x, y, w), Params(), tmp_path).metrics["test"]["auc"] for w in (weight, weight * np.float32(64))
    ]
    assert found[0] == pytest.approx(found[1], abs=2e-4)


def test_stop_keeps_a_checkpoint_and_resume_ends_as_if_nothing_had_happened(tmp_path):
    data, params = dataset(shuffle=True), Params(epochs=4, shuffle=True)
    whole = train(mlp(), data, params, tmp_path / "whole")
    asked = iter(range(1000))
    with pytest.raises(Cancelled, match=r"was stopped in epoch 2: its last checkpoint is .*checkpoint\.zip") as caught:
        train(mlp(), data, params, tmp_path / "part", stop=lambda: next(asked) >= 7)
    assert caught.value.exit_code == 130
    found = checkpoint.load(tmp_path / "part" / checkpoint.NAME)
    assert (found.state.epoch, found.state.finished) == (1, False)
    assert 0 < found.state.chunk < 4, "between two epochs"
    resumed = train(mlp(), data, params, tmp_path / "part", resume=True)
    np.testing.assert_allclose(resumed.samples["test"].scores, whole.samples["test"].scores, atol=1e-6)
    assert len(resumed.history) == 4


def test_ctrl_c_is_cancelled(tmp_path):
    def interrupt(record):
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(Cancelled, match=r"its last checkpoint is"):
        train(mlp(), dataset(), Params(epochs=5), tmp_path, on_record=interrupt)
    assert checkpoint.load(tmp_path / checkpoint.NAME).state.epoch == 1
    with pytest.raises(Cancelled, match="there was no checkpoint yet"):
        train(mlp(), dataset(), Params(epochs=5), tmp_path, on_record=lambda record: (_ for _ in ()).throw(KeyboardInterrupt))


def test_more_epochs_go_on_from_a_checkpoint_that_was_not_finished(tmp_path):
    with pytest.raises(Cancelled):
        train(mlp(), dataset(), Params(epochs=3), tmp_path, stop=threading.Event().is_set, on_record=raise_at(2))
    result = train(mlp(), dataset(), Params(epochs=6), tmp_path, resume=True)
    assert result.epochs == 6
    assert [record["epoch"] for record in result.history] == [1, 2, 3, 4, 5, 6]


def raise_at(epoch):
    def interrupt(record):
        if record["epoch"] == epoch:
            raise KeyboardInterrupt

    return interrupt


def test_resume_without_a_checkpoint_begins_anew(tmp_path):
    assert train(GaussianNB(), dataset(), Params(epochs=1), tmp_path, resume=True).epochs == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"batch_size": 5}, r"of another training \(batch_size was 256, is 5\): train anew, without resume"),
        ({"seed": 5}, r"\(seed was 1, is 5\)"),
        ({"procedure": "chunks"}, r"\(procedure was passes, is chunks\)"),
        ({"normalise": "none"}, r"\(normalise was minmax, is none\)"),
        ({"nan": -1.0}, r"\(padding was nan, is -1.0\)"),
        ({"weight": "met"}, r"\(weight was , is met\)"),
        ({"file_weights": [1.0, 2.0]}, r"\(file_weights differs\)"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(tmp_path, change, sentence):
    train(GaussianNB(), dataset(), Params(epochs=1), tmp_path)
    with pytest.raises(WorkflowError, match=sentence):
        train(GaussianNB(), dataset(), Params(epochs=1, **change), tmp_path, resume=True)
    with pytest.raises(WorkflowError, match="events differs"):
        train(GaussianNB(), dataset(1000), Params(epochs=1), tmp_path, resume=True)
    other = dataset()
    other.key = "other files"
    with pytest.raises(WorkflowError, match=r"of another training \(data was , is other files\)"):
        train(GaussianNB(), other, Params(epochs=1), tmp_path, resume=True)
    with pytest.raises(WorkflowError, match=r"model was sklearn\.naive_bayes\.GaussianNB"):
        train(mlp(), dataset(), Params(epochs=1), tmp_path, resume=True)


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_checkpoint_is_one_sentence(tmp_path, damage):
    train(GaussianNB(), dataset(), Params(epochs=1), tmp_path)
    path = tmp_path / checkpoint.NAME
    path.write_bytes(path.read_bytes()[:-200] if damage is None else damage)
    with pytest.raises(DataError, match=r"checkpoint\.zip is damaged \(.*\): remove it and train anew"):
        train(GaussianNB(), dataset(), Params(epochs=1), tmp_path, resume=True)


def test_a_checkpoint_holds_no_code_that_runs(tmp_path):
    """A file that asks for a type which the model does not have is refused, not built."""
    import skops.io

    train(GaussianNB(), dataset(), Params(epochs=1), tmp_path)
    path = tmp_path / checkpoint.NAME
    found = checkpoint.load(path)
    found.learner = skops.io.dumps({"a": threading.Thread})
    checkpoint.save(path, found)
    with pytest.raises(DataError, match=r"does not fit the model that model\.py makes now"):
        train(GaussianNB(), dataset(), Params(epochs=1), tmp_path, resume=True)


def test_a_full_disk_is_one_sentence_and_leaves_no_scrap(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlaas.training.checkpoint.os.fsync", full)
    with pytest.raises(ResourceError, match=r"checkpoint\.zip cannot be written: the disk is full"):
        train(GaussianNB(), dataset(), Params(epochs=1), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl"]


def test_a_loss_that_is_not_a_number_ends_the_training(tmp_path):
    data, params = dataset(), Params(epochs=2)
    adapter = recorder(data, params)
    adapter.loss = float("nan")
    with pytest.raises(ModelError, match="the loss became nan in epoch 1, chunk 1: lower the learning rate"):
        train(adapter, data, params, tmp_path)


def test_scores_that_are_not_numbers_end_the_training(tmp_path):
    data, params = dataset(), Params(epochs=2)
    adapter = recorder(data, params)
    adapter.raw = lambda x, mask: np.where(np.arange(len(x)) % 2, np.nan, 0.5)
    with pytest.raises(ModelError, match="gives scores that are not numbers for 150 of 300 events"):
        train(adapter, data, params, tmp_path)


def test_chunks_are_not_kept_beyond_their_time(tmp_path):
    """The dataset overwrites a chunk's memory when the next is asked for: nothing here may notice."""
    small, whole = dataset(), dataset()
    whole.chunk_size = 10_000
    for split in ("train", "validation", "test"):
        parts = [train(GaussianNB(), data, Params(epochs=1), tmp_path).samples[split] for data in (small, whole)]
        np.testing.assert_allclose(parts[0].scores, parts[1].scores, atol=1e-4)
        np.testing.assert_array_equal(parts[0].labels, parts[1].labels)


def test_progress_is_told_and_notes_are_said(tmp_path):
    class Told:
        def __init__(self) -> None:
            self.notes, self.advanced, self.totals = [], 0, []

        def stage(self, name, total=None, unit="events"):
            self.totals.append((name, total))
            return SILENT.stage(name)

        def note(self, text):
            self.notes.append(text)

    told = Told()
    train(SGDClassifier(), dataset(), Params(epochs=2), tmp_path, progress=told)
    assert ("training", 2800) in told.totals
    assert any("partial_fit" in note for note in told.notes)
    assert any(note.startswith("epoch 2: loss") for note in told.notes)
