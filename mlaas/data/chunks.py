"""Chunks: what training sees. A chunk holds events of every file in proportion to the files' sizes after cuts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Some thousands of events as a matrix.

    x: shape (n, width), float32, finite: normalised to the specs, padding and NaN already replaced (0 unless `params.nan` says otherwise).
    y: shape (n,); int64 class index (classification) or float32 target (regression).
    weight: shape (n,), float32; 1 for all events when no weights were asked for; may be negative.
    mask: shape (n, width), bool, true where x is padding; None unless the model asks for masks.
    order: shape (n,), int64; the order in which `batches` walks the rows: proportional between files, or shuffled.

    The arrays are valid until the dataset is asked for another chunk, of whatever split: their memory is used again. Copy what must live longer.
    """

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64] | npt.NDArray[np.float32]
    weight: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_] | None
    order: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.x)

    def batches(self, size: int) -> Iterator[Chunk]:
        """Walk the events in `order`, `size` at a time (the last batch may be shorter); every event once."""
        for start in range(0, len(self), size):
            rows = self.order[start : start + size]
            mask = None if self.mask is None else self.mask[rows]
            yield Chunk(self.x[rows], self.y[rows], self.weight[rows], mask, np.arange(len(rows)))


class Dataset(Protocol):
    """What training needs to know of the data; `mlaas.data` implements it over handled data or over the files themselves.

    task: "classification" or "regression".
    classes: the class labels in order of their index (empty for regression).
    width: the number of columns of `Chunk.x`.
    columns: the name of each column, e.g. "met" or "jet_pt[3]".
    events: the exact number of events in each split.
    weighted: whether any weight differs from 1.
    negative: whether any weight is below 0.
    key: tells the events apart from those of other files or other cuts; a training goes on from a checkpoint only with the same.
    """

    @property
    def task(self) -> Literal["classification", "regression"]: ...
    @property
    def classes(self) -> list[str]: ...
    @property
    def width(self) -> int: ...
    @property
    def columns(self) -> list[str]: ...
    @property
    def events(self) -> dict[Split, int]: ...
    @property
    def weighted(self) -> bool: ...
    @property
    def negative(self) -> bool: ...
    @property
    def key(self) -> str: ...

    def chunks(self, split: Split, *, epoch: int = 0, start: int = 0, mask: bool = False) -> Iterator[Chunk]:
        """Chunks of one split, each event exactly once; `epoch` varies the shuffling, `start` skips that many chunks (resume)."""
        ...
