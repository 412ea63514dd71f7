"""Who asks, on the path of predictions: tokens that were verified a moment ago cost a look-up."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from mlaas.auth.errors import AuthError
from mlaas.auth.identity import Identity
from mlaas.web.problem import Problem

KEPT = 60.0  # s; a token that was withdrawn is refused after this time
MOST = 4096
MISSING = "a token is needed: Authorization: Bearer <token>"


class Authenticator(Protocol):
    """What is needed of `mlaas.auth`."""

    async def authenticate(self, token: str) -> Identity: ...


class Tokens:
    """Verified tokens by their SHA-256, each until it expires, at most a minute."""

    def __init__(self, authenticator: Authenticator, clock: Callable[[], float] = time.time) -> None:
        self._authenticator = authenticator
        self._clock = clock
        self._known: dict[bytes, tuple[Identity, float]] = {}

    def known(self, headers: Iterable[tuple[bytes, bytes]]) -> Identity | None:
        """The caller, if the token was verified a moment ago."""
        for name, value in headers:
            if name == b"authorization":
                found = self._known.get(hashlib.sha256(value).digest())
                return found[0] if found is not None and found[1] > self._clock() else None
        return None

    async def identity(self, scope: Mapping[str, Any]) -> Identity:
        """The caller of a request. Raises Problem 401 or 403, with WWW-Authenticate."""
        headers = scope["headers"]
        return self.known(headers) or await self.verify(next((value for name, value in headers if name == b"authorization"), b""))

    async def verify(self, authorization: bytes) -> Identity:
        """The caller by the value of the header Authorization."""
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() != b"bearer" or not token.strip():
            raise Problem(401, MISSING, headers={"WWW-Authenticate": "Bearer"})
        try:
            identity = await self._authenticator.authenticate(token.strip().decode("ascii"))
        except UnicodeDecodeError:
            raise _refused(401, "the token is not one: it has characters that tokens do not have", "invalid_token") from None
        except AuthError as error:
            raise _refused(error.status, str(error), error.error) from None
        self._keep(authorization, identity)
        return identity

    def _keep(self, authorization: bytes, identity: Identity) -> None:
        until = self._clock() + KEPT
        if identity.expires:
            until = min(until, identity.expires)
        while len(self._known) >= MOST:
            del self._known[next(iter(self._known))]
        self._known[hashlib.sha256(authorization).digest()] = (identity, until)


def _refused(status: int, sentence: str, error: str) -> Problem:
    return Problem(status, sentence, headers={"WWW-Authenticate": f'Bearer error="{error}"'})
