"""Avro files of records: numbers are flat branches, arrays jagged ones; null is NaN or an empty list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import fastavro
import pyarrow as pa
from fastavro.schema import SchemaParseException

from mlaas.data.access import open_binary, redacted
from mlaas.data.columns import Columns
from mlaas.data.formats.arrow import columns
from mlaas.data.formats.avro_records import NoProgramError, Program, decode, program
from mlaas.data.formats.table import BATCH_BYTES, Table
from mlaas.data.formats.types import MIXED, Leaf, leaves, merged, nullable
from mlaas.data.trouble import reading
from mlaas.errors import DataError

_DECODE_BYTES = BATCH_BYTES // 4  # a byte can become a value of 8 bytes
_PRIMITIVE = {
    "null": pa.null(), "boolean": pa.bool_(), "int": pa.int32(), "long": pa.int64(), "float": pa.float32(), "double": pa.float64(),
    "string": pa.string(), "bytes": pa.binary(), "enum": pa.string(), "fixed": pa.binary(),
}  # fmt: skip
# What fastavro raises for bytes that are not what the schema says.
_BROKEN = (ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError, StopIteration)


class AvroFile(Table):
    """An open Avro object container file."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._events = -1
        with reading(path), open_binary(path) as stream:
            head = stream.read(4)
            if not head:
                raise DataError(f"{redacted(path)} is empty")
            if head != b"Obj\x01":
                raise DataError(f"{redacted(path)} is not an Avro file")
            stream.seek(0)
            self._schema: Any = self._blocks(stream).writer_schema  # names of types are full ones here
        if not isinstance(self._schema, dict) or self._schema.get("type") != "record":
            raise DataError(f"{redacted(path)} does not hold records; write one record per event")
        named: dict[str, pa.DataType] = {}
        self._arrow = pa.schema([_field(field, named) for field in self._schema["fields"]])
        found, excluded = leaves(self._arrow, nullable(self._arrow))
        self._describe(found, excluded)

    @property
    def events(self) -> int:
        """Number of events, from one pass over the headers of the blocks."""
        if self._events < 0:
            with reading(self.path), open_binary(self.path) as stream:
                self._events = sum(block.num_records for block in self._guarded(self._blocks(stream)))
            if not self._events:
                raise DataError(f"{redacted(self.path)} holds no events")
        return self._events

    def _blocks(self, stream: BinaryIO, reader_schema: Any = None) -> Any:
        try:
            return fastavro.block_reader(stream, reader_schema)
        except _BROKEN as error:
            raise self._broken(error) from None

    def _broken(self, error: Exception) -> DataError:
        if "codec" in str(error):
            return DataError(f"{redacted(self.path)} cannot be read: {error}")
        return DataError(f"{redacted(self.path)} is damaged or truncated ({type(error).__name__}: {error}); fetch or write it again")

    def _guarded(self, items: Any) -> Iterator[Any]:
        """The items of a reader of fastavro, what it raises being turned into a sentence."""
        iterator = iter(items)
        while True:
            try:
                item = next(iterator)
            except StopIteration:
                return
            except _BROKEN as error:
                raise self._broken(error) from None
            yield item

    def _read(self, wanted: Sequence[Leaf], start: int, stop: int) -> Iterator[Columns]:
        prepared = self._program(wanted)
        waiting: list[Any] = []
        position = begin = size = 0
        with open_binary(self.path) as stream:
            for block in self._guarded(self._blocks(stream, None if prepared else self._projection({leaf.path[0] for leaf in wanted}))):
                first, position = position, position + block.num_records
                if position <= start:
                    continue
                begin = begin if waiting else first
                waiting.append(block)
                size += block.bytes_.getbuffer().nbytes
                if size >= _DECODE_BYTES or position >= stop:
                    batch = self._decoded(waiting, prepared) if prepared else self._built(waiting, wanted)
                    yield batch.slice(max(0, start - begin), min(len(batch), stop - begin))
                    waiting, size = [], 0
                if position >= stop:
                    return
        raise DataError(f"{redacted(self.path)} became shorter while it was read; start again when nobody writes it")

    def _program(self, wanted: Sequence[Leaf]) -> Program | None:
        """None where only fastavro can walk through the records: a type, perhaps of a field that nobody wants, contains itself."""
        try:
            return program(self._schema, wanted)
        except NoProgramError:
            return None

    def _decoded(self, blocks: Sequence[Any], prepared: Program) -> Columns:
        """The records of blocks by the compiled loop."""
        try:
            return decode(prepared, b"".join(block.bytes_.getbuffer() for block in blocks), sum(block.num_records for block in blocks))
        except ValueError as error:
            raise self._broken(error) from None

    def _built(self, blocks: Sequence[Any], wanted: Sequence[Leaf]) -> Columns:
        """The records of blocks by fastavro."""
        kind = pa.struct([field for field in self._arrow if field.name in {leaf.path[0] for leaf in wanted}])
        records = [record for block in blocks for record in self._guarded(block)]
        return columns(pa.RecordBatch.from_struct_array(pa.array(records, kind)), wanted)

    def _projection(self, names: set[str]) -> Any:
        """A schema with the fields that are asked for only, which saves decoding the others; None where a field uses a type that another defines."""
        plain = {key: value for key, value in self._schema.items() if not key.startswith("__")}
        schema = {**plain, "fields": [field for field in plain["fields"] if field["name"] in names]}
        try:
            return fastavro.parse_schema(schema, named_schemas={}, _force=True)
        except SchemaParseException:
            return None


def _field(field: Any, named: dict[str, pa.DataType]) -> pa.Field:
    kind, can_be_null = _kind(field["type"], named)
    return pa.field(field["name"], kind, can_be_null)


def _kind(schema: Any, named: dict[str, pa.DataType]) -> tuple[pa.DataType, bool]:
    """The Arrow type of an Avro schema and whether it allows null."""
    if isinstance(schema, list):
        return _union(schema, named)
    if isinstance(schema, str):
        return _PRIMITIVE[schema] if schema in _PRIMITIVE else named.get(schema, MIXED), schema == "null"
    if "logicalType" in schema:
        return (pa.string() if schema["logicalType"] == "uuid" else pa.timestamp("us")), False
    kind = schema["type"]
    name = schema.get("name", "")
    if kind in ("record", "error"):
        named[name] = MIXED  # a type that contains itself is no feature
        named[name] = pa.struct([_field(field, named) for field in schema["fields"]])
        return named[name], False
    if kind == "array":
        element, can_be_null = _kind(schema["items"], named)
        return pa.list_(pa.field("item", element, can_be_null)), False
    if kind == "map":
        return pa.map_(pa.string(), _kind(schema["values"], named)[0]), False
    if kind in ("enum", "fixed"):
        named[name] = _PRIMITIVE[kind]
    return _kind(kind, named) if kind not in _PRIMITIVE else (_PRIMITIVE[kind], kind == "null")


def _union(branches: Sequence[Any], named: dict[str, pa.DataType]) -> tuple[pa.DataType, bool]:
    kinds = [_kind(branch, named) for branch in branches]
    out = pa.null()
    for kind, _ in kinds:
        out = merged(out, kind) or MIXED
    return out, any(can_be_null or kind.equals(pa.null()) for kind, can_be_null in kinds)
