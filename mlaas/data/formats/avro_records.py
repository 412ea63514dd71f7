"""Avro records as columns, decoded by a compiled loop instead of one Python object per value.

The schema becomes a short program, a list of whole numbers; a numba function runs it over the bytes of many records, once to count the
values of each column and once to write them. Encoding: Apache Avro specification 1.11, "Binary Encoding".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import njit

from mlaas.data.columns import Column, Columns, Jagged
from mlaas.data.formats.arrow import shared_offsets
from mlaas.data.formats.types import Leaf

F = TypeVar("F", bound=Callable[..., Any])
Ints = npt.NDArray[np.int64]
Path = tuple[str, ...]

# Operations, each followed by its arguments. A column or list of -1 is read over; lengths and targets count from the operation's own place.
_INT, _FLOAT, _DOUBLE, _BOOL = 0, 1, 2, 3  # column
_ABSENT = 4  # column, which gets NaN
_BYTES = 5  # (one unused)
_FIXED = 6  # number of bytes
_NONE = 7  # list, which is empty
_SIMPLE = 8  # list, operation of its items (up to _BOOL), column
_ARRAY = 9  # list, place after it; then the program of an item, which ends with _NEXT
_NEXT = 10  # (one unused)
_UNION = 11  # number of branches, place of the program of each
_JUMP = 12  # place to go on at

_DEPTH = 32

_PRIMITIVES = {"int": _INT, "long": _INT, "float": _FLOAT, "double": _DOUBLE, "boolean": _BOOL, "enum": _INT}


class NoProgramError(Exception):
    """A type that contains itself has no program of finite length."""


def compiled(**options: Any) -> Callable[[F], F]:
    """numba.njit, kept on disk and without the interpreter lock, with a type that mypy understands."""
    return cast(Callable[[F], F], njit(cache=True, nogil=True, **options))


@dataclass(frozen=True)
class Program:
    """A schema prepared for the wanted branches.

    code: shape (k,), int64. floats: shape (columns,), whether a column's values are floating-point numbers.
    lists: number of lists in a record. list_of: of each column the number of its list, -1 when flat.
    """

    wanted: tuple[Leaf, ...]
    code: Ints
    floats: npt.NDArray[np.bool_]
    lists: int
    list_of: tuple[int, ...]


def program(schema: Any, wanted: Sequence[Leaf]) -> Program:
    """Prepare a record's schema, with full names as fastavro returns it. Raises NoProgramError for a type that contains itself."""
    builder = _Builder(wanted)
    code = builder.emit(schema, (), within=False)
    floats = np.array([leaf.branch.dtype.kind == "f" for leaf in wanted], np.bool_)
    return Program(tuple(wanted), np.array(code, np.int64), floats, len(builder.lists), tuple(builder.list_of))


