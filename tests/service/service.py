"""The whole service as users start it (`mlaas serve`), on free ports and a data folder of its own, for the tests."""

from __future__ import annotations

import io
import json
import os
import signal
import ssl
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import httpx

from mlaas.jobs import runners
from mlaas.places import Places
from mlaas.settings import Settings

_uids = count(1_000_500 + os.getpid() % 40_000 * 1000, 20)
"""Jobs run as user ids that no other service on this machine has: as root, a runner ends what still runs as the user id of an ended job."""
START = 120  # s
STOP = 60  # s


@dataclass
class Service:
    """A running service. server, inference: addresses; grpc: host and port; log: what it wrote; ca: the certificate, with TLS."""

    process: subprocess.Popen[bytes]
    data: Path
    server: str
    inference: str
    grpc: str
    log: Path
    ca: Path | None = None

    @property
    def token(self) -> str:
        """The embedded token."""
        return (self.data / "secrets" / "token").read_text().strip()

    def client(self, token: str | None = None, *, inference: bool = False) -> httpx.Client:
        """A client of the server (or of the inference service) with the embedded token, or another one."""
        return httpx.Client(
            base_url=self.inference if inference else self.server,
            headers={"Authorization": f"Bearer {self.token if token is None else token}"},
            verify=ssl.create_default_context(cafile=self.ca) if self.ca else True,
            timeout=60,
            trust_env=False,
        )

    def pid(self, part: str) -> int:
        """The process of a part: server, worker or inference."""
        for line in subprocess.run(
            ["ps", "-o", "pid=,args=", "--ppid", str(self.process.pid)], capture_output=True, text=True, check=True
        ).stdout.splitlines():
            pid, _, command = line.strip().partition(" ")
            if f"mlaas.service {part}" in command:
                return int(pid)
        raise AssertionError(f"there is no {part}:\n{self.log.read_text()[-4000:]}")

    def lines(self) -> list[dict[str, Any]]:
        """Its log lines so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def stop(self) -> int:
        """Ask it to end; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP)

    def finished(self, job: str, *, within: float = 300, **client: Any) -> dict[str, Any]:
        """A job once it has ended."""
        until = time.monotonic() + within
        with self.client(**client) as http:
            while time.monotonic() < until:
                found: dict[str, Any] = http.get(f"/api/v1/jobs/{job}").raise_for_status().json()
                if found["state"] in {"succeeded", "failed", "cancelled", "timed_out"}:
                    return found
                time.sleep(0.1)
        raise AssertionError(f"the job is still {found['state']}: {found['reason']}\n{self.log.read_text()[-4000:]}")


@contextmanager
def running(
    data: Path, environment: Mapping[str, str] | None = None, *, ca: Path | None = None, jobs_go_on: bool = False, **settings: Any
) -> Iterator[Service]:
    """The service on a data folder, until the block ends. settings: of `mlaas.settings`, by name; environment: more variables.

    jobs_go_on: leave running jobs to another service on the same folder.
    """
    values = {"data": data, "host": "127.0.0.1", "port": 0, "inference_port": 0, "grpc_port": 0, "inference_workers": 1, "free_disk": 1, **settings}
    values.setdefault("job_uid_base", next(_uids))
    values.setdefault("inference_poll", 0.2)
    variables = {
        f"MLAAS_{name.upper()}": value if isinstance(value, str) else json.dumps(value, default=str).strip('"') for name, value in values.items()
    }
    log = data.parent / f"{data.name}.log"
    data.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlaas.cli", "serve", "--log-format=json"],
            env=os.environ | variables | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        record = _started(process, data / "run" / "serve.json", log)
        yield Service(process, data, record["server"], record["inference"], record["grpc"], log, ca)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if not jobs_go_on:
            _end_jobs(data)


def _end_jobs(data: Path) -> None:
    """End the jobs that the service has left running, as it should, for nobody will look after them."""
    runner = runners.of(Settings(data=data), Places.of(Settings(data=data)))
    folders = {task: data / "jobs" / task.rpartition("-")[0] for task in runner.tasks(data / "jobs")}
    for task, folder in folders.items():
        runner.cancel(task, folder, grace=0)
    until = time.monotonic() + STOP
    for task, folder in folders.items():
        while (status := runner.poll(task, folder)) is not None and status.running and time.monotonic() < until:
            time.sleep(0.05)
        runner.cleanup(task, folder)


def _started(process: subprocess.Popen[bytes], record: Path, log: Path) -> dict[str, str]:
    until = time.monotonic() + START
    while time.monotonic() < until and process.poll() is None:
        if record.exists() and (found := json.loads(record.read_text()))["pid"] == process.pid:
            return dict(found)
        time.sleep(0.05)
    raise AssertionError(f"the service did not start:\n{log.read_text()[-4000:]}")


def packed(folder: Path) -> bytes:
    """A folder as .tar.gz, in one top folder."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.add(folder, folder.name)
    return archive.getvalue()


SERVER = """
from mlaas.settings import settings
from mlaas.web.serving import serve
serve("mlaas.server.app:create", "127.0.0.1", 0, settings(), part="server", listening=lambda address: print(address, flush=True))
"""


@contextmanager
def server_alone(data: Path, **settings: Any) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The server without worker and inference service, for what needs neither: its address and its process."""
    variables = {f"MLAAS_{name.upper()}": str(value) for name, value in {"data": data, "free_disk": 1, **settings}.items()}
    with (data.parent / "server.log").open("a") as log:
        process = subprocess.Popen([sys.executable, "-c", SERVER], env=os.environ | variables, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        assert address, (data.parent / "server.log").read_text()[-4000:]
        httpx.get(f"{address}/healthz", timeout=START, trust_env=False).raise_for_status()  # it listens before it can answer
        yield address, process
    finally:
        process.terminate()
        process.wait(STOP)
        process.stdout.close()
