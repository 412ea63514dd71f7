"""The program mlaas-tls with a configuration of its own, and the ACME test server pebble."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tests.support.pki import Authority
from tests.support.ports import free_port
from tests.support.programs import find_program

ROLE = Path(__file__).parents[2] / "roles" / "tls"
EAB_KEY = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"  # of no server but this one
SECONDS = 18  # life of pebble's certificates


@dataclass
class Site:
    """A folder in which mlaas-tls works."""

    folder: Path
    conf: dict[str, Any] = field(default_factory=dict)

    def run(self, command: str, given: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
        """Run the program as the role and the timer do."""
        settings = self.folder / "tls.json"
        settings.write_text(json.dumps(self.conf))
        environment = os.environ | {"DOCKER_HOST": f"unix://{self.folder}/no-docker.sock"}
        return subprocess.run(
            [sys.executable, ROLE / "files" / "mlaas_tls.py", command, "--config", settings],
            input=json.dumps(given) if given is not None else "",
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
            check=False,
        )

    def renew(self, status: int = 0) -> str:
        """Renew, and what it said."""
        done = self.run("renew")
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return (done.stdout + done.stderr).strip()

    @property
    def leaf(self) -> x509.Certificate:
        """The certificate in place."""
        return x509.load_pem_x509_certificate((self.folder / "tls" / "fullchain.pem").read_bytes())


@pytest.fixture
def site(tmp_path):
    """A site with a self-signed certificate to come."""
    made = Site(tmp_path)
    made.conf = {
        "source": "self-signed",
        "folder": str(tmp_path / "tls"),
        "ca_folder": str(tmp_path / "tls-ca"),
        "group": "root",
        "names": ["mlaas.example.org", "localhost", "127.0.0.1", "::1"],
        "key_type": "ecdsa",
        "days": 397,
        "renew_days": 30,
        "ca_days": 3650,
        "files": {},
        "acme": {"folder": str(tmp_path / "acme"), "directory": "", "trust": ""},
    }
    return made


@dataclass
class Pebble:
    """The ACME test server."""

    folder: Path
    directory: str
    http: int
    trust: Path
    process: subprocess.Popen[bytes] | None = None
    dns: int = 0
    settings: dict[str, Any] = field(default_factory=dict)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        (self.folder / "pebble.json").write_text(json.dumps({"pebble": self.settings}))
        environment = os.environ | {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}
        command = [str(find_program("pebble")), "-config", str(self.folder / "pebble.json"), "-dnsserver", f"127.0.0.1:{self.dns}"]
        with (self.folder / "pebble.log").open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        _wait(self.settings["listenAddress"])

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def serve(self, site: Site, **variables: Any) -> None:
        """Let a site take its certificates from here; variables are those of the role."""
        acme = site.folder / "acme"
        acme.mkdir(exist_ok=True)
        given = {
            "ansible_managed": "Ansible",
            "tls_acme_directory": self.directory,
            "tls_acme_email": "operator@example.org",
            "tls_acme_eab_key_id": "",
            "tls_acme_eab_key": "",
            "tls_acme_challenge": "standalone",
            "tls_acme_port": self.http,
            "tls_acme_address": "127.0.0.1",
            "tls_acme_webroot": "",
            "tls_key_type": site.conf["key_type"],
            "_tls_acme_folder": str(acme),
            "_tls_logs": str(site.folder / "log"),
        }
        template = Environment(  # noqa: S701
            loader=FileSystemLoader(ROLE / "templates"), undefined=StrictUndefined, trim_blocks=True
        ).get_template("cli.ini.j2")
        (acme / "cli.ini").write_text(template.render(given | variables))
        site.conf["source"] = "acme"
        site.conf["names"] = ["mlaas.example.org", "www.example.org"]
        site.conf["acme"] = {"folder": str(acme), "logs": str(site.folder / "log"), "directory": self.directory, "trust": str(self.trust)}


def _wait(address: str) -> None:
    host, port = address.rsplit(":", 1)
    until = time.monotonic() + 20
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            assert time.monotonic() < until, f"nothing listens on {address}"
            time.sleep(0.1)
        else:
            return


@pytest.fixture(scope="session")
def names(tmp_path_factory) -> Iterator[int]:
    """A DNS server that says 127.0.0.1 for every name; its port."""
    dns, management = free_port(), free_port()
    command = [str(find_program("pebble-challtestsrv")), "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dns01", f"127.0.0.1:{dns}"]
    command += ["-http01", "", "-https01", "", "-tlsalpn01", "", "-management", f"127.0.0.1:{management}"]
    with (tmp_path_factory.mktemp("dns") / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        _wait(f"127.0.0.1:{management}")
        yield dns
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def pebble(tmp_path_factory, names) -> Iterator[Pebble]:
    """A new ACME server; its certificates live some seconds."""
    folder = tmp_path_factory.mktemp("pebble")
    authority = Authority(folder / "ca")
    pair = authority.host("localhost", "127.0.0.1")
    port, http = free_port(), free_port()
    made = Pebble(folder, f"https://127.0.0.1:{port}/dir", http, authority.pem, dns=names)
    made.settings = {
        "listenAddress": f"127.0.0.1:{port}",
        "managementListenAddress": f"127.0.0.1:{free_port()}",
        "certificate": str(pair.certificate),
        "privateKey": str(pair.key),
        "httpPort": http,
        "tlsPort": free_port(),
        "ocspResponderURL": "",
        "externalAccountBindingRequired": False,
        "certificateValidityPeriod": SECONDS,
        "profiles": {"default": {"description": "short", "validityPeriod": SECONDS}},
    }
    try:
        made.start()
        yield made
    finally:
        made.stop()
