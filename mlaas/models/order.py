"""The order in which frameworks are loaded into one process."""

from __future__ import annotations

import contextlib
import importlib
import sys
from importlib.util import find_spec


def triton_before_tensorflow() -> None:
    """Load Triton, where it is installed, before TensorFlow; call this before every import of TensorFlow or Keras.

    Both bring LLVM. Triton (which torch loads with its optimisers) finds the options of TensorFlow's LLVM registered already and aborts the
    process; the other way round nothing happens. Seen with TensorFlow 2.21 and Triton 3.9; costs 0.3 s where torch is installed with CUDA, nothing
    elsewhere.
    """
    if "tensorflow" not in sys.modules and "triton" not in sys.modules and find_spec("triton") is not None:
        with contextlib.suppress(ImportError):  # a broken Triton is no reason not to use TensorFlow
            importlib.import_module("triton")
