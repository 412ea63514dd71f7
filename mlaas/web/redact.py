"""Secrets out of texts that are logged: tokens, passwords, signatures, keys, addresses with credentials."""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "***"
_NAMES = r"[\w.-]*(?:password|passwd|passphrase|secret|token|api[_-]?key|signature|credential|authorization|cookie|authz)[\w.-]*"
_SECRET = re.compile(_NAMES, re.IGNORECASE)
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), HIDDEN),
    (re.compile(r"\b([a-z][a-z0-9+.-]{1,20}://)[^/?#\s'\"@]*@", re.IGNORECASE), rf"\1{HIDDEN}@"),
    (re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]*){1,4}"), HIDDEN),
    (re.compile(r"\bmlaas_[A-Za-z0-9_-]{40,}"), HIDDEN),
    (re.compile(rf"\b({_NAMES})=(?:\"[^\"]*\"|'[^']*'|[^\s&;,\"'<>)]+)", re.IGNORECASE), rf"\1={HIDDEN}"),
    (re.compile(rf"(['\"])({_NAMES})\1\s*:\s*(?:\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')", re.IGNORECASE), rf'\1\2\1: "{HIDDEN}"'),
    (re.compile(r"^((?:proxy-)?authorization|(?:set-)?cookie|x-[\w-]*token)\s*:.*$", re.IGNORECASE | re.MULTILINE), rf"\1: {HIDDEN}"),
)
_known: set[str] = set()


def conceal(secret: str) -> None:
    """Hide this very text from now on, whatever it looks like."""
    if len(secret) >= 8:
        _known.add(secret)


def redact(text: str) -> str:
    """The text without what looks like a secret."""
    for secret in _known:
        text = text.replace(secret, HIDDEN)
    for pattern, instead in _RULES:
        text = pattern.sub(instead, text)
    return text


def redacted(value: Any) -> Any:
    """The same for what a log line has beside its message: texts in lists and mappings, too, and texts whose key names a secret."""
    if isinstance(value, str):
        return redact(value.encode("utf-8", "replace").decode())
    if isinstance(value, dict):
        return {str(key): HIDDEN if isinstance(item, str) and _SECRET.fullmatch(str(key)) else redacted(item) for key, item in value.items()}
    return [redacted(item) for item in value] if isinstance(value, list | tuple | set | frozenset) else value
