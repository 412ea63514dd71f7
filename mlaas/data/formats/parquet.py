"""Parquet files: the number of events and the types are in the footer; columns of numbers are flat branches, lists jagged ones."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mlaas.data.access import COMPRESSIONS, open_binary, redacted
from mlaas.data.columns import Columns
from mlaas.data.credentials import scheme
from mlaas.data.formats.arrow import columns
from mlaas.data.formats.table import BATCH_BYTES, Table
from mlaas.data.formats.types import Leaf, is_list, leaves, nullable, storage
from mlaas.data.trouble import reading
from mlaas.errors import DataError

_BUFFER_BYTES = 1 << 20
_GROUP_BYTES = 64 << 20


class ParquetFile(Table):
    """An open Parquet file. One that is compressed as a whole (.parquet.gz) is unpacked into a temporary file as long as it is open."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._copy = None
        with reading(path):
            with open_binary(path) as stream:
                head = stream.read(4)
                if not head:
                    raise DataError(f"{redacted(path)} is empty")
                if head != b"PAR1":
                    raise DataError(f"{redacted(path)} is not a Parquet file")
                if not scheme(path) and _is_packed(path):
                    self._copy = _unpacked(stream)
            with self._open() as file:
                self._metadata = file.metadata
                schema = file.schema_arrow
        if not self._metadata.num_rows:
            raise DataError(f"{redacted(path)} holds no events")
        self._places = dict(_places(schema))
        found, excluded = leaves(schema, self._may_be_null(schema))
        self._describe(found, excluded)

    @property
    def events(self) -> int:
        """Number of events, from the footer."""
        return int(self._metadata.num_rows)

    def close(self) -> None:
        """Remove the temporary file, if there is one."""
        if self._copy is not None:
            self._copy.close()

    @contextmanager
    def _open(self, metadata: Any = None) -> Iterator[pq.ParquetFile]:
        far = bool(scheme(self.path))
        buffer = _BUFFER_BYTES if self._has_large_groups(metadata) and not far else 0
        with ExitStack() as stack:
            here = self._copy.name if self._copy is not None else self.path  # read by Arrow itself, without Python's lock
            source: Any = stack.enter_context(open_binary(self.path)) if far else here
            yield stack.enter_context(pq.ParquetFile(source, metadata=metadata, pre_buffer=far, buffer_size=buffer))

    def _has_large_groups(self, metadata: Any) -> bool:
        """Whether a row group is too large to be held; its columns are then read piece by piece, which takes twice the time."""
        return metadata is not None and any(metadata.row_group(group).total_byte_size > _GROUP_BYTES for group in range(metadata.num_row_groups))

    def _may_be_null(self, schema: pa.Schema) -> dict[tuple[str, ...], bool]:
        """Whether values are absent: not when the schema forbids it or the statistics of all row groups count none."""
        return {path: allowed and not self._counted_none(self._places[path]) for path, allowed in nullable(schema).items() if path in self._places}

    def _counted_none(self, place: int) -> bool:
        for group in range(self._metadata.num_row_groups):
            statistics = self._metadata.row_group(group).column(place).statistics
            if statistics is None or not statistics.has_null_count or statistics.null_count:
                return False
        return True

    def _read(self, wanted: Sequence[Leaf], start: int, stop: int) -> Iterator[Columns]:
        names = [self._metadata.schema.column(self._places[leaf.path]).path for leaf in wanted]
        with self._open(self._metadata) as file:
            first = 0
            for group in range(self._metadata.num_row_groups):
                rows = self._metadata.row_group(group).num_rows
                if first < stop and first + rows > start:
                    yield from _rows(file, group, names, self._batch_size(group, wanted), wanted, start - first, stop - first)
                first += rows

    def _batch_size(self, group: int, wanted: Sequence[Leaf]) -> int:
        """Events per batch for about BATCH_BYTES."""
        about = self._metadata.row_group(group)
        size = sum(leaf.branch.dtype.itemsize * about.column(self._places[leaf.path]).num_values for leaf in wanted)
        return max(1024, int(BATCH_BYTES * max(1, about.num_rows) / max(1, size)))


def _rows(file: pq.ParquetFile, group: int, names: list[str], size: int, wanted: Sequence[Leaf], start: int, stop: int) -> Iterator[Columns]:
    """Rows start..stop of one row group; both may lie outside of it."""
    position = 0
    for record in file.iter_batches(batch_size=size, row_groups=[group], columns=names, use_threads=False):
        if position >= stop:
            return
        if position + record.num_rows > start:
            yield columns(record, wanted).slice(max(0, start - position), min(record.num_rows, stop - position))
        position += record.num_rows


def _places(schema: pa.Schema) -> Iterator[tuple[tuple[str, ...], int]]:
    """The index of the Parquet column that holds each branch: Parquet numbers what lies at the bottom of its tree, from left to right."""
    place = 0
    for field in schema:
        for path, number in _bottoms((field.name,), field.type):
            yield path, place
            place += number


def _bottoms(path: tuple[str, ...], kind: pa.DataType) -> Iterator[tuple[tuple[str, ...], int]]:
    kind = storage(kind)
    if pa.types.is_struct(kind):
        for member in kind:
            yield from _bottoms((*path, member.name), member.type)
    elif is_list(kind):
        yield from _bottoms(path, kind.value_type)
    elif pa.types.is_map(kind):
        yield path, sum(number for part in (kind.key_type, kind.item_type) for _, number in _bottoms(path, part))
    else:
        yield path, 1


def _is_packed(path: str) -> bool:
    with Path(path).open("rb") as raw:
        return raw.read(6).startswith(tuple(COMPRESSIONS))


def _unpacked(stream: Any) -> Any:
    """A temporary file with the decompressed content; Parquet is read from its end."""
    copy = tempfile.NamedTemporaryFile(suffix=".parquet")  # noqa: SIM115
    try:
        stream.seek(0)
        shutil.copyfileobj(stream, copy, 1 << 20)
        copy.flush()
    except BaseException:
        copy.close()
        raise
    return copy
