"""The service that `mlaas serve` runs on this machine: its address, and the token of its data folder."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from mlaas.client.address import loopback
from mlaas.places import Places
from mlaas.settings import Settings

RECORD = "serve.json"


@dataclass(frozen=True)
class Running:
    """A service that runs: its process and its addresses. grpc: "" without gRPC."""

    pid: int
    server: str
    inference: str
    grpc: str = ""


def running(settings: Settings) -> Running | None:
    """The service that runs on the data folder, as `mlaas serve` noted it there; None when none does."""
    document = _own_json(Places.of(settings).run / RECORD)
    try:
        found = Running(int(document["pid"]), str(document["server"]), str(document["inference"]), str(document.get("grpc", "")))
        os.kill(found.pid, 0)
    except PermissionError:
        return None
    except (KeyError, TypeError, ValueError, ProcessLookupError, OverflowError):
        return None
    return found


def default_server(settings: Settings) -> str:
    """The server on this machine: the one that runs, else where it would be."""
    if found := running(settings):
        return found.server
    return f"{'https' if settings.tls_certificate else 'http'}://127.0.0.1:{settings.port}"


def embedded_token(server: httpx.URL, settings: Settings) -> str:
    """The embedded token, for a server on this machine that is the one of the data folder; else "". Another port gets no token."""
    ports = {settings.port}
    if found := running(settings):
        ports.add(httpx.URL(found.server).port or 0)
    if not loopback(server.host) or server.port not in ports:
        return ""
    file = settings.token_file or Places.of(settings).secrets / "token"
    with suppress(OSError, UnicodeDecodeError):
        status = file.stat()
        if status.st_uid == os.geteuid() and not status.st_mode & 0o077:
            return file.read_text().strip()
    return ""


def _own_json(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError), path.open("rb") as opened:
        if os.fstat(opened.fileno()).st_uid == os.geteuid():
            found = json.load(opened)
            return found if isinstance(found, dict) else {}
    return {}
