"""The process of one isolated model: it shuts itself in, loads the model and answers the workers on a socket that it was given.

python -m mlaas.inference.host            started by the keeper, which writes the task to its standard input
"""

from __future__ import annotations

import json
import os
import queue
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlaas.errors import DataError, MLaaSError
from mlaas.inference import confinement, frames, isolated
from mlaas.inference.frames import Message
from mlaas.models.bundle import read_bundle
from mlaas.models.sentences import short
from mlaas.models.tensors import Array, check_feed
from mlaas.sandbox.privileges import die_with

SEND_TIMEOUT = 5  # s


@dataclass(frozen=True, slots=True)
class Job:
    """One request and the connection that its answer goes to."""

    message: Message
    connection: socket.socket
    lock: threading.Lock

    def answer(self, header: dict[str, Any], tensors: dict[str, Array] | None = None) -> None:
        """Send an answer; a worker that has gone away, or does not take it, gets no more."""
        with self.lock:
            try:
                frames.send(self.connection, {"id": self.message.header.get("id"), **header}, tensors)
            except OSError:
                with suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)


def main() -> None:
    """Load one model and serve it until the keeper ends this process."""
    task = json.loads(sys.stdin.readline())
    die_with(task["keeper"])
    report = socket.socket(fileno=task["report"])
    try:
        loaded = _load(task)
        frames.send(report, {"loaded": True})
        description = isolated.describe(loaded)
    except MemoryError:
        frames.send(report, {"failed": "it needs more memory than a model may have"})
        return
    except Exception as error:
        frames.send(report, {"failed": short(error, Path(task["folder"]))})
        return
    frames.send(report, {"ready": description})
    if task["listen"] >= 0:
        Host(loaded, task["batch"]).serve(socket.socket(fileno=task["listen"]))


def _load(task: dict[str, Any]) -> isolated.Loaded:
    os.chdir(task["folder"])
    bundle = read_bundle(Path(), verify=task["verify"])
    limits = confinement.Limits(memory=task["memory"] + 2**30)  # beyond it the keeper ends the process; here allocations fail first
    confinement.confine(Path(), Path(task["scratch"]), parent=task["keeper"], user=task["user"], limits=limits, filters=task["sandbox"])
    return isolated.load(bundle, task["threads"])


class Host:
    """A loaded model and the requests for it. One prediction runs at a time; rows that wait meanwhile are predicted together."""

    def __init__(self, loaded: isolated.Loaded, batch: int) -> None:
        self._loaded = loaded
        self._batch = batch
        self._waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._next: Job | None = None

    def serve(self, listener: socket.socket) -> None:
        """Answer for ever. The predictions run in this thread, which loaded the model."""
        threading.Thread(target=self._accept, args=[listener], daemon=True).start()
        while True:
            jobs = list(self._gather())
            live = [job for job in jobs if not self._late(job)]
            if live:
                self._predict(live)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_TIMEOUT, 0))
            threading.Thread(target=self._read, args=[connection], daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        lock = threading.Lock()
        with suppress(OSError, DataError), connection:
            while (message := frames.receive(connection)) is not None:
                self._waiting.put(Job(message, connection, lock))

    def _gather(self) -> Iterator[Job]:
        """The next request, and with it those that wait and can be predicted in one go."""
        first = self._next or self._waiting.get()
        self._next = None
        yield first
        if not self._loaded.rows:
            return
        rows = _rows(first)
        while rows < self._batch:
            try:
                job = self._waiting.get_nowait()
            except queue.Empty:
                return
            rows += _rows(job)
            if rows > self._batch or set(job.message.tensors) != set(first.message.tensors):
                self._next = job
                return
            yield job

    def _late(self, job: Job) -> bool:
        late = time.monotonic() > float(job.message.header.get("until") or float("inf"))
        if late:
            job.answer({"error": "the model is busy: the request waited too long", "status": 503})
        return late

    def _predict(self, jobs: Sequence[Job]) -> None:
        good = [job for job in jobs if self._fits(job)]
        for job in good:
            job.answer({"started": True})
        if len(good) > 1:
            try:
                return self._together(good)
            except Exception:  # noqa: S110  one of them is to blame: each alone tells which
                pass
        for job in good:
            self._alone(job)

    def _fits(self, job: Job) -> bool:
        try:
            check_feed(self._loaded.model.record, job.message.tensors, job.message.header.get("outputs", ()))
        except MLaaSError as error:
            job.answer({"error": str(error), "status": 400})
            return False
        return True

    def _together(self, jobs: Sequence[Job]) -> None:
        feed = {name: np.concatenate([job.message.tensors[name] for job in jobs]) for name in jobs[0].message.tensors}
        found = self._loaded.model.predict(feed)
        ends = np.cumsum([_rows(job) for job in jobs])
        if any(len(array) != ends[-1] for array in found.values()):
            raise DataError("the model does not give an output per row")
        for job, end in zip(jobs, ends, strict=True):
            wanted = job.message.header.get("outputs") or found
            job.answer({"done": True}, {name: found[name][end - _rows(job) : end] for name in wanted})

    def _alone(self, job: Job) -> None:
        try:
            job.answer({"done": True}, self._loaded.model.predict(job.message.tensors, job.message.header.get("outputs", ())))
        except DataError as error:
            job.answer({"error": str(error), "status": 400})
        except MemoryError:
            job.answer({"error": "the model needs more memory for this than it may have", "status": 413})
        except Exception as error:
            job.answer({"error": f"the model failed: {short(error)}", "status": 500})


def _rows(job: Job) -> int:
    return min((len(array) for array in job.message.tensors.values() if array.ndim), default=1)


if __name__ == "__main__":
    main()
