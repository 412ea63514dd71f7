"""Secrets in files: made once, mode 0600, and refused where others could have read them."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mlaas.errors import UserError
from mlaas.places import Places
from mlaas.settings import Settings

TOKEN_PREFIX = "mlaas_"  # noqa: S105  # lets people and log filters recognise an embedded token
SHORTEST = 20
LARGEST = 64 * 1024  # bytes


def embedded_token(settings: Settings, places: Places) -> str:
    """The token of a service with `auth: token`; made at the first call. Raises UserError when its file cannot be used."""
    path = settings.token_file or places.secrets / "token"
    return made_once(path, lambda: TOKEN_PREFIX + secrets.token_urlsafe(32), "the embedded token")


def service_key(settings: Settings, places: Places) -> bytes:
    """The key that the parts of the service sign with; made at the first call. Raises UserError when its file cannot be used."""
    path = settings.service_key_file or places.secrets / "service-key"
    return made_once(path, lambda: secrets.token_urlsafe(48), "the service key").encode()


def derived(key: bytes, purpose: str) -> bytes:
    """A key of 32 bytes for one purpose, so that what is signed for one purpose is worth nothing for another."""
    return hmac.digest(key, purpose.encode(), hashlib.sha256)


def made_once(path: Path, make: Callable[[], str], what: str) -> str:
    """The content of a secret's file; where there is none, that of `make()`, written so that processes that start together agree on one."""
    path = path.expanduser()
    if not path.exists():
        try:
            _write_new(path, make())
        except OSError as error:
            raise UserError(f"{what} cannot be written to {path}: {error.strerror}; name another file or make its folder writable") from None
    return read_secret(path, what)


def _write_new(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(file, "w") as stream:
            stream.write(text + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        with suppress(FileExistsError):  # another process was first: its secret counts
            os.link(aside, path)
    finally:
        aside.unlink()


def read_secret(path: Path, what: str) -> str:
    """The content of a file that holds a secret, without the white space around it.

    Raises UserError when it is missing, unreadable, too short (20 characters), or when others may read or change it. A group may read a file that
    belongs to root, for so are secrets mounted into containers.
    """
    try:
        file = os.open(path.expanduser(), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UserError(f"{what} cannot be read from {path}: {error.strerror}") from None
    try:
        _refuse_public(os.fstat(file), path, what)
        text = os.read(file, LARGEST).decode("utf-8", "replace").strip()
    finally:
        os.close(file)
    if len(text) < SHORTEST:
        raise UserError(f"{what} in {path} is too short: at least {SHORTEST} characters are needed")
    return text


def _refuse_public(found: os.stat_result, path: Path, what: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{what}: {path} is not a file")
    if found.st_uid not in {0, os.geteuid()}:
        raise UserError(f"{what}: {path} belongs to somebody else; it must belong to the user of the service or to root")
    mounted = found.st_uid == 0 and os.geteuid() != 0
    if found.st_mode & (0o037 if mounted else 0o077):
        raise UserError(f"{what}: {path} may be read by others (mode {stat.S_IMODE(found.st_mode):04o}); chmod 600 {path}")
