"""The inference service as a process of its own, for tests."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.ports import free_port

CODE = """
import sys
from mlaas.inference.run import main
from mlaas.settings import settings
sys.exit(main(settings(), listening=lambda address: print(address, flush=True), **({"factory": sys.argv[1]} if sys.argv[1:] else {})))
"""


@dataclass
class Service:
    """A running service. log: the file of its log lines."""

    process: subprocess.Popen[str]
    url: str
    grpc: str
    token: str
    log: Path
    ca: Path | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The token's header; a new object each time, for tritonclient puts headers of its own into what it is given."""
        return {"authorization": f"Bearer {self.token}"}

    def client(self, **options: Any) -> httpx.Client:
        """A client that sends the token."""
        return httpx.Client(base_url=self.url, headers=self.headers, timeout=60, verify=_trust(self.ca), **options)

    def lines(self) -> list[dict[str, Any]]:
        """Its log lines so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def stop(self) -> int:
        """Ask it to end; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)


def _trust(ca: Path | None) -> ssl.SSLContext | bool:
    """How to verify the service; without TLS there is nothing to load."""
    return ssl.create_default_context(cafile=str(ca)) if ca else False


@contextmanager
def serving(data: Path, *, factory: str = "", grpc: bool = True, ca: Path | None = None, **settings: Any) -> Iterator[Service]:
    """The service on a data folder, until the block ends. settings: of `mlaas.settings`, by name."""
    port = free_port() if grpc else 0
    values = {"data": data, "inference_port": 0, "grpc_port": port, "log_format": "json", "inference_workers": 1, **settings}
    environment = os.environ | {f"MLAAS_{name.upper()}": str(value) for name, value in values.items()}
    log = data / "inference.log"
    with log.open("w") as stderr:
        command = [sys.executable, "-c", CODE, *([factory] if factory else [])]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url, log.read_text()
        service = Service(
            process, url, f"127.0.0.1:{port}", (data / "secrets" / "token").read_text().strip() if _ready(url, process, ca) else "", log, ca
        )
        assert service.token, log.read_text()
        yield service
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(40)
        assert process.stdout is not None
        process.stdout.close()


def _ready(url: str, process: subprocess.Popen[str], ca: Path | None) -> bool:
    """Wait until it answers; the connection waits in the socket's queue meanwhile."""
    with httpx.Client(timeout=60, verify=_trust(ca)) as client:
        while process.poll() is None:
            try:
                return client.get(f"{url}/readyz").status_code == 200
            except httpx.TransportError:
                continue
    return False
