"""The Infrastructure Manager (IM) for the tests: the real one from the Python package index, in an environment of its own."""

from __future__ import annotations

import functools
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.ports import free_port
from tests.support.vm import CACHE, Machine, locked

VERSION = "2.0.0"
# its settings are a class, which its modules read when they are imported
START = """
import json, sys
from IM.config import Config
for name, value in json.loads(sys.argv.pop()).items():
    setattr(Config, name, value)
from IM.im_service import main
main()
"""
DUMMY = {"id": "cloud", "type": "Dummy"}
NODE = {"id": "bare", "type": "DeployedNode"}
ENDED = ("configured", "unconfigured", "failed")


def installed() -> Path:
    """The folder of its virtual environment, made once."""
    folder = CACHE / f"im-{VERSION}"
    with locked(CACHE / "im.lock"):
        if not (folder / "made").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
            subprocess.run([folder / "bin" / "pip", "install", "--quiet", "--no-cache-dir", f"IM=={VERSION}"], check=True)
            (folder / "made").touch()
    return folder


@dataclass
class Manager:
    """A running IM."""

    url: str
    folder: Path

    def request(self, method: str, path: str, cloud: dict[str, str], content: str = "", **parameters: str) -> httpx.Response:
        """One request; the header says who asks and which cloud is meant."""
        who = [{"id": "im", "type": "InfrastructureManager", "username": "test", "password": "test"}, cloud]
        header = "\\n".join("; ".join(f"{key} = {value}" for key, value in entry.items()) for entry in who)
        headers = {"Authorization": header, "Accept": "application/json"} | ({"Content-Type": "text/yaml"} if content else {})
        return httpx.request(method, f"{self.url}{path}", content=content or None, headers=headers, params=parameters, timeout=120, trust_env=False)

    def dry_run(self, template: str) -> list[dict[str, int]]:
        """The machines that a template asks for."""
        answer = self.request("POST", "/infrastructures", DUMMY, template, dry_run="true")
        assert answer.status_code == 200, answer.text
        machines: list[dict[str, int]] = answer.json()["cloud"]["compute"]
        return machines

    def create(self, template: str, cloud: dict[str, str]) -> str:
        """Create an infrastructure; returns its path."""
        answer = self.request("POST", "/infrastructures", cloud, template)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["uri"]).removeprefix(self.url)

    def wait(self, path: str, cloud: dict[str, str], limit: float) -> str:
        """The state in which an infrastructure ends."""
        until = time.monotonic() + limit
        state = ""
        while time.monotonic() < until:
            state = str(self.request("GET", f"{path}/state", cloud).json()["state"]["state"])
            if state in ENDED:
                break
            time.sleep(3)
        return state

    def messages(self, path: str, cloud: dict[str, str]) -> str:
        """What the machines said while they were configured."""
        return str(self.request("GET", f"{path}/contmsg", cloud).json()["contmsg"])

    def outputs(self, path: str, cloud: dict[str, str]) -> dict[str, str]:
        """The outputs of its template."""
        found: dict[str, str] = self.request("GET", f"{path}/outputs", cloud).json()["outputs"]
        return found


@contextmanager
def manager(folder: Path) -> Iterator[Manager]:
    """IM on a port of loopback, with its data in `folder`."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "REST_ADDRESS": "127.0.0.1",
        "REST_PORT": port,
        "DATA_DB": f"sqlite:///{folder / 'data'}",
        "LOG_FILE": str(folder / "log"),
        "LOG_LEVEL": "DEBUG",
        "CHECK_CTXT_PROCESS_INTERVAL": 2,
        "CONFMAMAGER_CHECK_STATE_INTERVAL": 1,
        "UPDATE_CTXT_LOG_INTERVAL": 5,
    }
    environment = installed()
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [environment / "bin" / "python", "-c", START, json.dumps(settings)],
            cwd=folder,
            env=os.environ | {"PATH": f"{environment / 'bin'}:{os.environ['PATH']}", "ANSIBLE_HOST_KEY_CHECKING": "False", "HOME": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    found = Manager(f"http://127.0.0.1:{port}", folder)
    try:
        _answers(found, process)
        yield found
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(found: Manager, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{found.url}/version", trust_env=False).status_code == 200:
                return
        time.sleep(0.3)
    raise AssertionError(f"IM did not start:\n{(found.folder / 'output').read_text()[-3000:]}")


@contextmanager
def published(folder: Path, address: str = "127.0.0.1") -> Iterator[str]:
    """A web server for a folder; yields its address."""
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer((address, 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{address}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


# IM fetches an environment with Ansible from a channel of conda on the web; here the same release comes from the Python package index
MICROMAMBA = """#!/bin/sh
set -eu
environment=/var/tmp/.mamba/envs/ansible
case $1 in
    create) python3 -m venv "$environment" && "$environment/bin/pip" install --quiet paramiko psutil pyyaml jmespath scp requests urllib3 packaging ;;
    install) for last; do :; done; [ -x "$environment/bin/ansible" ] || "$environment/bin/pip" install --quiet "$(echo "$last" | sed 's/=/==/')" ;;
    run) shift 3; PATH=$environment/bin:$PATH exec "$@" ;;
esac
"""
USER = "cloudadm"
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")  # of this machine: a site may have its own


def trust_as_here(machine: Machine) -> None:
    """Let a machine fetch packages from where this one does."""
    machine.write(str(AUTHORITIES), AUTHORITIES.read_bytes())
    machine.write("/etc/pip.conf", f"[global]\ncert = {AUTHORITIES}\n".encode())


def prepare(machine: Machine) -> str:
    """Make a machine what a cloud makes of its image: a user with a key, sshd, sudo. Returns the private key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=3072)
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()).decode()
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    trust_as_here(machine)
    machine.sh("apt-get update -qq && apt-get install -y -qq --no-install-recommends openssh-server openssh-client python3-venv wget unzip sshpass")
    machine.sh(f"useradd --create-home --shell /bin/bash {USER} && echo '{USER} ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/{USER}")
    machine.write(f"/home/{USER}/.ssh/authorized_keys", public + b"\n")
    machine.sh(f"chown -R {USER}: /home/{USER} && chmod 700 /home/{USER} /home/{USER}/.ssh && chmod 600 /home/{USER}/.ssh/authorized_keys")
    machine.write("/var/tmp/.mamba/bin/micromamba", MICROMAMBA.encode(), 0o755)  # noqa: S108  the place is IM's
    machine.sh("systemctl start ssh")
    return private


def onto(template: str, address: str, key: str, **inputs: Any) -> str:
    """The template for a machine that exists: its address and key stand where a cloud would put them, and inputs get values."""
    document = yaml.safe_load(template)
    topology = document["topology_template"]
    for name, value in inputs.items():
        topology["inputs"][name]["default"] = value
    for node in topology["node_templates"].values():
        if node["type"].endswith(".Port"):
            node["properties"]["ip_address"] = address
        if node["type"].endswith(".Compute"):
            node["capabilities"]["os"]["properties"]["credential"] = {"user": USER, "token": key, "token_type": "private_key"}
    return str(yaml.safe_dump(document, sort_keys=False))
