"""The split into train, validation and test: by event, reproducible, independent of chunks, workers and cuts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mlaas.data.chunks import SPLITS, Split

_MASK = (1 << 64) - 1


def split_codes(entry: npt.NDArray[np.int64], file: int, seed: int, fractions: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """The split of each event as an index into SPLITS, shape (n,).

    A hash of (seed, file number, entry) is compared with the fractions of validation and test: the SplitMix64 finaliser,
    G. L. Steele, D. Lea and C. H. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    start = _mix_int((seed * 0x9E3779B97F4A7C15 + file * 0xD1342543DE82EF95 + 0x2545F4914F6CDD1D) & _MASK)
    z = entry.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(start)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    uniform = ((z ^ (z >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    validation, test = fractions
    return np.where(uniform < validation, 1, np.where(uniform < validation + test, 2, 0)).astype(np.uint8)


def _mix_int(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
    return z ^ (z >> 31)


def code(split: Split) -> int:
    """The index of a split in SPLITS."""
    return SPLITS.index(split)
