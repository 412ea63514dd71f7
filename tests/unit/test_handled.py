"""Handled data: what is written is read back, whole or not at all, whoever writes at the same time and whatever happens meanwhile."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas.data import handled
from mlaas.data.columns import Columns, Jagged, concatenate
from mlaas.data.handled import Summary, Writer, digest, read_batches, read_summary
from mlaas.data.selected import Selected
from mlaas.data.specs import Specs
from mlaas.errors import DataError, ResourceError

DTYPES = ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"]


def selected(n, seed=0, *, label=True, weight=True, first=0):
    """Events with a column of every type, two groups of lists and offsets that do not start at 0."""
    rng = np.random.default_rng(seed)
    data = {f"flat_{dtype}": (rng.random(n) * 100).astype(dtype) for dtype in DTYPES}
    for group in ("a", "b"):
        offsets = np.zeros(n + 1, np.int64)
        np.cumsum(rng.integers(0, 4, n), out=offsets[1:])
        offsets += 2
        for dtype in DTYPES:
            data[f"{group}_{dtype}"] = Jagged((rng.random(int(offsets[-1]) + 1) * 100).astype(dtype), offsets)
    labels = rng.integers(0, 3, n).astype(float) if label else None
    weights = rng.normal(1, 1, n) if weight else None
    return Selected(Columns(n, data), np.arange(first, first + n), labels, weights)


def write(root, parts, key="key", **options):
    with Writer(root, key, **options) as writer:
        for part in parts:
            writer.write(part, len(part) + 1)
        return writer.publish()


def joined(parts):
    columns = concatenate([part.columns for part in parts])

    def pick(name):
        arrays = [getattr(part, name) for part in parts]
        return None if arrays[0] is None else np.concatenate(arrays)

    return Selected(columns, pick("entry"), pick("label"), pick("weight"))


def assert_equal(found, expected, *, columns=True):
    np.testing.assert_array_equal(found.entry, expected.entry)
    for name in ("label", "weight"):
        one, other = getattr(found, name), getattr(expected, name)
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_array_equal(one, other)
    if not columns:
        assert list(found.columns) == []
        return
    assert list(found.columns) == list(expected.columns)
    for name in expected.columns:
        one, other = found.columns[name], expected.columns[name]
        if isinstance(other, Jagged):
            np.testing.assert_array_equal(one.counts, other.counts)
            one, other = one.flat, other.flat
        np.testing.assert_array_equal(one, other)
        assert one.dtype == {"?": np.dtype("u1"), "e": np.dtype("f4")}.get(other.dtype.char, other.dtype)


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), max_size=5),
    seed=st.integers(0, 10**6),
    label=st.booleans(),
    weight=st.booleans(),
    columns=st.booleans(),
    flush=st.sampled_from([1, 30, 8192]),
    batch=st.sampled_from([0, 1, 11]),
)
def test_what_is_written_is_read_back(tmp_path_factory, sizes, seed, label, weight, columns, flush, batch):
    root = tmp_path_factory.mktemp("handled")
    parts = [selected(n, seed + i, label=label, weight=weight, first=1000 * i) for i, n in enumerate(sizes)]
    before, handled.BATCH_EVENTS = handled.BATCH_EVENTS, flush
    try:
        written = write(root, parts, columns=columns, batch_events=batch)
    finally:
        handled.BATCH_EVENTS = before
    summary = read_summary(root, "key")
    assert summary == written
    assert (summary.entries, summary.events) == (sum(sizes) + len(sizes), sum(sizes))
    batches = list(read_batches(root, summary, columns=columns))
    assert not batch or all(len(part) <= batch for part in batches)
    if not sum(sizes):
        assert batches == []
        return
    whole = joined([part for part in parts if len(part)])
    assert_equal(joined(batches), whole, columns=columns)
    assert_equal(joined(list(read_batches(root, summary, columns=False))), whole, columns=False)
    specs = Specs()
    for part in parts:
        specs.update(part.columns)
    assert summary.specs == specs
    if weight:
        np.testing.assert_allclose(summary.weights, (whole.weight.sum(), abs(whole.weight).sum(), whole.weight.min()))
    else:
        assert summary.weights == (sum(sizes), sum(sizes), 1.0)
    assert summary.label_values == (sorted(set(whole.label.tolist())) if label else None)
    assert summary.whole_labels
    if columns:
        for batch in batches:
            for group in ("a", "b"):
                assert batch.columns[f"{group}_f4"].offsets is batch.columns[f"{group}_i8"].offsets


def test_pyarrow_alone_can_read_it(tmp_path):
    part = selected(50)
    write(tmp_path, [part])
    with pa.OSFile(str(tmp_path / "key" / "events.arrow")) as file:
        table = pa.ipc.open_file(file).read_all()
    assert table.column_names[:3] == ["entry", "label", "weight"]
    assert table[":flat_f4"].to_pylist() == part.columns["flat_f4"].tolist()
    assert table[":a_i2"].to_pylist() == part.columns["a_i2"].lists()
    assert table.schema.field(":a_f8").type == pa.list_(pa.float64())


def test_labels_of_regression(tmp_path):
    values = np.arange(3000.0)
    part = selected(3000)
    many = write(tmp_path, [Selected(part.columns, part.entry, values, None)], "whole")
    assert (many.label_values, many.whole_labels) == (None, True)
    real = write(tmp_path, [Selected(part.columns, part.entry, np.full(3000, 0.5), None)], "real")
    assert (real.label_values, real.whole_labels) == ([0.5], False)


def test_equal_keys_for_equal_documents():
    assert digest({"a": 1, "b": [1, 2.5, None]}) == digest({"b": [1, 2.5, None], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert len(digest({})) == 32


def leftovers(root):
    return sorted(path.name for path in root.iterdir())


def test_an_error_leaves_nothing(tmp_path):
    def fail():
        with Writer(tmp_path, "key") as writer:
            writer.write(selected(9000), 9000)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert leftovers(tmp_path) == []


def test_the_second_writer_of_a_key_leaves_the_first_one_s(tmp_path):
    write(tmp_path, [selected(20)])
    before = (tmp_path / "key" / "events.arrow").stat().st_ino
    write(tmp_path, [selected(20)])
    assert (tmp_path / "key" / "events.arrow").stat().st_ino == before
    assert leftovers(tmp_path) == ["key"]


@pytest.mark.parametrize("damage", ["empty", "json", "short", "no arrow", "list", "format"])
def test_a_damaged_folder_counts_as_none_and_is_replaced(tmp_path, damage):
    written = write(tmp_path, [selected(20)])
    folder = tmp_path / "key"
    document = json.loads((folder / "handled.json").read_text())
    if damage == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    elif damage == "json":
        (folder / "handled.json").write_text("{")
    elif damage == "short":
        os.truncate(folder / "events.arrow", written.bytes - 1)
    elif damage == "no arrow":
        (folder / "events.arrow").unlink()
    else:
        (folder / "handled.json").write_text(json.dumps([document] if damage == "list" else document | {"format": 0}))
    assert read_summary(tmp_path, "key") is None
    again = write(tmp_path, [selected(20)])
    assert read_summary(tmp_path, "key") == again == written
    assert leftovers(tmp_path) == ["key"]


def test_any_broken_summary_counts_as_none(tmp_path):
    write(tmp_path, [selected(5)])
    document = json.loads((tmp_path / "key" / "handled.json").read_text())
    for name in document:
        for value in (None, 3, "x", [], {}):
            if value == document[name]:
                continue
            broken = document | {name: value}
            (tmp_path / "key" / "handled.json").write_text(json.dumps(broken))
            found = read_summary(tmp_path, "key")
            assert found is None or isinstance(found, Summary)
        (tmp_path / "key" / "handled.json").write_text(json.dumps({key: value for key, value in document.items() if key != name}))
        assert read_summary(tmp_path, "key") is None
    assert read_summary(tmp_path, "other") is None


@settings(max_examples=80, deadline=None)
@given(position=st.integers(0, 10**6), value=st.integers(1, 255))
def test_changed_bytes_are_read_or_reported(stored, position, value):
    root, summary, data = stored
    changed = bytearray(data)
    changed[position % len(data)] ^= value
    (root / "key" / "events.arrow").write_bytes(changed)
    try:
        batches, told = list(read_batches(root, summary)), ""
    except DataError as error:
        batches, told = [], str(error)
    assert not told or "delete that folder and run again" in told
    assert "\n" not in told
    for batch in batches:
        for column in batch.columns.data.values():
            if isinstance(column, Jagged):
                assert column.offsets[0] >= 0
                assert (np.diff(column.offsets) >= 0).all()
                assert column.offsets[-1] <= len(column.content)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    root = tmp_path_factory.mktemp("stored")
    summary = write(root, [selected(30)])
    return root, summary, (root / "key" / "events.arrow").read_bytes()


WRITE = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {here!r})
    from tests.unit.test_handled import selected, Writer
    with Writer(Path({root!r}), "key") as writer:
        for i in range({batches}):
            writer.write(selected(9000, i, first=9000 * i), 9000)
            print(i, flush=True)
            time.sleep({pause})
        writer.publish()
"""


