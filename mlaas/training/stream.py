"""The metrics stream: `metrics.jsonl`, one JSON object per line, flushed line by line.

Keys of a line: time (UTC), kind, epoch, chunk, events, loss, val_loss, val_auc, val_accuracy (val_mse, val_r2 in a regression), events_per_s,
seconds. Kinds: "epoch" (a pass is complete and validated), "chunk" (procedure chunks: validated after some chunks), "round" (a boosting round),
"fit" (an estimator that fits once), "interval" (training goes on; no validation). `epoch` counts from 1; `events` are those learnt from so far;
`seconds` is time spent in training.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from mlaas.errors import ResourceError
from mlaas.training.metrics import finite


class MetricsStream:
    """Appends lines to a file; opened at a place, it drops what is behind it (lines of work that a kill has undone)."""

    def __init__(self, path: Path, place: int = 0) -> None:
        try:
            self._file: IO[bytes] = path.open("r+b" if path.exists() else "w+b")
            size = os.fstat(self._file.fileno()).st_size
            self._file.truncate(min(place, size))
            self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise ResourceError(f"{path} cannot be written: {error.strerror or error}") from error

    def write(self, record: dict[str, Any]) -> dict[str, Any]:
        """Write a record with the time added and figures that are not finite as null; returns it as written."""
        stamped: dict[str, Any] = {"time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        stamped |= {name: finite(value) if isinstance(value, float) else value for name, value in record.items()}
        try:
            self._file.write(json.dumps(stamped).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise ResourceError(f"the metrics stream cannot be written: {error.strerror or error}") from error
        return stamped

    @property
    def place(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
