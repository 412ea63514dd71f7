"""The reading stage: what is read, kept and reused; labels and weights; what is said of bad input; how it stops."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import awkward as ak
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas.console import SILENT
from mlaas.data.chunks import SPLITS
from mlaas.data.handled import read_batches
from mlaas.data.trees import TreeFile
from mlaas.errors import DataError, MissingExtraError, MLaaSError, WorkflowError
from mlaas.prepare import prepare, shares
from mlaas.workflow import parse
from tests.support.rootfiles import write_tree

# Events and files


def events(n, seed, **changes):
    """Some events: identifiers, flat and jagged features, a label branch and weights."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, n)
    m = int(counts.sum())
    out = {
        "run": np.ones(n, "i4"),
        "event": np.arange(n, dtype="i8"),
        "met": rng.exponential(50, n).astype("f4"),
        "ht": rng.normal(300, 80, n),
        "process": rng.integers(0, 3, n).astype("i4"),
        "target": rng.normal(0, 1, n),
        "gen_weight": rng.normal(1, 0.5, n),
        "pu_weight": rng.normal(1, 0.1, n),
        "jet": ak.zip({"pt": ak.unflatten(rng.exponential(40, m).astype("f4"), counts), "id": ak.unflatten(rng.integers(0, 5, m), counts)}),
    }
    return out | changes


def write(path, sizes=(300, 200), seed=0, codec="zlib", **changes):
    return str(write_tree(path, [events(n, seed * 100 + i, **changes) for i, n in enumerate(sizes)], codec=codec))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return [write(folder / "a.root", seed=1), write(folder / "b.root", (100, 150), seed=2)]


class Notes:
    """A progress that keeps its notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text):
        self.notes.append(text)

    def stage(self, name, total=None, unit="events"):
        return SILENT.stage(name, total, unit)


def workflow(files, labels=(1, 0), preproc=None, specs=None, **params):
    """Features are met, ht, jet_pt, jet_id and njet unless chosen otherwise."""
    given_params = {"branch": "events", "exclude_branches": "process,target,*_weight", "workers": 2} | params
    labels = labels if isinstance(labels, str) else list(labels)
    document = {"files": [str(path) for path in files], "labels": labels, "model": "model.py", "params": given_params, "preproc": preproc or {}}
    return parse(document | ({"specs": specs} if specs else {}))


def chunks(prepared, split="train", **options):
    return [
        SimpleNamespace(x=chunk.x.copy(), y=chunk.y.copy(), weight=chunk.weight.copy(), order=chunk.order.copy())
        for chunk in prepared.dataset.chunks(split, **options)
    ]


def same(one, other):
    assert one.dataset.columns == other.dataset.columns
    assert one.dataset.events == other.dataset.events
    for split in SPLITS:
        ours, theirs = chunks(one, split, epoch=1), chunks(other, split, epoch=1)
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            for name in ("x", "y", "weight", "order"):
                np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@pytest.fixture
def reads(monkeypatch):
    """How often each file's events were read."""
    seen = Counter()
    real = TreeFile.batches

    def batches(self, names, start=0, stop=None):
        seen[Path(self.path).name] += 1
        return real(self, names, start, stop)

    monkeypatch.setattr(TreeFile, "batches", batches)
    return seen


# Shares


@settings(max_examples=300, deadline=None)
@given(nevts=st.integers(-1, 10**12).filter(bool), entries=st.lists(st.integers(0, 10**12), min_size=1, max_size=20))
def test_shares_are_exact_and_proportional(nevts, entries):
    found = shares(nevts, entries)
    total = sum(entries)
    assert sum(found) == (total if nevts < 0 else min(nevts, total))
    for share, size in zip(found, entries, strict=True):
        assert 0 <= share <= size
        if 0 < nevts < total:
            assert abs(share - nevts * size / total) <= 1 + 1e-3


def test_nevts_takes_the_first_entries_of_each_file(pair, tmp_path):
    prepared = prepare(workflow(pair, nevts=100), cache=tmp_path)
    assert [file.used for file in prepared.files] == [67, 33]
    assert [file.entries for file in prepared.files] == [500, 250]
    assert prepared.events == 100
    assert prepared.published["events"] == {pair[0]: 67, pair[1]: 33, "total": 100}


# What is prepared


