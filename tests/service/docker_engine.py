"""A Docker engine for tests: the one that DOCKER_HOST names, or one of our own, started for the session; and a small image, made without a hub."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest
from docker.errors import ImageNotFound

from tests.support.dockerd import Daemon
from tests.support.programs import find_program

IMAGE = "mlaas-tests-base"
PACKAGES = "python3,ca-certificates"


@dataclass
class Engine:
    """An engine that answers at `url` and has the image `image` (Debian with Python); own: started by the tests."""

    url: str
    image: str
    own: Daemon | None = None


@contextmanager
def engine() -> Iterator[Engine]:
    """An engine with the base image."""
    with _given() if os.environ.get("DOCKER_HOST") else _started() as found:
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
def _started() -> Iterator[Engine]:
    if os.geteuid() != 0:
        pytest.skip("only root can start a Docker engine, and DOCKER_HOST names none")
    daemon = Daemon(Path(tempfile.mkdtemp(prefix="mlaas-dockerd-")))
    try:
        daemon.start()
        yield Engine(daemon.url, f"{IMAGE}:{release()}", daemon)
    finally:
        daemon.remove()


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
    archive = cache / f"{release()}-{PACKAGES.replace(',', '-')}-2.tar"
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        aside = archive.with_suffix(f".{os.getpid()}.tar")
        slim = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")]
        passable = "--customize-hook=chmod 755 $1/root"  # a Python that lies below /root can be mounted there
        command = [str(find_program("mmdebstrap")), "--quiet", "--variant=minbase", f"--include={PACKAGES}", *slim, passable, release(), aside]
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
