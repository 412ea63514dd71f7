"""RNTuples field by field against uproot, and what cannot be a feature."""

from __future__ import annotations

import awkward as ak
import numpy as np
import pytest
import uproot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlaas.data import ntuples
from mlaas.data.columns import Jagged, concatenate
from mlaas.data.reader import open_events
from mlaas.data.sources import explain
from mlaas.demo.generate import write
from mlaas.errors import DataError
from tests.support.rootfiles import DTYPES, assert_same, batch, lists, read

SIZES = (50, 70, 20, 300)


def fields(n, seed):
    out = {name: values for name, values in batch(n, seed).items() if not name.startswith("array")}
    rng = np.random.default_rng(seed)
    out["met"] = ak.zip({"x": rng.random(n), "y": rng.random(n)})
    out["fix"] = ak.Array(rng.random((n, 3)))
    out["text"] = ak.Array(["a" * (i % 3) for i in range(n)])
    out["words"] = ak.Array([["a", "b"]] * n)
    out["nested"] = ak.Array([[[1.0, 2.0], [float(i)]] for i in range(n)])
    out["with.dot"] = rng.random(n)
    return out


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    target = tmp_path_factory.mktemp("ntuples") / "a.root"
    batches = [fields(n, seed) for seed, n in enumerate(SIZES)]
    with uproot.recreate(target) as file:
        ntuple = file.mkrntuple("dir/nt", batches[0])
        for arrays in batches[1:]:
            ntuple.extend(arrays)
    return target


def compare(path, start=0, stop=None):
    with open_events(str(path)) as file, uproot.open(path) as other:
        names = list(file.branches)
        batches = list(file.batches(names, start, stop))
        whole = other["dir/nt"].arrays()
        expected = whole[start:stop]
        assert sum(part.n for part in batches) == len(expected)
        if not batches:
            return 0
        columns = concatenate(batches)
        for name in names:
            steps = ["with.dot"] if name == "with.dot" else name.split(".")
            array = expected
            for step in steps:
                array = array[step]
            assert_same(columns[name], array)
            kind = "jagged" if isinstance(columns[name], Jagged) else "flat"
            dtype = columns[name].content.dtype if kind == "jagged" else columns[name].dtype
            assert (file.branches[name].kind, file.branches[name].dtype) == (kind, dtype)
        return len(names)


def test_every_field(path):
    assert compare(path) == 2 * len(DTYPES) + 3 + 2 + 1 + 1  # flat and lists; jet.pt, jet.id, jet.tag; met.x, met.y; fix; with.dot


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 445), length=st.integers(0, 445), limit=st.sampled_from([1, 3000, 30_000, 24 << 20]))
def test_any_range_in_batches_of_any_size(path, monkeypatch, start, length, limit):
    monkeypatch.setattr(ntuples, "BATCH_BYTES", limit)
    compare(path, start, start + length)


def test_each_cluster_is_decompressed_once(path, monkeypatch):
    monkeypatch.setattr(ntuples, "BATCH_BYTES", 2000)
    with open_events(str(path)) as file:
        seen = []
        real = file._ntuple.arrays
        monkeypatch.setattr(file._ntuple, "arrays", lambda *given, **options: (seen.append(options["entry_start"]), real(*given, **options))[1])
        batches = list(file.batches(["list_f8", "flat_i4"]))
        assert max(part.nbytes for part in batches) < 4000
        assert seen == [0, 50, 120, 140]


def test_what_cannot_be_a_feature_is_named(path):
    with open_events(str(path)) as file:
        assert file.excluded == {"text": "strings", "words": "strings", "nested": "lists of type var * float64"}
        assert file.branches["jet.pt"].counter == file.branches["jet.id"].counter == "jet"
        assert file.branches["fix"].counter == "[3]"
        assert file.events == sum(SIZES)


def test_fields_of_a_collection_share_their_offsets(path):
    columns = read(path, "dir/nt", names=["jet.pt", "jet.id"])
    assert columns["jet.pt"].offsets is columns["jet.id"].offsets


def test_the_demo_equals_its_tree(tmp_path):
    one = read(write(tmp_path / "a.root", 400, profile="seed", basket=150), "events")
    other = read(write(tmp_path / "b.root", 400, profile="seed", basket=90, layout="rntuple"), "events")
    assert all(lists(one[name]) == lists(other[name]) for name in one)
    assert set(one) == set(other)


def test_no_fields_and_no_entries(path):
    with open_events(str(path)) as file:
        assert list(file.batches([])) == []
        assert list(file.batches(["with.dot"], 440)) == []


def test_damage_is_one_sentence(path, tmp_path):
    data = bytearray(path.read_bytes())
    for start in range(2000, len(data) - 3000, 97):
        data[start] ^= 0x55
    changed = tmp_path / "changed.root"
    changed.write_bytes(data)
    found = None
    try:
        with open_events(str(changed)) as file:
            list(file.batches(list(file.branches)))
    except Exception as error:
        found = explain(str(changed), error)
    assert isinstance(found, DataError)
    assert "changed.root" in str(found)
    assert "\n" not in str(found)
