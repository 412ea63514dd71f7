"""The dataset of a training: prepared files joined into chunks with labels, weights and splits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mlaas.data.chunks import SPLITS, Chunk, Split
from mlaas.data.columns import Columns
from mlaas.data.labels import label_name
from mlaas.data.layout import Bound, Layout, Mask, Matrix
from mlaas.data.selected import Selected
from mlaas.data.split import code, split_codes
from mlaas.errors import DataError

Task = Literal["classification", "regression"]
Batches = Callable[[bool], Iterator[Selected]]

GOLDEN = (math.sqrt(5) - 1) / 2
LARGE_BYTES = 64 << 20  # of a chunk's matrix: above it there is one buffer instead of two
SPARE_BYTES = 1 << 30  # of a buffer that is kept between passes


@dataclass(frozen=True)
class Part:
    """One file of a dataset.

    batches: gives its selected events in order, anew at each call; called with False when columns are not needed.
    label: the class index of all its events, or None when the events carry labels. weight: the file's factor. events: how many were selected.
    """

    path: str
    batches: Batches
    label: int | None
    weight: float
    events: int


@dataclass(frozen=True)
class Options:
    """How the parts become chunks; see `mlaas.workflow.Params` for each."""

    chunk_size: int = 1000
    shuffle: bool = False
    seed: int = 1
    fractions: tuple[float, float] = (0.15, 0.15)
    class_balance: bool = False
    padding: float = math.nan
    negative_weights: Literal["keep", "abs", "zero"] = "keep"


@dataclass(frozen=True)
class _Index:
    """What one look at labels and weights gives: events per part and split, sums of weights per class and split."""

    counts: npt.NDArray[np.int64]  # (parts, 3)
    sums: npt.NDArray[np.float64]  # (classes or 1, 3)
    absolute: npt.NDArray[np.float64]  # (classes or 1, 3)
    least: float
    most: float


class PreparedDataset:
    """The `Dataset` over prepared files.

    Every selected event belongs to one split and appears once in one chunk of it. Chunk k of K holds the k-th of K equal shares of every
    file's events, so that each chunk mixes the files in proportion to their sizes after cuts.
    """

    def __init__(self, parts: Sequence[Part], layout: Layout, task: Task, classes: Sequence[float | str], options: Options, key: str = "") -> None:
        self._parts = list(parts)
        self.key = key
        self._layout = layout
        self._values = list(classes)
        self._options = options
        self.task: Task = task
        self._spare: _Buffer | None = None
        if not layout.width:
            raise DataError("no features: every selected branch is empty in all events; choose other branches")

    @property
    def classes(self) -> list[str]:
        """The class labels in order of their index (empty for regression)."""
        return [label_name(value) for value in self._values]

    @property
    def width(self) -> int:
        """The number of matrix columns."""
        return self._layout.width

    @property
    def columns(self) -> list[str]:
        """The name of each matrix column."""
        return self._layout.columns

    @cached_property
    def events(self) -> dict[Split, int]:
        """The exact number of events in each split."""
        return {split: int(self._index.counts[:, number].sum()) for number, split in enumerate(SPLITS)}

    @property
    def weighted(self) -> bool:
        """Whether any weight that a chunk gives differs from 1."""
        return self._options.class_balance or self._index.least != self._index.most or self._index.least < 0

    @property
    def negative(self) -> bool:
        """Whether any weight is below 0."""
        return self._index.least < 0

    @cached_property
    def factors(self) -> npt.NDArray[np.float64]:
        """The factor per class from the user's weight to the one in a chunk, shape (classes,) (one factor for regression).

        The mean absolute weight in training is 1; with class balance every class has the same sum of weights there, negative ones taken as
        training takes them.
        """
        signed, absolute = self._index.sums[:, 0], self._index.absolute[:, 0]
        if not np.any(absolute):
            signed, absolute = self._index.sums.sum(axis=1), self._index.absolute.sum(axis=1)
        sums = {"keep": signed, "abs": absolute, "zero": (signed + absolute) / 2}[self._options.negative_weights]
        balance = np.ones(len(sums))
        if self._options.class_balance and self.task == "classification":
            if np.any(sums <= 0):
                worst = self.classes[int(np.argmin(sums))]
                raise DataError(f"params.class_balance: class {worst} has a sum of weights of {float(sums.min()):g} in training; it must be above 0")
            balance = sums.sum() / (len(sums) * sums)
        total = float((absolute * balance).sum())
        return balance * (max(1, self.events["train"]) / total if total > 0 else 1.0)

    @cached_property
    def sums(self) -> npt.NDArray[np.float64]:
        """The sum of the user's weights per class over all splits, shape (classes,)."""
        return np.asarray(self._index.sums.sum(axis=1))

    @cached_property
    def _index(self) -> _Index:
        classes = max(1, len(self._values))
        counts = np.zeros((len(self._parts), 3), np.int64)
        sums, absolute = np.zeros((classes, 3)), np.zeros((classes, 3))
        least, most = math.inf, -math.inf
        for number, part in enumerate(self._parts):
            for selected in part.batches(False):
                codes = self._codes(selected, number)
                weight = _weight(selected, part)
                y = self._targets(selected, part) if self.task == "classification" else np.zeros(len(selected), np.int64)
                cell = np.asarray(y, np.int64) * 3 + codes
                counts[number] += np.bincount(codes, minlength=3)
                sums += np.bincount(cell, weight, classes * 3).reshape(classes, 3)
                absolute += np.bincount(cell, np.abs(weight), classes * 3).reshape(classes, 3)
                least, most = min(least, float(weight.min())), max(most, float(weight.max()))
        return _Index(counts, sums, absolute, least, most)

    def _codes(self, selected: Selected, number: int) -> npt.NDArray[np.uint8]:
        return split_codes(selected.entry, number, self._options.seed, self._options.fractions)

    def _targets(self, selected: Selected, part: Part) -> npt.NDArray[np.int64] | npt.NDArray[np.float32]:
        """Class indices or regression targets of a batch."""
        if part.label is not None:
            return np.full(len(selected), part.label, np.int64)
        if selected.label is None:
            raise DataError(f"labels: {part.path} has no label")
        if self.task == "regression":
            return selected.label.astype(np.float32)
        known = np.array([float(value) for value in self._values])
        order = np.argsort(known)
        place = np.minimum(np.searchsorted(known[order], selected.label), len(known) - 1)
        index = order[place]
        wrong = np.flatnonzero(known[index] != selected.label)
        if len(wrong):
            value, entry = selected.label[wrong[0]], selected.entry[wrong[0]]
            raise DataError(
                f"labels: entry {entry} of {part.path} has the label {label_name(float(value))},"
                f" which is not one of the classes {', '.join(self.classes)}"
            )
        return np.asarray(index, np.int64)

    def chunks(self, split: Split, *, epoch: int = 0, start: int = 0, mask: bool = False) -> Iterator[Chunk]:
        """Chunks of one split, each event once; the next chunk is made (a large one: read) while the caller works on this one."""
        plan = self._quotas(split)
        if start >= len(plan):
            return
        cursors = [_Cursor(self, number, split, int(plan[:start, number].sum())) for number in range(len(self._parts))]
        rows = int(plan[start:].sum(axis=1).max())
        large = rows * self.width * 4 > LARGE_BYTES
        buffers = [self._buffer(rows, mask) for _ in range(1 if large or start + 1 == len(plan) else 2)]

        def ahead(k: int) -> Callable[[], Chunk]:
            """Begin chunk k: a small one is made whole, a large one read but not yet written (its buffer is in use)."""
            buffer = buffers[(k - start) % len(buffers)]
            if not large:
                return pool.submit(lambda: self._fill(self._collect(cursors, plan[k]), plan[k], buffer, epoch, k)).result
            segments = pool.submit(self._collect, cursors, plan[k])
            return lambda: self._fill(segments.result(), plan[k], buffer, epoch, k)

        with ThreadPoolExecutor(1, thread_name_prefix="chunks") as pool:
            pending = ahead(start)
            for k in range(start, len(plan)):
                chunk = pending()
                if k + 1 < len(plan):
                    pending = ahead(k + 1)
                yield chunk
        if large and buffers[0].nbytes <= SPARE_BYTES:
            self._spare = buffers[0]

    def _buffer(self, rows: int, mask: bool) -> _Buffer:
        """Memory for a chunk: that of an earlier pass if it fits, for fresh memory costs as much time as filling it."""
        spare, self._spare = self._spare, None
        if spare is not None and len(spare.x) >= rows and (spare.mask is not None) == mask:
            return spare
        return _Buffer(rows, self.width, mask)

    def raw(self, enough: int | None = None) -> Iterator[tuple[Columns, npt.NDArray[Any], npt.NDArray[np.float64]]]:
        """The selected events batch by batch as columns, with class index (or target) and the user's weight, both of shape (n,).

        enough: go on to the next file after about this many events of one whose events are all of one class.
        """
        for part in self._parts:
            given = 0
            for selected in part.batches(True):
                yield selected.columns, self._targets(selected, part), _weight(selected, part)
                given += len(selected)
                if enough is not None and given >= enough and part.label is not None:
                    break

    def _quotas(self, split: Split) -> npt.NDArray[np.int64]:
        """How many events each chunk takes from each part, shape (chunks, parts): the parts' shares of the chunks, rounded down or up.

        Each part's rounding starts elsewhere (multiples of the golden ratio), or chunks smaller than the number of files would hold an event of
        every file or none at all.
        """
        counts = self._index.counts[:, code(split)]
        total = int(counts.sum())
        size = self._options.chunk_size if self._options.chunk_size > 0 else max(1, total)
        number = math.ceil(total / size)
        shift = np.floor(number * (np.arange(len(counts)) * GOLDEN % 1)).astype(np.int64)
        quotas = np.diff((np.arange(number + 1)[:, None] * counts[None, :] + shift[None, :]) // max(1, number), axis=0)
        return np.asarray(quotas[quotas.sum(axis=1) > 0])

    @staticmethod
    def _collect(cursors: Sequence[_Cursor], quota: npt.NDArray[np.int64]) -> list[_Segment]:
        """Read the events of one chunk."""
        return [segment for cursor, events in zip(cursors, quota.tolist(), strict=True) for segment in cursor.take(events)]

    def _fill(self, segments: list[_Segment], quota: npt.NDArray[np.int64], buffer: _Buffer, epoch: int, k: int) -> Chunk:
        """Write the events of one chunk; the segments are given back to memory."""
        row = 0
        pad = 0.0 if math.isnan(self._options.padding) else self._options.padding
        for segment in segments:
            segment.bound.fill(buffer.x, buffer.mask, row, segment.rows, pad=pad, nan=0.0)
            stop = row + len(segment.rows)
            buffer.y[row:stop] = segment.y
            buffer.weight[row:stop] = segment.weight
            row = stop
        segments.clear()
        y = buffer.y[:row].astype(np.float32) if self.task == "regression" else buffer.y[:row].astype(np.int64)
        mask = None if buffer.mask is None else buffer.mask[:row]
        return Chunk(buffer.x[:row], y, buffer.weight[:row].copy(), mask, self._order(quota, epoch, k))

    def _order(self, quota: npt.NDArray[np.int64], epoch: int, k: int) -> npt.NDArray[np.int64]:
        """Shuffled from the seed, or interleaved so that every stretch of a chunk holds the files in proportion."""
        if self._options.shuffle:
            return np.random.default_rng([self._options.seed, epoch, k]).permutation(int(quota.sum()))
        places = np.concatenate([(np.arange(events) + 0.5) / max(1, events) for events in quota.tolist()])
        return np.argsort(places, kind="stable")


@dataclass(frozen=True, slots=True, eq=False)
class _Segment:
    """Some events of one batch, read but not yet written: rows of the batch, their targets and their weights, all of shape (n,)."""

    bound: Bound
    rows: npt.NDArray[np.int64]
    y: npt.NDArray[Any]
    weight: npt.NDArray[np.float64]


class _Buffer:
    """The memory of one chunk, used again and again."""

    def __init__(self, rows: int, width: int, mask: bool) -> None:
        self.x: Matrix = np.empty((rows, width), np.float32)
        self.mask: Mask | None = np.empty((rows, width), np.bool_) if mask else None
        self.y = np.empty(rows, np.float64)
        self.weight = np.empty(rows, np.float32)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.x.nbytes + (0 if self.mask is None else self.mask.nbytes)


class _Cursor:
    """Where one part's events of one split stand."""

    def __init__(self, dataset: PreparedDataset, number: int, split: Split, skip: int) -> None:
        self._dataset = dataset
        self._part = dataset._parts[number]
        self._number = number
        self._code = code(split)
        self._skip = skip
        self._batches = self._part.batches(True)
        self._rows: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._bound: Bound | None = None

    def _next(self) -> None:
        """Go to the next batch that holds events of the split."""
        while not len(self._rows):
            selected = next(self._batches, None)
            if selected is None:
                raise DataError(f"{self._part.path} holds fewer events than before; has it changed while it was read?")
            rows = np.flatnonzero(self._dataset._codes(selected, self._number) == self._code)
            passed = min(self._skip, len(rows))
            self._skip -= passed
            self._rows = rows[passed:]
            if len(self._rows):
                self._bound = self._dataset._layout.bind(selected.columns)
                self._y = self._dataset._targets(selected, self._part)
                index = self._y if self._dataset.task == "classification" else np.zeros(len(selected), np.int64)
                self._weight = _weight(selected, self._part) * self._dataset.factors[index]

    def take(self, events: int) -> Iterator[_Segment]:
        """The next `events` events of the split."""
        while events > 0:
            self._next()
            rows, self._rows = self._rows[:events], self._rows[events:]
            if self._bound is None:
                raise RuntimeError("rows without a batch")
            yield _Segment(self._bound, rows, self._y[rows], self._weight[rows])
            events -= len(rows)


def _weight(selected: Selected, part: Part) -> npt.NDArray[np.float64]:
    weight = np.ones(len(selected)) if selected.weight is None else selected.weight
    return weight * part.weight
