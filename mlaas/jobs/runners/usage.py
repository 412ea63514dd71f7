"""How much disk a folder takes that a job writes to."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

DEEPEST = 100
TOO_MUCH = 1 << 62


def used(folder: Path) -> int:
    """Bytes on disk of everything below `folder`; links are not followed, sparse files count what they take.

    A tree deeper than 100 folders, and a folder that may not be listed, count as endless: they are made to hide what is in them.
    """
    try:
        top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return 0
    return _used(top, 0)


def _used(here: int, depth: int) -> int:
    """Takes over the descriptor. Files that go meanwhile are passed over."""
    total = 0
    try:
        if depth > DEEPEST:
            return TOO_MUCH
        with suppress(OSError), os.scandir(here) as entries:
            for entry in entries:
                with suppress(OSError):
                    total += _entry(entry, here, depth)
    finally:
        os.close(here)
    return total


def _entry(entry: os.DirEntry[str], here: int, depth: int) -> int:
    size = entry.stat(follow_symlinks=False).st_blocks * 512
    if not entry.is_dir(follow_symlinks=False):
        return size
    try:
        inner = os.open(entry.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
    except PermissionError:
        return TOO_MUCH
    return size + _used(inner, depth + 1)
