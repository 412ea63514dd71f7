"""What a process for the occasion found out about an ONNX graph, kept beside the running service so that it is measured once."""

from __future__ import annotations

import hashlib
import json
import math
import os
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from mlaas.models.bundle import Bundle
from mlaas.models.manifest import MANIFEST

FAST = {"1": 5e-3, "64": 5e-3, "1024": 0.16}
"""Seconds for rows: what the event loop of a worker can spare. What grows faster than the rows is not for it."""
MEMORY = 2**29
"""Bytes that a graph may take inside a worker, beside its file."""
FORMAT = 2  # of the records
MOST = 2000
MAX_BYTES = 2**20


def is_fast(record: dict[str, Any]) -> bool:
    """Whether a graph may run in the event loop of a worker: plain, and fast and small for a few rows and for many."""
    seconds = record.get("seconds", {})
    if not record.get("plain") or set(seconds) != set(FAST) or record.get("memory", math.inf) > MEMORY:
        return False
    return all(seconds[rows] <= most for rows, most in FAST.items())


def place(folder: Path, bundle: Bundle) -> Path:
    """The file of a bundle's record: by its manifest, which has the digests of all else, and by what runs it."""
    digest = hashlib.sha256((bundle.path / MANIFEST).read_bytes())
    digest.update(f"{FORMAT} {metadata.version('onnxruntime')} {metadata.version('mlaas')} {os.cpu_count()}".encode())
    return folder / "probes" / f"{digest.hexdigest()}.json"


def read(path: Path) -> dict[str, Any] | None:
    """The record, if there is one."""
    with suppress(OSError, ValueError):
        if path.stat().st_size <= MAX_BYTES:
            found = json.loads(path.read_bytes())
            return found if isinstance(found, dict) else None
    return None


def write(path: Path, record: dict[str, Any]) -> None:
    """Keep a record; that it cannot be kept is no fault, it is then measured again."""
    aside = path.with_suffix(f".tmp-{os.urandom(4).hex()}")
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        aside.write_text(json.dumps(record))
        aside.replace(path)
        for old in sorted(path.parent.glob("*.json"), key=lambda entry: entry.stat().st_mtime)[:-MOST]:
            old.unlink(missing_ok=True)
