"""The OpenID provider of images/identity, run as the image runs it: its users, its grants, its keys, and where it refuses to run."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest

from tests.service.openid import installed
from tests.support.pki import Authority
from tests.support.ports import free_ports
from tests.support.programs import find_program

IMAGE = Path(__file__).parents[2] / "images" / "identity"
DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
SECRET = "s" * 40
PASSWORD = "correct horse"  # noqa: S105
CALLBACK = "https://localhost:4433/oauth2/callback"
pytestmark = pytest.mark.needs("node", "npm")


def hashed(password: str) -> str:
    """As images/laptop stores passwords."""
    spec = importlib.util.spec_from_file_location("laptop", IMAGE.parent / "laptop.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.hashed(password))


@dataclass
class Running:
    """The provider's process, and what it works with."""

    folder: Path
    authority: Authority
    ports: list[int] = field(default_factory=lambda: free_ports(2))
    said: str = ""

    @property
    def issuer(self) -> str:
        """Its address."""
        return f"https://localhost:{self.ports[0]}"

    @contextmanager
    def client(self) -> Iterator[httpx.Client]:
        """A browser, or a program: with cookies, and trust in its certificate."""
        with httpx.Client(base_url=self.issuer, verify=ssl.create_default_context(cafile=self.authority.pem), trust_env=False) as made:
            yield made

    def token(self, **form: str) -> httpx.Response:
        """The answer of the token endpoint."""
        with self.client() as client:
            return client.post("/token", data=form)

    def claims(self, token: str) -> dict[str, Any]:
        """What a token says, verified with the published keys."""
        with self.client() as client:
            keys = jwt.PyJWKSet.from_dict(client.get("/jwks").json())
        key = keys[jwt.get_unverified_header(token)["kid"]]
        found: dict[str, Any] = jwt.decode(token, key, algorithms=["RS256"], issuer=self.issuer, options={"verify_aud": False})
        return found

    def environment(self, **more: str) -> dict[str, str]:
        """As Compose sets it."""
        places = {"TLS": "tls", "SECRETS": "secrets", "DATA": "data"}
        made = {name: str(self.folder / place) for name, place in places.items()}
        ports = {"PORT": str(self.ports[0]), "HEALTH_PORT": str(self.ports[1])}
        return {"PATH": os.environ["PATH"], "ISSUER": self.issuer, "AUDIENCE": "mlaas"} | ports | made | more

    def command(self) -> list[str]:
        """As the image starts it."""
        return [str(find_program("node")), str(self.folder / "program" / "provider.mjs")]

    @contextmanager
    def started(self) -> Iterator[Running]:
        """Run it until the end of the block."""
        with (self.folder / "log").open("w+") as log:
            process = subprocess.Popen(self.command(), env=self.environment(), stdout=subprocess.PIPE, stderr=log, text=True)
            assert process.stdout
            try:
                line = process.stdout.readline()
                log.seek(0)
                assert line == f"identity: {self.issuer}\n", log.read()
                yield self
            finally:
                process.terminate()
                process.wait(20)
                process.stdout.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Running:
    """The folders of a provider that does not run yet."""
    folder = tmp_path_factory.mktemp("identity")
    for name in ("tls", "secrets", "data", "program"):
        (folder / name).mkdir()
    for path in IMAGE.glob("*.mjs"):
        (folder / "program" / path.name).write_text(path.read_text())
    (folder / "program" / "node_modules").symlink_to(installed() / "node_modules")
    authority = Authority(folder / "ca")
    pair = authority.host("localhost", "127.0.0.1")
    (folder / "tls/fullchain.pem").write_bytes(pair.certificate.read_bytes())
    (folder / "tls/privkey.pem").write_bytes(pair.key.read_bytes())
    users = [{"name": "ada", "groups": ["/mlaas/users", "/cms"], "password": hashed(PASSWORD)}]
    none: dict[str, Any] = {"redirect_uris": [], "response_types": []}
    clients = [
        {"client_id": "mlaas-cli", "token_endpoint_auth_method": "none", "grant_types": [DEVICE, "refresh_token", "password"], **none},
        {"client_id": "robot", "client_secret": SECRET, "grant_types": ["client_credentials"], "groups": ["/robots"], **none},
        {
            "client_id": "gateway",
            "client_secret": SECRET,
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "redirect_uris": [CALLBACK],
        },
    ]
    (folder / "secrets/identity-users").write_text(json.dumps(users))
    (folder / "secrets/identity-clients").write_text(json.dumps(clients))
    return Running(folder, authority)


@pytest.fixture(scope="module")
def running(made: Running) -> Iterator[Running]:
    """The provider."""
    with made.started():
        yield made


def test_it_tells_its_health_without_tls_to_its_own_container_only(running):
    assert httpx.get(f"http://127.0.0.1:{running.ports[1]}/healthz", trust_env=False).status_code == 200


def test_a_password_gives_a_token_with_the_users_groups(running):
    answer = running.token(grant_type="password", client_id="mlaas-cli", username="ada", password=PASSWORD, scope="compute.create nonsense")
    assert answer.status_code == 200, answer.text
    claims = running.claims(answer.json()["access_token"])
    assert (claims["sub"], claims["aud"], claims["wlcg.groups"]) == ("ada", "mlaas", ["/mlaas/users", "/cms"])
    assert claims["scope"] == "compute.create"


@pytest.mark.parametrize(("user", "password"), [("ada", "wrong"), ("ada", ""), ("bob", PASSWORD), ("__proto__", PASSWORD)])
def test_a_wrong_password_gives_nothing(running, user, password):
    answer = running.token(grant_type="password", client_id="mlaas-cli", username=user, password=password)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


