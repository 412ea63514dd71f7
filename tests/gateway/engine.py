"""The gateway as it is deployed, on loopback: an engine as a real process on the role's own templates."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import shutil
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

ROOT = Path(__file__).parents[2]
ROLE = ROOT / "roles" / "gateway"
IMAGE = ROOT / "images" / "gateway" / "bin"
HOST = "localhost"
UID = 10002
OAUTH2_PROXY = os.environ.get("MLAAS_TEST_OAUTH2_PROXY")  # now, for tests run without the variables MLAAS_* of whoever runs them
DOORS = ("server", "inference")
CLIENT = "gateway"
SECRET = "gateway-secret-gateway-secret-1"  # noqa: S105
COOKIE = "__Host-mlaas_gateway"
START = 60  # s


@dataclass
class Gateway:
    """A running gateway. urls: by door (server, inference); log: what it wrote; folder: its configuration, certificates and run folder."""

    engine: str
    folder: Path
    ports: Mapping[str, int]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def ca(self) -> Path:
        return self.folder / "tls" / "ca.pem"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def url(self, door: str = "server") -> str:
        return f"https://{HOST}:{self.ports[door]}"

    def client(self, token: str | None = None, *, door: str = "server", **options: Any) -> httpx.Client:
        """A client of a door, with a bearer token or none."""
        headers = ({"Authorization": f"Bearer {token}"} if token else {}) | options.pop("headers", {})
        context = ssl.create_default_context(cafile=self.ca)
        return httpx.Client(base_url=self.url(door), headers=headers, verify=context, timeout=60, trust_env=False, **options)

    def pids(self) -> list[int]:
        """Its processes and theirs."""
        import psutil

        mains = [psutil.Process(process.pid) for process in self.processes]
        return [one.pid for main in mains for one in [main, *main.children(recursive=True)]]


def variables(engine: str, folder: Path, ports: Mapping[str, int], upstreams: Mapping[str, str], issuer: str, **given: Any) -> dict[str, Any]:
    """The variables of the roles as Ansible sees them; given: variables that an operator sets."""
    loader = DataLoader()
    found: dict[str, Any] = {"ansible_managed": "Ansible managed", "ansible_facts": {"fqdn": HOST}}
    for role in ("mlaas", "gateway"):
        found |= loader.load_from_file(str(ROOT / "roles" / role / "defaults" / "main.yml"), trusted_as_template=True)
    found |= loader.load_from_file(str(ROLE / "vars" / "main.yml"), trusted_as_template=True)
    doors = found["_gateway_doors"]
    for name in DOORS:
        doors[name] |= {"listen": ports[name], "upstream": upstreams[name]}
    found |= {"gateway_engine": engine, "mlaas_host_name": HOST, "mlaas_oidc_issuer": issuer, "mlaas_oidc_client_id": CLIENT}
    found |= {"mlaas_server_port": ports["server"], "mlaas_inference_port": ports["inference"]}
    found |= {
        "_gateway_config": str(folder / "config"),
        "_gateway_run": str(folder / "run"),
        "_gateway_tls": str(folder / "tls"),
        "_gateway_trust": str(folder / "tls" / "ca.pem"),
    }
    found |= {"_gateway_mounted_secrets": str(folder / "secrets"), "_gateway_log_filter": str(folder / "bin" / "json-lines")}
    return found | {"_gateway_listen_address": "127.0.0.1"} | given


def render(target: Path, values: dict[str, Any]) -> None:
    """Write the configuration with Ansible's own templates."""
    loader = DataLoader()
    for item in values["_gateway_templates"][values["gateway_engine"]]:
        templar = Templar(loader=loader, variables=values | {"item": item})
        source = (ROLE / "templates" / item["src"]).read_text()
        text = templar.copy_with_new_env().template(trust_as_template(source), escape_backslashes=False)
        (target / item["dest"]).write_text(json.dumps(text) if isinstance(text, dict) else text)
    for name in ("errors", "pages"):
        shutil.copytree(ROLE / "files" / name, target / name, dirs_exist_ok=True)


def certificate(folder: Path) -> None:
    """A certificate for localhost in the form in which the role tls leaves one; as an authority of its own it is what clients trust, too."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName(HOST), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now - datetime.timedelta(days=1), now + datetime.timedelta(days=2)
    )
    made = made.add_extension(names, critical=False).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    signed = made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    folder.mkdir(exist_ok=True)
    for file, content in {"fullchain.pem": signed, "privkey.pem": pem, "ca.pem": signed}.items():
        (folder / file).write_bytes(content)


@contextmanager
def gateway(engine: str, ports: Mapping[str, int], upstreams: Mapping[str, str], issuer: str, tls: Path, **given: Any) -> Iterator[Gateway]:
    """An engine in front of upstreams until the block ends. tls: folder of the certificate; given: variables of the role."""
    folder = Path(tempfile.mkdtemp(prefix=f"gateway-{engine}-"))
    try:
        prepare(folder, tls)
        render(folder / "config", variables(engine, folder, ports, upstreams, issuer, **given))
        hand_over(folder)
        with started(Gateway(engine, folder, ports)) as found:
            yield found
    finally:
        shutil.rmtree(folder)


def prepare(folder: Path, tls: Path) -> None:
    """What the roles leave on a machine: secrets, certificate, and the image's programs."""
    for name in ("config", "run", "secrets", "bin"):
        (folder / name).mkdir()
    shutil.copytree(tls, folder / "tls")
    (folder / "secrets" / "gateway-client-secret").write_text(SECRET)
    (folder / "secrets" / "gateway-cookie-secret").write_text("0123456789abcdef0123456789ABCDEF")
    for program in IMAGE.iterdir():
        shutil.copy(program, folder / "bin")
    (folder / "log").touch()


def hand_over(folder: Path) -> None:
    """Let the engine's user have its files; in the container it is this user, too, and Apache never runs as root."""
    folder.chmod(0o755)
    if os.geteuid() == 0:
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, UID, UID, follow_symlinks=False)


def commands(found: Gateway) -> list[list[str]]:
    """What the services of the Compose project run."""
    config = found.folder / "config"
    if found.engine == "apache":
        return [[str(found.folder / "bin" / "mlaas-gateway"), "run"]]
    assert OAUTH2_PROXY
    return [[OAUTH2_PROXY, f"--config={config / door}.cfg", f"--alpha-config={config / door}.yaml"] for door in DOORS]


@contextmanager
def started(found: Gateway) -> Iterator[Gateway]:
    """Its processes, until the block ends."""
    names = {"GATEWAY_CONFIG": "config", "GATEWAY_RUN": "run", "GATEWAY_SECRETS": "secrets"}
    environment = {"PATH": os.defpath} | {name: str(found.folder / path) for name, path in names.items()}
    who: dict[str, Any] = {"user": UID, "group": UID, "extra_groups": []} if os.geteuid() == 0 else {}
    log = (found.folder / "log").open("ab")
    try:
        for command in commands(found):
            found.processes.append(
                subprocess.Popen(command, env=environment, cwd=found.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **who)
            )
        wait_until_up(found)
        yield found
    finally:
        for process in found.processes:
            process.terminate()
        for process in found.processes:
            process.wait(30)
        log.close()


def wait_until_up(found: Gateway) -> None:
    until = time.monotonic() + START
    for door in DOORS:
        while True:
            try:
                with found.client(door=door) as client:
                    if client.get("/oauth2/ping").status_code == 200:
                        break
            except httpx.TransportError:
                pass
            assert time.monotonic() < until, found.log[-4000:]
            assert all(process.poll() is None for process in found.processes), found.log[-4000:]
            time.sleep(0.1)