def test_features_specs_and_splits(pair, tmp_path):
    prepared = prepare(workflow(pair), cache=tmp_path)
    assert prepared.dataset.columns == ["ht", "met", "njet", *(f"{name}[{i}]" for name in ("jet_id", "jet_pt") for i in range(3))]
    assert sum(prepared.dataset.events.values()) == prepared.events == 750
    assert prepared.dataset.classes == ["0", "1"]
    met = np.concatenate(
        [np.concatenate([events(n, seed * 100 + i)["met"] for i, n in enumerate(sizes)]) for seed, sizes in ((1, (300, 200)), (2, (100, 150)))]
    )
    assert (prepared.published["minv"]["met"], prepared.published["maxv"]["met"]) == (met.min(), met.max())
    for split in SPLITS:
        for chunk in chunks(prepared, split):
            assert chunk.x.min() >= 0
            assert chunk.x.max() <= 1
    json.dumps(prepared.published, allow_nan=False)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_number_of_workers_changes_nothing(pair, tmp_path, workers):
    same(prepare(workflow(pair, workers=workers), cache=tmp_path / "a"), prepare(workflow(pair, workers=3), cache=tmp_path / "b"))


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(
    "preproc", [{}, {"jagged_cut": {"jet_pt": {"cut": ["jet_pt>30", "any"], "remove": "False"}}, "flat_cut": {"met": {"cut": "met>10"}}}]
)
def test_without_handled_data_the_chunks_are_the_same(pair, tmp_path, preproc, shuffle):
    options = {"preproc": preproc, "shuffle": shuffle, "chunk_size": 90, "weight": "gen_weight*pu_weight"}
    streamed = prepare(workflow(pair, handled=False, **options), cache=tmp_path)
    kept = prepare(workflow(pair, **options), cache=tmp_path)
    assert sum(summary.bytes for summary in streamed.summaries) < sum(summary.bytes for summary in kept.summaries) / 3
    same(streamed, kept)


def test_a_branch_that_is_empty_in_a_batch_or_in_all(tmp_path):
    path = tmp_path / "a.root"
    empty = ak.unflatten(np.empty(0, "f4"), np.zeros(50, int))
    parts = [events(50, 1), events(50, 2)]
    parts[0] |= {"sometimes": empty, "never": empty}
    parts[1] |= {"sometimes": ak.unflatten(np.arange(50, dtype="f4"), np.ones(50, int)), "never": empty}
    write_tree(path, parts)
    prepared = prepare(workflow([path, write_copy(path)]), cache=tmp_path / "cache")
    assert "sometimes[0]" in prepared.dataset.columns
    assert not [name for name in prepared.dataset.columns if name.startswith("never")]
    assert (prepared.published["minv"]["sometimes"], prepared.published["maxv"]["sometimes"]) == (0.0, 49.0)
    assert prepared.published["minv"]["never"] is None
    assert all(np.isfinite(chunk.x).all() for chunk in chunks(prepared))


def write_copy(path):
    return str(shutil.copy(path, path.with_name("copy.root")))


def test_nothing_but_empty_branches_is_an_error(tmp_path):
    empty = ak.unflatten(np.empty(0, "f4"), np.zeros(50, int))
    write_tree(tmp_path / "a.root", [{"x": empty, "y": np.arange(50)}])
    write_tree(tmp_path / "b.root", [{"x": empty, "y": np.arange(50)}])
    with pytest.raises(DataError, match="no features: every selected branch is empty in all events"):
        prepare(workflow([tmp_path / "a.root", tmp_path / "b.root"], exclude_branches="y,nx"), cache=tmp_path).dataset  # noqa: B018


def test_nan_and_infinities_do_not_reach_the_model(tmp_path):
    met = np.arange(300, dtype="f4")
    met[[3, 77]] = np.nan
    met[[5, 99]] = np.inf
    met[6] = -np.inf
    paths = [write(tmp_path / f"{name}.root", (300,), seed, met=met) for seed, name in enumerate("ab")]
    prepared = prepare(workflow(paths, split=0), cache=tmp_path)
    found = prepared.specs.branches["met"]
    assert (found.low, found.high, found.nans, found.infinities) == (0.0, 299.0, 4, 6)
    rows = np.concatenate([chunk.x for chunk in chunks(prepared)])
    assert np.isfinite(rows).all()
    assert (rows >= 0).all()
    assert (rows <= 1).all()


