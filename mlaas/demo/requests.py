"""The bodies of the demo's requests: the same new events as raw columns, as a row of TFaaS, and as a tensor of the Open Inference Protocol."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlaas.data.columns import Jagged
from mlaas.data.features import Features
from mlaas.demo.events import draw

SEED = 3
EVENTS = 3


def write_requests(folder: Path, bundle: Path, model: str) -> None:
    """Write events.json, row.json and tensor.json for a model whose bundle is here; the row is the first of the events."""
    features = Features.from_json(json.loads((bundle / "features.json").read_text()))
    columns = draw(EVENTS, "signal", seed=SEED).only(list(features.branches))
    matrix, _ = features.vectorise(columns)
    _write(folder / "events.json", {name: _plain(column) for name, column in columns.data.items()})
    _write(folder / "row.json", {"model": model, "values": matrix[0].tolist()})
    tensor = {"name": "x", "shape": list(matrix.shape), "datatype": "FP32", "data": matrix.ravel().tolist()}
    _write(folder / "tensor.json", {"inputs": [tensor]})


def _plain(column: Any) -> Any:
    return column.lists() if isinstance(column, Jagged) else column.tolist()


def _write(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document))
