"""Files from the service: written aside, gone on with after a broken connection, and renamed when they are whole."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import httpx

from mlaas.client.errors import ServiceError
from mlaas.client.transport import Connection
from mlaas.console import SILENT, Progress, Stage
from mlaas.errors import ResourceError, UserError

MB = 10**6
TRIES = 6


def fetch(connection: Connection, path: tuple[str, ...], target: Path, *, progress: Progress = SILENT) -> Path:
    """Get a file below /api/v1 and return its path; a connection that breaks is taken up again where it broke.

    What was begun stays aside as `.<name>.part` when the service cannot be reached any more, and the next call goes on from there.
    Raises ServiceError, UserError (the file cannot be written), ResourceError (the disk is full).
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return _Download(connection, path, target).run(progress)
    except OSError as error:
        kind = ResourceError if error.errno in {errno.ENOSPC, errno.EDQUOT} else UserError
        raise kind(f"{target} cannot be written: {error.strerror}") from None


class _Download:
    def __init__(self, connection: Connection, path: tuple[str, ...], target: Path) -> None:
        self._connection, self._path, self._target = connection, path, target
        self._part = target.with_name(f".{target.name}.part")
        self._mark = target.with_name(f".{target.name}.etag")
        self._told = 0

    def run(self, progress: Progress) -> Path:
        with progress.stage(f"download {self._target.name}", None, "MB") as stage:
            for attempt in range(TRIES):
                try:
                    self._attempt(stage)
                    break
                except ServiceError as error:
                    if error.status or attempt == TRIES - 1:
                        self._forget(keep=not error.status)
                        raise
                    time.sleep(0.25 * 2**attempt)
                except OSError:
                    self._forget(keep=False)
                    raise
        self._part.replace(self._target)
        self._forget(keep=False)
        return self._target

    def _forget(self, *, keep: bool) -> None:
        """Remove what lies aside, unless it can be gone on with."""
        if not keep or not self._mark.exists():
            self._part.unlink(missing_ok=True)
            self._mark.unlink(missing_ok=True)

    def _attempt(self, stage: Stage) -> None:
        have = self._part.stat().st_size if self._mark.exists() and self._part.exists() else 0
        headers = {"Range": f"bytes={have}-", "If-Range": self._mark.read_text()} if have else {}
        try:
            with self._connection.send("GET", "api", "v1", *self._path, headers={"Accept-Encoding": "identity", **headers}) as answer:
                self._receive(answer, stage)
        except ServiceError as error:
            if error.status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                self._mark.unlink(missing_ok=True)
                raise ServiceError("what was downloaded before does not fit any more; it is fetched anew") from None
            raise

    def _receive(self, answer: httpx.Response, stage: Stage) -> None:
        going_on = answer.status_code == httpx.codes.PARTIAL_CONTENT
        tag = answer.headers.get("ETag", "")
        if tag and not tag.startswith("W/"):
            self._mark.write_text(tag)
        else:
            self._mark.unlink(missing_ok=True)
        with self._part.open("ab" if going_on else "wb") as file:
            for piece in answer.iter_bytes():
                file.write(piece)
                self._tell(stage, file.tell())

    def _tell(self, stage: Stage, done: int) -> None:
        if done // MB > self._told:
            stage.advance(done // MB - self._told)
            self._told = done // MB
