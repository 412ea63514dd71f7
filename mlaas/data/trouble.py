"""What the many libraries raise when a file cannot be read, as one sentence that names the file, the probable cause and the cure."""

from __future__ import annotations

import asyncio
import errno
import lzma
import os
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from mlaas.data import credentials
from mlaas.data.access import redacted
from mlaas.data.credentials import scheme
from mlaas.data.proxied import proxied
from mlaas.errors import DataError, MissingExtraError, ResourceError, UserError

# Packages whose exceptions are about the file, not about this program.
_LIBRARIES = {
    "aiohttp",
    "aiobotocore",
    "botocore",
    "fastavro",
    "fsspec",
    "pyarrow",
    "s3fs",
    "uproot",
    "zstandard",
    "cramjam",
    "fsspec_xrootd",
    "XRootD",
}
_READING = (OSError, EOFError, ImportError, TimeoutError, asyncio.TimeoutError, UnicodeError, zlib.error, lzma.LZMAError, struct.error)

_CREDENTIALS = {
    "root": "set X509_USER_PROXY, or BEARER_TOKEN_FILE where the server takes tokens",
    "https": "set BEARER_TOKEN_FILE or BEARER_TOKEN",
    "http": "a bearer token is sent to https:// only",
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or FSSPEC_S3_ANON=true for a public bucket",
    "": "check its permissions",
}
_PROXIED = "the site's XRootD proxy does not permit this server (its administrator adds it), or the server refuses the proxy's credential"

_EXTRAS = {"xrootd": ("XRootD support", "xrootd"), "s3fs": ("S3 support", "s3"), "botocore": ("S3 support", "s3")}


def is_about_file(error: BaseException) -> bool:
    """Whether an exception tells of the file rather than of a fault in this program."""
    if isinstance(error, _READING):
        return True
    if any(kind.__module__.split(".")[0] in _LIBRARIES for kind in type(error).__mro__):
        return True
    return _raised_in(error).split(".")[0] in _LIBRARIES  # damaged bytes lead them to errors of every kind


def _raised_in(error: BaseException) -> str:
    """The name of the module that raised an exception."""
    step, name = error.__traceback__, ""
    while step is not None:
        name, step = str(step.tb_frame.f_globals.get("__name__", "")), step.tb_next
    return name


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn what libraries raise about the file `path` into one sentence; faults of the program pass through."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_about_file(error):
            raise
        raise explain(path, error) from error


