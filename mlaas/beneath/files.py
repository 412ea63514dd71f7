"""Opening and listing."""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlaas.beneath.folders import FOLDER, NO_FILE, enter, names_in, status

DEPTH = 64
"""Folders below each other that are looked into; what lies deeper is neither listed nor can it make a walk run out of descriptors."""

# a FIFO must not make the opener wait, a terminal not become ours
_PLAIN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_UNTOLD = {"Cc", "Cs", "Zl", "Zp"}


class NotPlainError(FileNotFoundError):
    """There is something, but it is not a plain file reached without links; for whoever asked it is not there."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A plain file below a folder: its path relative to it ("a/b.txt"), size in bytes, time of its last change (seconds since 1970)."""

    path: str
    size: int
    mtime: float


def open_beneath(root: Path, relative: str, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
    """Open the plain file `relative` ("a/b.txt") below `root` and return its descriptor; with O_DIRECTORY a folder ("" is the root itself).

    mode: of a file that O_CREAT makes. Raises FileNotFoundError when there is none, and NotPlainError (a FileNotFoundError) for links, special files,
    and paths that are absolute, leave the folder or are not normal ("a//b", "./a"). Any other OSError is trouble of this machine.
    """
    parts = _parts(relative)
    folder = bool(flags & os.O_DIRECTORY)
    if not parts and not folder:
        raise NotPlainError(errno.ENOENT, "not a plain file", relative)
    with _folder(root, parts if folder else parts[:-1], relative) as parent:
        if folder:
            return os.dup(parent)
        with _as_missing(relative):
            found = os.open(parts[-1], flags | _PLAIN, mode, dir_fd=parent)
    return _plain(found, relative)


def read_beneath(root: Path, relative: str, limit: int) -> bytes:
    """The first `limit` bytes of a plain file below `root`. Raises as `open_beneath`."""
    with os.fdopen(open_beneath(root, relative), "rb") as file:
        return file.read(limit)


def walk_beneath(root: Path, relative: str = "") -> Iterator[Entry]:
    """The plain files below a folder, in order of their paths: no links, no special files, at most DEPTH folders down.

    Names that are not text (UTF-8 without control characters) are left out: nobody could ask for them. A folder that goes away meanwhile is
    empty; raises FileNotFoundError when `relative` itself is not there.
    """
    top = open_beneath(root, relative, os.O_DIRECTORY)
    yield from _walk(top, "", DEPTH)


def is_text(name: str) -> bool:
    """Whether a file's name can be told to people: valid UTF-8 without control characters and line ends."""
    return not any(unicodedata.category(character) in _UNTOLD for character in name)


def _parts(relative: str) -> list[str]:
    parts = relative.split("/") if relative else []
    if any(part in {"", ".", ".."} for part in parts) or "\0" in relative:
        raise NotPlainError(errno.ENOENT, "not a path below the folder", relative)
    return parts


@contextmanager
def _as_missing(relative: str) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeEncodeError) as error:
        if isinstance(error, OSError) and error.errno not in NO_FILE:
            raise
        raise NotPlainError(errno.ENOENT, "not a plain file", relative) from error


@contextmanager
def _folder(root: Path, parts: list[str], relative: str) -> Iterator[int]:
    """A descriptor of the folder `parts` below `root`."""
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            with _as_missing(relative):
                below = os.open(part, FOLDER, dir_fd=at)
            os.close(at)
            at = below
        yield at
    finally:
        os.close(at)


def _plain(descriptor: int, relative: str) -> int:
    """The descriptor if it is that of a plain file, now without O_NONBLOCK."""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotPlainError(errno.ENOENT, "not a plain file", relative)
        os.set_blocking(descriptor, True)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _walk(folder: int, prefix: str, depth: int) -> Iterator[Entry]:
    try:
        for name in names_in(folder):
            found = status(name, folder) if is_text(name) else None
            if found is None:
                continue
            if stat.S_ISREG(found.st_mode):
                yield Entry(prefix + name, found.st_size, found.st_mtime)
            elif stat.S_ISDIR(found.st_mode) and depth and (below := enter(name, folder)) is not None:
                yield from _walk(below, f"{prefix}{name}/", depth - 1)
    finally:
        os.close(folder)