def test_given_specs_are_used(pair, tmp_path):
    published = prepare(workflow(pair), cache=tmp_path).published
    published["maxv"]["met"] = 10_000
    published["jdim"]["jet_pt"] = 5
    (tmp_path / "specs.json").write_text(json.dumps(published))
    prepared = prepare(workflow(pair, specs=str(tmp_path / "specs.json")), cache=tmp_path)
    assert prepared.reused == 2
    assert "jet_pt[4]" in prepared.dataset.columns
    assert max(chunk.x[:, 1].max() for chunk in chunks(prepared)) < 0.1
    published["jdim"]["jet_pt"] = 2
    (tmp_path / "specs.json").write_text(json.dumps(published))
    with pytest.raises(DataError, match="specs: jdim of 'jet_pt' is 2, but the files hold lists of 3"):
        prepare(workflow(pair, specs=str(tmp_path / "specs.json")), cache=tmp_path)


# Choice of branches


def test_selected_branches_and_identifiers(pair, tmp_path):
    def columns(**params):
        return prepare(workflow(pair, **{"exclude_branches": "", **params}), cache=tmp_path).features.layout.slots

    def names(**params):
        return {slot.name for slot in columns(**params)}

    everything = {"met", "ht", "process", "target", "gen_weight", "pu_weight", "njet", "jet_pt", "jet_id"}
    assert names() == everything
    assert names(identifier="met") == everything - {"met"} | {"run", "event"}
    assert names(selected_branches="jet_*,met") == {"jet_pt", "jet_id", "met"}
    assert names(selected_branches="jet_*", exclude_branches="jet_id") == {"jet_pt"}
    (tmp_path / "list.txt").write_text("met\njet_pt\n")
    assert names(selected_branches=str(tmp_path / "list.txt")) == {"met", "jet_pt"}
    with pytest.raises(DataError, match=r"params.selected_branches: there is no branch 'jetpt' .*did you mean 'jet_pt'"):
        names(selected_branches="jetpt")


def test_a_mistyped_identifier_is_told(pair, tmp_path):
    told = Notes()
    prepare(workflow(pair, identifier="run,evnt"), cache=tmp_path, progress=told)
    assert any("params.identifier: there is no branch 'evnt'" in note and "did you mean 'event'" in note for note in told.notes)
    assert any("named like identifiers: event;" in note for note in told.notes)
    quiet = Notes()
    prepare(workflow(pair), cache=tmp_path, progress=quiet)
    assert not any("identifier" in note for note in quiet.notes)


def test_neither_label_nor_weights_are_features(pair, tmp_path):
    prepared = prepare(workflow(pair, labels="process", exclude_branches="", weight="gen_weight*pu_weight"), cache=tmp_path)
    assert {slot.name for slot in prepared.features.layout.slots} == {"met", "ht", "target", "njet", "jet_pt", "jet_id"}
    by_wildcard = prepare(workflow(pair, labels="process", exclude_branches="", selected_branches="*", weight="gen_weight"), cache=tmp_path)
    assert not {"process", "gen_weight"} & set(by_wildcard.dataset.columns)
    by_name = prepare(
        workflow(pair, labels="process", exclude_branches="", selected_branches="process,gen_weight,met", weight="gen_weight"), cache=tmp_path
    )
    assert by_name.dataset.columns == ["gen_weight", "met"]  # asked for by its name, a weight may be a feature; the label never
    with pytest.raises(DataError, match="only the label branch 'process' is left"):
        prepare(workflow(pair, labels="process", exclude_branches="", selected_branches="process"), cache=tmp_path)


def test_what_is_left_out_is_told(tmp_path):
    import uproot

    paths = []
    for name in "ab":
        paths.append(tmp_path / f"{name}.root")
        with uproot.recreate(paths[-1]) as file:
            file["events"] = {"met": np.arange(20.0), "matrix": np.ones((20, 2, 2)), "text": ak.Array(["a"] * 20)}
    told = Notes()
    prepared = prepare(workflow(paths, exclude_branches=""), cache=tmp_path, progress=told)
    assert prepared.dataset.columns == ["met"]
    assert set(prepared.choice.left_out) >= {"matrix"}
    assert "left out, since they cannot be features" in told.notes[0]
    assert "matrix (type 2 * 2 * float64), text (strings)" in told.notes[0]


