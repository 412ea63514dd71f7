"""Tokens in, identities out: the one door that the server and the inference service share."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from dataclasses import replace

from mlaas.auth import internal, session
from mlaas.auth.errors import AuthError
from mlaas.auth.identity import Identity
from mlaas.auth.oidc import Oidc
from mlaas.auth.secrets import embedded_token, service_key
from mlaas.places import Places
from mlaas.settings import Settings

LONGEST = 16_384  # characters
REMEMBER = 60.0  # s that a verified token is not verified again
REMEMBERED = 4096  # tokens
LOCAL = Identity(tenant="local", subject="local", issuer="local", name="local", roles=frozenset({"user", "admin"}))
"""Who has the embedded token."""


class Authenticator:
    """Verifies tokens. One per process; use it from one event loop.

    token: the embedded token; None where OpenID providers decide. key: what the service signs with.
    """

    def __init__(self, key: bytes, *, token: str | None = None, oidc: Oidc | None = None) -> None:
        self._token = token
        self._oidc = oidc
        self._key = key
        self._sessions = key + hashlib.sha256((token or "").encode()).digest()  # a new embedded token ends the sessions of the old one
        self._known: dict[bytes, tuple[Identity, float]] = {}

    @classmethod
    def of(cls, settings: Settings, places: Places) -> Authenticator:
        """The authenticator of the settings; makes secrets that are not there. Raises UserError naming the setting that is wrong."""
        key = service_key(settings, places)
        if settings.auth == "token":
            return cls(key, token=embedded_token(settings, places))
        return cls(key, oidc=Oidc(settings))

    async def authenticate(self, token: str, *, browser: bool = False) -> Identity:
        """The identity of a token; `browser` when it came with a browser's session. Raises AuthError (401, 403, or 503 without the issuer's keys)."""
        identity = self.recall(token)
        if identity is None:
            identity = await self._verify(token)
            self._remember(token, identity)
        return replace(identity, browser=True) if browser else identity

    def recall(self, token: str) -> Identity | None:
        """The identity of a token that was verified within the last minute and is still valid."""
        found = self._known.get(_digest(token))
        return found[0] if found and time.time() < found[1] else None

    def _remember(self, token: str, identity: Identity) -> None:
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        until = time.time() + REMEMBER
        self._known[_digest(token)] = identity, min(until, identity.expires or until)

    async def _verify(self, token: str) -> Identity:
        if len(token) > LONGEST:
            raise AuthError(f"the token is longer than {LONGEST} characters")
        if not re.fullmatch(r"[A-Za-z0-9._~+/=-]+", token):
            raise AuthError("the token has characters that no token has")
        if internal.is_call_token(token):
            return internal.called(token, self._key)
        if self._oidc is not None:
            return await self._oidc.identity(token)
        if self._token is not None and hmac.compare_digest(token.encode(), self._token.encode()):
            return LOCAL
        raise AuthError("the token is not the one of this service")

    def internal_token(self, identity: Identity) -> str:
        """A token for a call between the parts of the service on behalf of a user; valid for two minutes."""
        return internal.call_token(identity, self._key)

    def end_session(self, identity: Identity) -> str:
        """Where a browser ends the session of an identity at its provider; empty where there is no such address."""
        return self._oidc.end_session(identity) if self._oidc is not None else ""

    def seal(self, identity: Identity) -> str:
        """The session cookie of an identity."""
        return session.seal(identity, self._sessions)

    def unseal(self, cookie: str) -> Identity | None:
        """The identity of a session cookie, or None."""
        return session.unseal(cookie, self._sessions) if len(cookie) <= LONGEST else None

    def form_token(self, identity: Identity) -> str:
        """What the forms of the web pages carry for an identity."""
        return session.form_token(identity, self._sessions)

    def is_form_token(self, text: str, identity: Identity) -> bool:
        """Whether a form's token is that of the identity."""
        return hmac.compare_digest(text.encode(), self.form_token(identity).encode())


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
