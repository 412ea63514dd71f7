"""The figures of a training, while it runs and afterwards.

They come from files that the job writes: whatever is in them, reading ends and takes little memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from mlaas.beneath import read_beneath

STREAM = "metrics.jsonl"
FINAL = "metrics.json"
PLACES = ("result", "work/.model.run", "work/model")
"""Where the stream is: after the job, while it trains, and between the two."""
LIMIT = 8 * 10**6  # bytes
MOST_EPOCHS = 10_000
MOST_KEYS = 100
LONGEST = 200  # characters of a key or a text
LARGEST = 2**53


@dataclass(frozen=True)
class Figures:
    """epochs: the lines of the metrics stream that were validated (see `mlaas.training.stream`), in order. final: figures per split."""

    epochs: tuple[dict[str, Any], ...] = ()
    final: dict[str, dict[str, Any]] = field(default_factory=dict)


def read(folder: Path) -> Figures:
    """The figures in a job's folder; whatever is missing or damaged is left out."""
    return Figures(tuple(_epochs(folder)), _final(folder))


def _epochs(folder: Path) -> Iterator[dict[str, Any]]:
    streams = (_bytes(folder, f"{place}/{STREAM}") for place in PLACES)
    data = next((stream for stream in streams if stream is not None), b"")
    records = (_plain(_parsed(line)) for line in data.splitlines())
    yield from islice((record for record in records if record and record.get("kind") != "interval"), MOST_EPOCHS)


def _final(folder: Path) -> dict[str, dict[str, Any]]:
    document = _parsed(_bytes(folder, f"result/{FINAL}") or b"")
    splits = document.get("metrics") if isinstance(document, dict) else None
    if not isinstance(splits, dict):
        return {}
    return {name: _plain(figures) for name, figures in list(splits.items())[:MOST_KEYS] if len(name) <= LONGEST and isinstance(figures, dict)}


def _bytes(folder: Path, path: str) -> bytes | None:
    try:
        return read_beneath(folder, path, LIMIT)
    except OSError:  # not there, a link, or its writer has taken the permission to read
        return None


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _plain(value: Any) -> dict[str, Any]:
    """The numbers, short texts and truth values of an object, in a form that JSON has."""
    if not isinstance(value, dict):
        return {}
    pairs = ((name, _scalar(item)) for name, item in list(value.items())[:MOST_KEYS] if len(name) <= LONGEST)
    return {name: item for name, item in pairs if item is not ...}


def _scalar(item: Any) -> Any:
    match item:
        case None | bool():
            return item
        case int():
            return item if abs(item) <= LARGEST else ...
        case float():
            return item if math.isfinite(item) else None
        case str() if len(item) <= LONGEST and "\0" not in item and item.isprintable():
            return item
    return ...
