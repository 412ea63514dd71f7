"""The folders of a task, made and opened to the job's user before it starts."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from mlaas.jobs.runners.base import RunnerError, Task

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def prepare(task: Task, user: int | None, shared: Path) -> None:
    """Make work/, work/tmp and the cache; with a user, give them to that one, and let it read input/ and the folders of `readable` below `shared`.

    shared: the folder of workspaces; what lies elsewhere must be readable already. Links in work/ are never followed. Raises RunnerError.
    """
    try:
        (task.folder / "input").mkdir(mode=0o700, exist_ok=True)
        _own(task.folder / "work", user)
        _own_inside(task.folder / "work", "tmp", user)
        task.cache.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _own(task.cache, user)
        if user is not None:
            for folder in (task.folder / "input", *(path for path in task.readable if shared in path.parents)):
                grant(folder, user)
    except OSError as error:
        raise RunnerError(f"the folders of task {task.id} cannot be made ready: {error.strerror or error}") from None


def _own(folder: Path, user: int | None) -> None:
    """A folder in one that only the service writes to."""
    folder.mkdir(mode=0o700, exist_ok=True)
    _give(os.open(folder, DIRECTORY), user)


def _own_inside(folder: Path, name: str, user: int | None) -> None:
    """A folder in one that a job wrote to: what stands in its place is moved out of the way."""
    outer = os.open(folder, DIRECTORY)
    try:
        with suppress(FileNotFoundError):
            if not stat.S_ISDIR(os.stat(name, dir_fd=outer, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=outer)
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=outer)
        _give(os.open(name, DIRECTORY, dir_fd=outer), user)
    finally:
        os.close(outer)


def _give(folder: int, user: int | None) -> None:
    try:
        if user is not None:
            os.fchown(folder, user, user)
        os.fchmod(folder, 0o700)
    finally:
        os.close(folder)


def grant(folder: Path, group: int) -> None:
    """Let a group read a folder and what is in it, and nobody else; links are left alone. Raises OSError."""
    for _, _, names, here in os.fwalk(folder, topdown=False, follow_symlinks=False):
        for name in names:
            info = os.stat(name, dir_fd=here, follow_symlinks=False)
            if stat.S_ISREG(info.st_mode):
                _share(name, here, info, group)
        info = os.fstat(here)
        os.fchown(here, -1, group)
        os.fchmod(here, stat.S_IMODE(info.st_mode) & 0o700 | 0o050)


def _share(name: str, here: int, info: os.stat_result, group: int) -> None:
    wanted = stat.S_IMODE(info.st_mode) & 0o700 | 0o040 | (info.st_mode & stat.S_IXUSR) >> 3
    if info.st_gid != group or stat.S_IMODE(info.st_mode) != wanted:
        os.chown(name, -1, group, dir_fd=here, follow_symlinks=False)
        os.chmod(name, wanted, dir_fd=here)
