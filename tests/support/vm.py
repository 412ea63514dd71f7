"""Machines to deploy on: systemd containers that play a VM, each with a Docker engine of its own inside.

An outer engine runs them. Its folder, MLAAS_TEST_MACHINES or `machines` in the cache, keeps the systems' images between sessions; one session at a
time uses it. The product's images are built once, in an engine that is kept for the next build's cache; each machine's engine starts with links
to its layers.
"""

from __future__ import annotations

import hashlib
import io
import os
import shlex
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import docker
from docker.errors import DockerException, ImageNotFound, NotFound
from docker.models.containers import Container

from tests.support.bridge import CACHE, bridge, locked, weight
from tests.support.dockerd import Daemon
from tests.support.golden import NEXT, golden, linked
from tests.support.programs import find_program

__all__ = ["NEXT", "SYSTEMS", "Machine", "Machines", "golden", "machines"]

PACKAGES = "systemd,systemd-sysv,dbus,python3,python3-apt,ca-certificates,iproute2,procps,sudo"  # what a cloud image has at least
SLIM = tuple(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info"))
# Debian 13 carries Compose v2, which runs on Debian 12, too
TRIXIE = "deb http://deb.debian.org/debian trixie main"
INSTALL = "apt-get install -y -qq --no-install-recommends"
CONTAINER_LINE = "== {{.Name}} {{.State.Status}} {{.State.ExitCode}}"
CGROUP = Path("/sys/fs/cgroup")
JOINED = {"net_cls": "net_cls,net_prio", "net_prio": "net_cls,net_prio"}  # by systemd
GOLDEN = "/mnt/golden"  # where a machine sees the layers of the product's images
BOOT_TIME = 60.0  # s
FOLDER = Path(os.environ.get("MLAAS_TEST_MACHINES") or CACHE / "machines")  # read now, for tests clear their environment


@dataclass(frozen=True)
class System:
    """A distribution's release, and how Docker gets onto it for tests that are about something else."""

    suite: str
    mirror: str
    install_docker: str


DEBIAN = "http://deb.debian.org/debian"
UBUNTU = "http://archive.ubuntu.com/ubuntu"
SYSTEMS = {
    "debian12": System(
        "bookworm",
        DEBIAN,
        f"{INSTALL} docker.io iptables && echo '{TRIXIE}' >/etc/apt/sources.list.d/trixie.list && apt-get update -qq && "
        f"{INSTALL} -t trixie docker-compose && rm /etc/apt/sources.list.d/trixie.list && apt-get update -qq",
    ),
    "debian13": System("trixie", DEBIAN, f"{INSTALL} docker.io docker-cli docker-compose iptables"),
    "ubuntu2404": System("noble", UBUNTU, f"{INSTALL} docker.io docker-compose-v2 iptables"),
}


def _control_groups() -> tuple[list[str], dict[str, str]]:
    """What a machine gets at /sys/fs/cgroup: volumes, and file systems of its own.

    With version 1 of control groups, a systemd that sees the host's folder mounts there what the host does not use; from then on, the host's own
    engine looks for these hierarchies in vain, and counts no CPU and memory for any container. So a machine has a folder of its own with the
    hierarchies that are in use, and something in the place of each that is not.
    """
    if (CGROUP / "cgroup.controllers").exists():
        return [f"{CGROUP}:{CGROUP}:rw"], {}
    used = [path for path in CGROUP.iterdir() if path.is_dir() and not path.is_symlink() and os.path.ismount(path)]
    names = {name for path in used for name in path.name.split(",")}
    lines = [line.split() for line in Path("/proc/cgroups").read_text().splitlines() if not line.startswith("#")]
    unused = {JOINED.get(name, name) for name, _, _, enabled in lines if enabled == "1" and name not in names}
    return [f"{path}:{path}:rw" for path in used], {str(CGROUP): "mode=755"} | {str(CGROUP / name): "mode=755,size=4k" for name in unused}


class Machines:
    """The outer engine and what it runs."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.client = docker.DockerClient(base_url=url, timeout=300)

    def image(self, system: str, with_docker: bool = False) -> str:
        """The name of a system's image, made from the distribution's mirror when it is not there yet."""
        made = SYSTEMS[system]
        name = f"mlaas-vm:{system}"
        recipe = hashlib.sha256(repr((made.suite, made.mirror, PACKAGES, SLIM)).encode()).hexdigest()[:16]
        if self._recipe(name) != recipe:
            archive = _bootstrap(made, CACHE / f"vm-{system}-{recipe}.tar")
            self.client.api.import_image_from_file(str(archive), repository="mlaas-vm", tag=system, changes=[f"LABEL recipe={recipe}"])
        if not with_docker:
            return name
        recipe = hashlib.sha256((recipe + made.install_docker).encode()).hexdigest()[:16]
        if self._recipe(f"{name}-docker") != recipe:
            lines = [f"FROM {name}", f"RUN apt-get update -qq && {made.install_docker} && apt-get clean", f"LABEL recipe={recipe}"]
            self.client.images.build(fileobj=io.BytesIO("\n".join(lines).encode()), tag=f"{name}-docker", rm=True, forcerm=True)
        return f"{name}-docker"

    def _recipe(self, name: str) -> str | None:
        with suppress(ImageNotFound):
            return self.client.images.get(name).labels.get("recipe")
        return None

    def start(self, name: str, system: str = "debian12", *, with_docker: bool = False, golden: Path | None = None, hostname: str = "") -> Machine:
        """Boot a machine; golden: the layers that its engine starts with."""
        image = self.image(system, with_docker)
        self.remove(name)
        home = self.folder / "vm" / name
        engine = home / "docker"  # overlay2 needs a file system of the host beneath
        home.mkdir(parents=True)
        hierarchies, empty = _control_groups()
        volumes = [*hierarchies, f"{engine}:/var/lib/docker"]
        if golden:
            linked(golden, engine, GOLDEN)
            volumes.append(f"{golden}:{GOLDEN}:ro")
        else:
            engine.mkdir()
        self.client.containers.run(
            image,
            # systemd of newer releases starts on cgroup v1 only when told so
            ["/lib/systemd/systemd", "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"],
            name=name,
            hostname=hostname or f"{name}.test",
            detach=True,
            cap_add=["SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE"],  # PTRACE: exec into containers of the machine, which their health checks need
            security_opt=["seccomp=unconfined", "apparmor=unconfined"],
            cgroupns="host",
            tmpfs={"/run": "exec", "/run/lock": "", "/tmp": "exec"} | empty,  # noqa: S108
            volumes=volumes,
            environment={"container": "docker"},
        )
        machine = Machine(self, name)
        machine.wait()
        machine.sh("mount -o remount,bind,rw /proc/sys")  # newer engines turn IPv6 off there
        return machine

    def get(self, name: str) -> Machine:
        """A machine that runs."""
        return Machine(self, name)

    def remove(self, name: str) -> None:
        """End a machine and remove its disk."""
        with suppress(NotFound):
            container = self.client.containers.get(name)
            with suppress(DockerException):  # its engine stops its containers, so that nothing of them stays mounted or in the control groups
                container.exec_run(["systemctl", "stop", "docker.socket", "docker"])
            container.remove(force=True, v=True)
        home = self.folder / "vm" / name
        if home.exists():
            shutil.rmtree(home)

    def close(self) -> None:
        """End every machine."""
        for container in self.client.containers.list(all=True):
            with suppress(DockerException):
                self.remove(str(container.name))
        self.client.close()


@dataclass
class Machine:
    """One machine; commands run in it as root."""

    machines: Machines
    name: str

    @property
    def container(self) -> Container:
        """Its container in the outer engine."""
        return self.machines.client.containers.get(self.name)

    @property
    def address(self) -> str:
        """Its address on the outer engine's bridge."""
        return str(self.container.attrs["NetworkSettings"]["IPAddress"])

    def wait(self) -> None:
        """Wait until it has booted."""
        until = time.monotonic() + BOOT_TIME
        state = ""
        while time.monotonic() < until:
            state = self.run("systemctl", "is-system-running", check=False).strip()
            if state in ("running", "degraded"):
                return
            time.sleep(0.3)
        raise AssertionError(f"{self.name} did not boot ({state}):\n{self.container.logs(tail=50).decode(errors='replace')}\n{self.journal(50)}")

    def run(self, *command: str, check: bool = True, stdin: bytes | None = None, timeout: float = 600) -> str:
        """Run a command and return what it printed (with check: its standard output only)."""
        done = subprocess.run(
            [str(find_program("docker")), "--host", self.machines.url, "exec", *(["-i"] if stdin is not None else []), self.name, *command],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        assert not check or done.returncode == 0, f"{self.name}: {shlex.join(command)} ended with {done.returncode}:\n{out[-4000:]}\n{err[-4000:]}"
        return out if check else out + err

    def sh(self, script: str, check: bool = True, timeout: float = 600) -> str:
        """Run a shell script."""
        return self.run("sh", "-euc", script, check=check, timeout=timeout)

    def write(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Put a file into it."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:  # folders above it are made by tar
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
        # not by the engine's own copy: that writes beneath what is mounted later, such as /run
        self.run("tar", "-x", "-C", "/", stdin=packed.getvalue())

    def read(self, path: str) -> bytes:
        """A file of it."""
        return self.run("cat", path).encode()

    def journal(self, lines: int = 200) -> str:
        """The end of its journal, and the end of the log of each of its containers."""
        script = f"""journalctl --no-pager -n {lines} -p info
            for id in $(docker ps -aq 2>/dev/null); do
                docker inspect -f '{CONTAINER_LINE}' "$id"
                docker logs --tail 40 "$id" 2>&1
            done"""
        return self.run("sh", "-c", script, check=False)


def _bootstrap(system: System, archive: Path) -> Path:
    """A root file system from the distribution's mirror; kept for later sessions."""
    if not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        aside = archive.with_suffix(f".{os.getpid()}.tar")
        command = [str(find_program("mmdebstrap")), "--quiet", "--variant=minbase", f"--include={PACKAGES}", *SLIM]
        try:
            subprocess.run([*command, system.suite, str(aside), system.mirror], check=True, stdin=subprocess.DEVNULL)
            aside.rename(archive)
        finally:
            aside.unlink(missing_ok=True)
    return archive


@contextmanager
def machines() -> Iterator[Machines]:
    """An outer engine, until the block ends; the images stay in its folder."""
    folder = FOLDER
    with locked(folder / "lock"), weight(), bridge() as network:
        daemon = Daemon(Path(tempfile.mkdtemp(prefix="mlaas-vm-")), folder / "data", network)
        try:
            daemon.start()
            made = Machines(daemon.url, folder)
            made.close()  # what a session that was killed left
            made = Machines(daemon.url, folder)
            try:
                yield made
            finally:
                made.close()
        finally:
            daemon.remove()
