"""A container's output on its way from the engine into log.txt: nothing lost, nothing twice, whenever the worker dies."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlaas.jobs.runners.output import Log
from mlaas.jobs.runners.taskfolder import read_small, write_whole

if TYPE_CHECKING:
    from docker.models.containers import Container

STAMP = 30  # characters of "2026-11-21T13:30:00.123456789Z"


@dataclass(frozen=True)
class Progress:
    """How far the output was taken: the time stamp of the last piece, how many pieces with that stamp, and the size of log.txt then."""

    stamp: str = ""
    pieces: int = 0
    size: int = 0


class Transfer:
    """Takes over what is new; each call goes on where the last one, perhaps of another worker, stopped."""

    def __init__(self, log: Path, note: Path, limit: int) -> None:
        """note: the file that keeps how far it got. limit: of log.txt, bytes."""
        self._log = log
        self._note = note
        self._limit = limit

    def take(self, container: Container) -> bool:
        """Append the output since the last call; whether there was any. Raises OSError, docker's and requests' errors."""
        before = progress = self._progress()
        log = Log(self._log, self._limit)
        try:
            if self._log.stat().st_size > progress.size:  # written, but not noted: the worker died between the two
                os.truncate(self._log, progress.size)
                log.close()
                log = Log(self._log, self._limit)
            if not log.full:
                progress = self._append(log, container, progress)
        finally:
            log.close()
        self._keep(progress)
        return (progress.stamp, progress.pieces) != (before.stamp, before.pieces)

    def say(self, sentence: str) -> None:
        """Append a line of the service's own."""
        progress = self._progress()
        log = Log(self._log, self._limit)
        log.note(sentence)
        log.close()
        self._keep(progress)

    def _progress(self) -> Progress:
        content = read_small(self._note)
        if content is not None:
            return Progress(**json.loads(content))
        start = Progress(size=self._log.stat().st_size if self._log.exists() else 0)
        write_whole(self._note, json.dumps(asdict(start)))
        return start

    def _keep(self, progress: Progress) -> None:
        progress = Progress(progress.stamp, progress.pieces, self._log.stat().st_size)
        if progress != self._progress():
            write_whole(self._note, json.dumps(asdict(progress)), durable=False)

    def _append(self, log: Log, container: Container, progress: Progress) -> Progress:
        since = _second(progress.stamp)
        stream = container.logs(stream=True, follow=False, timestamps=True, **({"since": since} if since else {}))
        for stamp, data, pieces in new_pieces(stream, progress):  # to its end also when the log is full: docker's client leaves a socket open else
            log.write(data)
            progress = Progress(stamp, pieces)
        return progress


def new_pieces(pieces: Iterable[bytes], progress: Progress) -> Iterator[tuple[str, bytes, int]]:
    """The pieces after those that were taken: time stamp, output, and how many with that stamp there have been, this one included.

    The engine stamps each piece with nanoseconds; the pieces of a very long line share one stamp.
    """
    last, count = progress.stamp, 0
    for piece in pieces:
        stamp, data = piece[:STAMP].decode("ascii", errors="replace"), piece[STAMP + 1 :]
        if stamp < progress.stamp:
            continue
        last, count = stamp, count + 1 if stamp == last else 1
        if stamp > progress.stamp or count > progress.pieces:
            yield stamp, data, count


def _second(stamp: str) -> int:
    """The second that a time stamp lies in, since 1970; 0 for none."""
    return int(datetime.datetime.fromisoformat(stamp[:19] + "+00:00").timestamp()) if stamp else 0
