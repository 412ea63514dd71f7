"""Reading root:// files through the site's XRootD forwarding proxy, which holds the credential that jobs do not have.

Only what is opened gets the proxy's address: messages and documents name the file's own.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from mlaas.data.credentials import scheme
from mlaas.settings import settings


def proxied(path: str) -> str:
    """The URL to open `path` by: behind the proxy that the setting `xrootd_proxy` names, if it is a root:// URL of another server."""
    proxy = settings().xrootd_proxy
    if not proxy or scheme(path) != "root":
        return path
    host, mark, name = path.partition("://")[2].partition("/")
    return path if host == urlsplit(proxy).netloc else f"{proxy}//root://{host.lower()}{mark}{name}"


def unproxied(path: str) -> str:
    """The URL of its own of what `proxied` gave."""
    before = f"{settings().xrootd_proxy}//"
    return path.removeprefix(before) if path.startswith(f"{before}root://") else path
