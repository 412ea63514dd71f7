"""A machine and the playbooks that are run on it, with the time of each step; and where secrets are looked for."""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from mlaas.client.client import Client
from tests.deployment.machines import ROOT, environment
from tests.support.vm import Machine, Machines

NAME = "mlaas.test"
USERS, OTHERS = "/mlaas/users", "/atlas"
LIMIT = 900.0  # s
RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)
TOKENS = ("access_token", "refresh_token", "id_token")


@dataclass(frozen=True)
class Play:
    """How a playbook ended."""

    status: int
    output: str
    seconds: float

    @property
    def changed(self) -> int:
        """Changed tasks."""
        return self._recap(3)

    @property
    def failed(self) -> int:
        """Failed tasks and machines that could not be reached."""
        return self._recap(4) + self._recap(5)

    def _recap(self, group: int) -> int:
        found = list(RECAP.finditer(self.output))
        assert found, self.output[-3000:]
        return sum(int(match[group]) for match in found)

    @property
    def changes(self) -> list[str]:
        """The tasks that changed something."""
        task, found = "", []
        for line in self.output.splitlines():
            task = line if line.startswith(("TASK", "RUNNING HANDLER")) else task
            if line.startswith("changed:") and task not in found:
                found.append(task)
        return found


@dataclass
class Site:
    """One machine, the inventory that describes it, and what was seen so far."""

    machines: Machines
    folder: Path
    variables: dict[str, Any]
    machine: Machine
    outputs: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    before: dict[str, set[str]] = field(default_factory=dict)  # the bare machine
    changes: dict[str, set[str]] = field(default_factory=dict)
    times: list[tuple[str, float]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    broken: str = ""
    model: str = ""
    scores: list[float] = field(default_factory=list)
    archive: Path = Path()

    @property
    def inventory(self) -> Path:
        """The inventory, for the machine as it is now; secrets of the test are in it, so it is closed to others."""
        path = self.folder / "inventory.yml"
        host = {"ansible_connection": "community.docker.docker", "ansible_host": self.machine.name, "ansible_python_interpreter": "/usr/bin/python3"}
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump({"all": {"hosts": {"site": host}, "vars": self.variables}}))
        return path

    def command(self, name: str, *words: str) -> list[str]:
        """What runs a playbook."""
        return ["ansible-playbook", "-i", str(self.inventory), str(ROOT / "playbooks" / f"{name}.yml"), *words]

    def environment(self) -> dict[str, str]:
        """What it runs in."""
        return environment(self.machines) | {"ANSIBLE_PIPELINING": "true", "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "false"}

    def play(self, name: str, *words: str, check: bool = True, **variables: Any) -> Play:
        """Run a playbook; variables are given as --extra-vars."""
        extra = ["--extra-vars", json.dumps(variables)] if variables else []
        began = time.monotonic()
        done = subprocess.run(
            self.command(name, *words, *extra),
            env=self.environment(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        self.outputs.append(done.stdout)
        assert not check or done.returncode == 0, f"{done.stdout[-6000:]}\n{self.machine.journal(60)[-8000:]}"
        return Play(done.returncode, done.stdout, time.monotonic() - began)

    # ---- its users

    @property
    def ca(self) -> Path:
        """What its clients must trust."""
        path = self.folder / "ca.pem"
        path.write_bytes(self.machine.read("/etc/mlaas/tls/ca.pem"))
        return path

    def http(self, port: int = 4433, token: str = "") -> httpx.Client:
        """A client of one of its ports."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        trust = ssl.create_default_context(cafile=self.ca)
        return httpx.Client(base_url=f"https://{NAME}:{port}", verify=trust, headers=headers, timeout=60, trust_env=False)

    def token(self, user: str) -> str:
        """A token of a user, by name and password."""
        password = self.machine.read(f"/etc/mlaas/secrets/passwords/{user}").decode().strip()
        form = {"grant_type": "password", "client_id": "mlaas-cli", "username": user, "password": password, "scope": "openid wlcg.groups"}
        with self.http(9443) as http:
            place = http.get("/.well-known/openid-configuration").json()["token_endpoint"]
            given = http.post(place, data=form).json()
        assert "access_token" in given, given
        self.tokens |= {given[name] for name in TOKENS if name in given} | {password}
        return str(given["access_token"])

    def client(self, user: str = "alice") -> Client:
        """The client of a user."""
        return Client(f"https://{NAME}:4433", token=self.token(user), ca_file=self.ca)

    # ---- what is noted

    def say(self, text: str) -> None:
        """Keep a line for the report."""
        self.said.append(text)

    def show(self) -> None:
        """Keep what the machine looks like."""
        listings = {
            "docker ps": "docker ps --format 'table {{.Names}}\\t{{.Image}}\\t{{.Status}}\\t{{.Ports}}'",
            "docker image ls": "docker image ls --format 'table {{.Repository}}\\t{{.Tag}}\\t{{.Size}}' | grep -v none",
            "ports (ss -ltnp)": "ss -Hltn | awk '{print $4}' | sort -u",
            "users": "awk -F: '$3 >= 10001 && $3 <= 10004 {print $1, $3, $6, $7}' /etc/passwd",
            "processes by user": "ps axo user:16,args | grep -E 'mlaas|xrootd|apache|node ' | grep -v grep | cut -c1-120 | sort | uniq -c",
            "timers": "systemctl list-timers --no-pager --plain | grep mlaas || true",
        }
        for title, script in listings.items():
            self.say(f"\n== {title}\n{self.machine.sh(script, check=False).rstrip()}")

    def report(self) -> str:
        """The times of the steps, and what was kept."""
        steps = [f"{seconds:7.1f} s  {name}" for name, seconds in self.times]
        return "\n".join(["== steps", *steps, f"{sum(seconds for _, seconds in self.times):7.1f} s  in all", "", *self.said, ""])

    def versions(self) -> set[str]:
        """The tags of the images that the service runs on; all of them healthy."""
        script = "docker ps --filter label=com.docker.compose.project=mlaas --format '{{.Image}} {{.Status}}'"
        lines = self.machine.sh(script).strip().splitlines()
        assert len(lines) >= 4, lines
        assert all("(healthy)" in line for line in lines), lines
        return {line.split()[0].rpartition(":")[2] for line in lines}

    def strangers(self, kind: str, found: dict[str, set[str]]) -> list[str]:
        """What was not there on the bare machine; files of the distribution's packages are none of ours."""
        new = sorted(found[kind] - self.before[kind])
        if kind != "files" or not new:
            return new
        packed = self.machine.run("dpkg", "-S", *new, check=False)
        owned = {line.rpartition(": ")[2] for line in packed.splitlines() if not line.startswith("dpkg-query:")}
        return [path for path in new if path not in owned]

    # ---- what may be seen

    def secrets(self) -> dict[str, str]:
        """Every line of every file of secrets, and the tokens that were used."""
        public = "! -name ca.pem ! -name fullchain.pem ! -name certificate"
        listed = self.machine.sh(f"find /etc/mlaas/secrets /etc/mlaas/tls-ca /etc/mlaas/tls/ -type f {public}")
        found = {}
        for path in listed.split():
            content = self.machine.read(path).decode(errors="replace")
            for number, line in enumerate(content.splitlines()):
                if path.endswith(("identity-users", "identity-clients")):
                    found |= {f"{path}: {value[:6]}": value for value in re.findall(r'"(?:password|client_secret)": *"([^"]{12,})"', line)}
                elif len(line) >= 12 and "-----" not in line:
                    found[f"{path}:{number}"] = line
        return found | {f"token {number}": token for number, token in enumerate(sorted(self.tokens))}

    def visible(self) -> dict[str, str]:
        """What others than the owner can see: logs, arguments and environments of processes, what the engine tells, Ansible's output."""
        script = {
            "journal": "journalctl --no-pager -a",
            "processes": "ps axww -o args=",
            "environments": "for id in /proc/[0-9]*; do tr '\\0' '\\n' <$id/environ; done 2>/dev/null || true",
            "inspect": "docker ps -aq | xargs -r docker inspect; docker image ls -q | sort -u | xargs -r docker inspect",
            "logs": "for id in $(docker ps -aq); do docker logs $id 2>&1; done",
            "project": "cat /opt/mlaas/.env /opt/mlaas/*.env /opt/mlaas/env.d/* /opt/mlaas/compose.yaml",
            "files of logs": "find /var/log -type f -size -20M -exec cat {} +",
        }
        seen = {name: self.machine.sh(text, check=False) for name, text in script.items()}
        return seen | {"ansible": "\n".join(self.outputs)}


@contextmanager
def resolved(address: str) -> Iterator[None]:
    """In this process the site's name is this address."""
    real = socket.getaddrinfo

    def found(host: Any, *words: Any, **options: Any) -> Any:
        return real(address if host in (NAME, NAME.encode()) else host, *words, **options)

    socket.getaddrinfo = found
    try:
        yield
    finally:
        socket.getaddrinfo = real


def snapshot(machine: Machine) -> dict[str, set[str]]:
    """What the page of changes speaks about: files, users, groups, units, packages."""
    places = "/etc /opt /srv /root /home /usr/local /var /boot"
    # what any installed package or running machine writes
    left_out = [
        "/root/.ansible",
        "/var/lib/docker",
        "/var/lib/apt",
        "/var/lib/dpkg",
        "/var/cache",
        "/var/log",
        "/var/lib/systemd",
        "/var/lib/containerd",
    ]
    pruned = " -o ".join(f"-path {path}" for path in left_out)
    return {
        # the links of update-alternatives belong to packages, but not to their lists of files
        "files": set(
            machine.sh(f"find {places} \\( {pruned} -o -path '/etc/alternatives/*' -o -lname '/etc/alternatives/*' \\) -prune -o -print").split("\n")
        )
        - {""},
        "users": set(machine.sh("cut -d: -f1 /etc/passwd").split()),
        "groups": set(machine.sh("cut -d: -f1 /etc/group").split()),
        "units": set(machine.sh("systemctl list-unit-files --no-legend --plain | cut -d' ' -f1").split()),
        "packages": set(machine.sh("apt-mark showmanual").split()),
    }


def write_report(path: Path, text: str) -> None:
    """Keep what the finished machine looks like."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
