"""The direct basket reader: TTree branches of plain numbers straight from their baskets to NumPy.

What it does less than uproot makes it fast: a branch's baskets are decompressed with libdeflate and copied once, in native byte order, to where
they belong; lists take their lengths from the counter branch, decoded once for all branches that share it, instead of from the entry
offsets stored in each. Whatever it does not know raises `Unusual`, and the caller reads that branch with uproot.

The layout of keys, baskets and compressed blocks is that of ROOT's TKey, TBasket and RZip (https://root.cern/doc/master/).
"""

from __future__ import annotations

import lzma
import os
import queue
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import deflate
import lz4.block
import numpy as np
import numpy.typing as npt
import xxhash
import zstandard

from mlaas.data import kernels
from mlaas.data.columns import Array

_KEY = struct.Struct(">ihiIhh")  # fNbytes, fVersion, fObjlen, fDatime, fKeylen, fCycle
_BASKET = struct.Struct(">Hiiii")  # fVersion, fBufferSize, fNevBufSize, fNevBuf, fLast; a flag byte follows
_BLOCK = 9  # bytes of a compressed block's header: algorithm (2), method, compressed size (3), uncompressed size (3)
_LZ4_CHECKSUM = 8

Buffer = bytes | bytearray | memoryview


class Unusual(Exception):  # noqa: N818 (a signal to use uproot, not an error)
    """A basket or branch that the direct reader does not know."""


class Payload(NamedTuple):
    """A basket's uncompressed bytes: values up to `border`, then perhaps entry offsets, which count from `keylen`."""

    data: Buffer
    border: int
    entries: int
    keylen: int


def payload(raw: Buffer) -> Payload:
    """Take a basket's bytes apart and decompress them. Raises Unusual when they are not a plain basket."""
    view = memoryview(raw)
    if len(view) < _KEY.size:
        raise Unusual("truncated basket")
    nbytes, version, objlen, _, keylen, _ = _KEY.unpack_from(view)
    if nbytes != len(view) or version <= 0 or keylen < _KEY.size + _BASKET.size + 1 or keylen > nbytes:
        raise Unusual("not a basket")
    _, _, _, entries, last = _BASKET.unpack_from(view, keylen - _BASKET.size - 1)
    border = last - keylen
    body = view[keylen:]
    data = body if len(body) == objlen else _decompress(body, objlen)
    if not 0 <= border <= len(data):
        raise Unusual("border outside the basket")
    return Payload(data, border, entries, keylen)


def _decompress(body: memoryview, size: int) -> Buffer:
    """Decompress all blocks of a basket to `size` bytes."""
    blocks: list[Buffer] = []
    position = 0
    while position < len(body):
        head = bytes(body[position : position + _BLOCK])
        if len(head) < _BLOCK:
            raise Unusual("truncated block")
        compressed = int.from_bytes(head[3:6], "little")
        uncompressed = int.from_bytes(head[6:9], "little")
        start = position + _BLOCK
        position = start + compressed
        blocks.append(_block(head[:2], body[start:position], uncompressed))
        if len(blocks[-1]) != uncompressed:
            raise Unusual("block of unexpected size")
    out = blocks[0] if len(blocks) == 1 else b"".join(blocks)
    if len(out) != size:
        raise Unusual("blocks do not add up")
    return out


def _block(algorithm: bytes, data: memoryview, size: int) -> Buffer:
    try:
        if algorithm == b"ZL":
            return deflate.zlib_decompress(data, size)
        if algorithm == b"L4":
            if xxhash.xxh64_digest(data[_LZ4_CHECKSUM:]) != data[:_LZ4_CHECKSUM]:
                raise Unusual("checksum does not match")
            return bytes(lz4.block.decompress(data[_LZ4_CHECKSUM:], uncompressed_size=size))
        if algorithm == b"ZS":
            return zstandard.ZstdDecompressor().decompress(data, max_output_size=size)
        if algorithm == b"XZ":
            return lzma.decompress(data)
    except (deflate.DeflateError, lz4.block.LZ4BlockError, zstandard.ZstdError, lzma.LZMAError, ValueError) as error:
        raise Unusual(str(error)) from error
    raise Unusual(f"compression {algorithm!r}")


