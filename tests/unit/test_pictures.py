"""Images as tensors."""

from __future__ import annotations

import numpy as np
import pytest

from mlaas.inference import pictures
from mlaas.inference.routes.images import answer_of
from mlaas.models.manifest import TensorRecord, TensorsRecord
from mlaas.web.problem import Problem
from tests.support.foreign import png


def record(shape: list[int], dtype: str = "FP32", channels: int = 0) -> TensorsRecord:
    return TensorsRecord(form="saved_model", inputs=[TensorRecord(name="x", dtype=dtype, shape=shape)], channels=channels)


@pytest.mark.parametrize(
    ("shape", "channels", "expected"),
    [
        ([-1, 28, 28, 1], 0, (1, 28, 28, 1)),
        ([-1, 28, 30, 3], 0, (1, 28, 30, 3)),
        ([-1, 3, 28, 30], 0, (1, 3, 28, 30)),
        ([1, 1, 8, 9], 1, (1, 1, 8, 9)),
        ([8, 9, 4], 0, (8, 9, 4)),
        ([-1, -1, -1, 3], 0, (1, 10, 20, 3)),
        ([-1, -1, -1, -1], 1, (1, 10, 20, 1)),
    ],
)
def test_shapes(shape, channels, expected):
    target = pictures.target_of(record(shape, channels=channels), "m")
    tensor = pictures.tensor_of(png(np.full((10, 20, 3), 128, np.uint8)), target)
    assert tensor.shape == expected
    assert tensor.dtype == np.float32
    if expected[-1] != 4:
        assert np.allclose(tensor, 128, atol=1)


def test_pixels_keep_their_place_and_colour():
    pixels = np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    last = pictures.tensor_of(png(pixels), pictures.target_of(record([-1, 5, 7, 3], "UINT8"), "m"))
    first = pictures.tensor_of(png(pixels), pictures.target_of(record([-1, 3, 5, 7], "UINT8"), "m"))
    assert (last[0] == pixels).all()
    assert (first[0].transpose(1, 2, 0) == pixels).all()


@pytest.mark.parametrize("shape", [[-1, 4], [-1, 28, 28, 2], [-1, 28, 28, 7]])
def test_models_that_take_no_image(shape):
    with pytest.raises(Problem, match="image"):
        pictures.target_of(record(shape), "m")


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", png(np.zeros((9, 9), np.uint8))[:45], png(np.zeros((9, 9), np.uint8), "BMP"), b"%!PS-Adobe-3.0 EPSF"]
)
def test_what_is_no_image(data):
    with pytest.raises(Problem, match="neither PNG nor JPEG"):
        pictures.tensor_of(data, pictures.target_of(record([-1, 9, 9, 1]), "m"))


def test_the_published_answer():
    scores = np.array([[0.1, 0.5, 0.05, 0.2, 0.1, 0.05]], np.float32)
    found = answer_of(scores, list("abcdef"), "f.png")
    assert [entry["label"] for entry in found["labels"]] == ["b", "d", "a", "e", "c"]
    assert answer_of(scores, [], "f.png") == pytest.approx(scores[0].tolist())
