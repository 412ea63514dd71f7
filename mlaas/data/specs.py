"""Specs: mergeable statistics of every branch, computed in the one pass that reads the files.

Two files' (or two workers') specs merge into the specs of both, in any order. NaN and infinities are counted but do not enter the range;
a branch without any finite value has none.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from mlaas.data import kernels
from mlaas.data.access import without_secrets
from mlaas.data.columns import Array, Columns, Jagged
from mlaas.data.files import Kind
from mlaas.errors import DataError, nearest


@dataclass(slots=True)
class BranchSpecs:
    """Statistics of one branch over the selected events.

    low, high: smallest and largest finite value (inf, -inf when there is none). longest: the longest list (1 when flat).
    values, nans, infinities: how many values there are, and how many of them are not finite.
    """

    kind: Kind
    low: float = math.inf
    high: float = -math.inf
    longest: int = 0
    values: int = 0
    nans: int = 0
    infinities: int = 0

    def merge(self, other: BranchSpecs) -> None:
        """Add what another part of the data holds."""
        self.low = min(self.low, other.low)
        self.high = max(self.high, other.high)
        self.longest = max(self.longest, other.longest)
        self.values += other.values
        self.nans += other.nans
        self.infinities += other.infinities

    @property
    def empty(self) -> bool:
        """Whether there is no finite value."""
        return self.low > self.high


@dataclass(slots=True)
class Specs:
    """Specs of all branches, and the number of events that they were computed from."""

    branches: dict[str, BranchSpecs] = field(default_factory=dict)
    events: int = 0

    def update(self, columns: Columns) -> None:
        """Add a batch of events."""
        self.events += columns.n
        longest: dict[int, int] = {}
        for name, column in columns.data.items():
            if isinstance(column, Jagged):
                key = id(column.offsets)
                if key not in longest:
                    longest[key] = int(column.counts.max(initial=0))
                found = self.branches.get(name) or self.branches.setdefault(name, BranchSpecs("jagged"))
                found.longest = max(found.longest, longest[key])
                _extend(found, column.flat)
            else:
                found = self.branches.get(name) or self.branches.setdefault(name, BranchSpecs("flat", longest=1))
                _extend(found, column)

    def merge(self, other: Specs) -> Self:
        """Add the specs of another part of the data; returns itself."""
        self.events += other.events
        for name, theirs in other.branches.items():
            mine = self.branches.setdefault(name, BranchSpecs(theirs.kind))
            mine.merge(theirs)
        return self

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON (infinite ranges as null)."""
        branches = {name: {key: _finite(value) for key, value in asdict(found).items()} for name, found in self.branches.items()}
        return {"events": self.events, "branches": branches}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Specs:
        """The inverse of `to_json`."""
        branches = {}
        for name, found in document["branches"].items():
            low = math.inf if found["low"] is None else found["low"]
            high = -math.inf if found["high"] is None else found["high"]
            branches[name] = BranchSpecs(**{**found, "low": low, "high": high})
        return cls(branches, document["events"])


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and math.isinf(value) else value


def _extend(found: BranchSpecs, values: Array) -> None:
    found.values += len(values)
    if not len(values):
        return
    if values.dtype.kind in "biu":
        low, high, nans, infinities = float(values.min()), float(values.max()), 0, 0
    else:
        low, high, nans, infinities = kernels.extent(kernels.typed(values))
    found.low = min(found.low, low)
    found.high = max(found.high, high)
    found.nans += nans
    found.infinities += infinities


def published(specs: Specs, files: Iterable[tuple[str, int]]) -> dict[str, Any]:
    """The specs in the published form: jdim, minv, maxv, fkeys, jkeys, nans, events.

    files: (path, events) per file; credentials in an address are left out. `nans` is, as in the original, the normalised value of 0 of each
    branch. A branch without any finite value has null for its range.
    """
    flat = sorted(name for name, found in specs.branches.items() if found.kind == "flat")
    jagged = sorted(name for name, found in specs.branches.items() if found.kind == "jagged")
    ranges = {name: specs.branches[name] for name in flat + jagged}
    return {
        "jdim": {name: specs.branches[name].longest for name in jagged},
        "minv": {name: _finite(found.low) for name, found in ranges.items()},
        "maxv": {name: _finite(found.high) for name, found in ranges.items()},
        "fkeys": flat,
        "jkeys": jagged,
        "nans": {name: _zero(found) for name, found in ranges.items()},
        "events": {**{without_secrets(path): events for path, events in files}, "total": specs.events},
    }


def _zero(found: BranchSpecs) -> float:
    """Where 0 lies after normalisation."""
    half = 0.0 if found.empty else found.high / 2 - found.low / 2  # the whole may overflow
    return -found.low / 2 / half if half >= sys.float_info.min else 0.0


def override(specs: Specs, document: Mapping[str, Any]) -> Specs:
    """Take ranges and list lengths from a published specs file, where a user gives one.

    Raises DataError when the file lacks a branch, is malformed, or allows shorter lists than the data hold.
    """
    out = {}
    for name, found in specs.branches.items():
        try:
            low, high = document["minv"][name], document["maxv"][name]
            length = float(document["jdim"][name]) if found.kind == "jagged" else 1.0
            longest = int(length)
            low = math.inf if low is None else float(low)
            high = -math.inf if high is None else float(high)
        except KeyError as error:
            known = document.get("minv", {}) if isinstance(document.get("minv"), Mapping) else {}
            raise DataError(f"specs: the given specs lack {error}{nearest(name, known)}; they belong to other files, so leave out --specs") from None
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"specs: the entry of {name!r} is not a number ({error})") from None
        if not (low <= high and math.isfinite(low) and math.isfinite(high)) and (low, high) != (math.inf, -math.inf):
            raise DataError(f"specs: the range of {name!r} is {low:g} to {high:g}; give finite numbers with minv <= maxv, or null for both")
        if longest != length:
            raise DataError(f"specs: jdim of {name!r} is {length:g}; give a whole number")
        if longest < found.longest:
            raise DataError(
                f"specs: jdim of {name!r} is {longest}, but the files hold lists of {found.longest}; leave out --specs to compute them anew"
            )
        out[name] = BranchSpecs(found.kind, low, high, longest, found.values, found.nans, found.infinities)
    return Specs(out, specs.events)


__all__ = ["BranchSpecs", "Specs", "override", "published"]