class ByteSource:
    """Byte ranges of an open ROOT file: by pread for local files, by uproot's source (vector reads) for remote ones."""

    def __init__(self, source: Any, path: str) -> None:
        self._source = source
        self.local = Path(path).is_file()
        self._descriptor = os.open(path, os.O_RDONLY) if self.local else -1

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> list[Buffer]:
        """The bytes of each (start, length); shorter where the file ends early."""
        if self.local:
            return [os.pread(self._descriptor, length, start) for start, length in ranges]
        if not ranges:
            return []
        notifications: queue.Queue[Any] = queue.Queue()
        chunks = self._source.chunks([(start, start + length) for start, length in ranges], notifications)
        return [np.asarray(chunk.raw_data).data for chunk in chunks]

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class BasketColumn:
    """The baskets of one branch, read from `start` on in order.

    dtype: of the values; `stored`: of the values in the file when it is another one (a Double32_t is stored as a float).
    per_entry: values per entry (1 for a flat branch, k for a fixed array), or 0 for lists.
    header: bytes before the values of each entry (10 for std::vector), or -1 when the lengths come from a counter.
    """

    def __init__(self, branch: Any, dtype: np.dtype[Any], per_entry: int, header: int, stored: np.dtype[Any] | None = None) -> None:
        baskets = int(branch.num_baskets)
        self.entries = np.asarray(branch.entry_offsets, np.int64)
        seeks = np.asarray(branch.member("fBasketSeek"))[:baskets]
        sizes = np.asarray(branch.member("fBasketBytes"))[:baskets]
        if len(self.entries) != baskets + 1 or branch.embedded_baskets or not np.all(seeks > 0):
            raise Unusual("baskets inside the tree")
        self.ranges = list(zip(seeks.tolist(), sizes.tolist(), strict=True))
        self.big = (stored or dtype).newbyteorder(">")
        self.dtype = dtype.newbyteorder("=")
        self.per_entry = per_entry
        self.header = header
        self._next = 0
        self._left: Array = np.empty(0, self.dtype)
        self._left_counts: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._basket: tuple[int, Array] = (0, np.empty(0, np.int64))  # the last basket's values, and those before each of its entries

    def seek(self, entry: int, skip: int = -1) -> None:
        """Go to an entry; `skip` values of its basket come before it (needed for counted lists inside a basket)."""
        self._next = int(np.searchsorted(self.entries, entry, side="right")) - 1
        self._left = np.empty(0, self.dtype)
        self._left_counts = np.empty(0, np.int64)
        self._skip_entries = entry - int(self.entries[self._next]) if self._next < len(self.ranges) else 0
        self._skip = self._skip_entries * self.per_entry if self.per_entry else skip

    def before(self, entry: int) -> int:
        """The first entry of the basket that holds `entry`."""
        return int(self.entries[int(np.searchsorted(self.entries, entry, side="right")) - 1])

    def wanted(self, stop: int) -> list[tuple[int, int]]:
        """The byte ranges of the baskets that entries up to `stop` need and that were not read yet."""
        last = int(np.searchsorted(self.entries, stop, side="left"))
        return self.ranges[self._next : max(last, self._next)]

    def values(self, stop: int, raws: Iterable[Buffer], total: int) -> Array:
        """The next `total` values, up to entry `stop`, in native byte order (flat branches and counted lists)."""
        parts: list[Array] = []
        have = 0
        if len(self._left):
            parts.append(self._left)
            have = len(self._left)
        for raw in raws:
            basket = payload(raw)
            part = self._plain(basket)
            if not self.per_entry:
                self._basket = (len(part), self._starts(basket))
            if self._skip:
                part = part[self._skip :]
                self._skip = 0
            self._next += 1
            parts.append(part)
            have += len(part)
        out, self._left = _assemble(parts, total, self.dtype)
        self._check(stop, have, total)
        return out

    def _plain(self, basket: Payload) -> Array:
        if basket.border % self.big.itemsize:
            raise Unusual("values and basket size disagree")
        expected = int(self.entries[self._next + 1] - self.entries[self._next])
        if basket.entries != expected or (self.per_entry and basket.border != expected * self.per_entry * self.big.itemsize):
            raise Unusual("entries and basket size disagree")
        return np.frombuffer(basket.data, self.big, basket.border // self.big.itemsize)

    def _starts(self, basket: Payload) -> Array:
        """How many values come before each entry of a counted basket, by its entry offsets; empty where ROOT did not store them."""
        stop = basket.border + 4 * (basket.entries + 1)
        if len(basket.data) < stop:
            return np.empty(0, np.int64)
        return (np.frombuffer(memoryview(basket.data)[basket.border + 4 : stop], ">i4") - basket.keylen) // self.big.itemsize

    def _check(self, stop: int, have: int, total: int) -> None:
        """Counters and content must end together where a basket ends, and at `stop` inside one: a damaged counter must not shift values."""
        at_end = stop == self.entries[self._next]
        if have < total or (at_end and have != total):
            raise Unusual("counter and values disagree")
        values, starts = self._basket
        if not self.per_entry and not at_end and len(starts):
            inside = stop - int(self.entries[self._next - 1])
            if values - (have - total) != starts[inside]:
                raise Unusual("counter and values disagree")

    def lists(self, stop: int, raws: Iterable[Buffer], events: int) -> tuple[Array, npt.NDArray[np.int64]]:
        """The values and lengths of the next `events` lists (std::vector branches)."""
        contents, counts = [self._left], [self._left_counts]
        for raw in raws:
            content, lengths = self._vectors(payload(raw))
            if self._skip_entries:
                content = content[int(lengths[: self._skip_entries].sum()) :]
                lengths = lengths[self._skip_entries :]
                self._skip_entries = 0
            self._next += 1
            contents.append(content)
            counts.append(lengths)
        lengths = np.concatenate(counts) if len(counts) > 2 or len(counts[0]) else counts[-1]
        if len(lengths) < events:
            raise Unusual("too few entries")
        total = int(lengths[:events].sum())
        out, self._left = _assemble([part for part in contents if len(part)], total, self.dtype)
        self._left_counts = lengths[events:]
        return out, lengths[:events]

    def _vectors(self, basket: Payload) -> tuple[Array, npt.NDArray[np.int64]]:
        tail = np.frombuffer(memoryview(basket.data)[basket.border : basket.border + 4 * (basket.entries + 1)], np.uint8)
        expected = int(self.entries[self._next + 1] - self.entries[self._next])
        if basket.entries != expected or len(tail) < 4 * (basket.entries + 1):
            raise Unusual("no entry offsets")
        starts = np.empty(basket.entries + 1, np.int64)
        starts[:-1] = tail.view(">i4")[1:]
        starts[:-1] -= basket.keylen
        starts[-1] = basket.border
        sizes = np.diff(starts) - self.header
        itemsize = self.big.itemsize
        if starts[0] != 0 or np.any(sizes < 0) or np.any(sizes % itemsize):
            raise Unusual("entries of unexpected size")
        counts = sizes // itemsize
        content = np.empty(int(counts.sum()), self.dtype)
        source = np.frombuffer(basket.data, np.uint8, basket.border)
        kernels.strip(source, starts, self.header, itemsize, content.view(np.uint8))
        return content, counts


def _assemble(parts: list[Array], total: int, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Join parts to `total` values in native order; the second array is what is left over."""
    if len(parts) == 1 and parts[0].dtype == dtype:
        return parts[0][:total], parts[0][total:]
    out = np.empty(total, dtype)
    position = 0
    left: Array = np.empty(0, dtype)
    for part in parts:
        take = min(len(part), total - position)
        out[position : position + take] = part[:take]
        position += take
        if take < len(part):
            left = np.concatenate([left, part[take:]]).astype(dtype)
    return out, left
