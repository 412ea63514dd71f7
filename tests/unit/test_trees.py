"""TTrees branch by branch against uproot, whatever their types, baskets and ranges; what cannot be a feature; damaged files."""

from __future__ import annotations

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlaas.data import trees as trees_module
from mlaas.data.columns import Columns, Jagged, concatenate
from mlaas.data.reader import open_events, trees
from mlaas.data.sources import explain
from mlaas.data.trees import TreeFile, _Pass
from mlaas.demo.generate import write
from mlaas.errors import DataError
from tests.integration.servers import Http
from tests.support.rootfiles import CODECS, DTYPES, batch, compare, lists, read, write_odd, write_tree

SIZES = (10, 200, 1, 77, 300)
EVENTS = sum(SIZES)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trees")
    batches = [batch(n, seed) for seed, n in enumerate(SIZES)]
    return {codec: write_tree(folder / f"{codec}.root", batches, tree="dir/sub/events", codec=codec) for codec in CODECS}


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    return write_odd(tmp_path_factory.mktemp("odd") / "odd.root")


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(trees_module, "BATCH_BYTES", 20_000)


@pytest.fixture
def direct_only(monkeypatch):
    """No branch may be read by uproot."""

    def refuse(self, name, start, stop):
        raise AssertionError(f"{name} was read by uproot")

    monkeypatch.setattr(_Pass, "_uproot", refuse)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("codec", CODECS)
def test_every_type_and_compression(files, direct_only, codec, workers):
    assert compare(files[codec], "dir/sub/events", workers=workers) == 4 * len(DTYPES) + 4  # flat, list and its counter, array; jet and its counter


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, EVENTS + 5), length=st.integers(0, EVENTS + 5), codec=st.sampled_from(sorted(CODECS)), workers=st.sampled_from([1, 2]))
def test_any_range(files, small_batches, direct_only, start, length, codec, workers):
    compare(files[codec], "dir/sub/events", start, start + length, workers=workers)


def test_batches_are_bounded_and_in_order(files, small_batches):
    with open_events(str(files["zlib"]), tree="dir/sub/events") as file:
        names = ["flat_i8", "list_f8", "array_f8", "array_i8"]
        sizes = [part.n for part in file.batches(names)]
        assert len(sizes) > 1
        assert sum(sizes) == EVENTS
        whole = concatenate(list(file.batches(names)))
    np.testing.assert_array_equal(whole["flat_i8"], np.concatenate([batch(n, seed)["flat_i8"] for seed, n in enumerate(SIZES)]))


def test_fields_of_a_collection_share_their_offsets(files):
    columns = read(files["zlib"], "dir/sub/events", names=["jet_pt", "list_f4", "jet_id", "njet"])
    assert columns["jet_pt"].offsets is columns["jet_id"].offsets
    assert columns["jet_pt"].offsets is not columns["list_f4"].offsets
    np.testing.assert_array_equal(columns["njet"], columns["jet_pt"].counts)


def test_the_same_without_the_direct_reader(files):
    for workers in (1, 2):
        with open_events(str(files["lz4"]), tree="dir/sub/events", direct=False, workers=workers) as file:
            assert isinstance(file, TreeFile)
            plain = concatenate(list(file.batches(list(file.branches), 5, 400)))
        quick = read(files["lz4"], "dir/sub/events", 5, 400)
        assert all(lists(plain[name]) == lists(quick[name]) and plain[name] is not None for name in quick)


@pytest.mark.needs("c++")
@pytest.mark.parametrize("workers", [1, 2])
def test_what_root_writes(odd, small_batches, workers):
    assert compare(odd, "odd", workers=workers) == 29


@pytest.mark.needs("c++")
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 500), length=st.integers(0, 500))
def test_any_range_where_baskets_do_not_line_up(odd, small_batches, start, length):
    compare(odd, "odd", start, start + length)


@pytest.mark.needs("c++")
def test_what_the_direct_reader_leaves_to_uproot(odd, monkeypatch):
    seen = set()
    real = _Pass._uproot
    monkeypatch.setattr(_Pass, "_uproot", lambda self, name, start, stop: (seen.add(name), real(self, name, start, stop))[1])
    compare(odd, "odd")
    assert seen == {"r32", "f16r"}  # numbers packed into bits


