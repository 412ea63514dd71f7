"""What is found on a machine, by one script in one go."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

from mlaas.deploy.hosts import Host, HostError

REACH_TIME = 4.0  # s for each address


@dataclass(frozen=True)
class Disk:
    """Bytes of a file system."""

    free: int
    size: int


@dataclass(frozen=True)
class Machine:
    """A machine as it was found; what could not be found out is empty, zero or None."""

    os: str = ""
    os_like: str = ""
    os_version: str = ""
    os_name: str = ""
    architecture: str = ""
    kernel: str = ""
    cpus: int = 0
    memory: int = 0  # bytes
    user: str = ""
    sudo: str = ""  # root, free, password, missing
    disks: Mapping[str, Disk] = field(default_factory=dict)
    taken: Mapping[int, str] = field(default_factory=dict)  # port -> program, where that is known
    ours: frozenset[int] = frozenset()  # ports of our own containers
    docker_client: str = ""
    docker: str = ""  # version of the engine that answers
    docker_root: str = ""
    docker_driver: str = ""
    compose: str = ""
    podman: str = ""
    cgroup: str = ""
    seccomp: str = ""
    lsm: str = ""
    landlock: int = 0  # version of its interface; 0: none
    selinux: str = ""
    systemd: bool = False
    synchronised: str = ""
    python: str = ""
    clock: float = 0.0  # s that the machine is ahead of this one
    reach: Mapping[str, str] = field(default_factory=dict)  # name -> good..., untrusted, status N, no REASON


def look(host: Host, folders: Sequence[str], ports: Sequence[int], targets: Mapping[str, str], timeout: float) -> Machine:
    """Run the script on a machine, and read what it says. `targets` are addresses that the machine must reach, by name."""
    lines = {
        "FOLDERS": " ".join(folders),
        "PORTS": " ".join(map(str, ports)),
        "TARGETS": "\n".join(f"{name}\t{address}" for name, address in targets.items()),
        "TIMEOUT": f"{REACH_TIME:.0f}",
    }
    head = "".join(f"{name}={shlex.quote(value)}\n" for name, value in lines.items())
    began = time.time()
    answer = host.run(head + (files("mlaas.deploy") / "look.sh").read_text(), timeout)
    found = read(answer.out)
    if not found.get("kernel"):
        said = (answer.err.strip() or answer.out.strip() or "nothing").splitlines()[-1][:200]
        raise HostError(f"{host.name} runs no POSIX shell for this user (it said: {said}): take an account with /bin/sh")
    return machine(found, began)


def read(out: str) -> dict[str, list[str]]:
    """The lines of the script by key; anything else (a greeting of the login shell) is passed over."""
    found: dict[str, list[str]] = {}
    for line in out.splitlines():
        key, tab, value = line.partition("\t")
        if tab and re.fullmatch(r"[a-z_]+", key):
            found.setdefault(key, []).append(value.strip())
    return found


def machine(found: Mapping[str, Sequence[str]], began: float) -> Machine:
    """A machine from the lines of the script; `began`: this machine's clock when the script was sent."""
    words = {name: (found.get(name) or [""])[-1] for name in Machine.__dataclass_fields__}
    holders = dict(_pair(line) for line in found.get("holder", []))
    disks = {}
    for line in found.get("disk", []):
        folder, *sizes = line.split()
        if len(sizes) == 2:
            disks[folder] = Disk(*map(_number, sizes))
    return Machine(
        **{name: words[name] for name in _TEXTS},
        cpus=_number(words["cpus"]),
        memory=_number(words["memory"]),
        disks=disks,
        taken={_number(port): holders.get(port, "") for port in found.get("taken", [])},
        ours=frozenset(_number(port) for port in found.get("ours", [])),
        landlock=max(0, _number(words["landlock"])),
        systemd=words["systemd"] == "yes",
        clock=_ahead(_number((found.get("time") or ["0"])[0]), began),
        reach=dict(_pair(line) for line in found.get("reach", [])),
    )


_TEXTS = (
    *("os", "os_like", "os_version", "os_name", "architecture", "kernel", "user", "sudo", "docker_client", "docker", "docker_root", "docker_driver"),
    *("compose", "podman", "cgroup", "seccomp", "lsm", "selinux", "synchronised", "python"),
)


def _pair(line: str) -> tuple[str, str]:
    first, _, rest = line.partition(" ")
    return first, rest


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"-?\d+", text) else 0


def _ahead(theirs: int, began: float) -> float:
    """How far a clock of whole seconds, read at some moment since `began`, is surely ahead (or, negative, behind)."""
    now = time.time()
    if theirs == 0 or began - 1 <= theirs <= now + 1:
        return 0.0
    return theirs - now if theirs > now else theirs - began
