"""`mlaas serve`: one lock per data folder, ports, parts, and what people are told."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from mlaas import __version__
from mlaas.auth.secrets import embedded_token
from mlaas.errors import UserError
from mlaas.places import Places
from mlaas.service.parts import prepare, require_extra
from mlaas.service.ports import free, listen
from mlaas.service.supervisor import Part, Supervisor
from mlaas.settings import Settings

RECORD = "serve.json"
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - addresses that cannot be asked


def serve(settings: Settings, *, show_token: bool = False) -> None:
    """Run the service until SIGTERM or Ctrl-C. Raises UserError when it cannot start: another one runs, a port is taken, a part fails."""
    require_extra()
    places = Places.of(settings)
    first = settings.auth == "token" and not (settings.token_file or places.secrets / "token").exists()
    _folder(places.data)
    with _only_one(places, settings, show_token) as crashed, _listening(settings, 10.0 if crashed else 0.0) as (sockets, chosen):
        prepare(settings)  # not before: a start that finds a port taken makes no token, which the next would not show
        running = _Running(chosen, places, token=show_token or (first and sys.stdout.isatty()))
        _supervisor(chosen, running, sockets).run()


def _folder(data: Path) -> None:
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        (data / "run").mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise UserError(f"data: {data} cannot be made: {error.strerror}; name another folder with --data (MLAAS_DATA)") from None


@contextmanager
def _only_one(places: Places, settings: Settings, show_token: bool) -> Iterator[bool]:
    """Hold the lock of the data folder; gives whether the last service did not end by itself. Raises UserError where one runs."""
    record = places.run / RECORD
    with (places.run / "serve.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(_runs_already(places, settings, show_token)) from None
        crashed = record.exists()
        record.unlink(missing_ok=True)
        try:
            yield crashed
        finally:
            record.unlink(missing_ok=True)


def _runs_already(places: Places, settings: Settings, show_token: bool) -> str:
    told = f"a service runs on {places.data} already"
    with suppress(OSError, ValueError, KeyError):
        document = json.loads((places.run / RECORD).read_text())
        told = f"{told}, at {document['server']} (process {document['pid']})"
        if show_token and settings.auth == "token":
            return f"{told}; sign in: {document['server']}/?token={embedded_token(settings, places)}"
    return f"{told}; use that one, or name another folder with --data (MLAAS_DATA)"


@dataclass(frozen=True)
class Sockets:
    """What the parts listen on; they outlive each of the processes, so that nobody is refused while one is started again."""

    server: socket.socket
    inference: socket.socket


@contextmanager
def _listening(settings: Settings, patience: float) -> Iterator[tuple[Sockets, Settings]]:
    """The sockets, and the settings with the ports that were found."""
    with (
        listen(settings.host, settings.port, "port", patience=patience) as server,
        listen(settings.host, settings.inference_port, "inference_port", patience=patience) as inference,
    ):
        ports = {"port": server.getsockname()[1], "inference_port": inference.getsockname()[1]}
        if settings.grpc_port:
            ports["grpc_port"] = free(settings.host, settings.grpc_port, "grpc_port", patience=patience)
        yield Sockets(server, inference), settings.model_copy(update=ports)


def _supervisor(settings: Settings, running: _Running, sockets: Sockets) -> Supervisor:
    ports = {f"MLAAS_{name.upper()}": str(getattr(settings, name)) for name in ("port", "inference_port", "grpc_port")}
    return Supervisor(
        parts=[Part("server", [sockets.server.fileno()]), Part("worker"), Part("inference", [sockets.inference.fileno()])],
        environment={**os.environ, **ports},
        checks={"server": lambda: _answers(running.server), "inference": lambda: _answers(running.inference)},
        ready=running.ready,
        tell=lambda text: print(f"mlaas: {text}", file=sys.stderr, flush=True),
        timeout=settings.shutdown_timeout,
    )


def _answers(address: str) -> bool:
    """Whether a part is ready. Its certificate names the site, not this machine, and it is asked for nothing secret."""
    try:
        return httpx.get(f"{address}/readyz", verify=False, timeout=5.0, trust_env=False).is_success  # noqa: S501
    except httpx.HTTPError:
        return False


class _Running:
    """What runs where, for people and for programs (run/serve.json)."""

    def __init__(self, settings: Settings, places: Places, *, token: bool) -> None:
        self._settings, self._places, self._token = settings, places, token
        scheme = "https" if settings.tls_certificate else "http"
        host = ANYWHERE.get(settings.host, settings.host)
        host = f"[{host}]" if ":" in host else host
        self.server = f"{scheme}://{host}:{settings.port}"
        self.inference = f"{scheme}://{host}:{settings.inference_port}"
        self.grpc = f"{host}:{settings.grpc_port}" if settings.grpc_port else ""

    def ready(self) -> None:
        """Note it, and tell."""
        document = {"pid": os.getpid(), "server": self.server, "inference": self.inference, "grpc": self.grpc}
        record = self._places.run / RECORD
        aside = record.with_name(f".{RECORD}.part")
        aside.write_text(json.dumps(document))
        aside.chmod(0o600)
        aside.replace(record)
        print("\n".join(self._lines()), flush=True)

    def _lines(self) -> Iterator[str]:
        public = self._settings.public_url or self.server
        yield f"MLaaS4HEP {__version__}, data in {self._places.data}"
        yield f"  pages and API  {public}"
        yield f"  inference      {self._settings.inference_public_url or self.inference}{f'  (gRPC {self.grpc})' if self.grpc else ''}"
        if self._settings.auth == "token":
            yield from self._token_lines(public)
        yield "\nIn another terminal, for a first training:"
        yield from (f"  {line}" for line in self._next())
        yield "\nCtrl-C stops the service; jobs go on.\n"

    def _token_lines(self, public: str) -> Iterator[str]:
        file = self._settings.token_file or self._places.secrets / "token"
        if self._token:
            yield f"  sign in        {public}/?token={embedded_token(self._settings, self._places)}"
            yield f"                 (not shown again; the token is in {file})"
        else:
            yield f"  sign in        with the token in {file}; mlaas serve --show-token prints the link"

    def _next(self) -> Iterator[str]:
        if self._settings.auth == "oidc":
            yield f"mlaas login --server={self._settings.public_url or self.server}"
        elif self._settings.data != Settings.model_fields["data"].default:
            yield f"export MLAAS_DATA={self._places.data}"
        yield "mlaas generate ttH --events=20000 && cd ttH"
        yield "mlaas submit --files=files.txt --labels=labels.txt --model=model.py --params=params.json --preproc=preproc.json --follow"
