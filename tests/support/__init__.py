"""What tests of several parts share: a dataset in memory, with the protocol of the real one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mlaas.data.chunks import SPLITS, Chunk, Split


@dataclass
class ArrayDataset:
    """Arrays as a `mlaas.data.chunks.Dataset`.

    x: shape (n, width). y: shape (n,), class index or target. weight, mask: as in `Chunk`. Events are dealt to train, validation and test by
    `fractions` after a shuffle with `seed`. Chunks reuse their memory, as the real ones may, so that code which keeps a chunk is found out.
    """

    x: npt.NDArray[np.float32]
    y: npt.NDArray[Any]
    weight: npt.NDArray[np.float32] | None = None
    mask: npt.NDArray[np.bool_] | None = None
    task: Literal["classification", "regression"] = "classification"
    classes: list[str] = field(default_factory=lambda: ["background", "signal"])
    chunk_size: int = 1000
    shuffle: bool = False
    seed: int = 1
    fractions: tuple[float, float] = (0.15, 0.15)
    key: str = ""

    def __post_init__(self) -> None:
        order = np.random.default_rng(self.seed).permutation(len(self.x))
        held = [int(len(order) * part) for part in self.fractions]
        train, validation, test = np.split(order, [len(order) - sum(held), len(order) - held[1]])
        self.rows: dict[Split, npt.NDArray[np.int64]] = {"train": train, "validation": validation, "test": test}
        if self.task == "regression":
            self.classes = []

    @property
    def width(self) -> int:
        return self.x.shape[1]

    @property
    def columns(self) -> list[str]:
        return [f"column_{index}" for index in range(self.width)]

    @property
    def events(self) -> dict[Split, int]:
        return {split: len(self.rows[split]) for split in SPLITS}

    @property
    def weighted(self) -> bool:
        return self.weight is not None and bool((self.weight != 1).any())

    @property
    def negative(self) -> bool:
        return self.weight is not None and bool((self.weight < 0).any())

    def part(self, split: Split) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any], npt.NDArray[np.float32]]:
        """x, y and weight of a split, whole."""
        rows = self.rows[split]
        weight = np.ones(len(self.x), np.float32) if self.weight is None else self.weight
        return self.x[rows], self.y[rows], weight[rows]

    def chunks(self, split: Split, *, epoch: int = 0, start: int = 0, mask: bool = False) -> Iterator[Chunk]:
        x, y, weight = self.part(split)
        kind = np.int64 if self.task == "classification" else np.float32
        room = np.empty((self.chunk_size, self.width), np.float32)
        masks = np.zeros((self.chunk_size, self.width), bool)
        for index, begin in enumerate(range(0, len(x), self.chunk_size)):
            if index < start:
                continue
            rows = slice(begin, begin + self.chunk_size)
            n = len(x[rows])
            room[:n] = x[rows]
            if self.mask is not None:
                masks[:n] = self.mask[self.rows[split]][rows]
            order = np.random.default_rng([self.seed, epoch, index]).permutation(n) if self.shuffle else np.arange(n)
            yield Chunk(room[:n], y[rows].astype(kind), weight[rows].astype(np.float32), masks[:n] if mask else None, order)
            room.fill(np.nan)


def blobs(
    n: int = 4000, width: int = 6, classes: int = 2, seed: int = 0, distance: float = 0.25
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """An easy classification: normal clouds around 0.5, shifted by `distance` in one column per class. Returns x (n, width), y (n,)."""
    generator = np.random.default_rng(seed)
    y = generator.integers(0, classes, n)
    x = generator.normal(0.5, 0.2, (n, width))
    x[np.arange(n), y] += distance
    return x.astype(np.float32), y


def line(n: int = 4000, width: int = 4, seed: int = 0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """An easy regression: y = sum of the columns with growing factors, plus noise. Returns x (n, width), y (n,)."""
    generator = np.random.default_rng(seed)
    x = generator.random((n, width)).astype(np.float32)
    return x, (x @ np.arange(1, width + 1, dtype=np.float32) + generator.normal(0, 0.05, n)).astype(np.float32)
