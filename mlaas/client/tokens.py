"""Which token goes to a server, and where it comes from. The order is that of `find`; what does not belong to the server is passed over."""

from __future__ import annotations

import base64
import binascii
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from mlaas.bearer import checked, discovered_token, environment_token
from mlaas.client import agent, local, logins
from mlaas.client.documents import Service
from mlaas.client.errors import NotSignedIn
from mlaas.client.logins import Login
from mlaas.client.openid import Provider, fresh
from mlaas.client.transport import TokenSource
from mlaas.errors import UserError
from mlaas.settings import Settings

KEPT = 30.0  # s that a token of the agent is used without asking again


@dataclass
class Fixed:
    """A token that stays as it is."""

    text: str = field(repr=False)
    name: str = "the given token"

    def token(self, *, renew: bool = False) -> str:
        """The token."""
        return self.text


@dataclass
class Reading:
    """A token that is read again for each request: other programs renew it in its place."""

    read: Callable[[], str]
    name: str

    def token(self, *, renew: bool = False) -> str:
        """The token, as it is now."""
        return self.read()


class Stored:
    """What `mlaas login` keeps; refreshed when it ends, one process at a time, because a refresh token may be good for one use only."""

    name = "your login"

    def __init__(self, login: Login) -> None:
        self._login = login
        self._lock = threading.Lock()

    def token(self, *, renew: bool = False) -> str:
        """The access token. Raises NotSignedIn when it has ended and cannot be refreshed."""
        with self._lock:
            if renew or not fresh(self._login, time.time()):
                self._login = self._refreshed(self._login)
            return self._login.access_token

    @staticmethod
    def _refreshed(old: Login) -> Login:
        if not old.refresh_token:
            if not old.issuer:
                return old
            raise NotSignedIn(f"your sign-in at {old.server} has ended; sign in again: mlaas login --server {old.server}")
        with logins.changing() as found:
            kept = found.get(old.server)
            if kept and kept.access_token != old.access_token and fresh(kept, time.time()):
                return kept  # another process was faster
            provider = Provider(old.issuer, ca_file=Path(old.ca_file) if old.ca_file else None)
            try:
                new = provider.refresh(kept or old)
            finally:
                provider.close()
            if kept:
                found[old.server] = new
            return new


class Agent:
    """Tokens of oidc-agent."""

    def __init__(self, *, account: str = "", issuer: str = "", audience: str = "") -> None:
        self.name = f"oidc-agent ({account or issuer})"
        self._wanted = {"account": account, "issuer": issuer, "audience": audience}
        self._held, self._until = "", 0.0

    def token(self, *, renew: bool = False) -> str:
        """The access token; the agent renews it. Raises UserError with what the agent says."""
        if renew or time.monotonic() >= self._until:
            self._held, self._until = agent.access_token(**self._wanted), time.monotonic() + KEPT
        return self._held


class Found:
    """The token that `find` finds, looked for when it is first needed."""

    def __init__(self, look: Callable[[], TokenSource]) -> None:
        self._look = look
        self._source: TokenSource | None = None

    @property
    def name(self) -> str:
        """Where it was found."""
        return self._source.name if self._source else "no token yet"

    def token(self, *, renew: bool = False) -> str:
        """The token. Raises NotSignedIn when there is none."""
        if self._source is None:
            self._source = self._look()
        return self._source.token(renew=renew)


def find(server: httpx.URL, service: Service, settings: Settings) -> TokenSource:
    """The token for a server, in this order:

    1. BEARER_TOKEN or the file BEARER_TOKEN_FILE;
    2. oidc-agent, where an account is named (MLAAS_OIDC_AGENT or --oidc-agent);
    3. what `mlaas login` keeps for this server;
    4. $XDG_RUNTIME_DIR/bt_u<uid> or /tmp/bt_u<uid>;
    5. oidc-agent, where it is running, by the issuer of the service;
    6. the embedded token of a service on this machine, from its data folder.

    1 and 4 count only if the token is one for this service: not a JWT for a service with an embedded token; else a JWT of one of its issuers.
    Raises NotSignedIn when there is none, UserError when one of them is unusable.
    """
    passed: list[str] = []
    for source in _candidates(server, service, settings, passed):
        return source
    seen = f" ({'; '.join(passed)})" if passed else ""
    raise NotSignedIn(f"you are not signed in at {server}{seen}; sign in with: mlaas login --server {server}")


def _candidates(server: httpx.URL, service: Service, settings: Settings, passed: list[str]) -> Iterator[TokenSource]:
    yield from _belonging(Reading(environment_token, "BEARER_TOKEN"), service, passed)
    if settings.oidc_agent:
        yield Agent(account=settings.oidc_agent, audience=service.audience)
    if login := logins.get(str(server)):
        yield Stored(login)
    yield from _belonging(Reading(discovered_token, "the token file bt_u of this user"), service, passed)
    if service.auth == "oidc" and agent.running():
        yield from _by_issuer(service, passed)
    if service.auth == "token" and (token := local.embedded_token(server, settings)):
        yield Fixed(token, "the token of the service on this machine")


def _belonging(source: TokenSource, service: Service, passed: list[str]) -> Iterator[TokenSource]:
    token = source.token()
    if not token:
        return
    issuer = issuer_of(token)
    if issuer is None if service.auth == "token" else issuer in service.issuers:
        yield source
    else:
        whose = f"of {issuer}" if issuer else "of no issuer"
        passed.append(f"{source.name} holds a token {whose}, which is not for this service")


def _by_issuer(service: Service, passed: list[str]) -> Iterator[TokenSource]:
    for issuer in service.issuers:
        source = Agent(issuer=issuer, audience=service.audience)
        try:
            source.token()
        except UserError as error:
            passed.append(str(error))
        else:
            yield source


def issuer_of(token: str) -> str | None:
    """The issuer that a JWT names, not verified; None when it is no JWT."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims: Any = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error):
        return None
    return str(claims.get("iss", "")) if isinstance(claims, dict) else None


def read_token(place: str) -> str:
    """The token in a file, or from stdin where the place is "-". Raises UserError."""
    if place == "-":
        return checked(sys.stdin.readline().strip(), "standard input")
    try:
        return checked(Path(place).read_text().strip(), place)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"token file: {place} cannot be read ({getattr(error, 'strerror', None) or type(error).__name__})") from None
