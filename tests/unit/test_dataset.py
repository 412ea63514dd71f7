"""Chunks: every event once, files in proportion, reproducible, split by event; weights; labels."""

from __future__ import annotations

import math
import threading
from copy import copy
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas.data.chunks import SPLITS
from mlaas.data.columns import Columns, Jagged
from mlaas.data.dataset import Options, Part, PreparedDataset
from mlaas.data.layout import make_layout
from mlaas.data.selected import Selected
from mlaas.data.specs import Specs
from mlaas.data.split import split_codes
from mlaas.errors import DataError

FILE = 10_000  # events are told apart by the column "number": FILE * file + entry


def file(number, n, *, batch=7, label=None, weights=None, labels=None, keep=None, factor=1.0):
    """A part of `n` entries, those of `keep` selected, in batches; `number` is its place and in all its values."""
    entries = np.flatnonzero(np.ones(n, bool) if keep is None else keep)
    rng = np.random.default_rng(number)
    counts = rng.integers(0, 4, n)

    def batches(columns):
        for start in range(0, len(entries), batch):
            rows = entries[start : start + batch]
            offsets = np.zeros(len(rows) + 1, np.int64)
            np.cumsum(counts[rows], out=offsets[1:])
            data = {}
            if columns:
                lists = Jagged(np.repeat(FILE * number + rows, counts[rows]).astype("f8"), offsets)
                data = {"number": (FILE * number + rows).astype("f8"), "list": lists}
            yield Selected(
                Columns(len(rows), data),
                rows,
                None if labels is None else np.asarray(labels, float)[rows],
                None if weights is None else np.asarray(weights, float)[rows],
            )

    return Part(f"{number}.root", batches, label, factor, len(entries))


def dataset(parts, task="classification", classes=(0.0, 1.0), **options):
    columns = [selected.columns for part in parts for selected in part.batches(True)]
    specs = Specs()
    for batch in columns:
        specs.update(batch)
    return PreparedDataset(parts, make_layout(specs, ["number", "list"], "none"), task, list(classes), Options(**options))


def walk(found, split, **options):
    """Copies of all chunks of a split."""
    fields = ("x", "y", "weight", "order", "mask")
    return [SimpleNamespace(**{name: copy(getattr(chunk, name)) for name in fields}) for chunk in found.chunks(split, **options)]


def numbers(chunks):
    return np.concatenate([chunk.x[:, 0] for chunk in chunks] or [np.empty(0)]).astype(int)


def same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        for name in ("x", "y", "weight", "order"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


parts_strategy = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 1), st.sampled_from([1, 7, 1000]), st.booleans()), min_size=1, max_size=6)


def build(shapes):
    return [
        file(number, n, label=label, batch=batch, keep=np.random.default_rng(n).random(n) < 0.6 if cut else None)
        for number, (n, label, batch, cut) in enumerate(shapes)
    ]


