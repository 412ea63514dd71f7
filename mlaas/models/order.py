"""The order in which compiled libraries are loaded into one process."""

from __future__ import annotations

import contextlib
import importlib
import sys
from importlib.util import find_spec

FIRST = ("triton", "XRootD")


def before_tensorflow() -> None:
    """Load what cannot be loaded after TensorFlow, where it is installed; call this before every import of TensorFlow or Keras.

    Triton (which torch loads with its optimisers) brings an LLVM that finds the options of TensorFlow's registered already, and aborts the process;
    XRootD's client, loaded for the first root:// file, is killed by a segmentation fault. The other way round nothing happens. Seen with
    TensorFlow 2.21, Triton 3.9 and XRootD 6.2; costs 0.4 s where both are installed, nothing elsewhere.
    """
    if "tensorflow" in sys.modules:
        return
    for name in FIRST:
        if name not in sys.modules and find_spec(name) is not None:
            with contextlib.suppress(ImportError):  # a broken library is no reason not to use TensorFlow
                importlib.import_module("XRootD.client" if name == "XRootD" else name)
