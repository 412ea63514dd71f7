"""Measuring and removing whole trees, however deep they are."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from mlaas.beneath.folders import FOLDER, enter, names_in, status

_HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_EMPTY = {errno.ENOTEMPTY, errno.EEXIST}
_TRIES = 8


def usage_beneath(root: Path) -> int:
    """The disk that a tree takes, in bytes, whatever is in it and however deep. 0 when there is none."""
    try:
        at = os.open(root, FOLDER)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    try:
        total, folders = _sizes(at)
        trail = [(_identity(at), folders)]
        while trail:
            # One descriptor at a time, up again by "..": a hostile tree is deeper than there are descriptors.
            if trail[-1][1]:
                below = enter(trail[-1][1].pop(), at)
                if below is None:
                    continue
                os.close(at)
                at = below
                size, folders = _sizes(at)
                total += size
                trail.append((_identity(at), folders))
            elif trail.pop() and trail:
                above = os.open("..", FOLDER, dir_fd=at)
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
        found = status(path.name, parent)
        if found is not None and stat.S_ISDIR(found.st_mode):
            _remove_folder(path.name, parent)
        elif found is not None:
            os.unlink(path.name, dir_fd=parent)
    finally:
        os.close(parent)


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
        try:
            top = _writable(name, parent)
        except FileNotFoundError:
            return  # somebody else removes it, too
        try:
            _clear(top)
        finally:
            os.close(top)
        try:
            os.rmdir(name, dir_fd=parent)
        except FileNotFoundError:
            return
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
        try:
            folder = _writable(name, top)
        except FileNotFoundError:
            continue
        try:
            waiting += _empty(folder, top)
        finally:
            os.close(folder)
        try:
            os.rmdir(name, dir_fd=top)
        except OSError as error:
            if error.errno not in _NOT_EMPTY | {errno.ENOENT}:
                raise


def _empty(folder: int, top: int) -> list[str]:
    """Remove the files in a folder and move the folders in it to `top`; returns the names that these have there."""
    moved = []
    for name in names_in(folder):
        with suppress(FileNotFoundError):
            if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=folder)
            else:
                moved.append(name if folder == top else _lift(name, folder, top))
    return moved


def _lift(name: str, folder: int, top: int) -> str:
    """Move a folder out of a folder to `top`; returns its new name."""
    os.close(_writable(name, folder))  # to move a folder changes its "..", which needs the permission to write
    fresh = f".removed-{secrets.token_hex(8)}"
    os.rename(name, fresh, src_dir_fd=folder, dst_dir_fd=top)
    return fresh


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
