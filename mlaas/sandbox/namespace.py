"""A mount namespace for what root starts as another user: a /dev/shm of its own, and a way to its folders where those above them are closed to it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from mlaas.sandbox import kernel

SEALED = kernel.MS_NOSUID | kernel.MS_NODEV


def enter() -> bool:
    """Give this process mounts of its own; whether that was possible (it needs CAP_SYS_ADMIN, which root lacks in most containers)."""
    try:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    except OSError:
        return False
    return True


def own_shared_memory(size: int) -> None:
    """Put an empty /dev/shm of at most `size` bytes over the machine's. Raises OSError."""
    if Path("/dev/shm").is_dir():  # noqa: S108  not a file that is made there, but the place itself
        kernel.mount("tmpfs", "/dev/shm", "tmpfs", SEALED, f"mode=1777,size={size}")  # noqa: S108


def closed(path: Path, user: int, group: int) -> Path | None:
    """The topmost folder above `path` that a user (with this one group) may not pass through; None when the way is open."""
    for parent in reversed(path.parents):
        if not passable(parent.stat(), user, group):
            return parent
    return None


def passable(folder: os.stat_result, user: int, group: int) -> bool:
    """Whether the mode bits let a user pass through a folder."""
    if folder.st_uid == user:
        return bool(folder.st_mode & stat.S_IXUSR)
    return bool(folder.st_mode & (stat.S_IXGRP if folder.st_gid == group else stat.S_IXOTH))


def open_ways(needed: Iterable[Path], user: int, group: int) -> None:
    """Make `needed` reachable: an empty folder is mounted over each closed one, and in it only what is needed appears, where it was.

    Raises OSError.
    """
    covers: dict[Path, list[Path]] = {}
    for path in sorted(set(needed)):
        top = closed(path, user, group)
        if top is not None:
            covers.setdefault(top, []).append(path)
    before = os.umask(0o022)  # the folders on the way must be passable
    try:
        for top, paths in covers.items():
            _cover(top, _outermost(paths))
    finally:
        os.umask(before)


def _outermost(paths: Sequence[Path]) -> list[Path]:
    """Without those that lie in another of them."""
    return [path for path in paths if not any(other in path.parents for other in paths)]


def _cover(top: Path, paths: Sequence[Path]) -> None:
    held = [(path, os.open(path, os.O_PATH | os.O_CLOEXEC)) for path in paths]
    kernel.mount("tmpfs", str(top), "tmpfs", SEALED, "mode=0755,size=1m")
    for path, source in held:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if stat.S_ISDIR(os.fstat(source).st_mode):
            path.mkdir()
        else:
            path.touch()
        kernel.mount(f"/proc/self/fd/{source}", str(path), flags=kernel.MS_BIND | kernel.MS_REC)
        os.close(source)
    kernel.mount("none", str(top), flags=kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | SEALED)
