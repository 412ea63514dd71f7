"""What is good about a machine, what is doubtful and what is bad, each with a cure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from mlaas.deploy.look import Machine
from mlaas.deploy.wanted import ARCHITECTURES, DATA, ENGINE, SYSTEMS, Wanted
from mlaas.sizes import write_size

Verdict = Literal["good", "warning", "bad"]
ROOMY = 5  # so many times the least disk is enough for images, data and models
DOCKER = (20, 10)
COMPOSE = (2, 20)
PYTHON = (3, 9)
LABELS = {
    "packages": "package mirror",
    "issuer": "OpenID issuer",
    "images": "image hub",
    "acme": "ACME server",
    "redirector": "XRootD redirector",
}
CLOCK = 5.0  # s; tokens are refused when clocks differ by more than a minute


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    text: str
    cure: str = ""


def judge(machine: Machine, wanted: Wanted) -> list[Finding]:
    """Everything that was looked at, in the order of the table."""
    parts = (_system, _size, _disks, _clock, _ports, _access, _docker, _confinement, _reach)
    return [finding for part in parts for finding in part(machine, wanted)]


def _at_least(version: str, least: tuple[int, ...]) -> bool:
    return tuple(int(part) for part in re.findall(r"\d+", version)[: len(least)]) >= least


def _system(machine: Machine, wanted: Wanted) -> Iterator[Finding]:
    family = machine.os if machine.os in SYSTEMS else "enterprise linux" if re.search(r"rhel|centos", f"{machine.os} {machine.os_like}") else ""
    version = machine.os_version if family == "ubuntu" else machine.os_version.split(".")[0]
    known = version in SYSTEMS.get(family, ())
    cure = "take Debian 12 or 13, Ubuntu 22.04 or 24.04, or Enterprise Linux 9"
    yield Finding("system", "good" if known else "bad", f"{machine.os_name or 'unknown'}, kernel {machine.kernel}", "" if known else cure)
    right = machine.architecture in ARCHITECTURES
    yield Finding(
        "architecture", "good" if right else "bad", machine.architecture, "" if right else f"the images are made for {', '.join(ARCHITECTURES)}"
    )
    if machine.systemd:
        yield Finding("init", "good", "systemd")
    else:
        yield Finding(
            "init", "bad", "no systemd", "take a machine (not a container) that systemd has started: it starts Docker and renews certificates"
        )


def _size(machine: Machine, wanted: Wanted) -> Iterator[Finding]:
    few = machine.cpus < 2
    yield Finding("CPUs", "warning" if few else "good", str(machine.cpus), "trainings and the service share it: take 2 or more" if few else "")
    memory = write_size(machine.memory)
    if machine.memory < wanted.memory:
        yield Finding("memory", "bad", memory, f"take {write_size(wanted.memory)} or more, 8 GB for trainings of usual size")
    elif machine.memory < 1.9 * wanted.memory:
        yield Finding("memory", "warning", memory, "enough to start with; trainings of usual size want 8 GB")
    else:
        yield Finding("memory", "good", memory)


def _disks(machine: Machine, wanted: Wanted) -> Iterator[Finding]:
    engine = machine.docker_root or ENGINE
    for folder, what in ((wanted.data, "data, models"), (engine, "images")):
        disk = machine.disks.get(folder) or machine.disks.get(ENGINE if folder == engine else DATA)
        if disk is None:
            continue
        text = f"{write_size(disk.free)} free of {write_size(disk.size)} at {folder} ({what})"
        if disk.free < wanted.disk:
            yield Finding("disk", "bad", text, f"free some, or put {folder} on a larger disk: {write_size(wanted.disk)} at least")
        elif disk.free < ROOMY * wanted.disk:
            yield Finding("disk", "warning", text, f"enough to start with; {write_size(ROOMY * wanted.disk)} last longer")
        else:
            yield Finding("disk", "good", text)


def _clock(machine: Machine, wanted: Wanted) -> Iterator[Finding]:
    cure = "let chrony or systemd-timesyncd set it: tokens and certificates are refused otherwise"
    off = abs(machine.clock)
    if off > wanted.clock:
        yield Finding("clock", "bad", f"{off:.0f} s {'ahead of' if machine.clock > 0 else 'behind'} this machine's", cure)
    elif off > CLOCK:
        yield Finding("clock", "warning", f"{off:.0f} s {'ahead of' if machine.clock > 0 else 'behind'} this machine's", cure)
    elif machine.synchronised == "no":
        yield Finding("clock", "warning", "right, but nothing keeps it so", "install systemd-timesyncd or chrony")
    else:
        yield Finding("clock", "good", "as this machine's")


def _ports(machine: Machine, wanted: Wanted) -> Iterator[Finding]:
    for port, what in wanted.ports.items():
        name = f"port {port}"
        if port not in machine.taken:
            yield Finding(name, "good", f"free ({what})")
        elif port in machine.ours:
            yield Finding(name, "good", f"ours ({what})")
        else:
            holder = machine.taken[port] or "another program"
            if holder == "docker-proxy":
                holder = "another container"
            yield Finding(name, "bad", f"{holder} listens on it", f"stop it, or give {what} another port in the inventory")


def _access(machine: Machine, wanted: Wanted) -> Iterator[Finding]:
    said: dict[str, tuple[Verdict, str, str]] = {
        "root": ("good", f"signed in as {machine.user}", ""),
        "free": ("good", f"{machine.user} by sudo, without a password", ""),
        "password": ("warning", f"{machine.user} by sudo, with a password", "run mlaas deploy with --ask-become-pass"),
    }
    none: tuple[Verdict, str, str] = ("bad", f"{machine.user} has no sudo", "sign in as root, or let the user use sudo")
    yield Finding("root", *said.get(machine.sudo, none))
    cure = "install python3 on the machine: Ansible needs it there"
    if not machine.python:
        yield Finding("Python", "bad", "none", cure)
    elif not _at_least(machine.python, PYTHON):
        yield Finding("Python", "bad", machine.python, f"Ansible needs {'.'.join(map(str, PYTHON))} or newer on the machine")
    else:
        yield Finding("Python", "good", machine.python)


def _docker(machine: Machine, wanted: Wanted) -> Iterator[Finding]:
    if machine.podman and not machine.docker:
        yield Finding("Docker", "warning", f"{machine.podman} stands in for it", "the role docker installs Docker itself; remove podman-docker first")
        return
    if not machine.docker_client:
        yield Finding("Docker", "good", "none yet; the role docker installs it")
        return
    if not machine.docker:
        may = machine.sudo in {"root", "free"}
        cure = "start it (systemctl start docker)" if may else "its socket is root's: let mlaas doctor use sudo without a password to see more"
        yield Finding("Docker", "warning", f"{machine.docker_client}; its engine does not answer", cure)
    elif not _at_least(machine.docker, DOCKER):
        yield Finding("Docker", "bad", machine.docker, f"take {'.'.join(map(str, DOCKER))} or newer")
    else:
        yield Finding("Docker", "good", f"{machine.docker}, {machine.docker_driver or 'unknown driver'}")
    if machine.compose and not _at_least(machine.compose, COMPOSE):
        yield Finding("Compose", "warning", machine.compose, f"the role docker brings {'.'.join(map(str, COMPOSE))} or newer")
    elif machine.compose:
        yield Finding("Compose", "good", machine.compose)
    else:
        yield Finding("Compose", "good", "none yet; the role docker installs it")


def _confinement(machine: Machine, wanted: Wanted) -> Iterator[Finding]:
    """What shuts jobs in besides their container."""
    if machine.landlock:
        yield Finding("Landlock", "good", f"version {machine.landlock}")
    elif machine.python:
        yield Finding("Landlock", "warning", "none", "the inference service needs a kernel of 5.13 or newer with Landlock in its list of LSMs")
    version = {"cgroup2fs": "version 2", "tmpfs": "version 1"}.get(machine.cgroup, "")
    cure = "memory and CPU limits of jobs need control groups: mount /sys/fs/cgroup"
    yield Finding("control groups", "good" if version else "bad", version or "none", "" if version else cure)
    if machine.selinux:
        yield Finding("SELinux", "good", machine.selinux.lower())
    elif "apparmor" in machine.lsm:
        yield Finding("AppArmor", "good", "active")
    elif machine.lsm:
        yield Finding("AppArmor, SELinux", "warning", "neither", "containers are shut in by capabilities, seccomp and namespaces only")


def _reach(machine: Machine, wanted: Wanted) -> Iterator[Finding]:
    targets = wanted.reached
    for name in dict.fromkeys([*targets, *machine.reach]):
        where = targets.get(name, "")
        said = machine.reach.get(name, "")
        label = LABELS.get(name.split(":")[0], where)
        yield _reached(label, wanted.issuer if name == "issuer" else where, said, name, machine, wanted)
    if "packages" not in machine.reach and machine.python:
        yield Finding("package mirror", "warning", "no list of packages found", "the roles install packages: check apt's or dnf's sources")


def _reached(label: str, where: str, said: str, name: str, machine: Machine, wanted: Wanted) -> Finding:
    at = f" ({where})" if where and where != label else ""
    if name == "issuer" and said.startswith("good") and said.removeprefix("good").strip() != wanted.issuer:
        other = said.removeprefix("good").strip() or "nothing"
        return Finding(label, "bad", f"{wanted.issuer} calls itself {other}", "mlaas_oidc_issuer must be exactly what the provider calls itself")
    if said.startswith("good"):
        return Finding(label, "good", f"reached{at}")
    if not said:
        return Finding(label, "warning", f"not tried{at}", "install python3 on the machine, and look again")
    if said == "untrusted":
        return Finding(
            label, "bad", f"its certificate is not trusted there{at}", "add the CA that signed it to mlaas_site_cas, and to the machine's trust"
        )
    if said.startswith("status"):
        return Finding(label, "bad", f"answers with {said}{at}", "check the address")
    cure = "check its address, DNS, the machine's firewall and proxy"
    needed: Verdict = "warning" if name == "packages" and machine.docker and machine.compose else "bad"
    return Finding(label, needed, f"not reached{at}: {_reason(said)}", cure)


def _reason(said: str) -> str:
    reason = re.sub(r"^no |\[Errno -?\d+\] ", "", said)
    return reason[:1].lower() + reason[1:]
