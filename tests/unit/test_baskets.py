"""The direct basket reader against uproot's baskets, byte by byte; and what it says of bytes that are no basket."""

from __future__ import annotations

import contextlib
import struct

import numpy as np
import pytest
import uproot
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas.data.baskets import BasketColumn, ByteSource, Unusual, payload
from tests.support.rootfiles import CODECS, batch, write_tree

SMALL = {"flat_i4", "list_f4", "array_f8", "list_b1"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("baskets")
    batches = [{name: values for name, values in batch(n, n).items() if name in SMALL or name == "jet"} for n in (400, 1, 70)]
    return {codec: write_tree(folder / f"{codec}.root", batches, codec=codec) for codec in CODECS}


def raws(path, name):
    """The bytes of each basket, and uproot's baskets."""
    with uproot.open(path) as file:
        branch = file["events"][name]
        ranges = list(zip(branch.member("fBasketSeek"), branch.member("fBasketBytes"), strict=True))[: branch.num_baskets]
        source = ByteSource(file.file.source, str(path))
        try:
            return source.fetch([(int(start), int(size)) for start, size in ranges]), [branch.basket(i) for i in range(branch.num_baskets)]
        finally:
            source.close()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("name", ["flat_i4", "list_f4", "array_f8", "jet_tag", "njet"])
def test_payloads_are_those_of_uproot(files, codec, name):
    found, expected = raws(files[codec], name)
    assert len(found) == len(expected) == 3
    for raw, basket in zip(found, expected, strict=True):
        ours = payload(raw)
        assert bytes(ours.data[: ours.border]) == basket.data.tobytes()
        assert (ours.entries, ours.border) == (basket.num_entries, basket.border)


@pytest.mark.parametrize("codec", CODECS)
def test_large_baskets_are_compressed(files, codec):
    raw = raws(files[codec], "flat_i4")[0][0]
    assert (len(raw) < 1600) == (codec != "none")  # otherwise the other tests would prove nothing of the codec


@pytest.mark.parametrize("codec", ["zlib", "lz4", "lzma"])
def test_no_flipped_bit_of_checked_data_goes_unnoticed(files, codec):
    raw = raws(files[codec], "flat_i4")[0][0]
    keylen = struct.unpack_from(">h", raw, 14)[0]
    expected = bytes(payload(raw).data)
    for position in range(keylen, len(raw), 7):
        damaged = bytearray(raw)
        damaged[position] ^= 1 << (position % 8)
        with contextlib.suppress(Unusual):
            assert bytes(payload(damaged).data) == expected  # a bit that means nothing, such as the level of compression


@pytest.mark.parametrize("codec", CODECS)
def test_no_cut_goes_unnoticed(files, codec):
    raw = bytes(raws(files[codec], "list_f4")[0][0])
    for size in [0, 1, 17, 18, 40, len(raw) // 2, len(raw) - 1]:
        with pytest.raises(Unusual):
            payload(raw[:size])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_basket_or_unusual(data):
    try:
        found = payload(data)
    except Unusual:
        return
    assert 0 <= found.border <= len(found.data)


@settings(max_examples=150, deadline=None)
@given(codec=st.sampled_from(sorted(CODECS)), position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_any_changed_byte_gives_a_basket_or_unusual(files, codec, position, value):
    raw = bytearray(raws(files[codec], "list_f4")[0][0])
    raw[position % len(raw)] = value
    try:
        found = payload(raw)
    except Unusual:
        return
    assert 0 <= found.border <= len(found.data)


def test_blocks_of_more_than_16_mb(tmp_path):
    values = np.arange(2_300_000, dtype="f8") % 1000
    write_tree(tmp_path / "a.root", [{"x": values}])
    (raw,), _ = raws(tmp_path / "a.root", "x")
    found = payload(raw)
    assert len(found.data) > 1 << 24
    np.testing.assert_array_equal(np.frombuffer(found.data, ">f8"), values)


def column(path, name, **options):
    """A basket column of a branch and the source that it reads from."""
    file = uproot.open(path)
    branch = file["events"][name]
    about = branch.interpretation
    dtype = np.dtype(getattr(about, "content", about).numpy_dtype).base
    return BasketColumn(branch, dtype, **options), ByteSource(file.file.source, str(path)), branch


def test_a_counter_that_disagrees_is_noticed_inside_a_basket(files):
    found, source, branch = column(files["zlib"], "jet_pt", per_entry=0, header=-1)
    counts = branch.count_branch.array(library="np")
    for wrong in (-1, 1):
        found.seek(0, 0)
        with pytest.raises(Unusual, match="disagree"):
            found.values(100, source.fetch(found.wanted(100)), int(counts[:100].sum()) + wrong)
    found.seek(0, 0)
    assert len(found.values(100, source.fetch(found.wanted(100)), int(counts[:100].sum()))) == counts[:100].sum()
    with pytest.raises(Unusual, match="disagree"):
        found.values(150, source.fetch(found.wanted(150)), int(counts[100:150].sum()) + 1)
    source.close()


def test_a_counter_that_disagrees_is_noticed_where_a_basket_ends(files):
    found, source, branch = column(files["zlib"], "jet_pt", per_entry=0, header=-1)
    counts = branch.count_branch.array(library="np")
    for wrong in (-1, 1):
        found.seek(0, 0)
        with pytest.raises(Unusual, match="disagree"):
            found.values(400, source.fetch(found.wanted(400)), int(counts[:400].sum()) + wrong)
    source.close()


def test_a_basket_of_other_values_is_unusual(files):
    found, source, _ = column(files["zlib"], "flat_i4", per_entry=2, header=-1)
    found.seek(0)
    with pytest.raises(Unusual, match="entries and basket size"):
        found.values(400, source.fetch(found.wanted(400)), 800)
    source.close()


def test_only_what_is_needed_is_fetched(files):
    found, source, _ = column(files["none"], "flat_i4", per_entry=1, header=-1)
    found.seek(401)
    assert len(found.wanted(450)) == 1
    found.seek(10)
    assert len(found.wanted(400)) == 1
    assert len(found.wanted(401)) == 2
    source.close()
    source.close()  # closing twice does no harm
