"""The keys of one OpenID provider: found by discovery, kept, and looked for again when a token names a key that is not known."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt

from mlaas.auth.errors import AuthError
from mlaas.errors import UserError

KEEP = 3600.0  # s; older keys are fetched anew, without anybody waiting for it
AGAIN = 60.0  # s between two looks for an unknown key
RETRY = 5.0  # s between two tries while there are no keys at all
TIMEOUT = 5.0  # s
LARGEST = 1_000_000  # bytes of a document
MOST_KEYS = 8  # tried for a token that names none
_PLAIN = re.compile(r"[!-~]{1,1000}")
KEY_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}

logger = logging.getLogger(__name__)


class Issuer:
    """One issuer, by its exact URL. Its keys outlive its outages; concurrent requests share one fetch."""

    def __init__(self, url: str, ca_file: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.url = url
        self.end_session = ""  # where a browser ends its session at the provider; known once keys were fetched
        self._loopback = _check_url(url, "MLAAS_OIDC_ISSUERS")
        self._ca_file = ca_file
        self._clock = clock
        self._keys: list[dict[str, Any]] = []
        self._usable: dict[tuple[str | None, str], list[jwt.PyJWK]] = {}
        self._fetched: float | None = None
        self._tried: float | None = None
        self._fetching: asyncio.Task[None] | None = None

    async def keys(self, kid: str | None, algorithm: str) -> list[jwt.PyJWK]:
        """The keys that may have signed a token: those of this `kid`, all that fit when it names none. Raises AuthError (503) without any keys."""
        if self._fetched is None:
            await self._first()
        elif self._clock() - self._fetched > KEEP and self._due(AGAIN):
            self._fetch()  # nobody waits: the keys at hand still count
        found = self._matching(kid, algorithm)
        if not found and self._due(AGAIN):
            await asyncio.shield(self._fetch())
            found = self._matching(kid, algorithm)
        return found

    async def _first(self) -> None:
        if self._running() or self._due(RETRY):
            await asyncio.shield(self._fetch())
        if self._fetched is None:
            raise AuthError(f"the keys of {self.url} cannot be had at the moment; try again soon", status=503, error="")

    def _due(self, seconds: float) -> bool:
        """Whether to fetch: a fetch is under way (then it is shared), or the last one was long enough ago."""
        return self._running() or self._tried is None or self._clock() - self._tried >= seconds

    def _running(self) -> bool:
        task = self._fetching
        return task is not None and not task.done() and task.get_loop() is asyncio.get_running_loop()

    def _fetch(self) -> asyncio.Task[None]:
        if self._fetching is None or not self._running():
            self._tried = self._clock()
            self._fetching = asyncio.create_task(self._refresh())
        return self._fetching

    async def _refresh(self) -> None:
        try:
            keys = await self._download()
        except (httpx.HTTPError, ssl.SSLError, OSError, ValueError, RecursionError, UserError) as error:
            logger.warning("the keys of issuer %s cannot be fetched: %s", self.url, error or type(error).__name__)
            return
        if keys != self._keys:
            logger.info("issuer %s has %d keys", self.url, len(keys))
        self._keys, self._usable, self._fetched = keys, {}, self._clock()

    async def _download(self) -> list[dict[str, Any]]:
        """Discovery (OpenID Connect Discovery 1.0, section 4), then the key set. Raises ValueError when a document is not what it should be."""
        verify = ssl.create_default_context(cafile=str(self._ca_file)) if self._ca_file else True
        async with httpx.AsyncClient(verify=verify, timeout=TIMEOUT, trust_env=not self._loopback) as client:
            document = await _json(client, f"{self.url.rstrip('/')}/.well-known/openid-configuration")
            if document.get("issuer") != self.url:
                raise ValueError(f"its discovery document names the issuer {document.get('issuer')!r}")
            address = document.get("jwks_uri")
            if not isinstance(address, str):
                raise ValueError("its discovery document names no jwks_uri")  # noqa: TRY004
            _check_url(address, "jwks_uri")
            self.end_session = _address(document.get("end_session_endpoint"))
            keys = (await _json(client, address)).get("keys")
        if not isinstance(keys, list):
            raise ValueError("its key set has no list of keys")  # noqa: TRY004
        return [key for key in keys if isinstance(key, dict) and key.get("use", "sig") == "sig"]

    def _matching(self, kid: str | None, algorithm: str) -> list[jwt.PyJWK]:
        if (kid, algorithm) not in self._usable:
            named = [key for key in self._keys if kid is None or key.get("kid") == kid]
            found = [made for key in named if (made := _usable(key, algorithm))][:MOST_KEYS]
            if not found:
                return []  # not remembered: anybody can make up names
            self._usable[kid, algorithm] = found
        return self._usable[kid, algorithm]


def _address(found: Any) -> str:
    """An address that a provider names for browsers; empty where it names none that can be used."""
    with suppress(UserError):
        if isinstance(found, str) and _PLAIN.fullmatch(found):
            _check_url(found, "end_session_endpoint")
            return found
    return ""


async def _json(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    """Read a JSON object, without following redirects and not more than LARGEST."""
    async with client.stream("GET", url, headers={"Accept": "application/json"}) as answer:
        if answer.status_code != 200:
            raise ValueError(f"{url} answers {answer.status_code}")
        body = b""
        async for part in answer.aiter_bytes():
            body += part
            if len(body) > LARGEST:
                raise ValueError(f"{url} holds more than {LARGEST} bytes")
    found = httpx.Response(200, content=body).json()
    if not isinstance(found, dict):
        raise ValueError(f"{url} holds no JSON object")  # noqa: TRY004
    return found


def _usable(key: dict[str, Any], algorithm: str) -> jwt.PyJWK | None:
    """The key for one algorithm; None when it is of another kind."""
    if key.get("alg", algorithm) != algorithm or key.get("kty") != KEY_TYPES.get(algorithm[:2]):
        return None
    try:
        return jwt.PyJWK(key, algorithm=algorithm)
    except jwt.PyJWTError:
        return None


def _check_url(url: str, field: str) -> bool:
    """Whether a URL is of this machine. Raises UserError when it is neither that nor https."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        raise UserError(f"{field}: {url} is not a URL") from None
    loopback = _is_loopback(host)
    if not host or parts.username or (parts.scheme != "https" and not (parts.scheme == "http" and loopback)):
        raise UserError(f"{field}: {url} must be an https:// URL (http:// is for loopback addresses only)")
    return loopback


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