class _Builder:
    """Writes the program. `within` tells that a list is open, so that deeper lists are read over."""

    def __init__(self, wanted: Sequence[Leaf]) -> None:
        self.columns = {leaf.path: number for number, leaf in enumerate(wanted)}
        self.lists: dict[Path, int] = {}
        self.list_of = [self._list(leaf) for leaf in wanted]
        self.named: dict[str, Any] = {}
        self.open: list[str] = []

    def _list(self, leaf: Leaf) -> int:
        if leaf.branch.kind == "flat":
            return -1
        path = tuple(leaf.branch.counter.split(".")) if leaf.branch.counter else leaf.path
        return self.lists.setdefault(path, len(self.lists))

    def emit(self, schema: Any, path: Path, *, within: bool) -> list[int]:
        """The program of the values at a path."""
        if isinstance(schema, list):
            bodies = [self.emit(branch, path, within=within) for branch in schema]
            return _union(bodies)
        if isinstance(schema, str):
            return self.emit(self.named.get(schema, {"type": schema}), path, within=within)
        kind = schema["type"]
        if not isinstance(kind, str):
            return self.emit(kind, path, within=within)
        self.named.setdefault(schema.get("name", ""), schema)
        match kind:
            case "null":
                return self.absent(path, within=within)
            case "string" | "bytes":
                return [_BYTES, 0]
            case "fixed":
                return [_FIXED, schema["size"]]
            case "record" | "error":
                return self.record(schema, path, within=within)
            case "array":
                body = self.emit(schema["items"], (*path, "[]") if within else path, within=True)
                return _array(-1 if within else self.lists.get(path, -1), body)
            case "map":
                return _array(-1, [_BYTES, 0, *self.emit(schema["values"], (*path, "{}"), within=True)])
            case _:
                return [_PRIMITIVES[kind], self.columns.get(path, -1)]

    def record(self, schema: Any, path: Path, *, within: bool) -> list[int]:
        """The programs of the fields, one after another."""
        if schema["name"] in self.open or len(self.open) >= _DEPTH:
            raise NoProgramError(schema["name"])
        self.open.append(schema["name"])
        code = [step for field in schema["fields"] for step in self.emit(field["type"], (*path, field["name"]), within=within)]
        self.open.pop()
        return code

    def absent(self, path: Path, *, within: bool) -> list[int]:
        """Null: NaN in each column below a path, and each list below it empty."""
        below = [number for column, number in self.columns.items() if column[: len(path)] == path]
        values = [number for number in below if within or self.list_of[number] < 0]
        lists = [] if within else dict.fromkeys(self.list_of[number] for number in below if self.list_of[number] >= 0)
        return [step for number in values for step in (_ABSENT, number)] + [step for number in lists for step in (_NONE, number)]


def _union(bodies: list[list[int]]) -> list[int]:
    code = [_UNION, len(bodies)]
    place = 2 + len(bodies)
    for body in bodies:
        code.append(place)
        place += len(body) + 2
    for body in bodies:
        code += [*body, _JUMP, place - len(code) - len(body)]
    return code


def _array(number: int, body: list[int]) -> list[int]:
    if len(body) == 2 and body[0] <= _BOOL:
        return [_SIMPLE, number, *body]
    return [_ARRAY, number, len(body) + 5, *body, _NEXT, 0]


def decode(prepared: Program, data: bytes, events: int) -> Columns:
    """The wanted branches of `events` records. Raises ValueError when the bytes are not what the schema says."""
    raw = np.frombuffer(data, np.uint8)
    width = len(prepared.wanted)
    starts, ends = np.zeros(width + 1, np.int64), np.zeros(width, np.int64)
    counts = np.empty((events, prepared.lists), np.int64)
    bits = np.empty(0, np.int64)
    if _run(prepared.code, raw, False, ends, bits, prepared.floats, counts) != len(raw):
        raise ValueError("the bytes do not fit the schema")
    np.cumsum(ends, out=starts[1:])
    bits = np.empty(starts[-1], np.int64)
    _run(prepared.code, raw, True, starts[:-1].copy(), bits, prepared.floats, counts)
    known: list[Ints] = []
    offsets = [shared_offsets(np.concatenate([np.zeros(1, np.int64), np.cumsum(row)]), known) for row in counts.T]
    out: dict[str, Column] = {}
    for number, leaf in enumerate(prepared.wanted):
        part = bits[starts[number] : starts[number + 1]]
        values = (part.view(np.float64) if prepared.floats[number] else part).astype(leaf.branch.dtype)
        out[leaf.branch.name] = values if prepared.list_of[number] < 0 else Jagged(values, offsets[prepared.list_of[number]])
    return Columns(events, out)


