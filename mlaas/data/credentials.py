"""What a server wants to know and how long it may take: bearer token, trusted authorities, timeouts."""

from __future__ import annotations

import atexit
import os
import re
import ssl
import weakref
from contextlib import suppress
from functools import cache, lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from mlaas.bearer import bearer_token
from mlaas.errors import MissingExtraError

CONNECT_SECONDS = 15
READ_SECONDS = 60

# Seconds and counts; XRootD's own defaults let a dead server hold a job for half an hour. Variables XRD_* of the user win.
XROOTD = {
    "ConnectionWindow": CONNECT_SECONDS,
    "ConnectionRetry": 2,
    "RequestTimeout": READ_SECONDS,
    "StreamTimeout": READ_SECONDS,
    "StreamErrorWindow": CONNECT_SECONDS,
    "TimeoutResolution": 1,
}


def scheme(path: str) -> str:
    """The URL scheme in lower case, or "" for a local path."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", path)
    return found.group(1).lower() if found else ""


def storage_options(path: str) -> dict[str, Any]:
    """What fsspec (and `uproot.open`) need to open `path`: timeouts in seconds, and for https the user's bearer token.

    Other credentials are found by the libraries themselves: X509_USER_PROXY and BEARER_TOKEN by XRootD, AWS_* by s3fs.
    Raises MissingExtraError when the protocol's library is not installed, DataError when the bearer token cannot be used.
    """
    match scheme(path):
        case "http" | "https" as protocol:
            secure = protocol == "https"
            tls = {"ssl": _tls(*(os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "X509_CERT_DIR")))} if secure else {}
            return {"client_kwargs": _http_client(secure=secure), **tls}
        case "root":
            _configure_xrootd()
            return {"timeout": READ_SECONDS}
        case "s3":
            _require_s3fs()
            return {"config_kwargs": {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS, "retries": {"max_attempts": 2}}}
        case _:
            return {}


def _http_client(*, secure: bool) -> dict[str, Any]:
    import aiohttp

    client: dict[str, Any] = {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS), "trust_env": True}
    token = bearer_token() if secure else ""
    if token:
        client["headers"] = {"Authorization": f"Bearer {token}"}
    return client


@lru_cache(maxsize=16)
def _tls(_file: str | None, _folder: str | None, grid: str | None) -> ssl.SSLContext:
    """Whom to trust: what OpenSSL trusts (SSL_CERT_FILE and SSL_CERT_DIR included) and the grid's authorities, where they are installed."""
    context = ssl.create_default_context()
    authorities = Path(grid or "/etc/grid-security/certificates")
    if authorities.is_dir():
        context.load_verify_locations(capath=authorities)
    return context


@cache
def _configure_xrootd() -> None:
    try:
        import_module("fsspec_xrootd")
        client = import_module("XRootD.client")
    except ImportError:
        raise MissingExtraError("XRootD support", "xrootd") from None
    for key, value in XROOTD.items():
        if f"XRD_{key.upper()}" not in os.environ:
            client.EnvPutInt(key, value)
    weakref.finalize(_drop_handles, int)  # weakref's own exit hook is registered by its first use, and must be so before ours to run after it
    atexit.register(_drop_handles)


def _drop_handles() -> None:
    """Close what fsspec-xrootd keeps open: it would do so itself after this, and print a traceback when the server has died."""
    for fs in list(import_module("fsspec_xrootd").XRootDFileSystem._cache.values()):
        handles = getattr(fs, "_readonly_filehandle_cache", None)
        if handles is not None:
            with suppress(Exception):
                handles.close_all()
            handles._cache.clear()


@cache
def _require_s3fs() -> None:
    try:
        import_module("s3fs")
    except ImportError:
        raise MissingExtraError("S3 support", "s3") from None
