"""What an engine that tests start needs of the machine: a network of its own, and its share of the processors."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.support.programs import find_program

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "mlaas-tests"
SHARES = 8192
SUBNETS = [ipaddress.ip_network(f"10.{second}.0.0/16") for second in range(214, 253)]


@contextmanager
def locked(path: Path, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Hold a lock file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, kind)
        yield


@contextmanager
def bridge() -> Iterator[tuple[str, ...]]:
    """A bridge with NAT of its own; yields dockerd's options. The engine itself leaves the machine's packet filter alone."""
    with locked(CACHE / "bridge.lock"):
        addresses = [address for found in psutil.net_if_addrs().values() for address in found if address.family == socket.AF_INET]
        taken = [ipaddress.ip_address(address.address) for address in addresses]
        subnet = next(subnet for subnet in SUBNETS if not any(address in subnet for address in taken))
        name = f"mlaas-t{subnet.network_address.packed[1]}"
        gateway = f"{subnet[1]}/{subnet.prefixlen}"
        _ip("link", "add", name, "type", "bridge")
        _ip("addr", "add", gateway, "dev", name)
        _ip("link", "set", name, "up")
    rules = [
        ["-t", "nat", "POSTROUTING", "-s", str(subnet), "!", "-o", name, "-j", "MASQUERADE"],
        ["-t", "filter", "FORWARD", "-i", name, "-j", "ACCEPT"],
        ["-t", "filter", "FORWARD", "-o", name, "-j", "ACCEPT"],
    ]
    try:
        for rule in rules:
            _iptables("-I", rule)
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        yield ("--bridge", name, "--iptables=false", "--ip-masq=false")
    finally:
        for rule in rules:
            with suppress(subprocess.CalledProcessError):
                _iptables("-D", rule)
        _ip("link", "del", name)


@contextmanager
def weight() -> Iterator[None]:
    """Let containers have their share: with version 1 of control groups all of them together weigh as much as one process outside."""
    group = Path("/sys/fs/cgroup/cpu/docker")
    if not group.with_name("cpu.shares").exists():
        yield
        return
    group.mkdir(exist_ok=True)
    shares = group / "cpu.shares"
    before = shares.read_text()
    shares.write_text(str(SHARES))
    try:
        yield
    finally:
        shares.write_text(before)


def _ip(*words: str) -> None:
    subprocess.run([str(find_program("ip")), *words], check=True)


def _iptables(action: str, rule: list[str]) -> None:
    subprocess.run([str(find_program("iptables")), "--wait", *rule[:2], action, *rule[2:]], check=True)