# Labels and weights


def test_labels_from_a_branch(pair, tmp_path):
    prepared = prepare(workflow(pair, labels="process"), cache=tmp_path)
    assert (prepared.dataset.task, prepared.dataset.classes) == ("classification", ["0", "1", "2"])
    y = np.concatenate([chunk.y for split in SPLITS for chunk in chunks(prepared, split)])
    expected = np.concatenate([events(n, s)["process"] for n, s in ((300, 100), (200, 101), (100, 200), (150, 201))])
    assert np.bincount(y).tolist() == np.bincount(expected).tolist()


def test_regression(pair, tmp_path):
    prepared = prepare(workflow(pair, labels="target"), cache=tmp_path)
    assert (prepared.dataset.task, prepared.dataset.classes) == ("regression", [])
    y = np.concatenate([chunk.y for split in SPLITS for chunk in chunks(prepared, split)])
    expected = np.concatenate([events(n, s)["target"] for n, s in ((300, 100), (200, 101), (100, 200), (150, 201))])
    np.testing.assert_array_equal(np.sort(y), np.sort(expected.astype("f4")))


def test_words_as_labels(pair, tmp_path):
    prepared = prepare(workflow(pair, labels=["ttH", "background"]), cache=tmp_path)
    assert prepared.dataset.classes == ["background", "ttH"]
    assert prepared.labels.of_file == [1, 0]


def test_an_event_of_weight_zero_equals_one_that_is_cut(tmp_path):
    rng = np.random.default_rng(5)
    weights = rng.choice([0.0, 1.5, -0.5], 300)
    paths = [write(tmp_path / f"{name}.root", (300,), seed, gen_weight=weights) for seed, name in enumerate("ab")]
    zero = prepare(workflow(paths, weight="gen_weight", chunk_size=50), cache=tmp_path)
    cut = prepare(
        workflow(paths, weight="gen_weight", chunk_size=50, preproc={"flat_cut": {"gen_weight": {"cut": "gen_weight!=0", "remove": "True"}}}),
        cache=tmp_path,
    )
    assert zero.events == cut.events == 2 * np.count_nonzero(weights)
    same(zero, cut)
    assert zero.published["minv"] == cut.published["minv"]
    assert zero.dataset.negative


def test_a_file_of_weight_zero_equals_one_that_is_not_there(pair, tmp_path):
    wild = write(tmp_path / "wild.root", (300,), 7, met=np.full(300, 1e6, "f4"))
    with_it = prepare(workflow([pair[0], wild, pair[1]], labels=[1, 2, 0], file_weights=[1, 0, 2]), cache=tmp_path)
    without = prepare(workflow(pair, file_weights=[1, 2]), cache=tmp_path)
    with pytest.raises(DataError, match="no event of class 2 is left"):
        with_it.dataset  # noqa: B018
    with_it = prepare(workflow([pair[0], wild, pair[1]], labels=[1, 1, 0], file_weights=[1, 0, 2]), cache=tmp_path)
    same(with_it, without)
    assert with_it.published["maxv"] == without.published["maxv"]
    assert with_it.published["events"] == {pair[0]: 500, wild: 0, pair[1]: 250, "total": 750}


def test_nothing_but_weights_of_zero(pair, tmp_path):
    with pytest.raises(DataError, match="no event is left of 750: the cuts of preproc or the weights leave all of them out"):
        prepare(workflow(pair, file_weights=[0, 0]), cache=tmp_path)


def test_weights_of_events_and_files(pair, tmp_path):
    prepared = prepare(workflow(pair, weight="gen_weight*pu_weight", file_weights=[2, 3]), cache=tmp_path)
    expected = [
        np.concatenate([events(n, s)["gen_weight"] * events(n, s)["pu_weight"] for n, s in seeds]).sum()
        for seeds in (((300, 100), (200, 101)), ((100, 200), (150, 201)))
    ]
    np.testing.assert_allclose(prepared.dataset.sums, [3 * expected[1], 2 * expected[0]])
    weight = np.concatenate([chunk.weight for chunk in chunks(prepared)])
    assert abs(weight).mean() == pytest.approx(1, rel=1e-4)


