"""How files are opened, here or far away: decompression, servers without ranges, and what tells one content from another."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit
from uuid import UUID

from mlaas.data.credentials import scheme, storage_options
from mlaas.data.proxied import proxied

REMOTE = ("root", "http", "https", "s3")

SECRET = re.compile(r"(?i)password|passwd|secret|token|credential|authz|signature|access_?key|api_?key|^sig$")  # keys of a URL's query

COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


def redacted(path: str) -> str:
    """The path for messages and logs: without password, token or signature (the query of a URL)."""
    if not scheme(path):
        return path
    return re.sub(r"^([^/]+://)[^/@]*@", r"\1", path).split("?", 1)[0]


def without_secrets(path: str) -> str:
    """The path to keep in documents that are handed on: a URL without user, password and the parts of its query that are keys or signatures.

    Unlike `redacted` it still names the file: a query that chooses it stays.
    """
    if not scheme(path):
        return path
    address, mark, fragment = re.sub(r"^([^/]+://)[^/@]*@", r"\1", path).partition("#")
    address, _, query = address.partition("?")
    kept = "&".join(part for part in query.split("&") if part and not SECRET.search(part.partition("=")[0]))
    return address + (f"?{kept}" if kept else "") + mark + fragment


def file_system(path: str) -> tuple[Any, str]:
    """The fsspec file system of a URL and the path in it; those of the site's XRootD proxy, where there is one."""
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]

    fs, inner = url_to_fs(proxied(path), **storage_options(path))
    if scheme(path) == "root":
        _list_with_slash(fs)
    return fs, str(inner)


def _list_with_slash(fs: Any) -> None:
    """Let a file system name folders with their slash: the site's proxy permits /store/, so that /storeprivate is not permitted with it."""
    client = fs._myclient
    if "dirlist" not in vars(client):  # file systems are kept and given out again
        listed = client.dirlist
        client.dirlist = lambda folder, *rest, **more: listed(folder.rstrip("/") + "/", *rest, **more)


def open_binary(path: str) -> BinaryIO:
    """Open a local path or a URL for reading bytes, decompressed when its first bytes say gzip, bzip2, xz or zstd.

    The stream can seek; backwards in compressed data that means reading from the start again. A server that does not serve ranges is copied to a
    temporary file. Raises what the file system raises; `trouble.explain` turns that into one sentence.
    """
    raw = _open_raw(path)
    try:
        head = raw.read(6)
        raw.seek(0)
        method = next((name for magic, name in COMPRESSIONS.items() if head.startswith(magic)), None)
        if method is None:
            return raw
        return cast(BinaryIO, io.BufferedReader(_Unpacked(raw, method), 1 << 16))
    except BaseException:
        raw.close()
        raise


def _open_raw(path: str) -> BinaryIO:
    return _open_far(path)[0] if scheme(path) else Path(path).open("rb")


def openable(path: str) -> str | BinaryIO:
    """What a reader that jumps in the file (uproot) can open: the path itself, that by the site's XRootD proxy, or a temporary copy of what a server
    gives only as a whole.
    """
    if scheme(path) not in ("http", "https"):
        return proxied(path)
    stream, is_copy = _open_far(path, block_size=1 << 16)
    if is_copy:
        return stream
    stream.close()
    return path


def _open_far(path: str, **options: Any) -> tuple[BinaryIO, bool]:
    """A stream of a URL, and whether it is a temporary copy."""
    fs, inner = file_system(path)
    try:
        stream = cast(BinaryIO, fs.open(inner, "rb", cache_type="readahead", **options))
        stream.read(1)  # some servers show only now that they serve whole files only
        stream.seek(0)
    except ValueError as error:
        if not re.search(r"range requests|seek streaming", str(error)):
            raise
        return _copied(cast(BinaryIO, fs.open(inner, "rb", block_size=0))), True
    return stream, False


def _copied(stream: BinaryIO) -> BinaryIO:
    """The rest of `stream` in an unnamed temporary file (disk, not memory)."""
    with stream:
        copy = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115
        try:
            shutil.copyfileobj(stream, copy, 1 << 20)
            copy.seek(0)
        except BaseException:
            copy.close()
            raise
    return copy


class _Unpacked(io.RawIOBase):
    """A decompressed stream that closes the compressed one with itself."""

    def __init__(self, raw: BinaryIO, method: str) -> None:
        from fsspec.compression import compr  # type: ignore[import-untyped]

        self._raw, self._stream = raw, compr[method](raw, mode="rb")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return int(self._stream.readinto(buffer))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._stream.seek(offset, whence))

    def tell(self) -> int:
        return int(self._stream.tell())

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
            self._raw.close()
        super().close()


def identity(path: str) -> str:
    """A text that changes when the content of the file changes: size and time locally, size and ETag, checksum or time far away.

    A server that tells none of these is asked for the first and last 64 kB instead. The path is not part of it.
    """
    if not scheme(path):
        status = Path(path).stat()
        return f"{status.st_size}-{status.st_mtime_ns}"
    fs, inner = file_system(path)
    fs.dircache.clear()  # a listing may be older than the file
    info = fs.info(inner)
    for key in ("ETag", "Content-MD5", "Digest", "mtime", "LastModified", "Last-Modified"):
        if info.get(key):
            return f"{info.get('size')}-{str(info[key]).strip(chr(34))}"
    with _open_raw(path) as stream:
        digest = hashlib.sha256(stream.read(1 << 16))
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - (1 << 16)))
        digest.update(stream.read())
    return f"{size}-{digest.hexdigest()[:32]}"


def root_identity(path: str, uuid: UUID, end: int, tree: str) -> str:
    """`identity` of a ROOT file: its UUID and its end, wherever it lies.

    Files that ROOT writes with `?reproducible` all have the UUID 0, so that other contents may have the same: those are told apart as any other file.
    """
    return f"root:{uuid}:{end}:{tree}" if uuid.int else f"{identity(path)}:{tree}"


def url_path(path: str) -> str:
    """The path alone: without scheme, host, query and fragment; a local path as it is."""
    return urlsplit(path).path if scheme(path) else path
