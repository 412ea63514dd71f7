"""Who asks, on the path of predictions: a token that was verified a moment ago costs a look-up."""

from __future__ import annotations

from mlaas.auth.authenticator import Authenticator
from mlaas.auth.errors import AuthError
from mlaas.auth.identity import Identity


class Tokens:
    """The bearer tokens of requests (cookies are for the pages; see `mlaas.web.identify`)."""

    def __init__(self, authenticator: Authenticator) -> None:
        self.authenticator = authenticator

    def known(self, authorization: bytes) -> Identity | None:
        """The caller by the value of the header Authorization, if the token was verified a moment ago and has not expired."""
        return self.authenticator.recall(authorization[7:].decode("latin-1")) if authorization[:7].lower() == b"bearer " else None

    async def identity(self, authorization: bytes) -> Identity:
        """The caller by the value of the header Authorization. Raises AuthError."""
        scheme, _, token = authorization.partition(b" ")
        if not authorization:
            raise AuthError("a token is needed: Authorization: Bearer TOKEN", error="")
        if scheme.lower() != b"bearer" or not token.strip():
            raise AuthError("Authorization must be one bearer token: Authorization: Bearer TOKEN", error="invalid_request")
        return await self.authenticator.authenticate(token.strip().decode("latin-1"))
