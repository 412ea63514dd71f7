"""The user's bearer token, where the grid's programs put it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mlaas.errors import DataError


def bearer_token() -> str:
    """The user's bearer token, or "" (WLCG Bearer Token Discovery, doi:10.5281/zenodo.3937438).

    In this order: BEARER_TOKEN, the file BEARER_TOKEN_FILE, $XDG_RUNTIME_DIR/bt_u<uid>, /tmp/bt_u<uid>. A file in a shared folder counts only
    when it belongs to this user. Raises DataError when BEARER_TOKEN_FILE cannot be read or what was found is no token.
    """
    return environment_token() or discovered_token()


def environment_token() -> str:
    """The token that BEARER_TOKEN holds or BEARER_TOKEN_FILE names, or "". Raises DataError when that is no token."""
    if token := os.environ.get("BEARER_TOKEN", "").strip():
        return checked(token, "BEARER_TOKEN")
    if named := os.environ.get("BEARER_TOKEN_FILE", ""):
        try:
            return checked(Path(named).read_text().strip(), "BEARER_TOKEN_FILE")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"BEARER_TOKEN_FILE: {named} cannot be read ({type(error).__name__}); give a file that holds a bearer token") from None
    return ""


def discovered_token() -> str:
    """The token in $XDG_RUNTIME_DIR/bt_u<uid> or /tmp/bt_u<uid>, where it belongs to this user, or "". Raises DataError when it is no token."""
    user = os.geteuid()
    for folder in filter(None, (os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp")):  # noqa: S108
        file = Path(folder, f"bt_u{user}")
        if file.is_file() and not file.is_symlink() and file.stat().st_uid == user:
            return checked(file.read_text(errors="replace").strip(), str(file))
    return ""


def checked(token: str, source: str) -> str:
    """The token, if it can be one (RFC 6750). Raises DataError naming the source, and not the text."""
    if not re.fullmatch(r"[A-Za-z0-9._~+/=-]+", token):
        raise DataError(f"{source} does not hold a bearer token: letters, digits and . _ ~ + / = - are allowed")
    return token
