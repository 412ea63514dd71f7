"""Images as tensors: decoded with limits, brought to the size and the channels that a model takes."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlaas.models.manifest import TensorRecord, TensorsRecord
from mlaas.models.tensors import DTYPES, Array
from mlaas.web.problem import Problem

FORMATS = ("PNG", "JPEG")
PIXELS = 40_000_000
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True, slots=True)
class Target:
    """The input that takes the image. height, width: in pixels, None where the model takes any. first: channels before rows and columns."""

    name: str
    dtype: str
    batch: bool
    height: int | None
    width: int | None
    channels: int
    first: bool


def target_of(record: TensorsRecord, model: str) -> Target:
    """The input of a model that takes an image: (batch,) height, width, channels, or channels first. Raises Problem when it takes none."""
    found = [
        tensor for tensor in record.inputs if len(tensor.shape) in (3, 4) and tensor.dtype in ("FP32", "FP16", "FP64", "UINT8", "INT32", "INT64")
    ]
    if len(record.inputs) != 1 or not found:
        raise Problem(400, f"the model {model!r} does not take one image", field="model")
    return _target(found[0], record.channels, model)


def _target(tensor: TensorRecord, channels: int, model: str) -> Target:
    batch = len(tensor.shape) == 4
    shape = tensor.shape[1:] if batch else tensor.shape
    known = {channels} if channels else set(MODES)
    first = shape[2] not in known and shape[0] in known
    number = shape[0] if first else shape[2]
    number = channels or 3 if number == -1 else number
    if number not in known:
        raise Problem(400, f"the model {model!r} takes {tensor.shape}, which is no image of 1, 3 or 4 channels", field="model")
    height, width = shape[1:] if first else shape[:2]
    return Target(tensor.name, tensor.dtype, batch, _size(height), _size(width), number, first)


def tensor_of(data: bytes, target: Target) -> Array:
    """The tensor of an image in the file formats PNG or JPEG: pixel values 0 to 255. Raises Problem 400, 413."""
    pixels = _pixels(data, target)
    array: Array = pixels.reshape(*pixels.shape[:2], target.channels)
    if target.first:
        array = array.transpose(2, 0, 1)
    array = np.ascontiguousarray(array).astype(DTYPES[target.dtype])
    return array[None] if target.batch else array


def _pixels(data: bytes, target: Target) -> npt.NDArray[np.uint8]:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is the one that counts
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
        if picture.width * picture.height > PIXELS:
            raise Problem(413, f"the image has more than {PIXELS} pixels", field="image")
        plain = picture.convert(MODES[target.channels])
        if target.height is not None and target.width is not None and plain.size != (target.width, target.height):
            plain = plain.resize((target.width, target.height), Image.Resampling.BILINEAR)
        return np.asarray(plain, np.uint8)
    except Problem:
        raise
    except Image.DecompressionBombError:
        raise Problem(413, f"the image has more than {PIXELS} pixels", field="image") from None
    except Exception:  # the decoders raise whatever they like about damaged files
        raise Problem(400, "the image is neither PNG nor JPEG, or it is damaged", field="image") from None


def _size(size: int) -> int | None:
    return size if size > 0 else None
