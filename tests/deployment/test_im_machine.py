"""From a template to the service: the Infrastructure Manager configures a machine, configures it again, brings it to the next version.

The times of the steps are written to build/tests/im.txt.
"""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from mlaas import __version__
from mlaas.tosca import render
from mlaas.tosca.table import project
from tests.deployment.machines import ROOT
from tests.deployment.site import write_report
from tests.service.openid import AUDIENCE, Provider, provider
from tests.support.orchestrator import NODE, Manager, manager, onto, prepare, published
from tests.support.pki import Authority
from tests.support.ports import free_port
from tests.support.vm import NEXT, Machine, golden

pytestmark = pytest.mark.timeout(2400)

PARTS = ("galaxy.yml", "meta", "plugins", "roles", "playbooks", "images", "mlaas", "pyproject.toml", "README.md", "LICENSE")
LIMIT = 1200.0  # s
REPORT = ROOT / "build" / "tests" / "im.txt"


def collection(version: str, folder: Path) -> None:
    """The collection of a version, as it is released."""
    source = folder / f"source-{version}"
    for part in PARTS:
        path = ROOT / part
        copy = shutil.copytree if path.is_dir() else shutil.copy
        (source / part).parent.mkdir(parents=True, exist_ok=True)
        copy(path, source / part)
    for name in ("galaxy.yml", "roles/mlaas/defaults/main.yml"):
        text = (source / name).read_text()
        assert __version__ in text
        (source / name).write_text(text.replace(f"ersion: {__version__}", f"ersion: {version}"))
    command = [Path(sys.executable).parent / "ansible-galaxy", "collection", "build", source, "--output-path", folder / f"v{version}"]
    subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(source)


class Deployment:
    """A machine in the hands of IM."""

    def __init__(self, machine: Machine, im: Manager, openid: Provider, files: Path, templates: dict[str, str]) -> None:
        self.machine = machine
        self.im = im
        self.openid = openid
        self.templates = templates
        self.files = files
        self.path = ""
        self.times: list[str] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Note how long it took."""
        began = time.monotonic()
        yield
        self.times.append(f"{time.monotonic() - began:7.1f} s  {name}")

    def configured(self) -> str:
        """Wait until IM is done, look at what every machine said, and return it."""
        state = self.im.wait(self.path, NODE, LIMIT)
        said = self.im.messages(self.path, NODE)
        assert state == "configured", f"{said[-6000:]}\n{self.machine.journal(40)[-4000:]}"
        recaps = re.findall(r"ok=\d+ +changed=(\d+) +unreachable=(\d+) +failed=(\d+)", said)
        assert recaps, said[-3000:]
        assert all((unreachable, failed) == ("0", "0") for _, unreachable, failed in recaps), said[-6000:]
        return said

    def http(self, address: str, token: str = "") -> httpx.Client:
        """A client of an address among the outputs; the certificate holds it."""
        trust = ssl.create_default_context(cadata=self.machine.read("/etc/mlaas/tls/ca.pem").decode())
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=address, verify=trust, headers=headers, timeout=60, trust_env=False)

    def versions(self) -> set[str]:
        """The versions of the images that run."""
        names = self.machine.sh("docker ps --filter label=com.docker.compose.project=mlaas --format '{{.Image}}'").split()
        assert len(names) >= 4, names
        return {name.rpartition(":")[2] for name in names}


@pytest.fixture(scope="module")
def deployment(machines, tmp_path_factory) -> Iterator[Deployment]:
    """What a cloud, a web server and an OpenID provider are to a deployment."""
    folder = tmp_path_factory.mktemp("im")
    machine = machines.start("mlaas-im", "debian12", golden=golden())
    outside = gateway_of(machine.address)
    authority = Authority(folder / "ca")
    pair, port = authority.host("provider", outside), free_port()
    doors = [f"https://{machine.address}:{number}/oauth2/callback" for number in (4433, 8081)]
    environment = {
        "HOST": "0.0.0.0",
        "ISSUER": f"https://{outside}:{port}",
        "TLS_PORT": str(port),
        "TLS_CERT": str(pair.certificate),
        "TLS_KEY": str(pair.key),
        "REDIRECT": ",".join(doors),
    }
    files = folder / "published"
    with published(files, outside) as address, provider(**environment) as openid, manager(folder / "manager") as im:
        key = prepare(machine)
        templates = {}
        for version in (__version__, NEXT):
            where = project(version, f"{address}/v{{version}}", f"{address}/v{{version}}/mlaas4hep-mlaas-{{version}}.tar.gz")
            render.write(render.render(where), files / f"v{version}" / "tosca")
            collection(version, files)
            templates[version] = onto(
                (files / f"v{version}/tosca/vm.yaml").read_text(),
                machine.address,
                key,
                oidc_issuer=openid.url,
                oidc_audience=AUDIENCE,
                oidc_client_id="gateway",
                oidc_client_secret="gateway-secret-gateway-secret-1",  # noqa: S106
                user_groups="/mlaas/users",
                admin_groups="/mlaas/admins",
                site_ca=authority.pem.read_text(),
                user_jobs=3,
            )
        found = Deployment(machine, im, openid, files, templates)
        yield found
        write_report(REPORT, "\n".join(["== the Infrastructure Manager and one machine", *found.times, ""]))


def gateway_of(address: str) -> str:
    """The address of this machine on the bridge of another one."""
    prefix = address.rsplit(".", 2)[0]
    return next(found.address for addresses in psutil.net_if_addrs().values() for found in addresses if found.address.startswith(f"{prefix}."))


def test_from_a_template_to_the_service_and_on(deployment):
    with deployment.step("create"):
        deployment.path = deployment.im.create(deployment.templates[__version__], NODE)
        deployment.configured()
    outputs = deployment.im.outputs(deployment.path, NODE)
    assert outputs["node_ip"] == deployment.machine.address
    with deployment.step("use"):
        answers_to_tokens(deployment, outputs)
        assert deployment.versions() == {__version__}
        assert "MLAAS_USER_JOBS=3" in deployment.machine.read("/opt/mlaas/server.env").decode().replace("'", "").replace('"', "")
        assert deployment.machine.sh("ls /run/mlaas-deploy.json 2>&1 || true").endswith("No such file or directory\n")
        assert "gateway-secret" not in deployment.im.messages(deployment.path, NODE)
    with deployment.step("configure again"):
        assert deployment.im.request("PUT", f"{deployment.path}/reconfigure", NODE).status_code == 200
        said = deployment.configured()
        assert re.search(r"localhost +: ok=\d+ +changed=0 ", said), said[-3000:]
    with deployment.step("upgrade"):
        assert deployment.im.request("POST", deployment.path, NODE, deployment.templates[NEXT]).status_code == 200
        deployment.configured()
        assert deployment.versions() == {NEXT}
        answers_to_tokens(deployment, outputs)
    assert deployment.im.request("DELETE", deployment.path, NODE).status_code == 200


def answers_to_tokens(deployment: Deployment, outputs: dict[str, str]) -> None:
    """The gateway lets in whom it should, at the addresses that the user was told."""
    for address, path in ((outputs["server_endpoint"], "/api/v1/me"), (outputs["inference_endpoint"], "/v2/models/any")):
        for token, status in (("", {401}), (deployment.openid.token("bob"), {403}), (deployment.openid.token("alice"), {200, 404})):
            with deployment.http(address, token) as http:
                assert http.get(path, headers={"Accept": "application/json"}).status_code in status, (address, token[:9])
