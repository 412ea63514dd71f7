"""Files below a folder that jobs or users write to: nothing there is trusted, so no link is followed and nothing but plain files is opened.

Every component of a path is opened by itself, relative to the folder before it and without following links (openat, O_NOFOLLOW), so that a
writer who swaps a folder for a link in the meantime gains nothing. The root itself is trusted: it lies in a folder that only the service writes.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

DEPTH = 64
"""Folders below each other that are looked into; what lies deeper is neither listed nor can it make a walk run out of descriptors."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
# a FIFO must not make the opener wait, a terminal not become ours
_PLAIN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NO_FILE = {errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ENXIO, errno.ENODEV, errno.EISDIR, errno.EMLINK}
_NOT_EMPTY = {errno.ENOTEMPTY, errno.EEXIST}
_UNTOLD = {"Cc", "Cs", "Zl", "Zp"}
_TRIES = 8


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


def usage_beneath(root: Path) -> int:
    """The disk that a tree takes, in bytes, whatever is in it and however deep. 0 when there is none."""
    try:
        at = os.open(root, _FOLDER)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    try:
        total, folders = _sizes(at)
        trail = [(_identity(at), folders)]
        while trail:
            # One descriptor at a time, up again by "..": a hostile tree is deeper than there are descriptors.
            if trail[-1][1]:
                below = _below(trail[-1][1].pop(), at)
                if below is None:
                    continue
                os.close(at)
                at = below
                size, folders = _sizes(at)
                total += size
                trail.append((_identity(at), folders))
            elif trail.pop() and trail:
                above = os.open("..", _FOLDER, dir_fd=at)
                os.close(at)
                at = above
                if _identity(at) != trail[-1][0]:
                    break  # its writer moved the folder away under us: what was counted so far is the answer
    finally:
        os.close(at)
    return total


def remove_tree(path: Path) -> None:
    """Remove a file or a whole tree, however deep it is and whatever modes its folders have; links are removed, not followed.

    Nothing happens when it is not there. Raises OSError when something cannot be removed, e.g. because its writer still adds to it.
    """
    try:
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        found = _stat(path.name, parent)
        if found is not None and stat.S_ISDIR(found.st_mode):
            _remove_folder(path.name, parent)
        elif found is not None:
            os.unlink(path.name, dir_fd=parent)
    finally:
        os.close(parent)


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
        if isinstance(error, OSError) and error.errno not in _NO_FILE:
            raise
        raise NotPlainError(errno.ENOENT, "not a plain file", relative) from error


@contextmanager
def _folder(root: Path, parts: list[str], relative: str) -> Iterator[int]:
    """A descriptor of the folder `parts` below `root`."""
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            with _as_missing(relative):
                below = os.open(part, _FOLDER, dir_fd=at)
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


def _names(folder: int) -> list[str]:
    """The names in an open folder; none when it was removed meanwhile."""
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def _stat(name: str, folder: int) -> os.stat_result | None:
    with suppress(FileNotFoundError):
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    return None


def _below(name: str, folder: int) -> int | None:
    """A descriptor of a folder in an open folder; None when it cannot be entered, or is none (any more)."""
    try:
        return os.open(name, _FOLDER, dir_fd=folder)
    except OSError as error:
        if error.errno in _NO_FILE | {errno.ENOENT, errno.EACCES, errno.EPERM}:
            return None
        raise


def _walk(folder: int, prefix: str, depth: int) -> Iterator[Entry]:
    try:
        for name in _names(folder):
            found = _stat(name, folder) if is_text(name) else None
            if found is None:
                continue
            if stat.S_ISREG(found.st_mode):
                yield Entry(prefix + name, found.st_size, found.st_mtime)
            elif stat.S_ISDIR(found.st_mode) and depth and (below := _below(name, folder)) is not None:
                yield from _walk(below, f"{prefix}{name}/", depth - 1)
    finally:
        os.close(folder)


def _identity(folder: int) -> tuple[int, int]:
    found = os.fstat(folder)
    return found.st_dev, found.st_ino


def _sizes(folder: int) -> tuple[int, list[str]]:
    """The disk that the entries of an open folder take, and the names of the folders among them."""
    total, folders = 0, []
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                total += entry.stat(follow_symlinks=False).st_blocks * 512
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
    return total, folders


def _remove_folder(name: str, parent: int) -> None:
    for left in range(_TRIES, -1, -1):
        top = _writable(name, parent)
        try:
            _clear(top)
        finally:
            os.close(top)
        try:
            os.rmdir(name, dir_fd=parent)
        except OSError as error:
            if left == 0 or error.errno not in _NOT_EMPTY:
                raise
        else:
            return


def _clear(top: int) -> None:
    """Empty an open folder. The folders in a folder are moved to the top before it is removed, so that no depth matters."""
    waiting = _empty(top, top)
    while waiting:
        name = waiting.pop()
        folder = _writable(name, top)
        try:
            waiting += _empty(folder, top)
        finally:
            os.close(folder)
        try:
            os.rmdir(name, dir_fd=top)
        except OSError as error:
            if error.errno not in _NOT_EMPTY:
                raise


def _empty(folder: int, top: int) -> list[str]:
    """Remove the files in a folder and move the folders in it to `top`; returns the names that these have there."""
    moved = []
    for name in _names(folder):
        found = _stat(name, folder)
        if found is None:
            continue
        if not stat.S_ISDIR(found.st_mode):
            os.unlink(name, dir_fd=folder)
        elif folder == top:
            moved.append(name)
        else:
            os.close(_writable(name, folder))  # to move a folder changes its "..", which needs the permission to write
            moved.append(f".removed-{secrets.token_hex(8)}")
            os.rename(name, moved[-1], src_dir_fd=folder, dst_dir_fd=top)
    return moved


def _writable(name: str, parent: int) -> int:
    """A descriptor of a folder whose modes were changed so that it can be emptied; a link that took its place is not followed."""
    handle = os.open(name, _HANDLE | os.O_DIRECTORY, dir_fd=parent)
    try:
        itself = f"/proc/self/fd/{handle}"
        if stat.S_IMODE(os.fstat(handle).st_mode) & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(itself, stat.S_IRWXU)  # noqa: PTH101 - not a path but a descriptor
        return os.open(itself, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(handle)
