"""Ports for servers that tests start. They lie below those that the system gives to connections: one of these may be taken again at any moment."""

from __future__ import annotations

import random
import socket
from pathlib import Path

LOWEST = 10240
SPAN = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A port that nobody listens on."""
    return free_ports(1)[0]


def free_ports(number: int) -> list[int]:
    """So many different ones."""
    highest = max(int(SPAN.read_text().split()[0]) if SPAN.exists() else 32768, LOWEST + 1000)
    found: list[int] = []
    for port in random.SystemRandom().sample(range(LOWEST, highest), 1000):
        if len(found) == number:
            break
        with socket.socket() as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
            found.append(port)
    assert len(found) == number, "no port is free"
    return found
