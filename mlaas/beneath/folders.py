"""What reading and removing share: folders opened without following a link."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NO_FILE = {errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ENXIO, errno.ENODEV, errno.EISDIR, errno.EMLINK}


def names_in(folder: int) -> list[str]:
    """The names in an open folder; none when it was removed meanwhile."""
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def status(name: str, folder: int) -> os.stat_result | None:
    """The status of an entry of an open folder itself, not of what a link leads to; None when it is gone."""
    with suppress(FileNotFoundError):
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    return None


def enter(name: str, folder: int) -> int | None:
    """A descriptor of a folder in an open folder; None when it cannot be entered, or is none (any more)."""
    try:
        return os.open(name, FOLDER, dir_fd=folder)
    except OSError as error:
        if error.errno in NO_FILE | {errno.ENOENT, errno.EACCES, errno.EPERM}:
            return None
        raise
