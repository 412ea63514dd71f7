"""A Docker engine for tests: the one that DOCKER_HOST names, or one of our own, started for the session; and a small image, made without a hub."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest
from docker.errors import ImageNotFound

from tests.support.programs import find_program

IMAGE = "mlaas-tests-base"
PACKAGES = "python3,ca-certificates"
START_TIME = 60.0  # s


@dataclass(frozen=True)
class Engine:
    """An engine that answers at `url` and has the image `image` (Debian with Python)."""

    url: str
    image: str
    pid: int | None = None


@contextmanager
def engine() -> Iterator[Engine]:
    """An engine with the base image."""
    with _given() if os.environ.get("DOCKER_HOST") else _own() as found:
        client = docker.DockerClient(base_url=found.url, timeout=120)
        try:
            _image(client)
            yield found
        finally:
            client.close()


@contextmanager
def _given() -> Iterator[Engine]:
    yield Engine(os.environ["DOCKER_HOST"], f"{IMAGE}:{release()}")


@contextmanager
def _own() -> Iterator[Engine]:
    if os.geteuid() != 0:
        pytest.skip("only root can start a Docker engine, and DOCKER_HOST names none")
    folder = Path(tempfile.mkdtemp(prefix="mlaas-dockerd-"))
    try:
        with _daemon(folder) as pid:
            yield Engine(f"unix://{folder / 'docker.sock'}", f"{IMAGE}:{release()}", pid)
    finally:
        _unmount(folder)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _daemon(folder: Path) -> Iterator[int]:
    """dockerd that changes nothing of the machine's network; jobs have none."""
    path = folder / "docker.sock"
    command = [str(find_program("dockerd")), "--data-root", folder / "data", "--exec-root", folder / "exec", "--pidfile", folder / "pid"]
    command += ["--host", f"unix://{path}", "--bridge", "none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        _await(path, process, folder / "log")
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(path: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    """dockerd takes connections at its socket when it is ready."""
    until = time.monotonic() + START_TIME
    while time.monotonic() < until and process.poll() is None:
        with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
            probe.connect(str(path))
            return
        time.sleep(0.1)
    pytest.fail(f"dockerd did not start:\n{log.read_text()[-3000:]}")


def _unmount(folder: Path) -> None:
    """What a killed engine leaves mounted below its folder."""
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for point in sorted((point for point in points if point.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", point], check=False)


def release() -> str:
    """The code name of this machine's Debian or Ubuntu."""
    values = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return values.get("VERSION_CODENAME", "bookworm").strip('"')


def _image(client: docker.DockerClient) -> None:
    name = f"{IMAGE}:{release()}"
    try:
        client.images.get(name)
    except ImageNotFound:
        with base_archive().open("rb") as archive:
            client.api.import_image_from_data(archive, repository=IMAGE, tag=release())


def base_archive() -> Path:
    """A root file system with Python, bootstrapped from the distribution's mirror; kept for later sessions."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "mlaas-tests"
    archive = cache / f"{release()}-{PACKAGES.replace(',', '-')}.tar"
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        aside = archive.with_suffix(f".{os.getpid()}.tar")
        slim = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")]
        command = [str(find_program("mmdebstrap")), "--quiet", "--variant=minbase", f"--include={PACKAGES}", *slim, release(), aside]
        try:
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
            aside.rename(archive)
        finally:
            aside.unlink(missing_ok=True)
    return archive


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[Engine]:
    """An engine that answers, with the base image; started at the first test that asks."""
    with engine() as found:
        yield found
