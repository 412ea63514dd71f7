"""The product's images, built once; each machine's engine starts with links to their layers."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker

from tests.support.bridge import CACHE, bridge, locked, weight
from tests.support.dockerd import Daemon

ROOT = Path(__file__).parents[2]
SOURCES = ("images", "mlaas", "pyproject.toml", "README.md", "LICENSE")
NO_SOURCES = ("__pycache__", "node_modules", "*.md", "compose.yaml", "laptop*", "smoke", "update-constraints", "hadolint.yaml")  # of images/
NEXT = "0.1.1"  # what a machine is upgraded to
KEPT = 2  # builds, for machines of other sessions
LIMIT = 2400.0  # s
GIVEN = os.environ.get("MLAAS_TEST_GOLDEN")  # while developing: a build from before


def golden() -> Path:
    """The layers of an engine that holds the product's images twice: as the version that this is, and as the NEXT one."""
    if GIVEN:
        return Path(GIVEN)
    folder = CACHE / "golden"
    with _sources() as sources:
        made = folder / _digest(sources)
        with locked(folder / "lock"):
            if not made.exists():
                _build(sources, folder / "data")
                _forget(folder)
                _keep(folder / "data", made)
    return made


@contextmanager
def _sources() -> Iterator[Path]:
    """A copy of what images are made of, for files may change while they are built."""
    with tempfile.TemporaryDirectory(prefix="mlaas-sources-") as folder:
        for name in SOURCES:
            if (ROOT / name).is_dir():
                ignored = shutil.ignore_patterns(*(NO_SOURCES if name == "images" else NO_SOURCES[:1]))
                shutil.copytree(ROOT / name, Path(folder) / name, symlinks=True, ignore=ignored)
            else:
                shutil.copy2(ROOT / name, folder)
        yield Path(folder)


def _digest(sources: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in sources.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(sources)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _build(sources: Path, data: Path) -> None:
    """Build in an engine whose data folder is kept: steps that were built from the same files are taken over."""
    with weight(), bridge() as network:
        daemon = Daemon(Path(tempfile.mkdtemp(prefix="mlaas-golden-")), data, network)
        try:
            daemon.start()
            for words in ([], ["--version", NEXT]):
                command = [str(sources / "images" / "build"), "--host-cas", *words]
                print(f"== images/build {shlex.join(command[1:])}", file=sys.stderr, flush=True)
                environment = os.environ | {"DOCKER_HOST": daemon.url}
                subprocess.run(command, check=True, stdin=subprocess.DEVNULL, env=environment, timeout=LIMIT)
            client = docker.DockerClient(base_url=daemon.url, timeout=300)
            client.containers.prune()
            client.images.prune()
            client.close()
        finally:
            daemon.remove()


def _keep(data: Path, target: Path) -> None:
    """What a later build may prune, as hard links: an engine never writes a layer again."""
    aside = target.with_name(f"{target.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    subprocess.run(["cp", "-a", str(data / "image"), str(aside)], check=True)
    subprocess.run(["cp", "-al", str(data / "overlay2"), str(aside)], check=True)
    aside.rename(target)


def _forget(folder: Path) -> None:
    """Remove the oldest builds."""
    kept = sorted((path for path in folder.iterdir() if path.is_dir() and path.name != "data"), key=lambda path: path.stat().st_mtime)
    for path in kept[: -KEPT + 1]:
        shutil.rmtree(path)


def linked(golden: Path, target: Path, seen: str) -> None:
    """An engine's data folder in which every layer is a link to that of `golden`, which the machine sees at `seen`: nothing is copied but names."""
    target.mkdir(parents=True)
    shutil.copytree(golden / "image", target / "image", symlinks=True)
    shutil.copytree(golden / "overlay2", target / "overlay2", symlinks=True, ignore=lambda _folder, names: {"diff"} & set(names))
    for layer in (golden / "overlay2").iterdir():
        if (layer / "diff").is_dir():
            (target / "overlay2" / layer.name / "diff").symlink_to(f"{seen}/overlay2/{layer.name}/diff")
