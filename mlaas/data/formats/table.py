"""What the readers of tables have in common: names are checked, ranges cut to the file, errors turned into sentences."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

from mlaas.data.access import identity, redacted
from mlaas.data.columns import Columns
from mlaas.data.files import Branch
from mlaas.data.formats.types import Leaf
from mlaas.data.trouble import reading
from mlaas.errors import DataError, nearest

BATCH_BYTES = 16 << 20


class Table(ABC):
    """An `EventFile` over Arrow record batches; every call of `batches` reads with a handle of its own, so threads may share a table."""

    path: str
    branches: Mapping[str, Branch]
    excluded: Mapping[str, str]
    identity: str

    def __init__(self, path: str) -> None:
        self.path = path
        with reading(path):
            self.identity = identity(path)

    def _describe(self, leaves: Sequence[Leaf], excluded: dict[str, str]) -> None:
        self._leaves = {leaf.branch.name: leaf for leaf in leaves}
        self.branches = {name: leaf.branch for name, leaf in self._leaves.items()}
        self.excluded = excluded

    @property
    @abstractmethod
    def events(self) -> int:
        """Number of events."""

    @abstractmethod
    def _read(self, wanted: Sequence[Leaf], start: int, stop: int) -> Iterator[Columns]:
        """Batches that cover start..stop; `wanted` is not empty and the range not either."""

    def batches(self, names: Sequence[str], start: int = 0, stop: int | None = None) -> Iterator[Columns]:
        """Events start..stop in order, in batches of some MB; raises DataError for a name that is not a branch."""
        wanted = [self._leaf(name) for name in dict.fromkeys(names)]
        first = max(0, start)
        last = self.events if stop is None else min(stop, self.events)
        if first >= last:
            return
        if not wanted:
            yield Columns(last - first, {})
            return
        with reading(self.path):
            yield from (batch.only(names) for batch in self._read(wanted, first, last) if len(batch))

    def _leaf(self, name: str) -> Leaf:
        if name in self._leaves:
            return self._leaves[name]
        if name in self.excluded:
            raise DataError(f"{redacted(self.path)}: column {name!r} cannot be used: it {self.excluded[name]}")
        raise DataError(f"{redacted(self.path)} has no column {name!r}{nearest(name, self._leaves)}")

    def close(self) -> None:  # noqa: B027 - most tables hold nothing
        """Give back what the table holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