@settings(max_examples=120, deadline=None)
@given(
    shapes=parts_strategy,
    size=st.sampled_from([1, 3, 7, 50, 1000, -1]),
    shuffle=st.booleans(),
    seed=st.integers(0, 2**63 - 1),
    fractions=st.sampled_from([(0.15, 0.15), (0.0, 0.0), (0.5, 0.0), (0.1, 0.8)]),
)
def test_every_event_once_in_one_split_in_proportion(shapes, size, shuffle, seed, fractions):
    parts = build(shapes)
    if not any(part.events for part in parts):
        return
    found = dataset(parts, chunk_size=size, shuffle=shuffle, seed=seed, fractions=fractions)
    seen = []
    for split in SPLITS:
        chunks = walk(found, split, mask=True)
        here = numbers(chunks)
        assert len(here) == found.events[split] == len(set(here))
        seen += here.tolist()
        counts = np.bincount(here // FILE, minlength=len(parts))
        for chunk in chunks:
            n = len(chunk.x)
            assert n > 0
            assert sorted(chunk.order) == list(range(n))
            of_file = np.bincount(chunk.x[:, 0].astype(int) // FILE, minlength=len(parts))
            assert (abs(of_file - n * counts / counts.sum()) < 1 + len(parts) / 2).all()
            assert (chunk.y == [parts[int(number) // FILE].label for number in chunk.x[:, 0]]).all()
            assert chunk.y.dtype == np.int64
            assert chunk.x.dtype == chunk.weight.dtype == np.float32
            assert np.isfinite(chunk.x).all()
            lists = chunk.x[:, 1:]
            assert ((lists == 0) | (lists == chunk.x[:, :1])).all()
            assert not chunk.mask[:, 0].any()
            np.testing.assert_array_equal(chunk.mask[:, 1:] | (lists == chunk.x[:, :1]), True)
        if size > 0 and chunks:
            assert max(len(chunk.x) for chunk in chunks) <= size + len(parts)
        if size == -1:
            assert len(chunks) <= 1
    assert sorted(seen) == sorted(
        FILE * number + entry for number, part in enumerate(parts) for batch in part.batches(False) for entry in batch.entry
    )


@settings(max_examples=60, deadline=None)
@given(shapes=parts_strategy, size=st.sampled_from([1, 7, 30, -1]), seed=st.integers(0, 999))
def test_each_chunk_holds_its_share_of_every_file(shapes, size, seed):
    """Exactly: the events of a file in each chunk differ by at most one, however small the chunks."""
    parts = build(shapes)
    if not any(part.events for part in parts):
        return
    found = dataset(parts, chunk_size=size, seed=seed)
    plan = found._quotas("train")
    total = plan.sum(axis=0)
    np.testing.assert_array_equal(total, found._index.counts[:, 0])
    number = math.ceil(total.sum() / size) if size > 0 else 1
    for quotas, events in zip(plan.T, total, strict=True):
        assert set(quotas.tolist()) <= {math.floor(events / max(1, number)), math.ceil(events / max(1, number)), *([1] if events else [])}


@pytest.mark.parametrize(("files", "size"), [(100, 7), (100, 50), (300, 100), (40, 1)])
def test_chunks_smaller_than_the_number_of_files_are_of_even_size(files, size):
    found = dataset([file(number, 20, label=number % 2) for number in range(files)], chunk_size=size)
    sizes = [len(chunk.x) for chunk in walk(found, "train")]
    assert sum(sizes) == found.events["train"]
    assert max(sizes) <= size + 12  # all files at once would be 40 to 300
    assert np.mean(sizes) > 0.6 * min(size, 20)


@settings(max_examples=50, deadline=None)
@given(shapes=parts_strategy, size=st.sampled_from([1, 7, 30]), shuffle=st.booleans(), epoch=st.integers(0, 3), start=st.integers(0, 40))
def test_a_resumed_walk_gives_the_chunks_that_are_left(shapes, size, shuffle, epoch, start):
    parts = build(shapes)
    if not any(part.events for part in parts):
        return
    found = dataset(parts, chunk_size=size, shuffle=shuffle)
    same(walk(found, "train", epoch=epoch, start=start), walk(found, "train", epoch=epoch)[start:])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**63 - 1), shuffle=st.booleans())
def test_reproducible_from_the_seed(seed, shuffle):
    parts = [file(0, 200, label=0), file(1, 90, label=1)]
    one = walk(dataset(parts, seed=seed, shuffle=shuffle, chunk_size=50), "train", epoch=2)
    same(one, walk(dataset(parts, seed=seed, shuffle=shuffle, chunk_size=50), "train", epoch=2))
    other = walk(dataset(parts, seed=seed ^ 1, shuffle=shuffle, chunk_size=50), "train", epoch=2)
    assert set(numbers(one)) != set(numbers(other))


def test_shuffling_varies_with_the_epoch_and_only_in_the_order():
    found = dataset([file(0, 200, label=0), file(1, 90, label=1)], shuffle=True, chunk_size=100)
    one, other = walk(found, "train", epoch=0), walk(found, "train", epoch=1)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.x, b.x)
        assert a.order.tolist() != b.order.tolist()


def test_without_shuffling_the_order_interleaves_the_files():
    found = dataset([file(0, 300, label=0), file(1, 100, label=1)], chunk_size=-1, fractions=(0.0, 0.0))
    (chunk,) = walk(found, "train")
    walked = chunk.x[chunk.order, 0].astype(int) // FILE
    for start in range(0, 400, 20):
        assert abs(walked[start : start + 20].sum() - 5) <= 1
    assert chunk.y[chunk.order].tolist() == walked.tolist()


def held(found):
    return {split: set(numbers(walk(found, split)).tolist()) for split in SPLITS}


def test_the_split_depends_neither_on_chunks_nor_on_cuts_nor_on_batches():
    rng = np.random.default_rng(1)
    keep = [rng.random(300) < 0.5, np.zeros(100, bool), rng.random(200) < 0.5]  # one file loses all its events
    whole = held(dataset([file(i, n, label=i % 2, batch=64) for i, n in enumerate((300, 100, 200))], chunk_size=100))
    for options in ({"chunk_size": 7}, {"chunk_size": -1}, {"shuffle": True}):
        assert held(dataset([file(i, n, label=i % 2) for i, n in enumerate((300, 100, 200))], **options)) == whole
    cut = held(dataset([file(i, n, label=i % 2, keep=keep[i]) for i, n in enumerate((300, 100, 200))]))
    kept = {FILE * i + int(entry) for i, part in enumerate(keep) for entry in np.flatnonzero(part)}
    for split in SPLITS:
        assert cut[split] == whole[split] & kept


def test_the_split_has_the_fractions_and_differs_between_files():
    entries = np.arange(200_000)
    codes = split_codes(entries, 0, 1, (0.2, 0.1))
    assert np.bincount(codes) / 200_000 == pytest.approx([0.7, 0.2, 0.1], abs=0.004)
    other = split_codes(entries, 1, 1, (0.2, 0.1))
    assert np.mean(codes == other) == pytest.approx(0.7**2 + 0.2**2 + 0.1**2, abs=0.01)
    for step in (2, 7, 1000):  # no rhythm in the entries
        assert np.mean(codes[::step] == 1) == pytest.approx(0.2, abs=0.1 if step == 1000 else 0.01)
    np.testing.assert_array_equal(split_codes(entries[50:60], 0, 1, (0.2, 0.1)), codes[50:60])


def test_a_split_may_be_empty():
    found = dataset([file(0, 50, label=0), file(1, 50, label=1)], fractions=(0.0, 0.0))
    assert found.events == {"train": 100, "validation": 0, "test": 0}
    assert walk(found, "validation") == []


def test_buffers_are_used_again_but_right_until_the_next_chunk():
    found = dataset([file(0, 500, label=0), file(1, 300, label=1)], chunk_size=50)
    addresses, seen = [], []
    for chunk in found.chunks("train", mask=True):
        addresses.append(chunk.x.ctypes.data)
        seen += chunk.x[:, 0].astype(int).tolist()
    assert len(set(addresses)) <= 2
    assert len(seen) == len(set(seen)) == found.events["train"]


def test_large_chunks_have_one_buffer(monkeypatch):
    parts = [file(0, 500, label=0), file(1, 300, label=1)]
    expected = walk(dataset(parts, chunk_size=90), "train")
    monkeypatch.setattr("mlaas.data.dataset.LARGE_BYTES", 100)
    found = dataset(parts, chunk_size=90)
    same(walk(found, "train"), expected)
    assert len({chunk.x.ctypes.data for chunk in found.chunks("train")}) == 1


def test_batches_walk_in_the_order_of_the_chunk():
    (chunk,) = [*dataset([file(0, 60, label=0), file(1, 40, label=1)], chunk_size=-1, shuffle=True, fractions=(0, 0)).chunks("train", mask=True)]
    batches = list(chunk.batches(32))
    assert [len(batch) for batch in batches] == [32, 32, 32, 4]
    np.testing.assert_array_equal(np.concatenate([batch.x for batch in batches]), chunk.x[chunk.order])
    np.testing.assert_array_equal(np.concatenate([batch.mask for batch in batches]), chunk.mask[chunk.order])


@pytest.mark.parametrize(("padding", "shown"), [(math.nan, 0.0), (-3.0, -3.0)])
def test_padding(padding, shown):
    (chunk,) = walk(dataset([file(0, 20, label=0), file(1, 20, label=1)], padding=padding, fractions=(0, 0), chunk_size=-1), "train", mask=True)
    assert (chunk.x[chunk.mask] == shown).all()
    assert chunk.mask.any()


# Weights


def weighted(*factors, weights=None, **options):
    given_weights = weights or [None, None]
    parts = [file(i, 200, label=i, factor=factor, weights=given_weights[i]) for i, factor in enumerate(factors or (1.0, 1.0))]
    return dataset(parts, chunk_size=50, **options)


def gather(found, split="train"):
    chunks = walk(found, split)
    return np.concatenate([chunk.weight for chunk in chunks]), np.concatenate([chunk.y for chunk in chunks]), numbers(chunks)


RANDOM = [np.random.default_rng(i).normal(1, 0.8, 200) for i in range(2)]


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("scale", [1e-9, 0.3, 7.0, 1e12])
def test_scaling_all_weights_changes_nothing(scale, balance):
    one, other = weighted(weights=RANDOM, class_balance=balance), weighted(weights=[scale * part for part in RANDOM], class_balance=balance)
    np.testing.assert_allclose(gather(one)[0], gather(other)[0], rtol=1e-6)
    third = weighted(scale, scale, weights=RANDOM, class_balance=balance)
    np.testing.assert_allclose(gather(one)[0], gather(third)[0], rtol=1e-6)
    assert one.weighted
    assert one.negative


def test_the_mean_absolute_weight_in_training_is_one_and_ratios_are_kept():
    weight, _, number = gather(weighted(weights=RANDOM))
    assert abs(weight).mean() == pytest.approx(1, rel=1e-5)
    original = np.concatenate(RANDOM)[number // FILE * 200 + number % FILE]
    np.testing.assert_allclose(weight / original, weight[0] / original[0], rtol=1e-4)


def test_without_weights_all_are_one():
    for found in (weighted(), weighted(3.7, 3.7), weighted(weights=[np.full(200, 0.1)] * 2)):
        assert not found.weighted
        assert not found.negative
        for split in SPLITS:
            np.testing.assert_allclose(gather(found, split)[0], 1, rtol=1e-6)


def test_weights_that_are_all_negative_are_weights():
    found = weighted(weights=[np.full(200, -2.0)] * 2)
    assert found.weighted
    assert found.negative
    np.testing.assert_allclose(gather(found)[0], -1, rtol=1e-6)


def test_file_weights_multiply_the_event_weights():
    weight, y, _ = gather(weighted(1.0, 4.0))
    assert np.unique(weight[y == 1]) / np.unique(weight[y == 0]) == pytest.approx([4.0], rel=1e-6)
    assert abs(weight).mean() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("weights", [None, RANDOM])
def test_class_balance(weights):
    parts = [file(0, 400, label=0, weights=None if weights is None else np.tile(weights[0], 2)), file(1, 100, label=1), file(2, 50, label=1)]
    found = dataset(parts, class_balance=True, chunk_size=60)
    weight, y, _ = gather(found)
    assert weight[y == 0].sum(dtype=float) == pytest.approx(weight[y == 1].sum(dtype=float), rel=1e-4)
    assert abs(weight).mean() == pytest.approx(1, rel=1e-5)
    assert found.weighted


@pytest.mark.parametrize(("how", "taken"), [("keep", lambda w: w), ("abs", np.abs), ("zero", lambda w: np.maximum(w, 0))])
def test_class_balance_counts_negative_weights_as_training_takes_them(how, taken):
    rng = np.random.default_rng(3)
    weights = [rng.normal(1, 1, 300), rng.normal(0.5, 1, 200)]
    found = weighted(weights=weights, class_balance=True, negative_weights=how)
    y, weight = (np.concatenate(parts) for parts in zip(*((chunk.y.copy(), chunk.weight.copy()) for chunk in found.chunks("train")), strict=True))
    sums = [taken(weight[y == index]).sum() for index in (0, 1)]
    assert sums[0] == pytest.approx(sums[1], rel=1e-4)


def test_class_balance_of_a_class_without_positive_weights_is_refused():
    found = weighted(weights=[np.full(200, -1.0), np.ones(200)], class_balance=True)
    with pytest.raises(DataError, match=r"params\.class_balance: class 0 has a sum of weights of -"):
        gather(found)


def test_sums_are_those_of_the_user():
    assert weighted(2.0, 3.0).sums.tolist() == [400.0, 600.0]


def test_raw_gives_events_targets_and_the_users_weights():
    found = weighted(2.0, 3.0)
    rows = [(columns["number"], target, weight) for columns, target, weight in found.raw()]
    assert np.concatenate([row[0] for row in rows]).tolist() == [*range(200), *range(FILE, FILE + 200)]
    assert np.concatenate([row[1] for row in rows]).tolist() == [0] * 200 + [1] * 200
    assert np.concatenate([row[2] for row in rows]).tolist() == [2.0] * 200 + [3.0] * 200
    few = [len(columns) for columns, _, _ in found.raw(enough=10)]
    assert few == [7, 7, 7, 7]


# Labels


def test_labels_from_a_branch_in_the_order_of_the_classes():
    labels = np.random.default_rng(3).choice([2.0, -1.0, 5.5], 300)
    found = dataset([file(0, 300, labels=labels)], classes=(5.5, -1.0, 2.0), chunk_size=40)
    for split in SPLITS:
        _, y, number = gather(found, split)
        np.testing.assert_array_equal(np.array([5.5, -1.0, 2.0])[y], labels[number])
    assert found.classes == ["5.5", "-1", "2"]


def test_large_labels_keep_their_digits():
    labels = np.where(np.arange(60) % 2, 1_000_021.0, 1_000_022.0)
    assert dataset([file(0, 60, labels=labels)], classes=(1_000_021.0, 1_000_022.0)).classes == ["1000021", "1000022"]


def test_a_label_outside_the_classes_is_named():
    labels = np.zeros(50)
    labels[31] = 7
    found = dataset([file(0, 50, labels=labels)], classes=(0.0, 1.0))
    with pytest.raises(DataError, match=r"labels: entry 31 of 0.root has the label 7, which is not one of the classes 0, 1"):
        found.events  # noqa: B018


def test_regression():
    target = np.random.default_rng(3).normal(0, 100, 300)
    found = dataset([file(0, 200, labels=target[:200]), file(1, 100, labels=target[200:])], task="regression", classes=(), chunk_size=70)
    assert found.classes == []
    for split in SPLITS:
        _, y, number = gather(found, split)
        assert y.dtype == np.float32
        np.testing.assert_array_equal(y, target[number // FILE * 200 + number % FILE].astype(np.float32))


def test_no_features_and_no_labels_are_said():
    with pytest.raises(DataError, match="no features: every selected branch is empty"):
        PreparedDataset([], make_layout(Specs(), []), "classification", [0.0, 1.0], Options())
    with pytest.raises(DataError, match=r"labels: 0.root has no label"):
        dataset([file(0, 20)]).events  # noqa: B018


def test_a_file_that_shrinks_is_noticed():
    part = file(0, 100, label=0)
    calls = []

    def batches(columns):
        calls.append(columns)
        return (batch for index, batch in enumerate(part.batches(columns)) if not columns or index < 3 or len(calls) < 2)

    found = dataset([Part("0.root", part.batches, 0, 1.0, 100), file(1, 30, label=1)])
    found._parts[0] = Part("0.root", batches, 0, 1.0, 100)
    assert found.events["train"] > 60
    with pytest.raises(DataError, match=r"0.root holds fewer events than before"):
        walk(found, "train")


def test_a_walk_given_up_ends_its_thread():
    found = dataset([file(0, 500, label=0), file(1, 300, label=1)], chunk_size=50)
    chunks = found.chunks("train")
    next(chunks)
    chunks.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("chunks")]


def test_an_error_while_the_next_chunk_is_made_is_raised():
    part = file(0, 200, label=0)

    def batches(columns):
        for index, batch in enumerate(part.batches(columns)):
            if columns and index == 9:
                raise DataError("0.root is damaged")
            yield batch

    found = dataset([part, file(1, 50, label=1)], chunk_size=20)
    found._parts[0] = Part("0.root", batches, 0, 1.0, 200)
    with pytest.raises(DataError, match=r"0.root is damaged"):
        walk(found, "train")