def test_the_split_does_not_depend_on_cuts(pair, tmp_path):
    """Not even when a cut leaves nothing of the first file."""
    third = write(tmp_path / "c.root", (200,), 3, met=np.full(200, -1.0, "f4"))
    files, labels = [third, *pair], [1, 1, 0]

    def held(preproc):
        prepared = prepare(workflow(files, labels=labels, preproc=preproc, normalise="none", selected_branches="ht"), cache=tmp_path)
        return {split: {value for chunk in chunks(prepared, split) for value in chunk.x[:, 0].tolist()} for split in SPLITS}

    whole, cut = held({}), held({"flat_cut": {"met": {"cut": "met>40", "remove": "True"}}})
    kept = set().union(*cut.values())
    assert 50 < len(kept) < 500
    assert cut == {split: whole[split] & kept for split in SPLITS}


# Handled data


def test_a_second_job_reads_nothing_again(pair, tmp_path, reads):
    first = prepare(workflow(pair), cache=tmp_path)
    assert reads == {"a.root": 1, "b.root": 1}
    for params in ({}, {"chunk_size": 7}, {"seed": 4}, {"epochs": 3}, {"file_weights": [1, 5]}, {"class_balance": True}, {"normalise": "none"}):
        again = prepare(workflow(pair, **params), cache=tmp_path)
        assert again.reused == 2
        assert "2 of 2 files were not read again" in again.summary()
    relabelled = prepare(workflow(pair, labels=["b", "a"]), cache=tmp_path)
    assert relabelled.dataset.classes == ["a", "b"]
    same(prepare(workflow(pair), cache=tmp_path), first)
    moved = [str(shutil.copy(path, tmp_path / Path(path).name)) for path in pair]
    assert prepare(workflow(moved), cache=tmp_path).reused == 2
    assert sum(reads.values()) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"nevts": 200},
        {"weight": "gen_weight"},
        {"preproc": {"flat_cut": {"met": {"cut": "met>10"}}}},
        {"preproc": {"new_branch": {"m2": {"def": "met**2", "type": "flat"}}}},
        {"exclude_branches": "process,target,*_weight,met"},
        {"identifier": "run"},
        {"labels": "process"},
    ],
)
def test_whatever_changes_the_data_is_read_anew(pair, tmp_path, reads, change):
    prepare(workflow(pair), cache=tmp_path)
    assert prepare(workflow(pair, **change), cache=tmp_path).reused == 0
    assert sum(reads.values()) == 4


def test_a_changed_file_is_read_again(pair, tmp_path, reads):
    files = [str(shutil.copy(path, tmp_path)) for path in pair]
    before = prepare(workflow(files), cache=tmp_path / "cache")
    write(Path(files[1]), (60,), seed=9)
    after = prepare(workflow(files), cache=tmp_path / "cache")
    assert (after.reused, reads["b.root"], reads["a.root"]) == (1, 2, 1)
    assert (before.events, after.events) == (750, 560)


def test_damaged_handled_data_are_made_anew(pair, tmp_path, reads):
    first = prepare(workflow(pair), cache=tmp_path)
    os.truncate(first.folder / first.files[0].key / "events.arrow", 100)
    again = prepare(workflow(pair), cache=tmp_path)
    assert reads == {"a.root": 2, "b.root": 1}
    same(first, again)


def test_training_goes_on_where_the_files_are_gone(pair, tmp_path):
    files = [str(shutil.copy(path, tmp_path)) for path in pair]
    first = prepare(workflow(files, weight="gen_weight"), cache=tmp_path / "cache")
    expected = {split: chunks(first, split, epoch=1) for split in SPLITS}
    Path(files[1]).unlink()
    told = Notes()
    again = prepare(workflow(files, weight="gen_weight"), cache=tmp_path / "cache", progress=told)
    same(first, again)
    assert len(expected["train"]) == len(chunks(again))
    assert "there is no file" in told.notes[0]
    assert "going on with the handled data that were prepared before" in told.notes[0]
    assert again.reused == 2
    assert again.features.to_json() == first.features.to_json()
    assert again.published == first.published
    other = prepare(workflow(files, weight="gen_weight", labels=["x", "y"], file_weights=[1, 3], chunk_size=9), cache=tmp_path / "cache")
    assert other.dataset.classes == ["x", "y"]
    for changed in ({"nevts": 10}, {"weight": ""}, {"preproc": {"flat_cut": {"met": {"cut": "met>10"}}}}):
        with pytest.raises(DataError, match="there is no file"):
            prepare(workflow(files, **({"weight": "gen_weight"} | changed)), cache=tmp_path / "cache")
    shutil.rmtree(first.folder / first.files[0].key)
    with pytest.raises(DataError, match="there is no file"):
        prepare(workflow(files, weight="gen_weight"), cache=tmp_path / "cache")