@pytest.mark.needs("c++")
def test_what_cannot_be_a_feature_is_named(odd):
    with open_events(str(odd), tree="odd") as file:
        assert file.excluded == {
            "jm": "lists of structures or arrays",
            "mat": "arrays of 2 dimensions",
            "vv": "objects of type std::vector<std::vector<float>>",
            "s": "strings",
            "p4.": "objects of type TLorentzVector",
            "vs": "objects of type std::vector<std::string>",
            "text": "strings",
            "leaves": "several leaves in one branch",
        }
        assert not set(file.excluded) & set(file.branches)
        kinds = {name: (branch.kind, branch.dtype.str[1:], branch.counter) for name, branch in file.branches.items()}
    assert kinds["with/slash"] == ("flat", "f4", "")
    assert kinds["with.dot"] == ("flat", "b1", "")
    assert kinds["fix"] == ("jagged", "f4", "[3]")
    assert kinds["a"] == ("jagged", "f4", "nuc")
    assert kinds["jd"] == ("jagged", "f8", "nu")
    assert kinds["vb"] == ("jagged", "b1", "")


@pytest.mark.needs("c++")
def test_small_trees_and_baskets_inside_the_tree(odd):
    assert trees(str(odd)) == ["odd", "empty", "one", "sub/nt", "sub/em"]
    assert compare(odd, "empty") == compare(odd, "one") == compare(odd, "sub/em") == 4
    assert compare(odd, "sub/nt") == 3
    compare(odd, "sub/em", 13, 601, workers=2)
    assert read(odd, "empty") is None
    with uproot.open(odd) as file:
        assert len(file["sub/em/a"].embedded_baskets) > 1


@pytest.mark.needs("c++")
@pytest.mark.parametrize("compression", ["zlib", "lz4", "zstd", "none"])
def test_vector_files(tmp_path, direct_only, small_batches, compression):
    path = write(tmp_path / "v.root", 300, profile="seed", layout="vector", basket=80, compression=compression)
    assert compare(path, "events", workers=2) == 77
    compare(path, "events", 33, 280)
    columns = read(path, "events", names=["jet_pt", "jet_eta", "lep_pt"])
    assert columns["jet_pt"].offsets is columns["jet_eta"].offsets


@pytest.mark.parametrize("layout", ["counters", "rntuple"])
def test_the_demo_in_other_layouts(tmp_path, layout):
    path = write(tmp_path / "a.root", 500, profile="seed", basket=130, layout=layout)
    assert compare(path, "events") == 77
    compare(path, "events", 100, 333)


def test_an_empty_tree_and_one_event(tmp_path):
    with uproot.recreate(tmp_path / "a.root") as file:
        file.mktree("none", {"x": "f4", "y": "var * float64"})
    assert compare(tmp_path / "a.root", "none") == 3
    write_tree(tmp_path / "b.root", [{"x": np.array([1.5]), "y": ak.Array([[1, 2]]), "z": np.array([[1, 2]])}])
    assert compare(tmp_path / "b.root", "events", workers=2) == 4


def test_lists_that_are_all_empty(tmp_path):
    empty = ak.Array(ak.contents.ListOffsetArray(ak.index.Index64(np.zeros(51, np.int64)), ak.contents.NumpyArray(np.empty(0, np.float32))))
    write_tree(tmp_path / "a.root", [{"y": empty, "x": np.arange(50.0)}] * 2)
    compare(tmp_path / "a.root", "events", workers=2)
    assert read(tmp_path / "a.root", "events", 20, 70)["y"].counts.sum() == 0


def test_baskets_of_more_than_16_mb(tmp_path, direct_only):
    counts = np.full(1_200_000, 2)
    arrays = {"x": np.arange(2_400_000, dtype="f8")[::2], "y": ak.unflatten(np.arange(2_400_000, dtype="f8") % 1000, counts)}
    write_tree(tmp_path / "a.root", [arrays])
    compare(tmp_path / "a.root", "events", 3, 1_100_000)


def test_a_path_with_a_colon(tmp_path):
    folder = tmp_path / "run:3"
    folder.mkdir()
    path = write_tree(folder / "a:b.root", [batch(20)])
    assert trees(str(path)) == ["events"]
    assert read(path, "events").n == 20


def test_nothing_is_read_for_no_branches_or_no_entries(files):
    with open_events(str(files["zlib"]), tree="dir/sub/events") as file:
        assert list(file.batches([])) == []
        assert list(file.batches(["flat_i4"], 10, 10)) == []
        assert list(file.batches(["flat_i4"], EVENTS)) == []


def test_trees_are_found_by_path(files):
    path = str(files["zlib"])
    for tree in (None, "dir/sub/events", "/dir/sub/events", "dir/sub/events;1"):
        with open_events(path, tree=tree) as file:
            assert file.events == EVENTS
    with pytest.raises(DataError, match=r"has no tree 'dir/sub/event' \(did you mean 'dir/sub/events'\?\)"):
        open_events(path, tree="dir/sub/event")
    with pytest.raises(DataError, match="it holds dir/sub/events"):
        open_events(path, tree="xyz")


