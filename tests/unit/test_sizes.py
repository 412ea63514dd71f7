"""Sizes and times as people write them."""

from __future__ import annotations

import pytest

from mlaas.sizes import read_seconds, read_size, write_size


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("45s", 45), ("30m", 1800), (" 2 min ", 120), ("1.5h", 5400), ("2D", 172_800), ("1:30:05", 5405)]
)
def test_times(text, seconds):
    assert read_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "1:2", "1:75:00", "3 weeks", "nan", "1e5", "٣h"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="is not a time; write seconds"):
        read_seconds(text)


@pytest.mark.parametrize(("text", "size"), [("4GB", 4 * 10**9), ("512 MiB", 512 * 2**20), ("3g", 3 * 10**9), ("1.5kb", 1500), ("7", 7)])
def test_sizes(text, size):
    assert read_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1GB", "4 XB", "1e9", "GB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="is not a size"):
        read_size(text)


def test_sizes_for_people():
    assert [write_size(size) for size in (12, 4.31e6, 2e9, 3.2e12)] == ["12 bytes", "4.31 MB", "2 GB", "3.2 TB"]
