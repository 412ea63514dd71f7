"""Folders of workspaces on the disk: made whole, moved into place, removed."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from mlaas.beneath import remove_tree
from mlaas.unpacking import ArchiveError, Unpacked

SYNCS = 16  # at once: the disk does them together


def lifted(aside: Path, unpacked: Unpacked) -> Path:
    """The folder that holds what the archive meant: the only top folder, if there is nothing beside it."""
    if not unpacked.files:
        raise ArchiveError("the archive holds no files")
    entries = list(aside.iterdir())
    top = entries[0] if len(entries) == 1 and entries[0].is_dir() else aside
    top.chmod(0o750)
    return top


def sync(top: Path) -> None:
    """Bring every file and folder to the disk."""
    paths = [path for folder, _, files in os.walk(top) for path in (Path(folder), *(Path(folder, file) for file in files))]
    with ThreadPoolExecutor(SYNCS) as pool:
        list(pool.map(sync_one, paths))


def sync_one(path: Path) -> None:
    """Bring one file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private(folder: Path, root: Path) -> None:
    """Make a folder, and those above it, for the service alone."""
    for path in [*reversed(folder.relative_to(root).parents), folder.relative_to(root)]:
        (root / path).mkdir(mode=0o700, parents=path == Path(), exist_ok=True)


def place(top: Path, target: Path, root: Path) -> None:
    """Rename a folder to where a generation belongs; again when a sweep removed the empty folder above in the meantime."""
    for last in (False, False, True):
        try:
            private(target.parent, root)
            top.rename(target)
            break
        except FileNotFoundError:
            if last:
                raise
    sync_one(target.parent)


def discard(generation: Path) -> None:
    """Remove a generation, and the folders above it that it leaves empty."""
    remove_tree(generation)
    with suppress(OSError):
        generation.parent.rmdir()
        generation.parent.parent.rmdir()


def entries(folder: Path) -> list[Path]:
    """What is in a folder; nothing when there is none."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def touched(path: Path) -> float:
    """When an entry was last changed or moved; now when it is gone."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return time.time()
    return max(found.st_mtime, found.st_ctime)
