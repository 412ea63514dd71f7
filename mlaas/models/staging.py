"""Folders written aside and renamed into place, so that a reader sees all of a bundle or nothing of it."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlaas.errors import BundleError, MLaaSError, ResourceError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FULL_TEXTS = ("No space left on device", "Disk quota exceeded", "File too large")


@contextmanager
def staged(target: Path, *, replace: bool = False, move: bool = True) -> Iterator[Path]:
    """Give an empty folder beside `target`; rename it to `target` at the end, or remove it when anything goes wrong.

    move: rename it at the end; false when the caller does that itself.

    Raises BundleError when the target exists and is not to be replaced, ResourceError when the disk is full.
    """
    target = target.absolute()
    refuse_existing(target, replace)
    folder = target.parent / f".{target.name}.tmp-{secrets.token_hex(6)}"
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
            yield folder
            if move:
                sync_tree(folder)
                move_into_place(folder, target, replace=replace)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    except MLaaSError:
        raise
    except Exception as error:
        raise_if_full(error, target)
        if isinstance(error, OSError):
            raise BundleError(f"{target} cannot be written: {error.strerror or error}") from error
        raise


def refuse_existing(target: Path, replace: bool) -> None:
    """Raise BundleError when there is something at `target` that must not be replaced."""
    if os.path.lexists(target) and not replace:
        raise BundleError(f"{target} exists already; choose another place, or allow it to be replaced")
    if os.path.lexists(target) and (target.is_symlink() or not target.is_dir()):
        raise BundleError(f"{target} is not a folder, and so cannot be replaced by a bundle")


def move_into_place(folder: Path, target: Path, *, replace: bool = False) -> None:
    """Rename `folder` to `target`; with `replace` the old folder is put back if that fails."""
    if not os.path.lexists(target):
        # Renaming onto a folder that appeared meanwhile fails unless that one is empty, which no bundle is.
        folder.rename(target)
        sync_folder(target.parent)
        return
    refuse_existing(target, replace)
    old = target.parent / f".{target.name}.old-{secrets.token_hex(6)}"
    target.rename(old)
    try:
        folder.rename(target)
    except BaseException:
        old.rename(target)
        raise
    sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a new file, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(data)


def files_below(folder: Path) -> list[Path]:
    """All files below a folder, in order of their paths. Raises BundleError for links and special files."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise BundleError(f"{path} is a link or a special file; a bundle holds only plain files")
        if path.is_file():
            found.append(path)
    return found


def digest(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_tree(folder: Path) -> None:
    """Bring every file and folder below `folder` to the disk."""
    for path in [*folder.rglob("*"), folder]:
        sync_folder(path)


def sync_folder(path: Path) -> None:
    """Bring one file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or one of those that caused it, says that the disk is full."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if any(text in str(error) for text in FULL_TEXTS):
            return True
        error = error.__cause__ or error.__context__
    return False


def raise_if_full(error: BaseException, target: Path) -> None:
    """Raise ResourceError if `error` says that the disk is full, or if the disk is full after it."""
    if is_full(error) or _free(target.parent) == 0:
        raise ResourceError(f"the disk is full: {target} was not written; make room in {target.parent} or choose another place") from error


def _free(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 1
