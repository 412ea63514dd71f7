"""What a file of events offers to the stages after it, whatever its format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, Self

import numpy as np

from mlaas.data.columns import Columns

Kind = Literal["flat", "jagged"]


@dataclass(frozen=True, slots=True)
class Branch:
    """A branch (or column) that can be a feature.

    dtype: native-endian bool, integer or floating dtype of the values.
    kind: "flat" (one value per event) or "jagged" (a list per event).
    counter: what the branch's lengths depend on; branches with the same counter have the same lengths; "" when flat or unknown.
    """

    name: str
    dtype: np.dtype[np.generic]
    kind: Kind
    counter: str = ""


class EventFile(Protocol):
    """An open file of events.

    path: as the user gave it (after the redirector). branches: usable ones in the file's order. excluded: names of the others
    and why they cannot be features. identity: changes when the content changes (ROOT: UUID and size; others: size and time or checksum).
    """

    path: str
    branches: Mapping[str, Branch]
    excluded: Mapping[str, str]
    identity: str

    @property
    def events(self) -> int:
        """Number of entries; formats without an index count them once."""
        ...

    def batches(self, names: Sequence[str], start: int = 0, stop: int | None = None) -> Iterator[Columns]:
        """Entries start..stop in order, as batches of a size that bounds memory (some MB to some tens of MB)."""
        ...

    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