def test_old_data_do_not_stand_in_for_a_file_that_is_damaged_or_has_changed(pair, tmp_path):
    files = [str(shutil.copy(path, tmp_path)) for path in pair]
    prepare(workflow(files), cache=tmp_path / "cache")
    write_tree(Path(files[1]), [{"other": np.arange(30.0)}])
    with pytest.raises(DataError, match=r"b\.root lacks branch"):
        prepare(workflow(files), cache=tmp_path / "cache")
    Path(files[1]).write_bytes(Path(pair[1]).read_bytes()[:-2000])
    with pytest.raises(DataError, match=r"b\.root is truncated"):
        prepare(workflow(files), cache=tmp_path / "cache")


def test_a_library_that_is_missing_where_training_goes_on(pair, tmp_path, monkeypatch):
    """Files at a server, prepared where its client is installed, fitted where it is not."""
    remote = ["root://host.invalid//a.root", "root://host.invalid//b.root"]
    real = prepare.__globals__["_open"]
    monkeypatch.setitem(prepare.__globals__, "_open", lambda path, *rest: real(pair[path.endswith("b.root")], *rest))
    first = prepare(workflow(remote), cache=tmp_path)

    def missing(path, *rest):
        raise MissingExtraError("fsspec-xrootd", "xrootd")

    monkeypatch.setitem(prepare.__globals__, "_open", missing)
    same(prepare(workflow(remote), cache=tmp_path), first)
    with pytest.raises(MissingExtraError):
        prepare(workflow(remote, nevts=10), cache=tmp_path)


def test_the_cache_may_be_a_folder_that_cannot_be_written(pair, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MLaaSError, match="handled data cannot be written to"):
        prepare(workflow(pair), cache=tmp_path / "file")


# Bad input


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"branch": "event"}, r"has no tree 'event' \(did you mean 'events'\?\)"),
        ({"labels": "proces"}, r"labels: 'proces' is neither a file nor a branch of .*a.root that holds numbers \(did you mean 'process'\?\)"),
        ({"labels": "jet_pt"}, r"labels: branch 'jet_pt' holds a list per event"),
        ({"weight": "genweight"}, r"gen_weight"),
        ({"weight": "jet_pt"}, r"params.weight: 'jet_pt' gives a list per event; it must give one number"),
        ({"weight": "2"}, r"params.weight: '2' names no branch"),
        ({"preproc": {"flat_cut": {"met": {"cut": "met>1e9"}}}}, r"no event is left of 750: the cuts of preproc or the weights"),
        ({"preproc": {"flat_cut": {"mett": {"cut": "mett>1"}}}}, r"there is no branch 'mett' \(did you mean 'met'\?\)"),
        ({"labels": [1, 1]}, r"all files have the label 1"),
        ({"labels": "process", "classes": [0, 1]}, r"holds 2, which is not one of params.classes 0, 1"),
        ({"labels": "process", "preproc": {"flat_cut": {"process": {"cut": "process==1"}}}}, r"branch 'process' holds only the value 1"),
        ({"labels": [1, 0], "task": "regression"}, r"regression needs the name of a branch"),
        ({"labels": "target", "task": "classification"}, r"holds values that are not whole numbers"),
    ],
)
def test_bad_parameters_have_a_sentence(pair, tmp_path, change, sentence):
    with pytest.raises(MLaaSError, match=sentence) as caught:
        prepare(workflow(pair, **change), cache=tmp_path).dataset  # noqa: B018
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("name", "options"), [("gen_weight", {"weight": "gen_weight"}), ("target", {"labels": "target"})])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_weight_or_label_that_is_not_finite_is_named(pair, tmp_path, name, options, bad):
    values = np.ones(200)
    values[[120, 130]] = bad
    path = write(tmp_path / "c.root", (200,), 5, **{name: values})
    with pytest.raises(DataError, match=rf"is {bad} in entry 120 of .*c.root; (weights|labels) must be finite"):
        prepare(workflow([pair[0], path], **options), cache=tmp_path)
    cut = {"flat_cut": {"event": {"cut": "event<100", "remove": "True"}}}
    assert prepare(workflow([pair[0], path], preproc=cut, **options), cache=tmp_path).events == 300  # events 0..99 of each tree part