@compiled()
def _run(code: Ints, data: Any, write: bool, cursor: Ints, bits: Ints, floats: Any, counts: Ints) -> int:
    """Decode len(counts) records; returns the place after the last one, or -1. `cursor` is moved by the number of values of each column."""
    place = 0
    body, left, total = np.zeros(_DEPTH, np.int64), np.zeros(_DEPTH, np.int64), np.zeros(_DEPTH, np.int64)  # of the arrays that are open
    for event in range(len(counts)):
        at, depth = 0, -1
        while at < len(code):
            step, column = code[at], code[at + 1]
            if step <= _BOOL:
                place = _values(step, column, 1, data, place, write, cursor, bits, floats)
                at += 2
            elif step == _SIMPLE:
                length = 0
                number, place = _block(data, place)
                while place >= 0 and number:
                    place = _values(code[at + 2], code[at + 3], number, data, place, write, cursor, bits, floats)
                    length += number
                    if place >= 0:
                        number, place = _block(data, place)
                if column >= 0:
                    counts[event, column] = length
                at += 4
            elif step == _ABSENT:
                if write:
                    bits[cursor[column]] = _bits(np.nan)
                cursor[column] += 1
                at += 2
            elif step == _NONE:
                counts[event, column] = 0
                at += 2
            elif step == _UNION:
                branch, place = _varint(data, place)
                if place < 0 or branch < 0 or branch >= column:
                    return -1
                at += code[at + 2 + branch]
            elif step == _JUMP:
                at += column
            elif step in (_ARRAY, _NEXT):
                if step == _ARRAY:
                    depth += 1
                    if depth >= _DEPTH:
                        return -1
                    body[depth], left[depth], total[depth] = at, 1, 0
                left[depth] -= 1
                if left[depth] == 0:
                    left[depth], place = _block(data, place)
                    total[depth] += left[depth]
                at = body[depth]
                if left[depth]:
                    at += 3
                else:
                    if code[at + 1] >= 0:
                        counts[event, code[at + 1]] = total[depth]
                    at += code[at + 2]
                    depth -= 1
            else:
                size = column
                if step == _BYTES:
                    size, place = _varint(data, place)
                place = place + size if place >= 0 and 0 <= size <= len(data) - place else -1
                at += 2
            if place < 0:
                return -1
    return place


@compiled()
def _values(step: int, column: int, number: int, data: Any, place: int, write: bool, cursor: Ints, bits: Ints, floats: Any) -> int:
    """A number of values of one kind; returns the place after them, or -1."""
    keep = write and column >= 0
    if step == _INT:
        for item in range(number):
            whole, place = _varint(data, place)
            if place < 0:
                return -1
            if keep:
                bits[cursor[column] + item] = _bits(whole) if floats[column] else whole
    else:
        size = 1 if step == _BOOL else 4 if step == _FLOAT else 8
        if number > (len(data) - place) // size:
            return -1
        if keep:
            for item in range(number):
                start = place + item * size
                if step == _FLOAT:
                    value = _bits(_single(_word(data, start)))
                elif step == _DOUBLE:
                    value = np.int64(np.uint64(_word(data, start)) | np.uint64(_word(data, start + 4)) << np.uint64(32))
                else:
                    value = _bits(data[start]) if floats[column] else np.int64(data[start])
                bits[cursor[column] + item] = value
        place += number * size
    if column >= 0:
        cursor[column] += number
    return place


@compiled()
def _word(data: Any, place: int) -> Any:
    """Four bytes, the lowest first."""
    low = np.uint32(data[place]) | np.uint32(data[place + 1]) << np.uint32(8)
    return low | np.uint32(data[place + 2]) << np.uint32(16) | np.uint32(data[place + 3]) << np.uint32(24)


@compiled()
def _block(data: Any, place: int) -> tuple[Any, int]:
    """The number of items in the next block of an array, 0 after the last one, and the place after it or -1."""
    number, place = _varint(data, place)
    if number < 0 and place >= 0:  # followed by the size of the block
        number = -number
        _, place = _varint(data, place)
    return (number, place) if 0 <= number <= len(data) else (0, -1)


@compiled()
def _single(word: Any) -> Any:
    return np.float64(np.uint32(word).view(np.float32))


@compiled()
def _bits(real: float) -> Any:
    return np.float64(real).view(np.int64)


@compiled()
def _varint(data: Any, place: int) -> tuple[Any, int]:
    """A zigzag number of variable length and the place after it; -1 when it does not end."""
    value, shift = np.uint64(0), np.uint64(0)
    while place < len(data) and shift < np.uint64(64):
        byte = np.uint64(data[place])
        place += 1
        value |= (byte & np.uint64(0x7F)) << shift
        if byte < np.uint64(0x80):
            return np.int64(value >> np.uint64(1)) ^ -np.int64(value & np.uint64(1)), place
        shift += np.uint64(7)
    return 0, -1
