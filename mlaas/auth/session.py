"""Sessions of browsers: a signed cookie, and the token that shows that a form is of our own pages."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from dataclasses import replace

import jwt

from mlaas.auth.errors import AuthError
from mlaas.auth.identity import Identity
from mlaas.auth.packed import UNREADABLE, packed, unpacked
from mlaas.auth.secrets import derived

SESSION_SECONDS = 30 * 86_400
"""How long a session lasts whose token never expires."""
LONGEST = 3_900  # characters; browsers keep cookies of 4096 with name and attributes


def seal(identity: Identity, key: bytes) -> str:
    """A session: the identity, signed, not encrypted, as long as its token is valid. Raises AuthError (403) when it would not fit into a cookie."""
    expires = identity.expires or time.time() + SESSION_SECONDS
    cookie = jwt.encode({"z": packed(identity), "exp": int(expires)}, derived(key, "session"), algorithm="HS256")
    if len(cookie) > LONGEST:
        raise AuthError("you are in too many groups for a session of the web pages; use the command line", status=403, error="")
    return cookie


def unseal(cookie: str, key: bytes) -> Identity | None:
    """The identity of a session, with `browser` set; None when it is not ours, or has expired."""
    try:
        claims = jwt.decode(cookie, derived(key, "session"), algorithms=["HS256"], options={"require": ["exp"]})
        return replace(unpacked(claims["z"]), browser=True)
    except UNREADABLE:
        return None


def form_token(identity: Identity, key: bytes) -> str:
    """What a form of the web pages must carry to show that it is a page of ours (against cross-site request forgery)."""
    text = f"{identity.issuer}\0{identity.subject}".encode()
    return base64.urlsafe_b64encode(hmac.digest(derived(key, "form"), text, hashlib.sha256)).decode().rstrip("=")
