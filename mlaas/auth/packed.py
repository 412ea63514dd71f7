"""An identity as a short text, to be signed."""

from __future__ import annotations

import base64
import zlib

import jwt
import orjson

from mlaas.auth.identity import Identity

UNREADABLE = (jwt.PyJWTError, KeyError, TypeError, ValueError, zlib.error)
"""What reading a signed identity may raise."""


def packed(identity: Identity) -> str:
    """As JSON, compressed: groups repeat themselves, and a cookie holds 4 kB."""
    fields = [identity.tenant, identity.subject, identity.issuer, identity.name, identity.expires]
    document = [*fields, sorted(identity.groups), sorted(identity.roles), sorted(identity.scopes)]
    return base64.urlsafe_b64encode(zlib.compress(orjson.dumps(document), 9)).decode()


def unpacked(text: str) -> Identity:
    """What was packed. Raises one of UNREADABLE."""
    tenant, subject, issuer, name, expires, groups, roles, scopes = orjson.loads(zlib.decompress(base64.urlsafe_b64decode(text)))
    return Identity(tenant, subject, issuer, name, frozenset(groups), frozenset(roles), frozenset(scopes), float(expires))
