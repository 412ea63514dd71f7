"""What may come out of an archive, and what is raised when more would."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO

from mlaas.errors import UserError


class ArchiveError(UserError):
    """An archive is damaged or not safe to unpack."""

    status = 422
    field = "file"


class TooLargeError(ArchiveError):
    """An archive holds more than is allowed."""

    status = 413


@dataclass(frozen=True)
class Limits:
    """The most that may come out of an archive: entries (files and folders), bytes; `free`: bytes that must stay free on the disk.

    why: said behind the number of bytes when there are more, e.g. "which is what you have left".
    """

    files: int
    size: int
    free: int = 0
    why: str = "which is not allowed"


@dataclass(frozen=True)
class Member:
    """An entry of an archive; `file` is None for a folder."""

    name: str
    file: IO[bytes] | None


def too_many(limits: Limits, what: str) -> TooLargeError:
    """The error of too many entries."""
    return TooLargeError(f"{what} holds more than {limits.files} files, which is not allowed")


def too_big(limits: Limits, what: str) -> TooLargeError:
    """The error of too many bytes."""
    return TooLargeError(f"{what} holds more than {limits.size} bytes when unpacked, {limits.why}")
