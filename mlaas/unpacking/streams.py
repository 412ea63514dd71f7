"""Streams that give no more than is allowed, whatever a hostile header asks for."""

from __future__ import annotations

import io
import lzma
import os
import tarfile
import zipfile
from typing import BinaryIO

from mlaas.unpacking.limits import ArchiveError, Limits, TooLargeError, too_big

CHUNK = 2**20
_MOST_READ = 2**20  # tarfile itself reads files in smaller pieces; only a hostile header asks for more at once
_XZ_MEMORY = 2**27  # bytes of a dictionary; the largest preset takes half of it


class Limited:
    """A readable stream that goes forward only, and gives neither more than a number of bytes in all, nor too many at once."""

    def __init__(self, stream: BinaryIO, limits: Limits, what: str) -> None:
        self._stream, self._limits, self._what = stream, limits, what
        self._most = limits.size + (limits.files + 64) * 3 * tarfile.BLOCKSIZE  # with a long name and padding an entry has three blocks of its own
        self._at = 0
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > _MOST_READ:
            raise ArchiveError(f"{self._what} is not a safe archive: it has an oversized header")
        self.last = self._stream.read(size)
        self._at += len(self.last)
        if self._at > self._most:
            raise too_big(self._limits, self._what)
        return self.last

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if offset > self._most:
            raise too_big(self._limits, self._what)
        if whence != os.SEEK_SET or offset < self._at:  # a size below 0 would let tarfile read the same headers for ever
            raise ArchiveError(f"{self._what} is not a safe archive: its headers lead backwards")
        while self._at < offset and self.read(min(offset - self._at, _MOST_READ)):
            pass
        return self._at

    def tell(self) -> int:
        return self._at


class Directory(io.BufferedIOBase):
    """A zip file of which no more is read at once than the directory of the entries that are allowed can take."""

    def __init__(self, raw: BinaryIO, limits: Limits, what: str) -> None:
        self._raw, self._what = raw, what
        self._length = raw.seek(0, os.SEEK_END)
        self._most = max(CHUNK, limits.files * 512)

    def read(self, size: int | None = -1) -> bytes:
        wanted = self._length - self._raw.tell() if size is None or size < 0 else size
        if wanted > self._most:
            raise TooLargeError(f"{self._what} is not a safe archive: its directory is oversized")
        return self._raw.read(wanted)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._raw.seek(offset, whence)
        except OSError as error:
            raise zipfile.BadZipFile("it leads to a place outside of itself") from error

    def tell(self) -> int:
        return self._raw.tell()

    def seekable(self) -> bool:
        return True


class Xz(io.RawIOBase):
    """What an .xz file holds, read with bounded memory: lzma.LZMAFile takes as much as the file asks for."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._decoder = self._new()

    def _new(self) -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while True:
            if self._decoder.eof:
                rest = self._decoder.unused_data or self._raw.read(CHUNK)
                if not rest.strip(b"\0"):
                    return 0
                self._decoder = self._new()
                data = self._decoder.decompress(rest.lstrip(b"\0"), len(buffer))
            else:
                fresh = self._raw.read(CHUNK // 16) if self._decoder.needs_input else b""
                if self._decoder.needs_input and not fresh:
                    raise EOFError("it ends too early")
                data = self._decoder.decompress(fresh, len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)
