"""Tables written as lines of text (CSV, JSON): read in blocks that end at a line's end, described by one pass over the whole file.

Types are those of all lines, not of the first block: whole numbers that become 0.5 in the last line are floating-point numbers. The pass also
counts the events and notes where each block begins, so that a later reading starts in the middle of the file.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa

from mlaas.data.access import open_binary, redacted
from mlaas.data.columns import Columns
from mlaas.data.formats.arrow import absent, columns
from mlaas.data.formats.table import BATCH_BYTES, Table
from mlaas.data.formats.types import Leaf, leaves, merged_fields, paths, pruned
from mlaas.data.trouble import reading
from mlaas.errors import DataError

LONGEST = 256 << 20

_SCANS: dict[tuple[str, str, str], Scan] = {}


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines: their bytes, the place of the first byte in the (decompressed) file, and the number of lines before."""

    data: bytes
    offset: int
    line: int


@dataclass(frozen=True, slots=True)
class Scan:
    """What one pass over a file found.

    schema: the fields, those only that can be read. starts: (first event, offset, lines before) of each block.
    """

    leaves: tuple[Leaf, ...]
    excluded: dict[str, str]
    schema: pa.Schema
    events: int
    starts: tuple[tuple[int, int, int], ...]


class LineTable(Table):
    """A table of lines. A format tells how its blocks are cut (`_blocks`) and parsed (`_parse`)."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        with reading(path), open_binary(path) as stream:
            self._begin(stream)
        self._scan = self._known_scan()
        self._describe(self._scan.leaves, dict(self._scan.excluded))

    @abstractmethod
    def _begin(self, stream: BinaryIO) -> None:
        """Look at the start of the file. Raises DataError when it is empty or of another format."""

    @abstractmethod
    def _blocks(self, stream: BinaryIO, start: int) -> Iterator[Block]:
        """The blocks of events from block number `start` on."""

    @abstractmethod
    def _parse(self, block: Block, schema: pa.Schema | None) -> pa.RecordBatch:
        """The events of a block: with the fields of `schema` only, or, without a schema, with all fields and the types that they seem to have."""

    def _refine(self, found: Sequence[Leaf], excluded: dict[str, str]) -> list[Leaf]:
        """Leave out further branches."""
        return list(found)

    @property
    def events(self) -> int:
        """Number of events, counted once."""
        return self._scan.events

    def _read(self, wanted: Sequence[Leaf], start: int, stop: int) -> Iterator[Columns]:
        tops = {leaf.path[0] for leaf in wanted}
        schema = pa.schema([field for field in self._scan.schema if field.name in tops])
        begin = max(number for number, (first, _, _) in enumerate(self._scan.starts) if first <= start)
        position = self._scan.starts[begin][0]
        with open_binary(self.path) as stream:
            for block in self._blocks(stream, begin):
                batch = columns(self._parse(block, schema), wanted)
                yield batch.slice(max(0, start - position), min(len(batch), stop - position))
                position += len(batch)
                if position >= stop:
                    return
        raise DataError(f"{redacted(self.path)} became shorter while it was read; start again when nobody writes it")

    def _known_scan(self) -> Scan:
        """The scan of this content, kept in memory: the stages of a job open each file several times."""
        key = (type(self).__name__, self.path, self.identity)
        if key not in _SCANS:
            if len(_SCANS) >= 1024:
                _SCANS.clear()
            _SCANS[key] = self._describe_all()
        return _SCANS[key]

    def _describe_all(self) -> Scan:
        """Read the file once from end to end."""
        fields: dict[str, pa.Field] = {}
        known: set[tuple[str, ...]] = set()
        lacking: set[tuple[str, ...]] = set()
        starts: list[tuple[int, int, int]] = []
        events = 0
        with reading(self.path), open_binary(self.path) as stream:
            for block in self._blocks(stream, 0):
                batch = self._parse(block, None)
                if not batch.num_rows:
                    continue
                here = paths(batch.schema)
                if events:
                    lacking |= known ^ here
                known |= here
                lacking.update(absent(batch))
                fields = merged_fields(list(fields.values()), list(batch.schema))
                starts.append((events, block.offset, block.line))
                events += batch.num_rows
        if not events:
            raise DataError(f"{redacted(self.path)} holds no events")
        found, excluded = leaves(pa.schema(list(fields.values())), dict.fromkeys(lacking, True))
        usable = self._refine(found, excluded)
        kinds = [(name, pruned(field.type)) for name, field in fields.items() if name in {leaf.path[0] for leaf in usable}]
        return Scan(tuple(usable), excluded, pa.schema([(name, kind) for name, kind in kinds if kind is not None]), events, tuple(starts))


def line_blocks(stream: BinaryIO, offset: int, line: int, *, name: str, quotes: bool, size: int = BATCH_BYTES) -> Iterator[Block]:
    """Cut the stream, which stands at `offset` after `line` lines, into blocks of about `size` bytes that end at a line's end.

    name: the file's, for messages. quotes: a line end between two double quotes does not end a line. Raises DataError for a line above LONGEST bytes.
    """
    rest = b""
    while data := stream.read(size):
        data = rest + data
        cut = _last_line_end(data, quotes=quotes)
        block, rest = Block(data[:cut], offset, line), data[cut:]
        del data  # the block alone stays in memory while it is used
        if cut:
            yield block
            offset += cut
            line += block.data.count(b"\n")
        if len(rest) > LONGEST:
            raise DataError(f"{name}: line {line + 1} is longer than {LONGEST >> 20} MB, or a quote in it is not closed")
    if rest.strip():
        yield Block(rest, offset, line)


def _last_line_end(data: bytes, *, quotes: bool) -> int:
    """The place after the last line end that is not between quotes; 0 when there is none."""
    cut = data.rfind(b"\n") + 1
    if not quotes:
        return cut
    odd = data.count(b'"', 0, cut) % 2
    while odd and cut:
        earlier = data.rfind(b"\n", 0, cut - 1) + 1
        odd ^= data.count(b'"', earlier, cut) % 2
        cut = earlier
    return cut


def line_number(block: Block, row: int) -> int:
    """The number in the file of the row-th line of a block (from 0) that is not empty."""
    seen = -1
    for number, text in enumerate(block.data.split(b"\n")):
        seen += bool(text.strip())
        if seen == row:
            return block.line + number + 1
    return block.line + 1
