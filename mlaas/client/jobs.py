"""Jobs: submit, list, follow, cancel."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from mlaas.client.documents import Event, File, Job, Metrics, read
from mlaas.client.download import fetch
from mlaas.client.errors import ServiceError
from mlaas.client.paging import pages
from mlaas.client.streams import Message, messages
from mlaas.client.transport import READ_SECONDS, Connection
from mlaas.console import SILENT, Progress

PATIENCE = 300.0  # s without a word from the service before following gives up
SLOWEST = 10.0


class Jobs:
    """The caller's jobs. A job is named by its id or its process name ("ttH_1"). Every method raises ServiceError."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def submit(self, request: Mapping[str, Any], *, key: str = "") -> Job:
        """Submit a training or a prediction (the document of POST /api/v1/jobs).

        key: the same key submits the same job once, however often it is sent; unless given, each call has its own, so that a retry doubles nothing.
        """
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        return read(Job, self._connection.json("POST", "api", "v1", "jobs", json=dict(request), headers=headers, repeat=True))

    def list(
        self, *, states: Iterable[str] = (), kind: str = "", model: str = "", workspace: str = "", tenant: str = "", limit: int | None = None
    ) -> Iterator[Job]:
        """The jobs that fit, newest first. tenant: for administrators."""
        params = {"state": list(states), "kind": kind, "model": model, "workspace": workspace, "tenant": tenant}
        return pages(self._connection, Job, "jobs", limit=limit, params={name: value for name, value in params.items() if value})

    def get(self, job: str) -> Job:
        """One job."""
        return read(Job, self._connection.json("GET", "api", "v1", "jobs", job))

    def cancel(self, job: str) -> Job:
        """Ask a job to end; a job that has ended stays as it is."""
        return read(Job, self._connection.json("POST", "api", "v1", "jobs", job, "cancel", repeat=True))

    def delete(self, job: str) -> None:
        """Delete a job that has ended, with its log and outputs; the models that it made stay."""
        self._connection.json("DELETE", "api", "v1", "jobs", job)

    def metrics(self, job: str) -> Metrics:
        """The curves so far and the final figures."""
        return read(Metrics, self._connection.json("GET", "api", "v1", "jobs", job, "metrics"))

    def log(self, job: str, *, tail: int | None = None) -> Iterator[str]:
        """The log so far, in pieces; `tail`: its last lines only."""
        params = {} if tail is None else {"tail": tail}
        with self._connection.send("GET", "api", "v1", "jobs", job, "logs", params=params) as answer:
            answer.encoding = "utf-8"
            yield from answer.iter_text()

    def outputs(self, job: str) -> Iterator[File]:
        """The files that a job left: scores, figures."""
        return pages(self._connection, File, "jobs", job, "output")

    def download(self, job: str, path: str, target: Path | str, *, progress: Progress = SILENT) -> Path:
        """Get one of the files that a job left."""
        return fetch(self._connection, ("jobs", job, "output", *path.split("/")), Path(target), progress=progress)

    def follow(self, job: str, *, patience: float = PATIENCE) -> Iterator[Event]:
        """What happens to a job, from its first line on, until it has ended.

        A connection that breaks is taken up again after the last line that came; ServiceError after `patience` seconds without a word.
        """
        return _Following(self._connection, job, patience).events()

    def wait(self, job: str) -> Job:
        """Wait until a job has ended."""
        for _event in self.follow(job):
            pass
        return self.get(job)


class _Following:
    def __init__(self, connection: Connection, job: str, patience: float) -> None:
        self._connection, self._job, self._patience = connection, job, patience
        self._last, self._pause, self._metrics = "", 1.0, 0
        self._heard = time.monotonic()

    def events(self) -> Iterator[Event]:
        while True:
            try:
                for message in self._stream():
                    yield _event(message)
                    if message.kind == "end":
                        return
            except ServiceError as error:
                if error.status and error.status < httpx.codes.INTERNAL_SERVER_ERROR and error.status != httpx.codes.TOO_MANY_REQUESTS:
                    raise
                if time.monotonic() - self._heard > self._patience:
                    raise
            time.sleep(self._pause)

    def _stream(self) -> Iterator[Message]:
        """One connection; the log goes on where it broke, but the curves come from their beginning and are given once."""
        metrics = 0
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": self._last} if self._last else {})
        timeout = httpx.Timeout(READ_SECONDS, connect=SLOWEST)
        with self._connection.send("GET", "api", "v1", "jobs", self._job, "events", headers=headers, timeout=timeout) as answer:
            for message in messages(self._listening(answer)):
                self._last = message.id or self._last
                self._pause = min(message.retry, SLOWEST) if message.retry is not None else self._pause
                metrics += message.kind == "metric"
                if message.kind != "metric" or metrics > self._metrics:
                    yield message
                self._metrics = max(self._metrics, metrics)

    def _listening(self, answer: httpx.Response) -> Iterator[bytes]:
        for piece in answer.iter_bytes():
            self._heard = time.monotonic()
            yield piece


def _event(message: Message) -> Event:
    if message.kind == "log":
        return Event("log", text=message.data)
    try:
        found = json.loads(message.data)
    except ValueError:
        found = {}
    return Event(message.kind, data=found if isinstance(found, dict) else {})
