"""The layout of the feature matrix, and the one function that fills it: training and prediction both come through here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mlaas.data import kernels
from mlaas.data.columns import Array, Columns, Jagged
from mlaas.data.files import Kind
from mlaas.data.specs import BranchSpecs, Specs
from mlaas.errors import DataError

Matrix = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

BLOCK_BYTES = 1 << 20  # rows written at a time: about half of a core's L2 cache


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one branch goes in the matrix: `width` columns; values become (v - low) / (high - low).

    low and high are equal for a constant branch, which is kept as it is, and both 0 with width 0 for a list that is always empty.
    """

    name: str
    kind: Kind
    width: int
    low: float
    high: float


@dataclass(frozen=True)
class Layout:
    """Flat branches sorted by name, then jagged branches sorted by name, each as wide as its longest list."""

    slots: tuple[Slot, ...]

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """The first matrix column of each slot, and the width at the end."""
        starts = np.zeros(len(self.slots) + 1, np.int64)
        np.cumsum([slot.width for slot in self.slots], out=starts[1:])
        return starts

    @property
    def width(self) -> int:
        """The number of matrix columns."""
        return int(self.starts[-1])

    @cached_property
    def columns(self) -> list[str]:
        """The name of each matrix column: "met", "jet_pt[0]", ..."""
        return [
            slot.name if slot.kind == "flat" else f"{slot.name}[{index}]"
            for slot in self.slots
            for index in range(slot.width)
        ]  # fmt: skip

    @cached_property
    def scales(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Offset, upper end and factor of each slot; a constant branch has offset 0 and factor 1."""
        low = np.array([slot.low for slot in self.slots], np.float64)
        high = np.array([slot.high for slot in self.slots], np.float64)
        half = high * 0.5 - low * 0.5  # high - low may overflow
        constant = ~(half >= np.finfo(np.float64).tiny)  # smaller: the factor would overflow
        scale = np.where(constant, 1.0, 0.5 / np.where(constant, 1.0, half))
        return np.where(constant, 0.0, low), high, scale

    def bind(self, columns: Columns) -> Bound:
        """Prepare a batch for filling; raises DataError when a branch is missing or of the wrong kind."""
        return Bound(self, columns)


class Bound:
    """A batch ready to be written into matrices, whole or some rows at a time."""

    def __init__(self, layout: Layout, columns: Columns) -> None:
        self.layout = layout
        self.n = columns.n
        self._arrays: list[Array] = []
        joined: list[npt.NDArray[np.int64]] = []
        known: dict[int, int] = {}
        which = []
        for slot in layout.slots:
            column = columns.data.get(slot.name)
            if column is None:
                raise DataError(f"branch {slot.name!r} is missing")
            if isinstance(column, Jagged) != (slot.kind == "jagged"):
                raise DataError(f"branch {slot.name!r} must be {slot.kind}")
            if isinstance(column, Jagged):
                key = id(column.offsets)
                if key not in known:
                    known[key] = len(joined)
                    joined.append(column.offsets)
                which.append(known[key])
                self._arrays.append(kernels.typed(column.content))
            else:
                which.append(-1)
                self._arrays.append(kernels.typed(column))
        self._bases = np.zeros(len(joined) + 1, np.int64)
        np.cumsum([len(offsets) for offsets in joined], out=self._bases[1:])
        self._offsets = np.concatenate(joined) if joined else np.zeros(1, np.int64)
        self._which = np.array(which, np.int64)
        self._addresses = np.array([array.ctypes.data for array in self._arrays], np.uintp)
        self._lengths = np.array([len(array) for array in self._arrays], np.int64)
        self._codes = np.array([kernels.CODES[array.dtype] for array in self._arrays], np.int64)

    def fill(
        self, x: Matrix, mask: Mask | None, row: int, events: npt.NDArray[np.int64] | None = None, *, pad: float = math.nan, nan: float = math.nan
    ) -> int:
        """Write events (all, or those with the given indices) into rows `row`... of x; returns how many rows were written.

        x: shape (rows, width), float32, C order. mask: the same shape, bool, or None. pad: what padding becomes; nan: what NaN becomes.
        """
        events = np.arange(self.n) if events is None else events
        width = self.layout.width
        if not x.flags.c_contiguous or x.shape[1] != width or row + len(events) > len(x):
            raise ValueError(f"the matrix must be C-contiguous with {width} columns and room for {len(events)} rows from row {row} on")
        if not width:
            return len(events)
        low, high, scale = self.layout.scales
        block = max(16, BLOCK_BYTES // (4 * width))
        kernels.scatter(
            self._addresses, self._lengths, self._codes, kernels.EXAMPLES, self._which, self._offsets, self._bases,
            self.layout.starts, self.layout_widths, low, high, scale,
            x.reshape(-1), _NO_MASK if mask is None else mask.reshape(-1), mask is not None, width,
            events, row, float(pad), float(nan), block,
        )  # fmt: skip
        return len(events)

    @property
    def layout_widths(self) -> npt.NDArray[np.int64]:
        """The width of each slot."""
        return np.diff(self.layout.starts)


_NO_MASK: Mask = np.empty(0, np.bool_)


def make_layout(specs: Specs, names: Sequence[str], normalise: Literal["minmax", "none"] = "minmax") -> Layout:
    """The layout for these branches with the ranges of the specs."""
    chosen = {name: specs.branches[name] for name in names}
    flat = sorted(name for name, found in chosen.items() if found.kind == "flat")
    jagged = sorted(name for name, found in chosen.items() if found.kind == "jagged")
    return Layout(tuple(_slot(name, chosen[name], normalise) for name in flat + jagged))


def _slot(name: str, found: BranchSpecs, normalise: str) -> Slot:
    low, high = (0.0, 0.0) if found.empty or normalise == "none" else (found.low, found.high)
    return Slot(name, found.kind, 1 if found.kind == "flat" else found.longest, low, high)


def layout_to_json(layout: Layout) -> list[dict[str, Any]]:
    """The slots as JSON."""
    return [{"name": slot.name, "kind": slot.kind, "width": slot.width, "low": slot.low, "high": slot.high} for slot in layout.slots]


def layout_from_json(slots: Sequence[Mapping[str, Any]]) -> Layout:
    """The inverse of `layout_to_json`."""
    return Layout(tuple(Slot(slot["name"], slot["kind"], int(slot["width"]), float(slot["low"]), float(slot["high"])) for slot in slots))