def writer_process(root, batches, pause, **options):
    code = textwrap.dedent(WRITE).format(here=str(Path(__file__).parents[2]), root=str(root), batches=batches, pause=pause)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_processes_that_write_the_same_key_leave_one_good_copy(tmp_path):
    processes = [writer_process(tmp_path, 2, 0.05) for _ in range(3)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    summary = read_summary(tmp_path, "key")
    assert summary.events == 18_000
    assert_equal(joined(list(read_batches(tmp_path, summary))), joined([selected(9000, i, first=9000 * i) for i in range(2)]))
    assert leftovers(tmp_path) == ["key"]


def test_a_killed_writer_leaves_nothing_that_is_taken_for_whole(tmp_path):
    process = writer_process(tmp_path, 2, 60)
    assert process.stdout.readline() == "0\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert read_summary(tmp_path, "key") is None
    assert len(leftovers(tmp_path)) == 1
    assert leftovers(tmp_path)[0].startswith(".key.")
    write(tmp_path, [selected(20)])
    assert read_summary(tmp_path, "key").events == 20


def test_what_dead_writers_left_is_removed_after_days(tmp_path):
    for name, age in (("old", 3), ("young", 1), ("busy", 3)):
        folder = tmp_path / f".{name}.abc"
        folder.mkdir()
        (folder / "events.arrow").write_bytes(b"x")
        then = time.time() - age * 86_400
        os.utime(folder / "events.arrow", (then, then))
        if name != "busy":
            os.utime(folder, (then, then))
    write(tmp_path, [selected(5)])
    assert leftovers(tmp_path) == [".busy.abc", ".young.abc", "key"]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    """On a disk of 1 MB where this test may mount one, else under a limit of file sizes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True).returncode == 0
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if not mounted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))  # Python ignores SIGXFSZ, so the write fails
    try:
        with pytest.raises(ResourceError, match="the disk is full while writing" if mounted else "File too large") as caught:
            write(disk, [selected(9000, seed) for seed in range(4)])
        assert "MLAAS_CACHE" in str(caught.value)
        assert leftovers(disk) == []
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        if mounted:
            subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_at_the_end_is_said_too(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with Writer(tmp_path, "key") as writer:
            writer.write(selected(100), 100)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
            with pytest.raises(ResourceError, match="MLAAS_CACHE"):
                writer.publish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert leftovers(tmp_path) == []


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match=r"handled data cannot be written to .*file.*; set MLAAS_CACHE"):
        write(tmp_path / "file" / "handled", [selected(5)])


def test_data_that_vanish_while_they_are_used(tmp_path):
    summary = write(tmp_path, [selected(50)])
    shutil.rmtree(tmp_path / "key")
    with pytest.raises(DataError, match="cannot be read"):
        list(read_batches(tmp_path, summary))
