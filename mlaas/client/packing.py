"""A folder as an archive that is made while it is sent: .tar.gz, in pieces, without a copy on disk."""

from __future__ import annotations

import fnmatch
import os
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlaas.errors import UserError

PIECE = 2**20
TOP = "files"  # the service lifts the only top folder of an archive: so it is always this one
LEVEL = 1  # events are compressed already; more effort gains nothing
LEFT_OUT = (".*", "__pycache__", "*.pyc", "*.pyo", "*~", "venv", "node_modules", "x509up_u*", "*.pem", "*.key", "*.part")
"""What is not uploaded of a folder: hidden files and folders, what programs can make again, and keys and proxies. A final "/" is not needed."""


@dataclass(frozen=True)
class Entry:
    """A file to pack: `path` in the archive, its `source`, size in bytes and time of the last change (seconds since 1970)."""

    path: str
    source: Path
    size: int
    modified: float


def entries(folder: Path, exclude: Sequence[str] = ()) -> list[Entry]:
    """The files of a folder and of the folders in it, without what LEFT_OUT and `exclude` (shell patterns of names or paths) match.

    Links to files are followed; links to folders are not. Raises UserError when there is no folder, or nothing in it.
    """
    if not folder.is_dir():
        raise UserError(f"folder: {folder} is not a folder")
    found = list(_walk(folder, (*LEFT_OUT, *exclude)))
    if not found:
        raise UserError(f"folder: {folder} holds no file to upload")
    return found


def _walk(folder: Path, patterns: Sequence[str]) -> Iterator[Entry]:
    for place, folders, names in os.walk(folder):
        below = Path(place).relative_to(folder)
        folders[:] = sorted(name for name in folders if not _left_out(below / name, patterns))
        for name in sorted(names):
            if not _left_out(below / name, patterns) and (Path(place) / name).is_file():
                yield entry(folder, (below / name).as_posix())


def _left_out(path: Path, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(path.name, pattern.rstrip("/")) or fnmatch.fnmatch(path.as_posix(), pattern.rstrip("/")) for pattern in patterns)


def entry(folder: Path, path: str) -> Entry:
    """One file of a folder. Raises UserError when it is not there, or not a file."""
    try:
        status = (folder / path).stat()
    except OSError as error:
        raise UserError(f"{folder / path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{folder / path} is not a file")
    return Entry(path, folder / path, status.st_size, status.st_mtime)


def pack(files: Iterable[Entry], advance: Callable[[int], None] = lambda _: None) -> Iterator[bytes]:
    """The archive in pieces, all files in one folder; `advance` is told the bytes that went in.

    Raises UserError when a file cannot be read or becomes shorter.
    """
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    for piece in _tar(files, advance):
        if packed := packer.compress(piece):
            yield packed
    yield packer.flush()


def _tar(files: Iterable[Entry], advance: Callable[[int], None]) -> Iterator[bytes]:
    for file in files:
        yield _header(file)
        yield from _content(file, advance)
        yield b"\0" * (-file.size % tarfile.BLOCKSIZE)
    yield b"\0" * tarfile.BLOCKSIZE * 2


def _header(file: Entry) -> bytes:
    info = tarfile.TarInfo(f"{TOP}/{file.path}")
    info.size, info.mtime, info.mode = file.size, file.modified, 0o644
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _content(file: Entry, advance: Callable[[int], None]) -> Iterator[bytes]:
    left = file.size
    try:
        with file.source.open("rb") as opened:
            while left and (piece := opened.read(min(left, PIECE))):
                left -= len(piece)
                yield piece
                advance(len(piece))
    except OSError as error:
        raise UserError(f"{file.source} cannot be read: {error.strerror}") from None
    if left:
        raise UserError(f"{file.source} became shorter while it was uploaded; try again when it is whole")
