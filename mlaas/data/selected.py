"""Selection: from a batch as read to the events and columns that training uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlaas.data.columns import Columns, Jagged
from mlaas.data.expressions import Expression
from mlaas.data.preproc import Plan
from mlaas.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class Selected:
    """Selected events of one file.

    columns: the feature columns. entry: shape (n,), int64, where each event stands in its file. label: shape (n,), float64, or None when the file
    has one label. weight: shape (n,), float64, without the file's own factor, or None when all are 1.
    """

    columns: Columns
    entry: npt.NDArray[np.int64]
    label: npt.NDArray[np.float64] | None
    weight: npt.NDArray[np.float64] | None

    def __len__(self) -> int:
        return len(self.entry)


@dataclass(frozen=True)
class Selection:
    """What to read, and what to keep of it: cuts are applied, and events of weight 0 are left out."""

    plan: Plan
    label: str | None
    weight: Expression | None
    new: frozenset[str] = frozenset()

    @property
    def read(self) -> list[str]:
        """The branches to read."""
        extra = ([self.label] if self.label else []) + (sorted(self.weight.names) if self.weight else [])
        return list(dict.fromkeys([*self.plan.read, *(name for name in extra if name not in self.new)]))

    def apply(self, columns: Columns, first: int, path: str) -> Selected:
        """Select from a batch whose first event is entry `first` of the file; `path` is for messages."""
        everything = self.plan.define(columns)
        keep = self.plan.keep(everything)
        entry = np.arange(first, first + columns.n, dtype=np.int64)
        weight = self._weight(everything, keep, first, path)
        if weight is not None:
            keep = keep & (weight != 0)
        label = self._label(everything, keep, first, path)
        out = everything.only(self.plan.outputs).select(keep)
        if out.n == columns.n:
            return Selected(out, entry, label, weight)
        return Selected(out, entry[keep], None if label is None else label[keep], None if weight is None else weight[keep])

    def _weight(self, columns: Columns, keep: npt.NDArray[np.bool_], first: int, path: str) -> npt.NDArray[np.float64] | None:
        if self.weight is None:
            return None
        values = self.weight.evaluate(columns)
        if isinstance(values, Jagged):
            raise DataError(f"params.weight: {self.weight.text!r} gives a list per event; it must give one number")
        weight = np.broadcast_to(np.asarray(values, np.float64), (columns.n,))
        bad = np.flatnonzero(keep & ~np.isfinite(weight))
        if len(bad):
            raise DataError(f"params.weight: {self.weight.text!r} is {weight[bad[0]]} in entry {first + bad[0]} of {path}; weights must be finite")
        return weight

    def _label(self, columns: Columns, keep: npt.NDArray[np.bool_], first: int, path: str) -> npt.NDArray[np.float64] | None:
        if self.label is None:
            return None
        label = np.asarray(columns[self.label], np.float64)
        bad = np.flatnonzero(keep & ~np.isfinite(label))
        if len(bad):
            raise DataError(f"labels: branch {self.label!r} is {label[bad[0]]} in entry {first + bad[0]} of {path}; labels must be finite numbers")
        return label


def check_label(name: str, columns: Mapping[str, str]) -> None:
    """The label branch must be flat; `columns` gives the kinds by name."""
    if columns[name] != "flat":
        raise DataError(f"labels: branch {name!r} holds a list per event; a label must be one number per event")
