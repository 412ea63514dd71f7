"""Who a request comes from, and what they may do."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import Literal

Role = Literal["user", "admin"]
Action = Literal["create", "read", "modify", "cancel"]
COMPUTE = "compute."


@dataclass(frozen=True, slots=True)
class Identity:
    """A verified caller.

    tenant: the owner of whatever they make; the same for the same issuer and subject, in every process, without a database.
    name: for people. groups: as in the token. roles: by groups. scopes: of the token. expires: seconds since 1970, 0 never.
    browser: known by a cookie (or by what a gateway passes on for one), not by a bearer token that the client itself sent.
    """

    tenant: str
    subject: str
    issuer: str
    name: str = ""
    groups: frozenset[str] = frozenset()
    roles: frozenset[Role] = frozenset({"user"})
    scopes: frozenset[str] = field(default_factory=frozenset)
    expires: float = 0.0
    browser: bool = False

    @property
    def admin(self) -> bool:
        """Whether this is an administrator."""
        return "admin" in self.roles

    def may(self, action: Action) -> bool:
        """Whether the token allows an action on jobs: everything, unless it carries WLCG compute scopes; then what they name."""
        named = {scope.split(":")[0] for scope in self.scopes if scope.startswith(COMPUTE)}
        return not named or f"{COMPUTE}{action}" in named


def tenant_of(issuer: str, subject: str) -> str:
    """The tenant of a subject: readable, valid as a folder's name, and different for every pair of issuer and subject.

    At most 35 characters of a-z, 0-9 and "-": what the subject looks like, then 40 bits of the SHA-256 of both.
    """
    digest = hashlib.sha256(f"{issuer}\0{subject}".encode()).hexdigest()[:10]
    readable = re.sub(r"[^a-z0-9]+", "-", subject.lower()).strip("-")[:24].rstrip("-") or "user"
    return f"{readable}-{digest}"
