"""Real servers on the loopback interface: XRootD, HTTP and HTTPS; each is a context manager and ends with the test."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.ports import free_port

TOKEN = "a-token.for_tests"  # noqa: S105


class XRootD:
    """An xrootd that serves `folder`/store read-only as root://127.0.0.1:port//store. `folder` is its own, readable to the user it runs as."""

    def __enter__(self) -> Self:
        self.base = Path(tempfile.mkdtemp(prefix="xrootd-"))
        self.folder = self.base / "data"
        self.port = free_port()
        self.url = f"root://127.0.0.1:{self.port}"
        for path in (self.base, self.folder, self.folder / "store", self.base / "run"):
            path.mkdir(exist_ok=True)
            path.chmod(0o755)
        config = self.base / "xrootd.cfg"
        config.write_text(
            f"all.export /store r/o\noss.localroot {self.folder}\nxrd.port {self.port}\nall.adminpath {self.base}/run\nall.pidpath {self.base}/run\n"
            "xrd.timeout hail 5\n"
        )
        command = ["xrootd", "-c", str(config), "-n", "test"]
        if os.geteuid() == 0:  # xrootd refuses to run as root
            shutil.chown(self.base / "run", "nobody")
            command = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *command]
        self.log = (self.base / "log").open("w+b")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT, cwd=self.base / "run")
        deadline = time.monotonic() + 20
        while not _answers(self.port):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.log.seek(0)
                raise RuntimeError(f"xrootd did not start:\n{self.log.read().decode(errors='replace')}")
            time.sleep(0.05)
        return self

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()
        self.log.close()
        shutil.rmtree(self.base)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Http:
    """An HTTP server of `folder`: /files with ranges and a listing, /whole without ranges, /secret with a bearer token, /broken cuts the connection,
    /moved leads to another server, /silent never answers, /busy answers 503. `seen` holds the Authorization header of every request.
    """

    def __init__(self, folder: Path, *, context: ssl.SSLContext | None = None, moved_to: str = "") -> None:
        self.folder, self.context, self.moved_to = folder, context, moved_to
        self.seen: list[str] = []
        self.port = free_port()
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(started,), daemon=True)
        self._thread.start()
        if not started.wait(10):
            raise RuntimeError("the HTTP server did not start")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)

    def _serve(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._run(started))
        self._loop.close()

    async def _run(self, started: threading.Event) -> None:
        self._stop = asyncio.Event()
        app = web.Application(middlewares=[self._record])
        app.router.add_static("/files", self.folder, show_index=True)
        for name in ("whole", "secret", "broken", "moved", "silent", "busy"):
            app.router.add_get(f"/{name}/{{name}}", getattr(self, f"_{name}"))
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=self.context).start()
        started.set()
        await self._stop.wait()
        await runner.cleanup()
        left = asyncio.all_tasks() - {asyncio.current_task()}  # the silent ones
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await asyncio.sleep(0.1)  # for the sockets to close

    @web.middleware
    async def _record(self, request, handler):
        self.seen.append(request.headers.get("Authorization", ""))
        return await handler(request)

    def _path(self, request: web.Request) -> Path:
        return self.folder / request.match_info["name"]

    async def _whole(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=self._path(request).read_bytes(), headers={"Accept-Ranges": "none"})

    async def _secret(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.Response(status=401)
        return web.FileResponse(self._path(request))

    async def _broken(self, request: web.Request) -> web.StreamResponse:
        size = self._path(request).stat().st_size
        response = web.StreamResponse(status=200, headers={"Content-Length": str(size), "Accept-Ranges": "bytes"})
        await response.prepare(request)
        if request.method == "GET":
            await response.write(b"root")
            request.transport.abort()
        return response

    async def _moved(self, request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(f"{self.moved_to}/files/{request.match_info['name']}")

    async def _silent(self, request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    async def _busy(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=503)


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS context for 127.0.0.1 and the file of the certificate that clients have to trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert, private = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, private)
    return context, cert
