"""Checkpoints: one zip file, written aside and renamed, so that a kill at any time leaves the last whole one.

Members: `state.json` (position, history, best so far, state of Python's and NumPy's generators), `learner` (weights, optimiser and generators of the
framework, in its own safe form), `best` (weights of the best model so far, when there is one).
"""

from __future__ import annotations

import errno
import json
import os
import random
import time
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlaas.errors import DataError, ResourceError

FORMAT = 1
NAME = "checkpoint.zip"


@dataclass
class State:
    """Where a training stands.

    epoch, chunk: the next to be trained on. loss, events: sums of the running epoch. trained: events learnt from in all. seconds: time spent in
    training. since: events since the last validation (procedure chunks). best: loss, epoch and record count of the best model; waited: evaluations
    since then. stream: bytes of metrics.jsonl that belong to this state. finished: nothing is left to train.
    """

    fingerprint: dict[str, Any]
    epoch: int = 0
    chunk: int = 0
    loss: float = 0.0
    events: int = 0
    trained: int = 0
    since: int = 0
    seconds: float = 0.0
    best_loss: float | None = None
    best_epoch: int = 0
    waited: int = 0
    stream: int = 0
    finished: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Checkpoint:
    """A state, the learner's bytes and the best model's."""

    state: State
    learner: bytes
    best: bytes | None = None


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint aside, flush it to the disk and rename it into place. Raises ResourceError when the disk is full."""
    document = {"format": FORMAT, "state": asdict(checkpoint.state), "random": _generators()}
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as stream:
            with zipfile.ZipFile(stream, "w") as archive:
                archive.writestr("state.json", json.dumps(document))
                archive.writestr("learner", checkpoint.learner)
                if checkpoint.best is not None:
                    archive.writestr("best", checkpoint.best)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        raise ResourceError(f"the checkpoint {path} cannot be written: {'the disk is full' if full else error.strerror or error}") from error
    finally:
        aside.unlink(missing_ok=True)


def load(path: Path) -> Checkpoint | None:
    """Read a checkpoint and set Python's and NumPy's generators as they were; None when there is none. Raises DataError when it is damaged."""
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            document = json.loads(archive.read("state.json"))
            if document["format"] != FORMAT:
                raise DataError(f"the checkpoint {path} has format {document['format']}, this version reads {FORMAT}: remove it and train anew")
            best = archive.read("best") if "best" in archive.namelist() else None
            checkpoint = Checkpoint(State(**document["state"]), archive.read("learner"), best)
        _set_generators(document["random"])
    except (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError, EOFError) as error:
        raise DataError(f"the checkpoint {path} is damaged ({error}): remove it and train anew") from error
    return checkpoint


def _generators() -> dict[str, Any]:
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    version, internal, gauss = random.getstate()
    return {"numpy": [name, np.asarray(keys).tolist(), position, has_gauss, cached], "python": [version, list(internal), gauss]}


def _set_generators(document: dict[str, Any]) -> None:
    name, keys, position, has_gauss, cached = document["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), position, has_gauss, cached))
    version, internal, gauss = document["python"]
    random.setstate((version, tuple(internal), gauss))


class Pace:
    """Says when something is due that should happen at most once per `interval` seconds."""

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether the interval has passed since the last time that this said yes (or since `reset`)."""
        if time.monotonic() - self._last < self.interval:
            return False
        self.reset()
        return True

    def reset(self) -> None:
        """Begin the interval anew."""
        self._last = time.monotonic()
