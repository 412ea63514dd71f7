"""What `mlaas login` keeps: one file of the user, mode 0600, changed under a lock and by one rename."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mlaas.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Login:
    """How to get tokens for a server: a token that does not change, or what an OpenID provider gave. expires: seconds since 1970, 0 unknown."""

    server: str
    access_token: str
    refresh_token: str = ""
    expires: float = 0.0
    issuer: str = ""
    client_id: str = ""
    token_endpoint: str = ""
    scope: str = ""
    audience: str = ""
    ca_file: str = ""

    def __repr__(self) -> str:
        return f"Login(server={self.server!r}, issuer={self.issuer!r})"


def path() -> Path:
    """The file: $XDG_CONFIG_HOME/mlaas/logins.json, by default ~/.config/mlaas/logins.json."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".config") / "mlaas" / "logins.json"


def get(server: str) -> Login | None:
    """The login at a server."""
    return _read().get(server)


def current() -> str:
    """The server of the last login, or ""."""
    return next(reversed(_read()), "")


def every() -> list[Login]:
    """All logins, the last one at the end."""
    return list(_read().values())


def put(login: Login) -> None:
    """Keep a login and make its server the current one."""
    with changing() as found:
        found.pop(login.server, None)
        found[login.server] = login


def drop(server: str) -> Login | None:
    """Forget a login; returns it if there was one."""
    if not path().exists():
        return None
    with changing() as found:
        return found.pop(server, None)


@contextmanager
def changing() -> Iterator[dict[str, Login]]:
    """All logins by server, for changing; others wait. They are written when the context ends without an error."""
    folder = path().parent
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (folder / ".logins.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            found = _read()
            before = dict(found)
            yield found
            if list(found.items()) != list(before.items()):
                _write(found)
    except OSError as error:
        raise UserError(f"{path()} cannot be written: {error.strerror}") from None


def _read() -> dict[str, Login]:
    file = path()
    try:
        with file.open("rb") as opened:
            status = os.fstat(opened.fileno())
            if status.st_uid != os.geteuid() or status.st_mode & 0o077:
                raise UserError(f"{file} can be read by others, or is another user's; remove it (rm {file}), and sign in again: mlaas login")
            document = json.load(opened)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None
    except ValueError:
        raise UserError(f"{file} is damaged; remove it, and sign in again: mlaas login") from None
    return _parsed(document, file)


def _parsed(document: Any, file: Path) -> dict[str, Login]:
    try:
        found = TypeAdapter(list[Login]).validate_python(document["logins"])
    except (ValidationError, KeyError, TypeError):
        raise UserError(f"{file} is damaged; remove it, and sign in again: mlaas login") from None
    return {login.server: login for login in found}


def _write(found: dict[str, Login]) -> None:
    file = path()
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as opened:
            json.dump({"logins": [asdict(login) for login in found.values()]}, opened, indent=1)
            opened.flush()
            os.fsync(opened.fileno())
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)
