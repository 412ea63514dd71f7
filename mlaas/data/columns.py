"""Columns of events in memory: what every reader returns and every later stage takes.

A flat branch is a NumPy array with one value per event. A jagged branch (a list per event) is a `Jagged`: all values one after another and
the offsets between events. Branches that share a counter (`jet_pt`, `jet_eta`, ...) share one offsets array, the very same object,
so that later stages compute what depends on the counter once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Jagged:
    """A list of values per event.

    content: shape (m,), any bool, integer or floating dtype in native byte order.
    offsets: shape (n + 1,), int64, not decreasing; event i holds content[offsets[i]:offsets[i + 1]].
        offsets[0] may be above 0 and offsets[-1] below m: a slice of events keeps the whole content.
    """

    content: Array
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """The length of each list, shape (n,), int64."""
        return np.diff(self.offsets)

    @property
    def flat(self) -> Array:
        """The values of these events only, shape (offsets[-1] - offsets[0],)."""
        return self.content[self.offsets[0] : self.offsets[-1]]

    def lists(self) -> list[list[Any]]:
        """The values as nested Python lists (for small data)."""
        return [self.content[a:b].tolist() for a, b in zip(self.offsets[:-1], self.offsets[1:], strict=True)]


Column = Union[Array, Jagged]


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """A batch of `n` events: columns by branch name, in the order in which they were asked for."""

    n: int
    data: Mapping[str, Column]

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, name: str) -> Column:
        return self.data[name]

    def __contains__(self, name: object) -> bool:
        return name in self.data

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def slice(self, start: int, stop: int) -> Columns:
        """Events start..stop (stop not included); no value is copied."""
        shared: dict[int, npt.NDArray[np.int64]] = {}
        out: dict[str, Column] = {}
        for name, column in self.data.items():
            if isinstance(column, Jagged):
                key = id(column.offsets)
                if key not in shared:
                    shared[key] = column.offsets[start : stop + 1]
                out[name] = Jagged(column.content, shared[key])
            else:
                out[name] = column[start:stop]
        return Columns(max(0, min(stop, self.n) - start), out)

    def select(self, keep: npt.NDArray[np.bool_]) -> Columns:
        """The events where `keep`, shape (n,), is true; shared offsets stay shared. Returns itself when all are kept."""
        kept = int(np.count_nonzero(keep))
        if kept == self.n:
            return self
        from mlaas.data.selection import Selection

        selection = Selection(keep, kept)
        return Columns(kept, {name: selection.of(column) for name, column in self.data.items()})

    def rebased(self) -> Columns:
        """The same events with every offsets array starting at 0 and no content outside it; values are views, shared offsets stay shared.

        Returns itself when that is so already.
        """
        if all(not isinstance(column, Jagged) or _based(column) for column in self.data.values()):
            return self
        shared: dict[int, npt.NDArray[np.int64]] = {}
        out: dict[str, Column] = {}
        for name, column in self.data.items():
            if isinstance(column, Jagged):
                offsets = column.offsets
                if id(offsets) not in shared:
                    shared[id(offsets)] = offsets - offsets[0] if offsets[0] else offsets
                out[name] = Jagged(column.flat, shared[id(offsets)])
            else:
                out[name] = column
        return Columns(self.n, out)

    def only(self, names: Sequence[str]) -> Columns:
        """The same events with these columns only, in this order."""
        return Columns(self.n, {name: self.data[name] for name in names})

    @property
    def nbytes(self) -> int:
        """Bytes held by these events (shared offsets counted once)."""
        seen: set[int] = set()
        total = 0
        for column in self.data.values():
            if isinstance(column, Jagged):
                total += column.flat.nbytes
                if id(column.offsets) not in seen:
                    seen.add(id(column.offsets))
                    total += column.offsets.nbytes
            else:
                total += column.nbytes
        return total


def _based(column: Jagged) -> bool:
    return bool(column.offsets[0] == 0 and column.offsets[-1] == len(column.content))


def concatenate(batches: Sequence[Columns]) -> Columns:
    """Join batches with the same columns, one after another; shared offsets stay shared."""
    if len(batches) == 1:
        return batches[0]
    total = sum(batch.n for batch in batches)
    shared: dict[tuple[int, ...], npt.NDArray[np.int64]] = {}
    out: dict[str, Column] = {}
    for name in batches[0].data:
        columns = [batch.data[name] for batch in batches]
        jagged = [column for column in columns if isinstance(column, Jagged)]
        if jagged:
            key = tuple(id(column.offsets) for column in jagged)
            if key not in shared:
                offsets = np.zeros(total + 1, np.int64)
                np.cumsum(np.concatenate([column.counts for column in jagged]), out=offsets[1:])
                shared[key] = offsets
            out[name] = Jagged(np.concatenate([column.flat for column in jagged]), shared[key])
        else:
            out[name] = np.concatenate([np.asarray(column) for column in columns])
    return Columns(total, out)