def test_files_that_differ(pair, tmp_path):
    lacking = events(50, 1)
    del lacking["met"]
    write_tree(tmp_path / "lacking.root", [lacking])
    with pytest.raises(DataError, match=r"lacking.root lacks branch 'met', which .*a.root has .*leave it out with params.exclude_branches"):
        prepare(workflow([pair[0], tmp_path / "lacking.root"]), cache=tmp_path)
    assert prepare(workflow([pair[0], tmp_path / "lacking.root"], exclude_branches="met,process,target,*_weight"), cache=tmp_path).events == 550
    write_tree(tmp_path / "other.root", [events(50, 1, met=ak.unflatten(np.arange(50.0), np.ones(50, int)))])
    with pytest.raises(DataError, match=r"branch 'met' is flat in .*a.root but jagged in .*other.root"):
        prepare(workflow([pair[0], tmp_path / "other.root"]), cache=tmp_path)


def test_a_file_of_other_number_types_joins(pair, tmp_path):
    other = write(tmp_path / "c.root", (100,), 5, met=np.arange(100, dtype="i4"))
    prepared = prepare(workflow([pair[0], other]), cache=tmp_path)
    assert prepared.events == 600
    assert prepared.specs.branches["met"].kind == "flat"


def test_a_file_without_entries_joins(pair, tmp_path):
    import uproot

    with uproot.open(pair[0]) as file:
        types = {name: branch.interpretation for name, branch in file["events"].items()}
    kinds = {
        name: f"var * {_short(what.content)}" if hasattr(what, "content") else np.dtype(what.numpy_dtype)
        for name, what in types.items()
        if name != "njet"
    }
    jets = {name: kinds.pop(name) for name in list(kinds) if name.startswith("jet")}
    with uproot.recreate(tmp_path / "empty.root") as file:
        file.mktree("events", kinds | jets | {"njet": "i4"}, counter_name=lambda name: f"count_{name}")
    prepared = prepare(workflow([pair[0], tmp_path / "empty.root", pair[1]], labels=[1, 0, 0]), cache=tmp_path)
    assert prepared.events == 750
    same(prepared, prepare(workflow([pair[0], tmp_path / "empty.root", pair[1]], labels=[1, 0, 0], handled=False), cache=tmp_path))


def _short(content):
    return np.dtype(content.numpy_dtype).name


