"""Addresses of servers, and which of them may be given a token."""

from __future__ import annotations

import ipaddress
import re

import httpx

from mlaas.errors import UserError

LARGEST = 65_535
PORTS = {"http": 80, "https": 443}


def server_address(text: str, *, insecure: bool = False) -> httpx.URL:
    """The address of a server: a bare host gets https:// (http:// on this machine); no path but a prefix, no user, no query.

    Raises UserError; also for http:// to another machine, which would show the token to everybody on the way, unless `insecure`.
    """
    address = text.strip()
    if "://" not in address:
        address = f"{'http' if loopback(_host(f'//{address}')) else 'https'}://{address}"
    try:
        url = httpx.URL(address.rstrip("/"))
    except httpx.InvalidURL as error:
        raise UserError(f"server: {text!r} is not an address ({error}); write e.g. https://mlaas.example.org") from None
    if url.scheme not in PORTS or not re.fullmatch(r"[^\s%]+", url.host) or (url.port or 0) > LARGEST or url.userinfo or url.query or url.fragment:
        raise UserError(f"server: {text!r} is not an address of a server; write e.g. https://mlaas.example.org")
    return checked(url, insecure=insecure)


def checked(url: httpx.URL, *, insecure: bool = False) -> httpx.URL:
    """The address, if a token may be sent there. Raises UserError for http:// to another machine."""
    if url.scheme == "http" and not loopback(url.host) and not insecure:
        raise UserError(f"server: {url.scheme}://{url.host} would send your token unencrypted; use https://, or allow it with --insecure")
    return url


def _host(address: str) -> str:
    try:
        return httpx.URL(address).host
    except httpx.InvalidURL:
        return ""


def loopback(host: str) -> bool:
    """Whether a host is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def origin(url: httpx.URL) -> tuple[str, str, int]:
    """Scheme, host and port: what a token belongs to."""
    return url.scheme, url.host, url.port or PORTS.get(url.scheme, 0)
