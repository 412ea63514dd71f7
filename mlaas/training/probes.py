"""Inputs that show what kind of output a model has."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def far_inputs(rows: int, width: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Inputs and masks that tell a bounded output from another one: half of them at 30 times, half at 3000 times the usual range."""
    generator = np.random.default_rng(0)
    x = generator.normal(scale=30.0, size=(rows, width))
    x[rows // 2 :] *= 100
    return x.astype(np.float32), generator.integers(0, 2, (rows, width)).astype(np.float32)
