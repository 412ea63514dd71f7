"""An archive into a folder: names that stay inside, only plain files and folders, nothing of the archive's modes, owners or times."""

from __future__ import annotations

import errno
import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mlaas.beneath import DEPTH, is_text
from mlaas.errors import ResourceError
from mlaas.sizes import write_size
from mlaas.unpacking.limits import ArchiveError, Limits, Member, too_big, too_many
from mlaas.unpacking.readers import NAMES, Reader, format_of
from mlaas.unpacking.streams import CHUNK

FILE_MODE, FOLDER_MODE = 0o644, 0o755
LONGEST_NAME = 255  # bytes, as file systems have it
LONGEST_PATH = 2000  # bytes
_LOOK_AT_DISK = 2**26  # bytes written between looks at what is free
_MAC = ("._", "__MACOSX")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LIBRARIES = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, OverflowError, ValueError, RecursionError,
)  # fmt: skip


@dataclass(frozen=True)
class Unpacked:
    """What came out: the number of files and their bytes."""

    files: int
    size: int


def unpack(source: Path, folder: Path, limits: Limits, *, what: str = "the archive", read: Reader | None = None) -> Unpacked:
    """Unpack an archive into an empty folder; its format is found by its first bytes unless `read` names it.

    what: how sentences call the archive. Raises ArchiveError, TooLargeError, ResourceError (disk full); what came out before stays in the folder.
    """
    chosen = read or format_of(source, what)
    target = _Target(folder, limits, what)
    with _damaged(what, NAMES[chosen]):
        for member in chosen(source, limits, what):
            target.take(member)
    return Unpacked(target.files, target.size)


class _Target:
    """The folder that an archive is unpacked into."""

    def __init__(self, folder: Path, limits: Limits, what: str) -> None:
        self._folder, self._limits, self._what = folder, limits, what
        self._made: dict[tuple[str, ...], bool] = {(): True}  # whether it is a folder
        self._unlooked = _LOOK_AT_DISK
        self.files = self.size = 0

    def take(self, member: Member) -> None:
        """Make what a member describes."""
        parts = self._parts(member.name)
        if any(part == _MAC[1] or part.startswith(_MAC[0]) for part in parts):
            return  # what macOS adds to archives for itself
        if member.file is None:
            self._make_folder(parts, member.name)
            return
        if parts in self._made:
            raise ArchiveError(f"{self._what} is not a safe archive: it has {member.name!r} twice")
        self._make_folder(parts[:-1], member.name)
        self._count(parts, folder=False)
        self._write(self._folder.joinpath(*parts), member.file)
        self.files += 1

    def _parts(self, name: str) -> tuple[str, ...]:
        """The components of a name that is safe."""
        if name.startswith("/") or ".." in name.split("/"):
            raise ArchiveError(f"{self._what} is not a safe archive: {name!r} leaves its folder")
        if not is_text(name):
            raise ArchiveError(f"{self._what} is not a safe archive: the name {name!r} has control characters, or is not text")
        parts = tuple(part for part in name.split("/") if part not in {"", "."})
        if len(name.encode()) > LONGEST_PATH or any(len(part.encode()) > LONGEST_NAME for part in parts):
            raise ArchiveError(
                f"{self._what}: the name {name[:50] + '...'!r} is too long; a name may have {LONGEST_NAME} bytes, a path {LONGEST_PATH}"
            )
        if len(parts) > DEPTH:
            raise ArchiveError(f"{self._what} has more than {DEPTH} folders in each other: {name[:50] + '...'!r}")
        return parts

    def _make_folder(self, parts: tuple[str, ...], name: str) -> None:
        for end in range(1, len(parts) + 1):
            above = parts[:end]
            if not self._made.get(above, True):
                raise ArchiveError(f"{self._what} is not a safe archive: {'/'.join(above)!r} is a file, and a folder in {name!r}")
            if above not in self._made:
                self._count(above, folder=True)
                path = self._folder.joinpath(*above)
                path.mkdir()
                path.chmod(FOLDER_MODE)

    def _count(self, parts: tuple[str, ...], *, folder: bool) -> None:
        if len(self._made) > self._limits.files:
            raise too_many(self._limits, self._what)
        self._made[parts] = folder

    def _write(self, path: Path, source: IO[bytes]) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, FILE_MODE)
            while data := source.read(CHUNK):
                self.size += len(data)
                if self.size > self._limits.size:
                    raise too_big(self._limits, self._what)
                self._look_at_disk(len(data))
                file.write(data)

    def _look_at_disk(self, more: int) -> None:
        self._unlooked += more
        if self._limits.free and self._unlooked >= _LOOK_AT_DISK:
            self._unlooked = 0
            if shutil.disk_usage(self._folder).free < self._limits.free:
                raise ResourceError(f"the disk of the service has less than {write_size(self._limits.free)} free; {self._what} was not unpacked")


@contextmanager
def _damaged(what: str, kind: str) -> Iterator[None]:
    """Turn what the libraries raise about an archive into one sentence. An OSError with a number is trouble of writing."""
    try:
        yield
    except _LIBRARIES as error:
        raise ArchiveError(f"{what} is not {kind}, or it is damaged: {error}") from error
    except OSError as error:
        if error.errno in _FULL:
            raise ResourceError(f"the disk is full: {what} was not unpacked") from error
        if error.errno is not None:
            raise
        raise ArchiveError(f"{what} is not {kind}, or it is damaged: {error}") from error
