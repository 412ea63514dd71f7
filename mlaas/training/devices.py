"""Device and seeds, set before the user's model makes its weights."""

from __future__ import annotations

import os
import random
import sys
import warnings
from collections.abc import Collection
from typing import Literal

import numpy as np

from mlaas.console import hushed
from mlaas.errors import ResourceError
from mlaas.models.order import before_tensorflow

Device = Literal["auto", "cpu", "gpu"]


def prepare(device: Device, imports: Collection[str]) -> None:
    """Set up the frameworks that model.py imports for a device.

    TensorFlow is told which GPUs to see and to take their memory as it needs it. Raises ResourceError when "gpu" is asked for and there is none.
    """
    if {"keras", "tensorflow"} & set(imports):
        os.environ.setdefault("KERAS_BACKEND", "tensorflow")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        before_tensorflow()
        try:
            _tensorflow(device)
        except ModuleNotFoundError:
            return  # model.py's own import says it
    if {"torch", "fastai"} & set(imports):
        try:
            torch_device(device)
        except ModuleNotFoundError:
            return


def _tensorflow(device: Device) -> None:
    with hushed():
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
    if device == "gpu" and not gpus:
        raise ResourceError("params.device is gpu, but TensorFlow sees no GPU on this machine; use auto or cpu")
    try:
        if device == "cpu":
            tf.config.set_visible_devices([], "GPU")
        for gpu in gpus if device != "cpu" else []:
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError:
        pass  # the GPUs are in use already: an earlier model of this process set them


def torch_device(device: Device) -> str:
    """The torch device for a setting: "cuda" or "cpu". Raises ResourceError when "gpu" is asked for and there is none."""
    import torch

    if device == "cpu":
        return "cpu"
    with warnings.catch_warnings():
        # said on machines with a part of a driver; there is no GPU then, which is all that counts
        warnings.filterwarnings("ignore", message="CUDA initialization", category=UserWarning)
        available = torch.cuda.is_available()
    if available:
        return "cuda"
    if device == "gpu":
        raise ResourceError("params.device is gpu, but PyTorch sees no GPU on this machine; use auto or cpu")
    return "cpu"


def seed(value: int) -> None:
    """Seed Python, NumPy and every framework that is loaded."""
    small = value % 2**32
    random.seed(small)
    np.random.seed(small)
    if "torch" in sys.modules:
        import torch

        torch.manual_seed(value)
    if "keras" in sys.modules:
        import keras

        keras.utils.set_random_seed(small)
