"""JSON files: one object per event, one per line (JSON lines), or one array of them, or written over several lines.

Lists are jagged branches; members of nested objects are named `object.member`, and a list of objects gives one jagged branch per member.
NaN is read as NaN, null and absent members as NaN or, for lists, as an empty list.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.json as pajson

from mlaas.data.access import redacted
from mlaas.data.formats.lines import LONGEST, Block, LineTable, line_blocks, line_number
from mlaas.data.formats.table import BATCH_BYTES
from mlaas.data.formats.types import MIXED
from mlaas.errors import DataError


class JsonFile(LineTable):
    """An open JSON file; its types are those that all events agree on (see `lines`)."""

    def _begin(self, stream: BinaryIO) -> None:
        head = stream.read(1 << 20).removeprefix(b"\xef\xbb\xbf").lstrip()
        if not head:
            raise DataError(f"{redacted(self.path)} is empty")
        if head[:1] not in b"{[":
            raise DataError(f"{redacted(self.path)} is not a JSON file of events: it begins neither with {{ nor with [")
        self._is_lines = head.startswith(b"{") and _complete(head.split(b"\n", 1)[0])

    def _blocks(self, stream: BinaryIO, start: int) -> Iterator[Block]:
        name = redacted(self.path)
        if not self._is_lines:
            yield from islice(object_blocks(stream, name), start, None)
            return
        _, offset, line = self._scan.starts[start] if start else (0, 3 if stream.read(3) == b"\xef\xbb\xbf" else 0, 0)
        stream.seek(offset)
        yield from line_blocks(stream, offset, line, name=name, quotes=False)

    def _parse(self, block: Block, schema: pa.Schema | None) -> pa.RecordBatch:
        try:
            return _parsed(block.data, schema)
        except pa.ArrowInvalid as error:
            if schema is None and (found := re.search(r"Column\(/(.+)\) changed from", str(error))):
                return self._parse_mixed(block, found.group(1))
            raise DataError(self._sentence(block, str(error))) from None

    def _parse_mixed(self, block: Block, column: str) -> pa.RecordBatch:
        """Parse a block in which a column changes its type; the column is marked as MIXED, and so left out with a reason."""
        top = column.split("/")[0]
        records = [json.loads(line) for line in block.data.splitlines() if line.strip()]
        for record in records:
            record.pop(top, None)
        bare = b"\n".join(json.dumps(record).encode() for record in records)
        batch = self._parse(Block(bare, block.offset, block.line), None)
        return _with_mixed(batch, top)

    def _sentence(self, block: Block, text: str) -> str:
        name = redacted(self.path)
        found = re.search(r"^(?:JSON parse error: )?(.*?)\.? in row (\d+)", text)
        if not found:
            return f"{name}, after line {block.line}: {text.splitlines()[0]}"
        where = f"line {line_number(block, int(found.group(2)))}" if self._is_lines else f"event {block.line + int(found.group(2)) + 1}"
        return f"{name}, {where}: {found.group(1)}"


def _parsed(data: bytes, schema: pa.Schema | None) -> pa.RecordBatch:
    behaviour = "infer" if schema is None else "ignore"
    table = pajson.read_json(
        pa.BufferReader(data),
        read_options=pajson.ReadOptions(use_threads=False, block_size=len(data) + 1),
        parse_options=pajson.ParseOptions(explicit_schema=schema, unexpected_field_behavior=behaviour),
    )
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], table.schema)


def _with_mixed(batch: pa.RecordBatch, name: str) -> pa.RecordBatch:
    return batch.append_column(name, pa.nulls(batch.num_rows, MIXED))


def _complete(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def object_blocks(stream: BinaryIO, name: str) -> Iterator[Block]:
    """The objects of one array, or objects written over several lines, as blocks with one object per line; `Block.line` counts events.

    The text is decoded piece by piece: memory does not grow with the file. Raises DataError, naming the file `name`, for what is no object.
    """
    lines: list[str] = []
    size = done = 0
    text = io.TextIOWrapper(stream, "utf-8-sig", newline="")
    try:
        for item in _objects(text, name):
            lines.append(item.replace("\r", " ").replace("\n", " "))
            size += len(item)
            if size >= BATCH_BYTES:
                yield Block("\n".join(lines).encode(), -1, done)
                done += len(lines)
                lines, size = [], 0
    finally:
        text.detach()  # the stream is the caller's to close
    if lines:
        yield Block("\n".join(lines).encode(), -1, done)


def _objects(text: io.TextIOBase, name: str) -> Iterator[str]:
    decode = json.JSONDecoder().raw_decode
    buffer, place, number, step = text.read(1 << 20), 0, 0, 1 << 20
    blank = re.compile(r"[\s,]*")
    is_array = buffer.lstrip().startswith("[")
    place = buffer.index("[") + 1 if is_array else 0
    while True:
        place = blank.match(buffer, place).end()  # type: ignore[union-attr]
        value: Any = None
        try:
            if is_array and buffer[place : place + 1] == "]":
                return
            value, end = decode(buffer, place)
        except json.JSONDecodeError as error:
            more = text.read(step)
            if not more and place == len(buffer) and not is_array:
                return
            if not more or len(buffer) - place > LONGEST:
                what = "ends in the middle of its array" if place == len(buffer) else f"event {number + 1} is not a JSON object: {error.msg}"
                raise DataError(f"{name}: {what}") from None
            buffer, place, step = buffer[place:] + more, 0, step * 2
            continue
        if not isinstance(value, dict):
            raise DataError(f"{name}: event {number + 1} is not a JSON object but {json.dumps(value)[:40]}")
        number += 1
        yield buffer[place:end]
        place, step = end, 1 << 20
