#!/usr/bin/python
"""Ansible module: what a preflight must know of a machine, in one look."""

from __future__ import annotations

import json
import os
import pwd
import re
import socket
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
---
module: machine_facts
short_description: Say what a preflight must know of a machine
description:
  - One look instead of many tasks; it changes nothing.
  - A port of a running container counts as ours when the container belongs to the Compose project that is named.
options:
  folders:
    description: Folders whose disk is measured. Those that are not there yet are measured at the nearest one above.
    type: list
    elements: path
    default: []
  ports: {description: TCP ports to look at., type: list, elements: int, default: []}
  project: {description: Name of the Compose project that is ours., type: str, default: mlaas}
  clock: {description: What the controller's clock says (seconds since 1970)., type: float, default: 0}
  reach: {description: Addresses (https://HOST or HOST:PORT) that the machine must reach., type: list, elements: str, default: []}
  packages:
    description: Also the distribution's packages, when no Docker is there yet and no proxy is set for the package manager.
    type: bool
    default: false
  reach_timeout: {description: Seconds for all of them together; with 0 nothing is tried., type: float, default: 5}
  users: {description: Users by name with the ids that they shall have., type: dict, default: {}}
  file: {description: Its compose.yaml., type: path, default: /opt/mlaas/compose.yaml}
author: [The MLaaS4HEP developers]
attributes:
  check_mode: {support: full, description: It changes nothing.}
"""

EXAMPLES = r"""
- name: Look at the machine
  mlaas4hep.mlaas.machine_facts:
    folders: [/var/lib/mlaas]
    ports: [4433]
  register: machine
"""

RETURN = r"""
memory: {description: Bytes of memory., type: int, returned: always}
disks: {description: Free bytes by folder., type: dict, returned: always}
taken: {description: Those of the ports on which a program that is not ours listens., type: list, returned: always}
strangers: {description: Which of the users have another id here and whose the id is., type: list, returned: always}
unreached: {description: Those of the addresses that were not reached and why., type: dict, returned: always}
drift: {description: Seconds by which the machine's clock is ahead of the controller's., type: float, returned: always}
architecture: {description: Architecture as the kernel names it., type: str, returned: always}
project: {description: Whether the Compose project is there., type: bool, returned: always}
version: {description: Version of the service that is deployed or an empty text., type: str, returned: always}
docker: {description: Path of the Docker client or an empty text., type: str, returned: always}
"""

LISTEN = "0A"
PORTS = {"http": 80, "https": 443}
APT = Path("/etc/apt")
URI = re.compile(r"^(?:deb\s+(?:\[[^]]*\]\s+)?|URIs:\s*)(https?://\S+)", re.MULTILINE)
PROXY = re.compile(r"^\s*Acquire::https?::Proxy\b", re.MULTILINE | re.IGNORECASE)


def _memory() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:"))


def _free(folder: str) -> int:
    path = Path(folder)
    while not path.exists():
        path = path.parent
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def _listening() -> set[int]:
    ports = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        rows = table.read_text().splitlines()[1:] if table.exists() else []
        ports.update(int(row.split()[1].rpartition(":")[2], 16) for row in rows if row.split()[3] == LISTEN)
    return ports


def _ours(module: AnsibleModule, docker: str) -> set[int]:
    """The published ports of our containers; without an engine that answers, none."""
    if not docker:
        return set()
    label = "label=com.docker.compose.project=" + module.params["project"]
    status, ids, _ = module.run_command([docker, "ps", "--quiet", "--filter", label])
    if status or not ids.split():
        return set()
    status, found, _ = module.run_command([docker, "inspect", "--format", "{{json .HostConfig.PortBindings}}", *ids.split()])
    if status:
        return set()
    bindings = [json.loads(line) or {} for line in found.splitlines()]
    return {int(place["HostPort"]) for container in bindings for places in container.values() for place in places or [] if place["HostPort"]}


def _version(compose: Path) -> str:
    """That of the environment beside compose.yaml."""
    try:
        found = re.search(r"^MLAAS_VERSION='?([^'\s]+)", compose.with_name(".env").read_text(), re.MULTILINE)
    except OSError:
        return ""
    return found[1] if found else ""


def _strangers(users: dict[str, int]) -> list[str]:
    """What stands in the way of users that are to be made."""
    said = []
    for name, uid in users.items():
        with suppress(KeyError):
            if (other := pwd.getpwuid(int(uid)).pw_name) != name:
                said.append(f"{other} has the id {uid} of {name}")
        with suppress(KeyError):
            if (found := pwd.getpwnam(name).pw_uid) != int(uid):
                said.append(f"{name} has the id {found} instead of {uid}")
    return said


def _mirrors() -> list[str]:
    """Where apt fetches packages, unless it does so through a proxy."""
    settings = [*APT.glob("apt.conf.d/*"), APT / "apt.conf"]
    sources = [APT / "sources.list", *APT.glob("sources.list.d/*.list"), *APT.glob("sources.list.d/*.sources")]
    if any(PROXY.search(path.read_text(errors="replace")) for path in settings if path.is_file()):
        return []
    return [found for path in sources if path.is_file() for found in URI.findall(path.read_text(errors="replace"))]


def _place(address: str) -> tuple[str, int]:
    """Host and port of an address."""
    parts = urlsplit(address if "://" in address else f"https://{address}")
    return parts.hostname or "", parts.port or PORTS.get(parts.scheme, 443)


def _unreached(addresses: list[str], timeout: float) -> dict[str, str]:
    """Why a connection to an address cannot be made, for those to which none can."""
    said: dict[str, str] = {}

    def attempt(name: str, place: tuple[str, int]) -> None:
        try:
            socket.create_connection(place, timeout).close()
            said[name] = ""
        except socket.gaierror:
            said[name] = "its name is not known"
        except TimeoutError:
            said[name] = slow
        except (OSError, UnicodeError) as error:
            said[name] = getattr(error, "strerror", "") or str(error)

    slow = f"no answer within {timeout:g} s"
    names = {f"{host}:{port}": (host, port) for host, port in map(_place, addresses)}
    threads = [Thread(target=attempt, args=named, daemon=True) for named in names.items()]  # a resolver has a patience of its own
    for thread in threads:
        thread.start()
    until = time.monotonic() + timeout
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return {name: said.get(name, slow) for name in names if said.get(name, slow)}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "folders": {"type": "list", "elements": "path", "default": []},
            "ports": {"type": "list", "elements": "int", "default": []},
            "clock": {"type": "float", "default": 0},
            "users": {"type": "dict", "default": {}},
            "reach": {"type": "list", "elements": "str", "default": []},
            "packages": {"type": "bool", "default": False},
            "reach_timeout": {"type": "float", "default": 5},
            "project": {"type": "str", "default": "mlaas"},
            "file": {"type": "path", "default": "/opt/mlaas/compose.yaml"},
        },
        supports_check_mode=True,
    )
    docker = module.get_bin_path("docker") or ""
    wanted = set(module.params["ports"]) & _listening()
    reach = module.params["reach"] + (_mirrors() if module.params["packages"] and not docker else [])
    timeout = module.params["reach_timeout"]
    module.exit_json(
        changed=False,
        memory=_memory(),
        disks={folder: _free(folder) for folder in module.params["folders"]},
        taken=sorted(wanted - _ours(module, docker)) if wanted else [],
        strangers=_strangers(module.params["users"]),
        unreached=_unreached(reach, timeout) if timeout > 0 else {},
        drift=time.time() - module.params["clock"],
        architecture=os.uname().machine,
        docker=docker,
        project=Path(module.params["file"]).exists(),
        version=_version(Path(module.params["file"])),
    )


if __name__ == "__main__":
    main()
