from __future__ import annotations

import bz2
import datetime
import decimal
import gzip
import io
import itertools
import json
import lzma
import math
import os
import tempfile
import tracemalloc
from pathlib import Path

import awkward as ak
import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas.data.columns import Jagged, concatenate
from mlaas.data.files import Branch
from mlaas.data.formats import lines as lines_module
from mlaas.data.formats import open_table
from mlaas.data.formats.avro_records import decode, program
from mlaas.data.formats.lines import line_blocks
from mlaas.data.formats.types import Leaf
from mlaas.errors import DataError

nan = math.nan


def plain(column):
    return column.lists() if isinstance(column, Jagged) else column.tolist()


def read(path, dtype, names=None, start=0, stop=None):
    with open_table(str(path), dtype) as table:
        found = list(table.batches(list(table.branches) if names is None else names, start, stop))
        return {name: plain(concatenate(found)[name]) for name in found[0]} if found else {}


def same(found, wanted):
    """Equality in which NaN equals NaN."""
    assert json.dumps(found) == json.dumps(wanted)


def described(path, dtype):
    with open_table(str(path), dtype) as table:
        return {name: (str(branch.dtype), branch.kind) for name, branch in table.branches.items()}, dict(table.excluded)


@pytest.fixture
def write(tmp_path):
    def one(name, content):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / name

    return one


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 64 bytes, so that small files have many."""
    monkeypatch.setattr("mlaas.data.formats.csv.line_blocks", lambda *args, **kwargs: line_blocks(*args, **{**kwargs, "size": 64}))
    monkeypatch.setattr("mlaas.data.formats.json.line_blocks", lambda *args, **kwargs: line_blocks(*args, **{**kwargs, "size": 64}))
    monkeypatch.setattr("mlaas.data.formats.json.BATCH_BYTES", 64)


# CSV


def test_csv_types_empty_cells_and_text(write):
    path = write(
        "a.csv", "n,x,name,flag,day,empty,big\n1,2.5,a,true,2024-01-01,,9007199254740993\n2,,b,false,2024-01-02,,-1\n\n3,NaN,c,true,2024-01-03,,0\n"
    )
    branches, excluded = described(path, "csv")
    assert branches == {
        "n": ("int64", "flat"),
        "x": ("float64", "flat"),
        "flag": ("bool", "flat"),
        "empty": ("float64", "flat"),
        "big": ("int64", "flat"),
    }
    assert excluded == {"name": "holds text", "day": "holds dates or times"}
    wanted = {"n": [1, 2, 3], "x": [2.5, nan, nan], "flag": [True, False, True], "empty": [nan] * 3, "big": [9007199254740993, -1, 0]}
    same(read(path, "csv"), wanted)
    assert list(read(path, "csv", ["x", "n"])) == ["x", "n"]


def test_csv_types_are_those_of_the_whole_file(write, small_blocks):
    rows = [[str(i), str(i), str(i % 2), str(i), "true"] for i in range(200)]
    rows[190][1] = "0.5"
    rows[195][2] = ""
    rows[199][3] = "none of these"
    rows[180][4] = "1"
    path = write("a.csv", "whole,late,gap,text,mixed\n" + "".join(",".join(row) + "\n" for row in rows))
    branches, excluded = described(path, "csv")
    assert branches == {"whole": ("int64", "flat"), "late": ("float64", "flat"), "gap": ("float64", "flat")}
    assert set(excluded) == {"text", "mixed"}
    found = read(path, "csv", ["late", "gap", "whole"])
    assert found["whole"] == list(range(200))
    assert found["late"] == [0.5 if i == 190 else float(i) for i in range(200)]
    assert [i for i, value in enumerate(found["gap"]) if math.isnan(value)] == [195]


@pytest.mark.parametrize("packed", [False, True])
def test_csv_from_the_middle(write, small_blocks, packed):
    text = "x,y\n" + "".join(f"{i},{i / 2}\n" for i in range(300))
    path = write("a.csv.gz" if packed else "a.csv", gzip.compress(text.encode()) if packed else text)
    with open_table(str(path), "csv") as table:
        assert table.events == 300
        for start, stop in [(0, 300), (0, 1), (299, 300), (123, 217), (17, None), (-5, 400), (250, 250), (300, 310)]:
            found = list(table.batches(["x"], start, stop))
            first, last = max(0, start), min(300, 300 if stop is None else stop)
            assert [x for batch in found for x in batch["x"].tolist()] == list(range(first, last))
        assert [len(batch) for batch in table.batches([], 10, 30)] == [20]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a;b\n1;2\n", {"a": [1], "b": [2]}),
        ("a\tb\r\n1\t2\r\n", {"a": [1], "b": [2]}),
        ("a|b\n1|2\n", {"a": [1], "b": [2]}),
        ("# made by numpy\n# a b\n 1.5   2\n 2.5  -3\n", {"a": [1.5, 2.5], "b": [2, -3]}),
        ("#a,b\n1,2\n# in between\n3,4\n", {"a": [1, 3], "b": [2, 4]}),
        ("# comment\na,b\n1,2\n", {"a": [1], "b": [2]}),
        ('"a, b","c""d"\n"1",2\n', {"a, b": [1], 'c"d': [2]}),
        ("\ufeffa,b\n1,2\n", {"a": [1], "b": [2]}),
        (" a , b \n1, 2\n", {"a": [1], "b": [2]}),
        ("a\n1\n2", {"a": [1, 2]}),
        ("a,b\n1,inf\n2,-inf\n3,1e400\n", {"a": [1, 2, 3], "b": [math.inf, -math.inf, math.inf]}),
    ],
)
def test_csv_dialects(write, text, wanted):
    same(read(write("a.csv", text), "csv"), wanted)


def test_csv_with_an_index_column_and_double_names(write):
    path = write("a.csv", ",x,y,y\n0,1,2,3\n")
    branches, excluded = described(path, "csv")
    assert list(branches) == ["x"]
    assert excluded == {"column 1": "has no name in the header", "y": "shares its name with another column"}


def test_csv_with_line_ends_between_quotes(write, small_blocks):
    path = write("a.csv", "x,note\n" + "".join(f'{i},"line one\nline, two"\n' for i in range(50)))
    assert read(path, "csv") == {"x": list(range(50))}
    assert read(path, "csv", start=20, stop=30) == {"x": list(range(20, 30))}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"a,b\n", "holds no events"),
        (b"1,2\n3,4\n", "has no header"),
        (b"a,b\n1,2\n\n3,4,5\n", "line 4: 3 values where the header names 2 columns"),
        (b"a,b\n1,2\n3\n", "line 3: 1 values where the header names 2 columns"),
        (b"root\0\0\0", "is not a CSV file: it begins like a ROOT file"),
        (b"PAR1\0", "begins like a Parquet file"),
        ("a,b\n1,2\n".encode("utf-16"), "is not a CSV file in UTF-8"),
        (b"\xe4,b\n1,2\n", "is not a CSV file in UTF-8"),
        (gzip.compress(b"a,b\n" + os.urandom(3000).hex(",").encode())[:-1000], r"is damaged or truncated \(Compressed file ended"),
        (bz2.compress(b"a\n" + b"1\n" * 5000)[:-20], "is damaged or truncated"),
        (gzip.compress(b"a\n1\n")[:-6] + b"\0\0\0\0\0\0", "is damaged or truncated"),
    ],
)
def test_csv_that_cannot_be_read(write, content, sentence):
    path = write("a.csv", content)
    with pytest.raises(DataError, match=sentence) as caught, open_table(str(path), "csv") as table:
        assert table.events
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_csv_line_numbers_in_later_blocks(write, small_blocks):
    lines = [f"{i},{i}" for i in range(100)]
    lines[77] = "1,2,3"
    with pytest.raises(DataError, match="line 79: 3 values"):
        open_table(str(write("a.csv", "x,y\n" + "\n".join(lines))), "csv")


def test_a_line_without_end_is_refused(write, monkeypatch):
    monkeypatch.setattr(lines_module, "LONGEST", 1000)
    with pytest.raises(DataError, match="line 2 is longer than"):
        list(line_blocks(io.BytesIO(b"a\n" + b"1" * 5000), 0, 0, name="f", quotes=False, size=64))


@given(st.lists(st.sampled_from(["a", "b\n", '"x\ny"\n', "\n", '""\n']), max_size=60), st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_blocks_are_the_file_and_end_outside_of_quotes(pieces, size):
    text = "".join(pieces).encode()
    blocks = list(line_blocks(io.BytesIO(text), 0, 0, name="f", quotes=True, size=size))
    assert b"".join(block.data for block in blocks).rstrip() == text.rstrip()
    assert all(block.data.count(b'"') % 2 == 0 for block in blocks)
    assert all(block.data.endswith(b"\n") for block in blocks[:-1])
    assert all(text[: block.offset].count(b"\n") == block.line for block in blocks)


def test_memory_does_not_grow_with_the_file(tmp_path):
    rng = np.random.default_rng(1)
    table = pa.table({f"x{i}": rng.normal(size=50_000) for i in range(10)})
    buffer = io.BytesIO()
    pyarrow.csv.write_csv(table, buffer, pyarrow.csv.WriteOptions(include_header=False))
    header = (",".join(table.column_names) + "\n").encode()
    with (tmp_path / "a.csv").open("wb") as file:
        file.write(header)
        for _ in range(6):
            file.write(buffer.getvalue())
    size = (tmp_path / "a.csv").stat().st_size
    del buffer
    arrow = pa.total_allocated_bytes()
    tracemalloc.start()
    largest = events = 0
    with open_table(str(tmp_path / "a.csv"), "csv") as opened:
        for batch in opened.batches(list(opened.branches)):
            events += len(batch)
            largest = max(largest, pa.total_allocated_bytes() - arrow)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert events == 300_000
    assert size > 50e6
    assert peak < 55e6, peak
    assert largest < 40e6, largest


# JSON

EVENTS = [
    {
        "n": 1,
        "x": 0.5,
        "jets": [{"pt": 10, "eta": 1.5}, {"pt": 20.5, "eta": 2}],
        "hits": [1, 2],
        "vertex": {"z": 3, "tracks": [1.5]},
        "id": "a",
        "ll": [[1]],
    },
    {"n": 2, "x": None, "jets": [], "hits": [], "vertex": {"z": 4, "tracks": []}, "id": "b", "ll": []},
    {"n": 3, "x": nan, "jets": None, "hits": [3], "vertex": None, "id": "c", "ll": []},
]
WANTED = {
    "n": [1, 2, 3],
    "x": [0.5, nan, nan],
    "jets.pt": [[10.0, 20.5], [], []],
    "jets.eta": [[1.5, 2.0], [], []],
    "hits": [[1, 2], [], [3]],
    "vertex.z": [3.0, 4.0, nan],
    "vertex.tracks": [[1.5], [], []],
}


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(json.dumps(event) for event in EVENTS),
        "\r\n".join(json.dumps(event) for event in EVENTS) + "\r\n\r\n",
        "\ufeff" + "\n".join(json.dumps(event) for event in EVENTS),
        json.dumps(EVENTS),
        json.dumps(EVENTS, indent=2),
        "\n".join(json.dumps(event, indent=1) for event in EVENTS),
    ],
    ids=["lines", "windows", "bom", "array", "pretty array", "pretty objects"],
)
def test_json(write, text):
    path = write("a.json", text)
    _, excluded = described(path, "json")
    assert excluded == {"id": "holds text", "ll": "holds lists of lists"}
    same(read(path, "json"), WANTED)
    same(read(path, "json", ["hits"], 1, 3), {"hits": [[], [3]]})


@pytest.mark.parametrize("form", ["lines", "array"])
def test_json_types_are_those_of_the_whole_file(write, small_blocks, form):
    events = [{"whole": i, "late": i, "list": [i], "late_list": [], "text": i, "sometimes": 1} for i in range(100)]
    events[90]["late"] = 0.5
    events[91]["late_list"] = [1]
    events[92]["text"] = "x"
    events[93]["list"] = [0.5, None]
    del events[94]["sometimes"]
    events[95]["new"] = 7
    path = write("a.json", json.dumps(events) if form == "array" else "\n".join(map(json.dumps, events)))
    branches, excluded = described(path, "json")
    assert branches == {
        "whole": ("int64", "flat"),
        "late": ("float64", "flat"),
        "list": ("float64", "jagged"),
        "late_list": ("int64", "jagged"),
        "sometimes": ("float64", "flat"),
        "new": ("float64", "flat"),
    }
    assert excluded == {"text": "holds values of different types from event to event"}
    found = read(path, "json")
    assert found["whole"] == list(range(100))
    assert found["late"][90] == 0.5
    assert found["late_list"][91] == [1]
    assert found["list"][:2] == [[0.0], [1.0]]
    assert [i for i, value in enumerate(found["sometimes"]) if math.isnan(value)] == [94]
    assert [i for i, value in enumerate(found["new"]) if not math.isnan(value)] == [95]
    assert read(path, "json", ["whole"], 37, 61)["whole"] == list(range(37, 61))


def test_json_with_a_column_of_two_types_in_one_block(write):
    path = write("a.jsonl", '{"a":1,"b":2,"c":true,"d":[1]}\n{"a":"x","b":3,"c":0,"d":["y"]}\n')
    branches, excluded = described(path, "json")
    assert list(branches) == ["b"]
    assert set(excluded) == {"a", "c", "d"}
    assert read(path, "json") == {"b": [2, 3]}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty"),
        ("  \n", "is empty"),
        ("a,b\n1,2\n", "begins neither with { nor with"),
        ('{"a":1}\n\n{"a":2,}\n', "line 3: "),
        ('{"a":1}\n[1]\n', "line 2: "),
        ('[{"a":1}', "ends in the middle of its array"),
        ('[{"a":1},{"a":}]', "event 2 is not a JSON object"),
        ("[1, 2]", "event 1 is not a JSON object but 1"),
        ("[]", "holds no events"),
        ('{"a":1}\n{"a":1e999}\n', "line 2: Number too big"),
    ],
)
def test_json_that_cannot_be_read(write, text, sentence):
    path = write("a.json", text)
    with pytest.raises(DataError, match=sentence) as caught, open_table(str(path), "json") as table:
        assert table.events
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


# Parquet


@pytest.fixture
def parquet(tmp_path):
    table = pa.table(
        {
            "i": pa.array([1, 2, None, 4]),
            "k": pa.array([1, 2, 3, 4], pa.int16()),
            "u": pa.array([1, 2, 3, 2**64 - 1], pa.uint64()),
            "h": pa.array([1.5, None, 3, 4], pa.float16()),
            "f": pa.array([0.5, 1.5, None, 3.5], pa.float32()),
            "b": [True, False, True, True],
            "bn": pa.array([True, None, False, True]),
            "l": pa.array([[1.5, 2.5], None, [], [3.5]], pa.list_(pa.float32())),
            "m": pa.array([[1, 2], [], [], [3]], pa.large_list(pa.field("item", pa.int32(), nullable=False))),
            "fixed": pa.array([[1, 2], [3, 4], [5, 6], [7, 8]], pa.list_(pa.int32(), 2)),
            "jets": pa.array([[{"pt": 1.0, "q": True}], [], [], [{"pt": 2.0, "q": False}]]),
            "met": pa.array([{"pt": 1.0, "phi": 2.0}, {"pt": None, "phi": 3.0}, None, {"pt": 4.0, "phi": 5.0}]),
            "kind": pa.array([1.5, 2.5, 1.5, 1.5]).dictionary_encode(),
            "word": pa.array(["a", "b", "a", "b"]).dictionary_encode(),
            "text": ["a", "b", "c", "d"],
            "raw": [b"a", b"b", b"c", b"d"],
            "day": [datetime.date(2024, 1, day) for day in range(1, 5)],
            "price": [decimal.Decimal("1.5")] * 4,
            "nested": [[[1]], [], [], [[2]]],
            "map": pa.array([[("a", 1)], [], [], []], pa.map_(pa.string(), pa.int32())),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    return tmp_path / "a.parquet"


PARQUET = {
    "i": [1.0, 2.0, nan, 4.0],
    "k": [1, 2, 3, 4],
    "u": [1, 2, 3, 2**64 - 1],
    "h": [1.5, nan, 3.0, 4.0],
    "f": [0.5, 1.5, nan, 3.5],
    "b": [True, False, True, True],
    "bn": [1.0, nan, 0.0, 1.0],
    "l": [[1.5, 2.5], [], [], [3.5]],
    "m": [[1, 2], [], [], [3]],
    "fixed": [[1, 2], [3, 4], [5, 6], [7, 8]],
    "jets.pt": [[1.0], [], [], [2.0]],
    "jets.q": [[1.0], [], [], [0.0]],
    "met.pt": [1.0, nan, nan, 4.0],
    "met.phi": [2.0, 3.0, nan, 5.0],
    "kind": [1.5, 2.5, 1.5, 1.5],
}


def test_parquet(parquet):
    branches, excluded = described(parquet, "parquet")
    assert branches["k"] == ("int16", "flat")
    assert branches["u"] == ("uint64", "flat")
    assert branches["f"] == ("float32", "flat")
    assert branches["h"] == ("float16", "flat")
    assert branches["b"] == ("bool", "flat")
    assert branches["m"] == ("int32", "jagged")
    assert set(excluded) == {"word", "text", "raw", "day", "price", "nested", "map"}
    assert excluded["word"] == "holds text"
    same(read(parquet, "parquet"), PARQUET)
    for start in range(5):
        for stop in range(start + 1, 5):
            same(read(parquet, "parquet", ["met.phi", "l", "k"], start, stop), {name: PARQUET[name][start:stop] for name in ("met.phi", "l", "k")})


def test_parquet_types_of_the_arrays_are_those_announced(parquet):
    with open_table(str(parquet), "parquet") as table:
        for batch in table.batches(list(table.branches)):
            for name, column in batch.data.items():
                values = column.content if isinstance(column, Jagged) else column
                assert values.dtype == table.branches[name].dtype, name
                assert values.dtype.isnative


PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstandard.ZstdCompressor().compress}


@pytest.mark.parametrize("suffix", list(PACKERS))
def test_parquet_packed_as_a_whole_leaves_no_copy(parquet, write, suffix, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    path = write(f"a.parquet.{suffix}", PACKERS[suffix](parquet.read_bytes()))
    same(read(path, "parquet"), PARQUET)
    assert not list((tmp_path / "scratch").iterdir())


def test_parquet_of_awkward(tmp_path):
    array = ak.Array({"x": [1.5, 2.5], "jets": [[{"pt": 1.0, "n": 3}], []]})
    ak.to_parquet(array, tmp_path / "a.parquet")
    branches, _ = described(tmp_path / "a.parquet", "parquet")
    assert branches == {"x": ("float64", "flat"), "jets.pt": ("float64", "jagged"), "jets.n": ("int64", "jagged")}
    assert read(tmp_path / "a.parquet", "parquet") == {"x": [1.5, 2.5], "jets.pt": [[1.0], []], "jets.n": [[3], []]}


def test_parquet_without_statistics_does_not_promise_that_nothing_is_absent(tmp_path):
    pq.write_table(pa.table({"i": [1, 2], "j": [1, None]}), tmp_path / "a.parquet", write_statistics=False)
    same(read(tmp_path / "a.parquet", "parquet"), {"i": [1.0, 2.0], "j": [1.0, nan]})


def test_parquet_in_batches_of_bounded_size(tmp_path, monkeypatch):
    rng = np.random.default_rng(2)
    counts = rng.integers(0, 5, 20_000)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    values = rng.normal(size=offsets[-1])
    table = pa.table({"x": np.arange(20_000), "l": pa.ListArray.from_arrays(offsets, values), "m": pa.ListArray.from_arrays(offsets, values * 2)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=7000)
    monkeypatch.setattr("mlaas.data.formats.parquet.BATCH_BYTES", 100_000)
    monkeypatch.setattr("mlaas.data.formats.parquet._GROUP_BYTES", 1000)
    with open_table(str(tmp_path / "a.parquet"), "parquet") as opened:
        batches = list(opened.batches(["x", "l", "m"], 3333, 16_666))
    assert len(batches) > 6
    whole = concatenate(batches)
    np.testing.assert_array_equal(whole["x"], np.arange(3333, 16_666))
    np.testing.assert_array_equal(whole["l"].flat, values[offsets[3333] : offsets[16_666]])
    np.testing.assert_array_equal(whole["l"].counts, counts[3333:16_666])
    assert all(batch["l"].offsets is batch["m"].offsets for batch in batches)


@pytest.mark.parametrize(
    ("content", "sentence"), [(b"", "is empty"), (b"x" * 100, "is not a Parquet file"), (b"PAR1" + b"\0" * 100, "is damaged or truncated")]
)
def test_parquet_that_cannot_be_read(write, content, sentence):
    with pytest.raises(DataError, match=sentence):
        open_table(str(write("a.parquet", content)), "parquet")


def test_parquet_cut_short_or_without_events(parquet, write, tmp_path):
    with pytest.raises(DataError, match="is damaged or truncated"):
        open_table(str(write("cut.parquet", parquet.read_bytes()[:-40])), "parquet")
    pq.write_table(pa.table({"x": pa.array([], pa.float64())}), tmp_path / "none.parquet")
    with pytest.raises(DataError, match="holds no events"):
        open_table(str(tmp_path / "none.parquet"), "parquet")


def test_parquet_with_a_damaged_page(tmp_path):
    pq.write_table(pa.table({"x": np.random.default_rng(0).normal(size=5000)}), tmp_path / "a.parquet", compression="zstd")
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[4:60] = b"\xff" * 56
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.parquet"):
        read(tmp_path / "a.parquet", "parquet")


# Avro

JET = {"type": "record", "name": "Jet", "fields": [{"name": "pt", "type": "double"}, {"name": "q", "type": "int"}]}
SCHEMA = {
    "type": "record",
    "name": "Event",
    "namespace": "hep.test",
    "fields": [
        {"name": "n", "type": "int"},
        {"name": "run", "type": "long"},
        {"name": "x", "type": ["null", "double"]},
        {"name": "k", "type": ["int", "null"]},
        {"name": "f", "type": "float"},
        {"name": "flag", "type": "boolean"},
        {"name": "wide", "type": ["int", "long"]},
        {"name": "text", "type": "string"},
        {"name": "l", "type": {"type": "array", "items": "float"}},
        {"name": "some", "type": ["null", {"type": "array", "items": ["null", "int"]}]},
        {"name": "jets", "type": {"type": "array", "items": JET}},
        {"name": "lead", "type": "Jet"},
        {"name": "time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "either", "type": ["int", "string"]},
        {"name": "colour", "type": {"type": "enum", "name": "Colour", "symbols": ["RED"]}},
        {"name": "id", "type": {"type": "fixed", "name": "Id", "size": 2}},
        {"name": "nested", "type": {"type": "array", "items": {"type": "array", "items": "int"}}},
        {"name": "map", "type": {"type": "map", "values": "int"}},
        {"name": "last", "type": "int"},
    ],
}


def record(i):
    return {
        "n": -i,
        "run": 2**40 + i,
        "x": None if i % 3 == 1 else i / 2,
        "k": None if i == 2 else i,
        "f": i / 4,
        "flag": i % 2 == 0,
        "wide": i,
        "text": "t" * i,
        "l": [i / 8] * (i % 4),
        "some": None if i % 5 == 1 else [None, i],
        "jets": [{"pt": float(j), "q": j} for j in range(i % 3)],
        "lead": {"pt": i + 0.5, "q": i},
        "time": 0,
        "either": i,
        "colour": "RED",
        "id": b"ab",
        "nested": [[i]] * (i % 2),
        "map": {"a": i},
        "last": 7 * i,
    }


def avro_wanted(indices):
    records = [record(i) for i in indices]
    return {
        "n": [r["n"] for r in records],
        "run": [r["run"] for r in records],
        "x": [nan if r["x"] is None else r["x"] for r in records],
        "k": [nan if r["k"] is None else float(r["k"]) for r in records],
        "f": [r["f"] for r in records],
        "flag": [r["flag"] for r in records],
        "wide": [r["wide"] for r in records],
        "l": [r["l"] for r in records],
        "some": [[nan if v is None else float(v) for v in r["some"] or []] for r in records],
        "jets.pt": [[j["pt"] for j in r["jets"]] for r in records],
        "jets.q": [[j["q"] for j in r["jets"]] for r in records],
        "lead.pt": [r["lead"]["pt"] for r in records],
        "lead.q": [r["lead"]["q"] for r in records],
        "last": [r["last"] for r in records],
    }


@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2", "xz", "snappy", "zstandard"])
def test_avro(tmp_path, codec):
    with (tmp_path / "a.avro").open("wb") as file:
        fastavro.writer(file, SCHEMA, [record(i) for i in range(40)], codec=codec, sync_interval=300)
    branches, excluded = described(tmp_path / "a.avro", "avro")
    assert branches["n"] == ("int32", "flat")
    assert branches["wide"] == ("int64", "flat")
    assert branches["k"] == ("float64", "flat")
    assert branches["flag"] == ("bool", "flat")
    assert branches["l"] == ("float32", "jagged")
    assert set(excluded) == {"text", "time", "either", "colour", "id", "nested", "map"}
    same(read(tmp_path / "a.avro", "avro"), avro_wanted(range(40)))
    for start, stop in [(0, 1), (13, 29), (39, 40), (0, 40)]:
        wanted = avro_wanted(range(start, stop))
        same(read(tmp_path / "a.avro", "avro", ["last", "jets.q", "x"], start, stop), {name: wanted[name] for name in ("last", "jets.q", "x")})


def test_avro_shares_offsets_and_packs(tmp_path):
    packed = io.BytesIO()
    fastavro.writer(packed, SCHEMA, [record(i) for i in range(10)])
    (tmp_path / "a.avro.bz2").write_bytes(bz2.compress(packed.getvalue()))
    with open_table(str(tmp_path / "a.avro.bz2"), "avro") as table:
        assert table.events == 10
        (batch,) = table.batches(["jets.pt", "jets.q"])
    assert batch["jets.pt"].offsets is batch["jets.q"].offsets


def test_avro_with_a_type_that_contains_itself(tmp_path):
    node = {"type": "record", "name": "Node", "fields": [{"name": "value", "type": "int"}, {"name": "next", "type": ["null", "Node"]}]}
    schema = {"type": "record", "name": "E", "fields": [{"name": "x", "type": "double"}, {"name": "chain", "type": node}, SCHEMA["fields"][8]]}
    with (tmp_path / "a.avro").open("wb") as file:
        records = [{"x": i / 2, "chain": {"value": i, "next": {"value": 0, "next": None}}, "l": [1.0] * i} for i in range(5)]
        fastavro.writer(file, schema, records)
    found = read(tmp_path / "a.avro", "avro", ["x", "l"])
    same(found, {"x": [0.0, 0.5, 1.0, 1.5, 2.0], "l": [[1.0] * i for i in range(5)]})
    _, excluded = described(tmp_path / "a.avro", "avro")
    assert excluded == {"chain.next": "holds values of different types from event to event"}


NUMBERS = {
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(width=32),
    "double": st.floats(),
    "boolean": st.booleans(),
    "string": st.text(max_size=3),
    "bytes": st.binary(max_size=3),
}


COUNTER = itertools.count()


@st.composite
def avro_types(draw, depth=0):
    """An Avro type and a strategy for its values."""
    kind = draw(st.sampled_from(list(NUMBERS) + ["null or", "array", "map", "record"] * (depth < 3)))
    if kind in NUMBERS:
        return kind, NUMBERS[kind]
    inner, values = draw(avro_types(depth=depth + 1))
    match kind:
        case "null or":
            if isinstance(inner, list):
                return inner, values
            return (["null", inner] if draw(st.booleans()) else [inner, "null"]), st.none() | values
        case "array":
            return {"type": "array", "items": inner}, st.lists(values, max_size=4)
        case "map":
            return {"type": "map", "values": inner}, st.dictionaries(st.text(max_size=2), values, max_size=2)
    other, others = draw(avro_types(depth=depth + 1))
    name = f"R{next(COUNTER)}"
    return {"type": "record", "name": name, "fields": [{"name": "a", "type": inner}, {"name": "b", "type": other}]}, st.fixed_dictionaries(
        {"a": values, "b": others}
    )


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_avro_decoded_by_the_loop_equals_fastavro(data):
    fields = [data.draw(avro_types()) for _ in range(data.draw(st.integers(1, 4)))]
    schema = {"type": "record", "name": "E", "fields": [{"name": f"f{i}", "type": kind} for i, (kind, _) in enumerate(fields)]}
    records = data.draw(st.lists(st.fixed_dictionaries({f"f{i}": values for i, (_, values) in enumerate(fields)}), min_size=1, max_size=6))
    with tempfile.TemporaryDirectory() as folder:
        with Path(folder, "a.avro").open("wb") as file:
            fastavro.writer(file, schema, records, sync_interval=data.draw(st.integers(1, 100)))
        with open_table(f"{folder}/a.avro", "avro") as table:
            names = list(table.branches)
            if not names:
                return
            leaves = [table._leaf(name) for name in names]
            fast = concatenate(list(table.batches(names)))
            table._program = lambda wanted: None
            slow = concatenate(list(table._read(leaves, 0, len(records))))
    for name in names:
        assert repr(plain(fast[name])) == repr(plain(slow[name]))


@given(st.binary(max_size=60), st.integers(0, 40))
@settings(max_examples=200, deadline=None)
def test_avro_bytes_that_are_damaged_are_refused_or_read_but_never_overrun(noise, place):
    file = io.BytesIO()
    fastavro.schemaless_writer(file, fastavro.parse_schema(SCHEMA), record(7))
    good = file.getvalue()
    damaged = good[:place] + noise + good[place + len(noise) :]
    schema = fastavro.parse_schema(SCHEMA)
    leaf = Leaf(Branch("l", np.dtype(np.float32), "jagged"), ("l",))
    try:
        found = decode(program(schema, [leaf, Leaf(Branch("last", np.dtype(np.int32), "flat"), ("last",))]), damaged, 1)
    except ValueError:
        return
    assert len(found["last"]) == 1
    assert len(found["l"].content) == found["l"].offsets[-1]


@pytest.mark.parametrize("cut", [5, 60, -30, -1])
def test_avro_cut_short(tmp_path, cut):
    file = io.BytesIO()
    fastavro.writer(file, SCHEMA, [record(i) for i in range(40)])
    (tmp_path / "a.avro").write_bytes(file.getvalue()[:cut])
    with pytest.raises(DataError, match=r"a\.avro is damaged or truncated"):
        read(tmp_path / "a.avro", "avro")


def test_avro_that_cannot_be_read(write, tmp_path):
    for content, sentence in [(b"", "is empty"), (b"PAR1", "is not an Avro file"), (b"Obj\x01" + b"\xff" * 50, "is damaged or truncated")]:
        with pytest.raises(DataError, match=sentence):
            open_table(str(write("a.avro", content)), "avro")
    for schema, records, sentence in [("int", [1, 2], "does not hold records"), ({**SCHEMA, "fields": SCHEMA["fields"][:1]}, [], "holds no events")]:
        file = io.BytesIO()
        fastavro.writer(file, schema, records)
        with pytest.raises(DataError, match=sentence), open_table(str(write("b.avro", file.getvalue())), "avro") as table:
            assert table.events


# All of them


@pytest.mark.parametrize("dtype", ["csv", "json", "parquet", "avro"])
def test_names_that_are_not_there(tmp_path, dtype):
    path = tmp_path / "a"
    rows = [{"met": 1.5, "text": "a"}, {"met": 2.5, "text": "b"}]
    if dtype == "csv":
        path.write_text("met,text\n1.5,a\n2.5,b\n")
    elif dtype == "json":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif dtype == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        schema = {"type": "record", "name": "E", "fields": [{"name": "met", "type": "double"}, {"name": "text", "type": "string"}]}
        with path.open("wb") as file:
            fastavro.writer(file, schema, rows)
    with open_table(str(path), dtype) as table:
        assert table.events == 2
        assert concatenate(list(table.batches(["met"])))["met"].tolist() == [1.5, 2.5]
        with pytest.raises(DataError, match=r"has no column 'mat' \(did you mean 'met'\?\)"):
            list(table.batches(["mat"]))
        with pytest.raises(DataError, match="column 'text' cannot be used: it holds text"):
            list(table.batches(["text"]))
        assert [len(batch) for batch in table.batches([])] == [2]


@pytest.mark.parametrize("dtype", ["csv", "json", "parquet", "avro"])
def test_a_missing_file(tmp_path, dtype):
    with pytest.raises(DataError, match="there is no file"):
        open_table(str(tmp_path / "absent"), dtype)


def test_a_file_that_changed_is_read_again(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("x\n1\n")
    with open_table(str(path), "csv") as first:
        assert first.events == 1
    path.write_text("x\n1\n2.5\n")
    with open_table(str(path), "csv") as second:
        assert second.events == 2
        assert second.identity != first.identity
        assert second.branches["x"].dtype == np.float64


def test_a_file_that_shrinks_while_it_is_read(write, small_blocks):
    path = write("a.csv", "x\n" + "1\n" * 500)
    with open_table(str(path), "csv") as table:
        path.write_text("x\n1\n")
        with pytest.raises(DataError, match="became shorter while it was read"):
            list(table.batches(["x"], 0, 500))


def test_integers_beyond_what_a_double_holds_are_rounded_where_some_are_absent(tmp_path):
    pq.write_table(pa.table({"n": pa.array([None, 2**53 + 1], pa.int64())}), tmp_path / "a.parquet")
    with open_table(str(tmp_path / "a.parquet"), "parquet") as table:
        found = concatenate(list(table.batches(["n"])))["n"]
    assert repr(plain(found)) == repr([float("nan"), float(2**53)])