def test_several_trees_must_be_told_apart(tmp_path):
    with uproot.recreate(tmp_path / "a.root") as file:
        file["one"] = {"x": np.arange(3)}
        file["two"] = {"x": np.arange(3)}
        file["text"] = "no tree"
    with pytest.raises(DataError, match="several trees; choose one of one, two"):
        open_events(str(tmp_path / "a.root"))


def test_a_file_without_trees(tmp_path):
    with uproot.recreate(tmp_path / "a.root") as file:
        file["text"] = "no tree"
    with pytest.raises(DataError, match="holds no TTree or RNTuple"):
        open_events(str(tmp_path / "a.root"))


def test_identity_tells_files_apart_and_survives_a_move(tmp_path):
    one, two = write_tree(tmp_path / "a.root", [batch(5)]), write_tree(tmp_path / "b.root", [batch(5)])
    moved = Path(shutil.copy(one, tmp_path / "c.root"))

    def identity(path):
        with open_events(str(path)) as file:
            return file.identity

    assert identity(one) == identity(moved) != identity(two)


def test_files_without_a_uuid_of_their_own_are_told_apart(tmp_path):
    """ROOT's `?reproducible` writes the UUID 0 into every file: equal size must not make other contents the same."""
    found = set()
    for number in (1, 2):
        path = tmp_path / f"{number}.root"
        with uproot.recreate(path, compression=None) as file:
            file["t"] = {"x": np.full(10, number, np.float32)}
        with uproot.open(path) as file:
            uuid = file.file.uuid.bytes
        path.write_bytes(path.read_bytes().replace(uuid, bytes(16)))
        with open_events(str(path)) as file:
            found.add(file.identity)
    assert len(found) == 2


def test_two_threads_read_one_file(files):
    """As several files are read at once, and passes of one file overlap."""
    with open_events(str(files["zlib"]), tree="dir/sub/events", workers=2) as file:
        names = list(file.branches)
        expected = {name: lists(column) for name, column in concatenate(list(file.batches(names))).data.items()}

        def one(_):
            columns = concatenate(list(file.batches(names)))
            return all(lists(columns[name]) == expected[name] for name in names)

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(one, range(8)))


def test_a_pass_given_up_leaves_no_thread_and_no_descriptor(files, small_batches):
    with open_events(str(files["zlib"]), tree="dir/sub/events", workers=2) as file:
        list(file.batches(["flat_i4"]))
        threads, descriptors = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(5):
            batches = file.batches(list(file.branches))
            next(batches)
            batches.close()
        assert threading.active_count() == threads
        assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


@pytest.mark.parametrize("kind", ["files", "whole"])
def test_over_http_with_and_without_ranges(files, odd_or_plain, small_batches, kind):
    path, tree = odd_or_plain
    with Http(path.parent) as server:
        for workers in (1, 2):
            with open_events(f"{server.url}/{kind}/{path.name}", tree=tree, workers=workers) as file:
                for start, stop in ((0, None), (13, 345)):
                    found = concatenate(list(file.batches(list(file.branches), start, stop)))
                    expected = read(path, tree, start, stop)
                    assert all(lists(found[name]) == lists(expected[name]) for name in expected)


@pytest.fixture(params=["plain", "odd"])
def odd_or_plain(request, files):
    if request.param == "plain":
        return files["zstd"], "dir/sub/events"
    return request.getfixturevalue("odd"), "odd"


def test_far_files_are_read_ahead_in_few_requests(files, small_batches):
    path = files["zlib"]
    with Http(path.parent) as server, open_events(f"{server.url}/files/{path.name}", tree="dir/sub/events") as file:
        before = len(server.seen)
        batches = len(list(file.batches(list(file.branches))))
        assert batches > 3
        assert len(server.seen) - before <= 2 * batches  # a request per batch, not per basket (there are 240)


# Damage


def baskets_of(path, tree="events"):
    with uproot.open(path) as file:
        return {
            branch.name: [
                (int(start), int(size))
                for start, size in zip(branch.member("fBasketSeek")[: branch.num_baskets], branch.member("fBasketBytes"), strict=False)
            ]
            for branch in file[tree].branches
        }


def damaged_sentence(path, tree="events"):
    """What the user is told when the file is read to its end."""
    try:
        with open_events(str(path), tree=tree) as file:
            list(file.batches(list(file.branches)))
    except Exception as error:
        return str(explain(str(path), error))
    return ""


