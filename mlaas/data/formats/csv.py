"""CSV files: a header line and one event per line; every column is flat.

The delimiter is found from the header: comma, semicolon, tab, bar or blanks. Lines that begin with # are comments; the last
one before the data is the header when no other line is (as numpy.savetxt writes it). Empty cells and NA, NaN, null, ... are NaN.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv as pacsv

from mlaas.data.access import redacted
from mlaas.data.formats.lines import Block, LineTable, line_blocks, line_number
from mlaas.data.formats.types import Leaf
from mlaas.errors import DataError

_HEAD_BYTES = 1 << 20
_TRUE, _FALSE = ["true", "True", "TRUE"], ["false", "False", "FALSE"]
_OTHERS = {b"root": "ROOT", b"PAR1": "Parquet", b"Obj\x01": "Avro"}


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a file is written.

    delimiter: one character; a blank stands for any run of blanks and tabs. names: of the columns. offset, lines: bytes and lines before the data.
    """

    delimiter: str
    names: tuple[str, ...]
    offset: int
    lines: int


class CsvFile(LineTable):
    """An open CSV file; its types are those that all lines agree on (see `lines`)."""

    def _begin(self, stream: BinaryIO) -> None:
        self._dialect = dialect(stream.read(_HEAD_BYTES), redacted(self.path))

    def _blocks(self, stream: BinaryIO, start: int) -> Iterator[Block]:
        offset, lines = self._scan.starts[start][1:] if start else (self._dialect.offset, self._dialect.lines)
        stream.seek(offset)
        yield from line_blocks(stream, offset, lines, name=redacted(self.path), quotes=True)

    def _parse(self, block: Block, schema: pa.Schema | None) -> pa.RecordBatch:
        data = self._cleaned(block.data)
        quoted = b'"' in data
        convert = pacsv.ConvertOptions(true_values=_TRUE, false_values=_FALSE)  # without 0 and 1, which are numbers
        if schema is not None:
            convert.column_types, convert.include_columns = schema, schema.names
        try:
            table = pacsv.read_csv(
                pa.BufferReader(data),
                read_options=pacsv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=self._dialect.names),
                parse_options=pacsv.ParseOptions(delimiter=self._dialect.delimiter, newlines_in_values=quoted),
                convert_options=convert,
            )
        except pa.ArrowInvalid as error:
            if "Empty CSV" in str(error):
                return pa.RecordBatch.from_pylist([], schema or pa.schema([]))
            raise DataError(self._sentence(block, str(error))) from None
        return table.combine_chunks().to_batches()[0]

    def _cleaned(self, data: bytes) -> bytes:
        """The block without comment lines; runs of blanks become one where blanks delimit."""
        if b"\n#" in data or data.startswith(b"#"):
            data = re.sub(rb"(?m)^#.*$", b"", data)
        if self._dialect.delimiter == " ":
            data = re.sub(rb"(?m)^ | $", b"", re.sub(rb"[ \t\r]+", b" ", data))
        return data

    def _sentence(self, block: Block, text: str) -> str:
        name = redacted(self.path)
        if found := re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", text):
            row, expected, got = (int(part) for part in found.groups())
            line = line_number(Block(self._cleaned(block.data), 0, block.line), row - 1)
            return f"{name}, line {line}: {got} values where the header names {expected} columns"
        if found := re.search(r"Expected (\d+) columns, got (\d+)", text):
            return f"{name}, near line {block.line + 1}: {found.group(2)} values where the header names {found.group(1)} columns"
        return f"{name}, after line {block.line}: {text.splitlines()[0]}"

    def _refine(self, found: Sequence[Leaf], excluded: dict[str, str]) -> list[Leaf]:
        names = self._dialect.names
        excluded.update({name: "has no name in the header" for number, name in enumerate(names, 1) if name == f"column {number}"})
        excluded.update({name: "shares its name with another column" for name in names if names.count(name) > 1})
        return [leaf for leaf in found if leaf.branch.name not in excluded]


def dialect(head: bytes, name: str) -> Dialect:
    """How a CSV file that begins with `head` is written. Raises DataError, naming the file `name`, when it has no header or is no CSV file."""
    if not head.strip():
        raise DataError(f"{name} is empty")
    for magic, kind in _OTHERS.items():
        if head.startswith(magic):
            raise DataError(f"{name} is not a CSV file: it begins like a {kind} file")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in head:
        raise DataError(f"{name} is not a CSV file in UTF-8")
    lines = head.split(b"\n")
    first = next((number for number, line in enumerate(lines) if line.strip() and not line.startswith(b"#")), None)
    if first is None:
        raise DataError(f"{name} holds a header or comments but no events" if len(head) < _HEAD_BYTES else f"{name}: no data in the first MB")
    try:
        text = lines[first].decode("utf-8-sig").rstrip("\r")
        comments = [line.decode("utf-8-sig").lstrip("#").strip() for line in lines[:first] if line.strip()]
    except UnicodeDecodeError:
        raise DataError(f"{name} is not a CSV file in UTF-8") from None
    delimiter = _delimiter(text)
    values = _split(text, delimiter)
    if not all(map(_is_number, values)):
        return Dialect(delimiter, _names(values), _length(lines[: first + 1]), first + 1)
    header = _header(comments[-1], delimiter, len(values)) if comments else None
    if header is None:
        raise DataError(f"{name} has no header: its first line holds numbers; write the names of the columns into the first line")
    return Dialect(delimiter, _names(header), _length(lines[:first]), first)


def _delimiter(text: str) -> str:
    candidates = ",;\t|"
    bare = re.sub(r'"[^"]*"', "", text)
    best = max(candidates, key=bare.count)
    if bare.count(best):
        return best
    return " " if re.search(r"\S\s+\S", bare) else ","


def _header(comment: str, delimiter: str, number: int) -> list[str] | None:
    """The names in a comment line, when there are as many as columns."""
    tries = (_split(comment, each) for each in (delimiter, _delimiter(comment)))
    return next((names for names in tries if len(names) == number and not all(map(_is_number, names))), None)


def _split(text: str, delimiter: str) -> list[str]:
    if delimiter == " ":
        text = " ".join(text.split())
    return [value.strip() for value in next(csv.reader([text], delimiter=delimiter), [])]


def _names(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(value or f"column {number}" for number, value in enumerate(values, 1))


def _is_number(value: str) -> bool:
    try:
        float(value or "nan")
    except ValueError:
        return False
    return True


def _length(lines: Sequence[bytes]) -> int:
    return sum(len(line) + 1 for line in lines)