@pytest.mark.parametrize("damage", ["truncated", "flipped", "text", "empty"])
def test_damaged_files_leave_nothing(tmp_path, damage):
    path = Path(write(tmp_path / "a.root", (900, 900)))
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        data = data[: len(data) // 2]
    elif damage == "flipped":
        for position in range(len(data) // 3, len(data) // 2, 50):
            data[position] ^= 0xFF
    else:
        data = bytearray(b"text" * 500 if damage == "text" else b"")
    path.write_bytes(data)
    good = write(tmp_path / "b.root", seed=3)
    with pytest.raises(DataError, match=r"a\.root") as caught:
        prepare(workflow([good, path]), cache=tmp_path / "cache")
    assert "\n" not in str(caught.value)
    found = [item.name for item in (tmp_path / "cache").rglob("*") if item.name.startswith(".")]
    assert found == []


def test_a_missing_file(pair, tmp_path):
    with pytest.raises(DataError, match=r"there is no file .*nothing.root"):
        prepare(workflow([pair[0], str(tmp_path / "nothing.root")]), cache=tmp_path)


def test_the_first_error_ends_the_others(pair, tmp_path, monkeypatch):
    """A file that takes an hour must not hide for an hour that another one is damaged."""
    real = TreeFile.batches
    seen = []

    def batches(self, names, start=0, stop=None):
        if self.path.endswith("b.root"):
            raise ValueError("damaged")
        for columns in real(self, names, start, stop):
            for row in range(200):
                seen.append(row)
                time.sleep(0.05)
                yield columns.slice(row, row + 1)

    monkeypatch.setattr(TreeFile, "batches", batches)
    began = time.monotonic()
    with pytest.raises(DataError, match=r"b\.root cannot be read: damaged"):
        prepare(workflow(pair), cache=tmp_path)
    assert time.monotonic() - began < 5
    assert len(seen) < 100
    assert list((tmp_path / "handled").iterdir()) == []


def test_a_fault_of_the_program_is_not_blamed_on_the_file(pair, tmp_path, monkeypatch):
    def broken(*given, **options):
        raise TypeError("a fault")

    monkeypatch.setattr("mlaas.data.selected.Selection.apply", broken)
    with pytest.raises(TypeError, match="a fault"):
        prepare(workflow(pair), cache=tmp_path)


def test_too_little_memory_has_a_sentence(pair, tmp_path, monkeypatch):
    def batches(self, names, start=0, stop=None):
        raise MemoryError

    monkeypatch.setattr(TreeFile, "batches", batches)
    with pytest.raises(MLaaSError, match=r"memory does not suffice to read .*root; lower params.workers"):
        prepare(workflow(pair), cache=tmp_path)


# Resources


def test_more_files_than_the_limit_of_open_files(tmp_path):
    source = write_tree(tmp_path / "source.root", [events(8, 1)])
    files = [str(shutil.copy(source, tmp_path / f"{i}.root")) for i in range(80)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    here = max(int(name) for name in os.listdir("/proc/self/fd")) + 1  # noqa: PTH208
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (here + 45, hard))
        prepared = prepare(workflow(files, labels=[i % 2 for i in range(80)]), cache=tmp_path / "cache")
        assert prepared.events == 640
        assert sum(prepared.dataset.events.values()) == 640
        for split in SPLITS:
            assert sum(len(chunk.x) for chunk in chunks(prepared, split)) == prepared.dataset.events[split]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_thread_and_no_open_file_is_left(pair, tmp_path):
    prepare(workflow(pair), cache=tmp_path / "first")
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    prepare(workflow(pair), cache=tmp_path / "second")
    with pytest.raises(WorkflowError):
        prepare(workflow(pair, preproc={"flat_cut": {"mett": {"cut": "mett>1"}}}), cache=tmp_path / "third")
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == files  # noqa: PTH208


SLOW = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {here!r})
    from mlaas.data.trees import TreeFile
    from mlaas.prepare import prepare
    from tests.unit.test_prepare import workflow
    real = TreeFile.batches

    def batches(self, names, start=0, stop=None):
        for columns in real(self, names, start, stop):
            for row in range(columns.n):
                print(row, flush=True)
                time.sleep(0.05)
                yield columns.slice(row, row + 1)

    TreeFile.batches = batches
    prepare(workflow({files!r}), cache=Path({cache!r}))
"""


@pytest.mark.parametrize("when", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_stops_at_once_and_leaves_nothing(pair, tmp_path, when, reads):
    code = textwrap.dedent(SLOW).format(here=str(Path(__file__).parents[2]), files=pair, cache=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(10):
        assert process.stdout.readline()
    process.send_signal(when)
    began = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 5
    left = [path.name for path in (tmp_path / "handled").iterdir()]
    if when == signal.SIGINT:
        assert "KeyboardInterrupt" in errors
        assert left == []
    assert all(name.startswith(".") for name in left)
    assert prepare(workflow(pair), cache=tmp_path).events == 750
    assert sum(reads.values()) == 2


def test_jobs_of_many_files_keep_small_batches(tmp_path, monkeypatch):
    """Training holds one batch of every file in memory."""
    monkeypatch.setattr("mlaas.prepare.MANY_FILES", 3)
    monkeypatch.setattr("mlaas.data.handled.BATCH_EVENTS", 600)
    for i in range(6):
        write(tmp_path / f"{i}.root", (700,), i)
    prepared = prepare(workflow([tmp_path / "*.root"], labels="process"), cache=tmp_path / "cache")
    sizes = [len(part) for part in read_batches(prepared.folder, prepared.summaries[0])]
    assert sizes == [300, 300, 100]
    assert sum(sum(len(chunk.x) for chunk in chunks(prepared, split)) for split in SPLITS) == 4200
