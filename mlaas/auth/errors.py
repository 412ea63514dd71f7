"""The one error of this part."""

from __future__ import annotations

from mlaas.errors import MLaaSError


class AuthError(MLaaSError):
    """The caller is not known, or may not do this; the text says which, in one sentence without any part of the token.

    status: 401, or 403 for somebody who is known. error: the code of RFC 6750 ("invalid_token", "insufficient_scope"); empty when there was no token.
    scope: what a token would need, with "insufficient_scope".
    """

    def __init__(self, detail: str, *, status: int = 401, error: str = "invalid_token", scope: str = "") -> None:
        super().__init__(detail)
        self.status = status
        self.error = error
        self.scope = scope

    @property
    def challenge(self) -> str:
        """The value of WWW-Authenticate (RFC 6750, section 3)."""
        parts = ['realm="mlaas"']
        if self.error:
            text = str(self).encode("ascii", "replace").decode().replace("\\", "/").replace('"', "'")
            parts += [f'error="{self.error}"', f'error_description="{text}"']
        if self.scope:
            parts.append(f'scope="{self.scope}"')
        return "Bearer " + ", ".join(parts)
