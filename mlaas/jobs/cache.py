"""The cache of a tenant (specs, handled data, compiled code) kept within its limit: what was not used for the longest time goes first.

Jobs write to it, so nothing in it is trusted: folders are entered without following links, and names are only used relative to them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlaas.beneath import open_beneath, remove_tree, usage_beneath

PARTS = ("handled", "prepared")
"""Folders whose entries stand for themselves; anything else in a cache goes as a whole."""


@dataclass(frozen=True, slots=True)
class _Unit:
    """Something that can go by itself. used: seconds since 1970; folder: an open folder, name: in it."""

    used: float
    size: int
    folder: int
    name: str


def prune(cache: Path, limit: int, busy: Callable[[], bool] = lambda: False) -> int:
    """Bring the cache of a tenant below its limit (bytes); returns the bytes that it has then.

    busy: whether jobs of the tenant run: these may need anything in it, so nothing is removed as long as they do.
    """
    if usage_beneath(cache) <= limit:
        return usage_beneath(cache)
    opened = [descriptor for part in ("", *PARTS) if (descriptor := _opened(cache, part)) is not None]
    try:
        units = sorted((unit for folder in opened for unit in _units(folder, folder == opened[0])), key=lambda unit: unit.used)
        left = sum(unit.size for unit in units)
        for unit in units:
            if left <= limit or busy():
                break
            remove_tree(_path(unit.folder) / unit.name)
            left -= unit.size
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return left


def _opened(cache: Path, part: str) -> int | None:
    try:
        return open_beneath(cache, part, os.O_DIRECTORY)
    except FileNotFoundError:
        return None


def _path(folder: int) -> Path:
    """A path of an open folder that leads there whatever its name has become."""
    return Path(f"/proc/self/fd/{folder}")


def _is_folder(folder: int, name: str) -> bool:
    with suppress(FileNotFoundError):
        return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    return False


def _units(folder: int, top: bool) -> Iterator[_Unit]:
    for name in os.listdir(folder):
        if top and name in PARTS and _is_folder(folder, name):
            continue
        with suppress(FileNotFoundError):
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            size = found.st_blocks * 512 + usage_beneath(_path(folder) / name)
            yield _Unit(_used(folder, name, found), size, folder, name)


def _used(folder: int, name: str, found: os.stat_result) -> float:
    """When something was last read or written: of handled data their document, which every use reads (to a day, where the disk notes no more)."""
    latest = found.st_mtime if _is_folder(folder, name) else max(found.st_atime, found.st_mtime)
    with suppress(OSError):
        document = os.stat(f"{name}/handled.json", dir_fd=folder, follow_symlinks=False)
        latest = max(latest, document.st_atime, document.st_mtime)
    return latest
