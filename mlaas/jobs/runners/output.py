"""A job's output on its way into log.txt: at most so many bytes, then one line that says so; the rest is read and dropped."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


class Log:
    """A log that grows to a limit, over all attempts of a job."""

    def __init__(self, path: Path, limit: int) -> None:
        """Open `path` to append to. Raises OSError (a link is refused)."""
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._fresh = True  # at the beginning of a line
        self._limit = limit
        self._left = limit - os.fstat(self._file).st_size

    @property
    def full(self) -> bool:
        """Whether nothing more is kept."""
        return self._left < 0

    def write(self, data: bytes) -> None:
        """Append what there is room for; a full disk loses output, never the job."""
        if self.full:
            return
        self._append(data[: self._left])
        self._left -= len(data)
        if self.full:
            self._left = -1
            self.note(f"the log is cut off here: more than {self._limit:,} bytes")

    def note(self, sentence: str) -> None:
        """Append a line of the service's own, also to a full log."""
        self._append((b"" if self._fresh else b"\n") + f"mlaas: {sentence}\n".encode())

    def _append(self, data: bytes) -> None:
        if data:
            self._fresh = data.endswith(b"\n")
        with suppress(OSError):
            while data:
                data = data[os.write(self._file, data) :]

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
