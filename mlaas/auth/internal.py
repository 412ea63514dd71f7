"""Calls from one part of the service to another on behalf of a user."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import jwt

from mlaas.auth.errors import AuthError
from mlaas.auth.identity import Identity
from mlaas.auth.packed import UNREADABLE, packed, unpacked
from mlaas.auth.secrets import derived

INTERNAL = "mlaas-internal"
INTERNAL_TYPE = "mlaas+jwt"
INTERNAL_SECONDS = 120


def call_token(identity: Identity, key: bytes) -> str:
    """A token with which one part of the service calls another for a user; valid for two minutes."""
    now = int(time.time())
    claims = {"iss": INTERNAL, "aud": INTERNAL, "iat": now, "exp": now + INTERNAL_SECONDS, "z": packed(identity)}
    return jwt.encode(claims, derived(key, "internal"), algorithm="HS256", headers={"typ": INTERNAL_TYPE})


def is_call_token(token: str) -> bool:
    """Whether a token says that it is one of `call_token`."""
    try:
        return jwt.get_unverified_header(token).get("typ") == INTERNAL_TYPE
    except (jwt.PyJWTError, ValueError, RecursionError):
        return False


def called(token: str, key: bytes) -> Identity:
    """The identity of a `call_token`. Raises AuthError."""
    options: Any = {"require": ["exp", "iat", "iss", "aud"]}
    try:
        claims = jwt.decode(token, derived(key, "internal"), algorithms=["HS256"], audience=INTERNAL, issuer=INTERNAL, leeway=5, options=options)
        if claims["exp"] - claims["iat"] <= INTERNAL_SECONDS:
            return replace(unpacked(claims["z"]), expires=float(claims["exp"]))
    except UNREADABLE:
        pass
    raise AuthError("the token of a call between the parts of the service is not valid")