def test_a_client_gets_its_own_groups_and_only_with_its_secret(running):
    good = running.token(grant_type="client_credentials", client_id="robot", client_secret=SECRET)
    claims = running.claims(good.json()["access_token"])
    assert (claims["sub"], claims["wlcg.groups"], claims["aud"]) == ("robot", ["/robots"], "mlaas")
    assert running.token(grant_type="client_credentials", client_id="robot", client_secret="t" * 40).status_code == 401
    assert running.token(grant_type="password", client_id="robot", client_secret=SECRET, username="ada", password=PASSWORD).status_code == 400


def follow(client: httpx.Client, answer: httpx.Response) -> httpx.Response:
    """Go where the provider sends the browser, as long as that is the provider itself."""
    while answer.is_redirect and urlsplit(answer.headers["location"]).netloc in ("", urlsplit(str(client.base_url)).netloc):
        answer = client.get(answer.headers["location"])
    return answer


def sign_in(client: httpx.Client, page: httpx.Response, password: str = PASSWORD) -> httpx.Response:
    """Fill in the form of the sign-in page."""
    action = re.search(r'action="([^"]+)"', page.text)
    assert action, page.text
    return follow(client, client.post(action[1], data={"name": "ada", "password": password}))


def test_a_browser_signs_in_and_the_gateway_gets_tokens(running):
    query = {"client_id": "gateway", "response_type": "code", "redirect_uri": CALLBACK, "scope": "openid profile email wlcg.groups", "state": "x"}
    with running.client() as client:
        page = follow(client, client.get("/auth", params=query))
        assert (page.status_code, "Sign in" in page.text) == (200, True)
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        wrong = sign_in(client, page, "wrong")
        assert (wrong.status_code, "is wrong" in wrong.text) == (401, True)
        back = sign_in(client, wrong)
        assert back.headers["location"].startswith(CALLBACK)
        code = parse_qs(urlsplit(back.headers["location"]).query)["code"][0]
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK, "client_id": "gateway", "client_secret": SECRET}
    tokens = running.token(**form).json()
    assert running.claims(tokens["id_token"])["wlcg.groups"] == ["/mlaas/users", "/cms"]
    assert running.claims(tokens["access_token"])["preferred_username"] == "ada"
    again = running.token(grant_type="refresh_token", refresh_token=tokens["refresh_token"], client_id="gateway", client_secret=SECRET)
    assert running.claims(again.json()["access_token"])["sub"] == "ada"
    assert running.token(**form).status_code == 400  # a code is good once


def test_a_sign_in_that_is_nobodys_is_refused(running):
    with running.client() as client:
        answer = client.post("/interaction/nonsense", data={"name": "ada", "password": PASSWORD})
        assert (answer.status_code, "This sign-in is over" in answer.text) == (400, True)
        elsewhere = client.get(
            "/auth", params={"client_id": "gateway", "response_type": "code", "redirect_uri": "https://evil.test/", "scope": "openid"}
        )
        assert elsewhere.status_code == 400
        assert "location" not in elsewhere.headers


def test_the_command_line_signs_in_by_a_code(running):
    asked = {"client_id": "mlaas-cli", "scope": "openid offline_access wlcg.groups"}
    with running.client() as program, running.client() as browser:
        device = program.post("/device/auth", data=asked).json()
        form = {"grant_type": DEVICE, "client_id": "mlaas-cli", "device_code": device["device_code"]}
        assert program.post("/token", data=form).json()["error"] == "authorization_pending"
        page = browser.get(device["verification_uri_complete"])
        fields = dict(re.findall(r'name="(\w+)"\s+value="([^"]*)"', page.text))
        page = follow(browser, browser.post("/device", data=fields))
        if "Sign in" not in page.text:  # it asks whether this is the code that one sees
            page = follow(browser, browser.post("/device", data=dict(re.findall(r'name="(\w+)"\s+value="([^"]*)"', page.text)) | {"confirm": "yes"}))
        assert sign_in(browser, page).status_code == 200
        tokens = program.post("/token", data=form).json()
    assert running.claims(tokens["access_token"])["wlcg.groups"] == ["/mlaas/users", "/cms"]
    assert "refresh_token" in tokens


def test_the_keys_outlive_a_restart(made, tmp_path):
    other = Running(tmp_path, made.authority)
    for name in ("tls", "secrets", "program"):
        (tmp_path / name).symlink_to(made.folder / name)
    (tmp_path / "data").mkdir()
    with other.started():
        token = other.token(grant_type="client_credentials", client_id="robot", client_secret=SECRET).json()["access_token"]
        assert (tmp_path / "data/keys.json").stat().st_mode & 0o777 == 0o600
    with other.started():
        assert other.claims(token)["sub"] == "robot"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"ISSUER": "https://mlaas.example.org:9443"}, "ISSUER: mlaas.example.org is a public name, and this provider is for laptops and tests only"),
        ({"ISSUER": "http://localhost"}, "ISSUER: http://localhost must begin with https://"),
        ({"SECRETS": "/no/such"}, "/no/such/identity-users cannot be used: ENOENT"),
        ({"TLS": "/no/such"}, "the certificate or its key in /no/such cannot be read: ENOENT"),
    ],
)
def test_it_ends_with_a_sentence(made, change, sentence):
    ended = subprocess.run(made.command(), env=made.environment(**change), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert f"identity: {sentence}" in ended.stderr