def simple(n, seed):
    return {name: values for name, values in batch(n, seed).items() if name in {"flat_i4", "list_f4", "jet"}}


@pytest.mark.parametrize("branch", ["flat_i4", "list_f4", "jet_pt", "njet"])
@pytest.mark.parametrize("codec", ["zlib", "lz4", "lzma"])
def test_a_flipped_byte_in_compressed_data_is_reported(tmp_path, codec, branch):
    path = write_tree(tmp_path / "a.root", [simple(900, 1), simple(300, 2)], codec=codec)
    start, size = baskets_of(path)[branch][1]
    data = bytearray(path.read_bytes())
    data[start + size - 15] ^= 4
    path.write_bytes(data)
    sentence = damaged_sentence(path)
    assert "a.root is damaged" in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("wrong", [1, 200])
def test_a_changed_counter_never_shifts_values(tmp_path, monkeypatch, wrong, small):
    """Uncompressed data carry no checksum: only the comparison of counter and entry offsets can tell."""
    if small:
        monkeypatch.setattr(trees_module, "BATCH_BYTES", 2_000)
    path = write_tree(tmp_path / "a.root", [simple(300, 1)], codec="none")
    before = read(path, "events")
    start, size = baskets_of(path)["njet"][0]
    data = bytearray(path.read_bytes())
    entry = 120
    at = start + size - 4 * (300 - entry) + 3
    assert data[at] == before["njet"][entry]
    data[at] += wrong
    path.write_bytes(data)
    sentence = damaged_sentence(path)
    assert "is damaged: branch 'jet_pt' holds" in sentence
    assert f"in entry {entry}, but its counter 'njet' says {before['njet'][entry] + wrong}" in sentence


def test_a_negative_counter_is_damage(tmp_path):
    path = write_tree(tmp_path / "a.root", [simple(300, 1)], codec="none")
    start, size = baskets_of(path)["njet"][0]
    data = bytearray(path.read_bytes())
    entry = int(np.flatnonzero(read(path, "events")["njet"])[0])
    data[start + size - 4 * (300 - entry)] = 0x80
    path.write_bytes(data)
    assert "but its counter 'njet' says 0" in damaged_sentence(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 10**6), value=st.integers(1, 255), codec=st.sampled_from(sorted(CODECS)))
def test_any_changed_byte_is_harmless_or_reported_or_stays_in_its_branch(corpus, position, value, codec):
    path, baskets, expected = corpus[codec]
    places = [(name, start, size) for name, ranges in baskets.items() for start, size in ranges]
    name, start, size = places[position % len(places)]
    data = bytearray(path.read_bytes())
    data[start + position // len(places) % size] ^= value
    changed = path.with_name("changed.root")
    changed.write_bytes(data)
    try:
        found = read(changed, "events")
    except Exception as error:
        found = explain(str(changed), error)
    if not isinstance(found, Columns):
        assert isinstance(found, DataError)
        return
    assert found.n == expected.n
    wrong = [other for other in found if lists(found[other]) != lists(expected[other])]
    compressed = codec in {"zlib", "lz4", "lzma"} and size > 700  # what does not shrink is stored plain
    assert wrong in ([], [name]) if not compressed else not wrong
    if isinstance(found[name], Jagged):
        np.testing.assert_array_equal(found[name].counts, expected[name].counts)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    out = {}
    for codec in CODECS:
        path = write_tree(folder / f"{codec}.root", [simple(500, 1), simple(20, 2)], codec=codec)
        out[codec] = (path, baskets_of(path), read(path, "events"))
    return out


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_reported(tmp_path, part):
    path = write_tree(tmp_path / "a.root", [simple(400, 1), simple(400, 2)])
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    sentence = damaged_sentence(path)
    assert "a.root is truncated: " in sentence or (part == 0.1 and "a.root is damaged or truncated" in sentence)


@pytest.mark.parametrize(
    ("content", "sentence"), [(b"", "is empty|damaged or truncated"), (b"hello" * 100, "is not a ROOT file"), (b"hello", "is not a ROOT file")]
)
def test_what_is_no_root_file(tmp_path, content, sentence):
    path = tmp_path / "a.root"
    path.write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        open_events(str(path), tree="events")


_DATA = os.environ.get("MLAAS_TEST_DATA", "")  # read before conftest hides MLAAS_* from the tests

if _DATA:

    @pytest.mark.parametrize("path", sorted(Path(_DATA).glob("*.root")), ids=lambda path: path.name)
    def test_the_users_files(path, small_batches):
        for tree in trees(str(path)):
            for workers in (1, 2):
                compare(path, tree, workers=workers)
            compare(path, tree, 11, 1000)