def explain(path: str, error: BaseException) -> UserError:
    """One sentence for what went wrong with `path`: DataError, MissingExtraError (a library is missing) or ResourceError (disk full)."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        return explain(path, error.__cause__)  # fsspec says so of every HTTP server that it cannot ask
    name, text = redacted(path), _text(error)
    if _is_empty(path):
        return DataError(f"{name} is empty: it has no bytes; fetch or write it again")
    if isinstance(error, ImportError) or "install " in text.lower():
        for word, (package, extra) in _EXTRAS.items():
            if word in text.lower():
                return MissingExtraError(package, extra)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(f"{name} cannot be read: no space for a temporary copy; free some, or set TMPDIR to another folder")
    for judge in (_absent, _refused, _unreachable, _damaged):
        if sentence := judge(name, scheme(path), error, text):
            return DataError(sentence)
    return DataError(f"{name} cannot be read: {_first_line(error)}")


def _is_empty(path: str) -> bool:
    """Whether a local file has no bytes."""
    try:
        return not scheme(path) and os.path.isfile(path) and os.path.getsize(path) == 0  # noqa: PTH113, PTH202
    except OSError:
        return False


def _begins(path: str, magic: bytes) -> bool:
    """Whether a file begins so; True for one that cannot be looked at here."""
    try:
        with open(path, "rb") as stream:  # noqa: PTH123
            return stream.read(len(magic)) == magic
    except OSError:
        return True


def _absent(name: str, protocol: str, error: BaseException, text: str) -> str:
    if re.search(r"relative path .*disallowed|opening relative path", text, re.I):
        return f"{name}: the server takes absolute paths only; write two slashes after the host, as in root://host//store/file.root"
    if isinstance(error, IsADirectoryError) or re.search(r"is a directory|\[3016\]", text, re.I):
        return f"{name} is a folder; name its files, e.g. {name.rstrip('/')}/*.root"
    missing = isinstance(error, FileNotFoundError) or _status(error) in (404, 410)
    if missing or re.search(r"no such file|\[3011\]|_ls_from_cache|NoSuchKey|NoSuchBucket|no hosts for file|No servers have", text, re.I):
        return f"there is no file {name}" + (f" on that server ({_first_line(error)})" if protocol == "root" else "")
    return ""


def _refused(name: str, protocol: str, error: BaseException, text: str) -> str:
    refused = isinstance(error, PermissionError) or _status(error) in (401, 403)
    if refused or re.search(
        r"permission denied|auth failed|authentication failed|not authorized|\[3010\]|\[3030\]|credentials|Forbidden|access denied", text, re.I
    ):
        cure = _PROXIED if proxied(name) != name else _CREDENTIALS.get(protocol, _CREDENTIALS[""])
        return f"{name} may not be read: access is refused; {cure}"
    return ""


def _unreachable(name: str, protocol: str, error: BaseException, text: str) -> str:
    if not protocol:
        return ""
    if re.search(r"certificate", type(error).__name__ + text, re.I):
        return f"{name} cannot be read: the server's certificate is not trusted; set SSL_CERT_FILE to the file of its certification authority"
    if isinstance(error, TimeoutError | asyncio.TimeoutError) or re.search(r"expired|time(d)? ?out", text, re.I):
        return f"{name} cannot be read: the server did not answer within {credentials.READ_SECONDS} s; try again, or name another server"
    status = _status(error)
    if status is not None and status >= 400:
        return f"{name} cannot be read: the server answered {status}"
    if re.search(r"range request|expected Chunk of length|partial", text, re.I):
        return f"{name} cannot be read in parts: the server does not serve ranges; download the file and name the copy"
    broken = isinstance(error, ConnectionError) or re.search(
        r"connect|disconnect|payload|EndpointConnection|stream error|socket|invalid address|resolve|no route|domain name|name resolution",
        type(error).__name__ + text,
        re.I,
    )
    return f"{name} cannot be read: no connection, or it broke; check the host name and the network ({_first_line(error)})" if broken else ""


def _damaged(name: str, protocol: str, error: BaseException, text: str) -> str:
    if re.search(r"not a ROOT file", text, re.I) or (name.endswith(".root") and "expected Chunk" in text and not _begins(name, b"root")):
        return f"{name} is not a ROOT file"
    cut = isinstance(error, EOFError | zlib.error | lzma.LZMAError | struct.error) or re.search(
        r"gzip|invalid data stream|end-of-stream|truncated|zstd|decompress|Deserialization|expected Chunk|unexpected end|magic bytes not found",
        type(error).__name__ + text,
        re.I,
    )
    return f"{name} is damaged or truncated ({_first_line(error)}); fetch or write it again" if cut else ""


def _status(error: BaseException) -> int | None:
    status = getattr(error, "status", None)
    return status if isinstance(status, int) else None


def _text(error: BaseException) -> str:
    """The texts of an error and of what caused it."""
    texts: list[str] = []
    step: BaseException | None = error
    while step is not None and len(texts) < 5:
        texts.append(f"{type(step).__name__}: {step}")
        step = step.__cause__
    return "\n".join(texts)


def _first_line(error: BaseException) -> str:
    """The first line of an error's text, without signatures and tokens, at most 200 characters."""
    line = next((part.strip() for part in str(error).splitlines() if part.strip()), type(error).__name__)
    line = re.sub(r"^'(\w+)' object is not subscriptable$", r"\1", line)  # uproot takes the error for the bytes that it asked for
    line = re.sub(r"^Failed to .*\[(ERROR|FATAL)\] ", "", line)
    return re.sub(r"(\w+://[^\s?'\"]+)\?[^\s'\"]*", r"\1", line)[:200].rstrip(".")
