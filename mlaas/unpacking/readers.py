"""Archives read in order, entry by entry: tar (plain, gzip, bzip2, xz) and zip."""

from __future__ import annotations

import bz2
import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, BinaryIO, cast

from mlaas.unpacking.limits import ArchiveError, Limits, Member, too_many
from mlaas.unpacking.streams import CHUNK, Directory, Limited, Xz

Reader = Callable[[Path, Limits, str], Iterator[Member]]
"""Reads an archive: its plain files and folders in order."""


def tar(source: Path, limits: Limits, what: str) -> Iterator[Member]:
    """A tar file."""
    with source.open("rb") as stream:
        yield from _members(cast(BinaryIO, stream), limits, what)


def tar_gzip(source: Path, limits: Limits, what: str) -> Iterator[Member]:
    """A tar file packed with gzip."""
    with source.open("rb") as raw, gzip.GzipFile(fileobj=raw) as stream:
        yield from _members(cast(BinaryIO, stream), limits, what)


def tar_bzip2(source: Path, limits: Limits, what: str) -> Iterator[Member]:
    """A tar file packed with bzip2."""
    with source.open("rb") as raw, bz2.BZ2File(raw) as stream:
        yield from _members(cast(BinaryIO, stream), limits, what)


def tar_xz(source: Path, limits: Limits, what: str) -> Iterator[Member]:
    """A tar file packed with xz."""
    with source.open("rb") as raw, io.BufferedReader(Xz(raw), CHUNK) as stream:
        yield from _members(cast(BinaryIO, stream), limits, what)


def zipped(source: Path, limits: Limits, what: str) -> Iterator[Member]:
    """A zip file."""
    with source.open("rb") as raw, zipfile.ZipFile(cast(IO[bytes], Directory(raw, limits, what))) as archive:
        entries = archive.infolist()
        if len(entries) > limits.files:
            raise too_many(limits, what)
        for entry in entries:
            _check_zip(entry, what)
            if entry.is_dir():
                yield Member(entry.filename, None)
                continue
            with archive.open(entry) as file:
                yield Member(entry.filename, file)


def format_of(source: Path, what: str = "the archive") -> Reader:
    """The format of an archive by its first bytes. Raises ArchiveError when it is none that is known."""
    with source.open("rb") as file:
        begin = file.read(512)
    for magic, read in ((b"\x1f\x8b", tar_gzip), (b"BZh", tar_bzip2), (b"\xfd7zXZ\0", tar_xz), (b"PK\3\4", zipped), (b"PK\5\6", zipped)):
        if begin.startswith(magic):
            return read
    if begin[257:262] == b"ustar" or (len(begin) == 512 and _is_old_header(begin)):
        return tar
    raise ArchiveError(f"{what} is not an archive that can be read here; send a .tar.gz, .tar or .zip")


def _members(stream: BinaryIO, limits: Limits, what: str) -> Iterator[Member]:
    limited = Limited(stream, limits, what)
    with tarfile.open(fileobj=cast(IO[bytes], limited), mode="r:") as archive:
        for number, member in enumerate(archive):
            if number >= limits.files:
                raise too_many(limits, what)
            if not (member.isreg() or member.isdir()):
                raise ArchiveError(f"{what} is not a safe archive: {member.name!r} is a link or a special file")
            if member.issparse():  # its size, which no limit on what is read bounds, is only a number in the header
                raise ArchiveError(f"{what} is not a safe archive: {member.name!r} is a sparse file")
            yield Member(member.name, None if member.isdir() else archive.extractfile(member))
    if limited.last.strip(b"\0") or len(limited.last) < tarfile.BLOCKSIZE:
        raise ArchiveError(f"{what} is damaged: it ends too early, or has a header that cannot be read")
    while limited.read(CHUNK):
        pass  # to its end, where the checksum of the packed data is


def _is_old_header(block: bytes) -> bool:
    """Whether this is a tar header without a mark, as before 1988: its checksum tells."""
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return not block.strip(b"\0")
    return True


def _check_zip(entry: zipfile.ZipInfo, what: str) -> None:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        raise ArchiveError(f"{what} is not a safe archive: {entry.filename!r} is a link or a special file")
    if entry.flag_bits & 0x1:
        raise ArchiveError(f"{what}: {entry.filename!r} is encrypted; pack it without a password")
    if entry.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2}:
        raise ArchiveError(f"{what}: {entry.filename!r} is compressed in a way that is not read here; use the usual one (deflate)")
    if "\0" in entry.orig_filename or "\\" in entry.filename:
        raise ArchiveError(f"{what} is not a safe archive: the name {entry.orig_filename!r} has a backslash or a NUL")


NAMES: dict[Reader, str] = {
    tar: "a .tar file",
    tar_gzip: "a .tar.gz file",
    tar_bzip2: "a .tar.bz2 file",
    tar_xz: "a .tar.xz file",
    zipped: "a .zip file",
}
"""How sentences call what a reader reads."""
