"""Which fields of an Arrow schema can be features, and what type holds the values of two schemas.

A field of numbers or booleans is a flat branch, a list of them a jagged one. The members of a struct are named `struct.member`; a list of structs
(`jets: [{pt, eta}, ...]`) gives one jagged branch per member, all with the same counter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mlaas.data.files import Branch

MIXED = pa.binary(0)  # stands for "no common type"; no file has it


@dataclass(frozen=True, slots=True)
class Leaf:
    """A branch and where it is: `path` holds the field's name and then the members' names."""

    branch: Branch
    path: tuple[str, ...]


def storage(kind: pa.DataType) -> pa.DataType:
    """The plain type behind extension types (awkward's, for one) and dictionaries (pandas' categories)."""
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_dictionary(kind):
            kind = kind.value_type
        else:
            return kind


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is one of the list types that `columns` reads."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def leaves(schema: pa.Schema, may_be_null: Mapping[tuple[str, ...], bool]) -> tuple[list[Leaf], dict[str, str]]:
    """The usable branches of a schema in its order, and the others with the reason why they cannot be features.

    may_be_null: whether the values at a path can be absent; such integers become float64 (NaN where absent). Paths not named cannot.
    """
    found: list[Leaf] = []
    excluded: dict[str, str] = {}
    twice = {name for name in schema.names if schema.names.count(name) > 1}
    for field in schema:
        if field.name in twice:
            excluded[field.name] = "several columns have this name"
            continue
        for path, kind, counter, reason in walk((field.name,), field.type, None):
            name = ".".join(path)
            if reason:
                excluded[name] = reason
                continue
            dtype = _dtype(kind, nullable=may_be_null.get(path, False))
            found.append(Leaf(Branch(name, dtype, "flat" if counter is None else "jagged", counter or ""), path))
    return _unambiguous(found, excluded), excluded


def walk(path: tuple[str, ...], kind: pa.DataType, counter: str | None) -> Iterator[tuple[tuple[str, ...], pa.DataType, str | None, str]]:
    """(path, type of the values, counter or None when flat, reason for exclusion or "") of everything below a field."""
    kind = storage(kind)
    if pa.types.is_struct(kind) and kind.num_fields:
        for member in kind:
            yield from walk((*path, member.name), member.type, counter)
    elif is_list(kind):
        if counter is None:
            element = storage(kind.value_type)
            yield from walk(path, element, ".".join(path) if pa.types.is_struct(element) else "")
        else:
            yield path, kind, counter, "holds lists of lists"
    else:
        yield path, kind, counter, _unusable(kind)


def _unusable(kind: pa.DataType) -> str:
    if kind.equals(MIXED):
        return "holds values of different types from event to event"
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind):
        return ""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "holds text"
    if pa.types.is_temporal(kind):
        return "holds dates or times"
    if pa.types.is_decimal(kind):
        return "holds decimal numbers of fixed precision; write them as floating-point numbers"
    if pa.types.is_map(kind):
        return "holds maps"
    if pa.types.is_struct(kind):
        return "holds empty records"
    return f"holds values of type {kind}"


def _dtype(kind: pa.DataType, *, nullable: bool) -> np.dtype[Any]:
    if pa.types.is_null(kind) or (nullable and not pa.types.is_floating(kind)):
        return np.dtype(np.float64)
    return numpy_type(kind)


def numpy_type(kind: pa.DataType) -> np.dtype[Any]:
    """The NumPy type of a number or boolean; pyarrow's own to_pandas_dtype imports pandas, which takes a second."""
    name = str(kind)
    return np.dtype({"halffloat": "float16", "float": "float32", "double": "float64"}.get(name, name))


def nullable(schema: pa.Schema) -> dict[tuple[str, ...], bool]:
    """Whether the schema allows absent values, for each branch (an absent list is an empty one and does not count)."""
    return {path: allowed for field in schema for path, allowed in _nullable((field.name,), field, within=False)}


def _nullable(path: tuple[str, ...], field: pa.Field, *, within: bool) -> Iterator[tuple[tuple[str, ...], bool]]:
    kind, allowed = storage(field.type), within or field.nullable
    if pa.types.is_struct(kind):
        for member in kind:
            yield from _nullable((*path, member.name), member, within=allowed)
    elif is_list(kind):
        yield from _nullable(path, kind.value_field, within=False)
    else:
        yield path, allowed


def paths(schema: pa.Schema) -> set[tuple[str, ...]]:
    """The paths of everything in a schema."""
    return {path for field in schema for path, *_ in walk((field.name,), field.type, None)}


def pruned(kind: pa.DataType) -> pa.DataType | None:
    """The type without what cannot be read, for telling a parser what to look for; None when nothing is left."""
    if pa.types.is_struct(kind):
        members = [(member.name, pruned(member.type)) for member in kind]
        left = [pa.field(name, inner) for name, inner in members if inner is not None]
        return pa.struct(left) if left else None
    if is_list(kind):
        inner = None if is_list(kind.value_type) else pruned(kind.value_type)
        return None if inner is None else pa.list_(inner)
    if pa.types.is_null(kind):
        return pa.float64()
    return None if _unusable(kind) else kind


def _unambiguous(found: list[Leaf], excluded: dict[str, str]) -> list[Leaf]:
    """Leave out branches whose dotted names coincide (a column "a.b" beside a struct a with a member b)."""
    names = [leaf.branch.name for leaf in found]
    excluded.update({name: "several columns have this name" for name in names if names.count(name) > 1})
    return [leaf for leaf in found if leaf.branch.name not in excluded]


def merged(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    """The type that holds the values of both, or None: null gives way, integers to floating-point numbers, structs and lists member by member."""
    if first.equals(second):
        return first
    if pa.types.is_null(first) or pa.types.is_null(second):
        return second if pa.types.is_null(first) else first
    if pa.types.is_list(first) and pa.types.is_list(second):
        element = merged(first.value_type, second.value_type)
        return None if element is None else pa.list_(element)
    if pa.types.is_struct(first) and pa.types.is_struct(second):
        return pa.struct(list(merged_fields(list(first), list(second)).values()))
    if pa.types.is_integer(first) and pa.types.is_integer(second):
        return pa.int64()
    numbers = [pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in (first, second)]
    if all(numbers):
        return pa.float64()
    if all(pa.types.is_temporal(kind) or pa.types.is_string(kind) for kind in (first, second)):
        return pa.string()
    return None


def merged_fields(first: Sequence[pa.Field], second: Sequence[pa.Field]) -> dict[str, pa.Field]:
    """The fields of both in order of appearance; those whose types do not agree become MIXED."""
    out = {field.name: field for field in first}
    for field in second:
        kind = merged(out[field.name].type, field.type) if field.name in out else field.type
        out[field.name] = pa.field(field.name, MIXED if kind is None else kind)
    return out
