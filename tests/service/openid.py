"""A real OpenID provider (tests/support/openid) for the tests: started once, with users, clients and tokens of every kind."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

SOURCE = Path(__file__).parents[1] / "support" / "openid"
CLIENT = "mlaas-cli"
AUDIENCE = "mlaas"
# alice: user; bob: of another group; carol: administrator; dave: another user
USERS = {"alice": ["/mlaas/users", "/cms/higgs"], "bob": ["/other"], "carol": ["/mlaas/users", "/mlaas/admins"], "dave": ["/mlaas/users"]}


class Provider:
    """The provider at `url` (its issuer); `plain` is its address without TLS."""

    def __init__(self, url: str, plain: str = "") -> None:
        self.url = url
        self.plain = plain or url

    def token(self, user: str = "alice", *, scope: str = "") -> str:
        """An access token of a user, as the provider issues it (password grant)."""
        form = {"grant_type": "password", "client_id": CLIENT, "username": user, "password": "test", "scope": scope}
        answer = httpx.post(f"{self.plain}/token", data=form, trust_env=False)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def robot(self) -> str:
        """An access token of a client without a user (client credentials)."""
        form = {"grant_type": "client_credentials", "client_id": "robot", "client_secret": "robot-secret-robot-secret-robot-1"}
        return str(httpx.post(f"{self.plain}/token", data=form, trust_env=False).json()["access_token"])

    def sign(self, header: dict[str, Any] | None = None, without: tuple[str, ...] = (), **claims: Any) -> str:
        """A token signed with the provider's key whose claims are those of a good token of alice, but for what is given."""
        now = int(time.time())
        good = {"iss": self.url, "sub": "alice", "aud": AUDIENCE, "iat": now, "exp": now + 600, "wlcg.groups": USERS["alice"]}
        document = {name: value for name, value in (good | claims).items() if name not in without}
        return str(self._control("sign", {"header": header or {}, "claims": document})["token"])

    def rotate(self) -> dict[str, Any]:
        """Replace the provider's key; returns its `kid` and the `public` key as a JWK."""
        return self._control("rotate", {})

    def approve(self, user_code: str, user: str = "alice") -> None:
        """Do what a user does in the browser during a device flow."""
        self._control("approve", {"user_code": user_code, "user": user})

    def deny(self, user_code: str) -> None:
        """Refuse a device flow."""
        self._control("approve", {"user_code": user_code, "deny": True})

    def down(self, down: bool = True) -> None:
        """Answer every request of the protocol with 503."""
        self._control("down", {"down": down})

    def requests(self, path: str) -> int:
        """How often a path of the protocol was asked for."""
        return int(self._control("requests", {}).get(path, 0))

    def settings(self) -> dict[str, str]:
        """The environment variables of a service that trusts this provider."""
        return {
            "MLAAS_AUTH": "oidc",
            "MLAAS_OIDC_ISSUERS": self.url,
            "MLAAS_OIDC_AUDIENCES": AUDIENCE,
            "MLAAS_OIDC_CLIENT_ID": CLIENT,
            "MLAAS_USER_GROUPS": "/mlaas/users",
            "MLAAS_ADMIN_GROUPS": "/mlaas/admins",
        }

    def _control(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = httpx.post(f"{self.plain}/test/{name}", json=body, trust_env=False)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


@contextmanager
def provider(**environment: str) -> Iterator[Provider]:
    """A provider of one's own, with settings of provider.mjs (TTL, AUDIENCE, ALG, ISSUER, PORT, TLS_PORT, ...)."""
    folder = installed()
    process = subprocess.Popen(
        ["node", str(folder / "provider.mjs")],
        cwd=folder,
        env=os.environ | {"NODE_NO_WARNINGS": "1"} | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("{"):
                break
        else:
            pytest.fail("the OpenID provider did not start")
        told = json.loads(line)
        yield Provider(told["issuer"], f"http://127.0.0.1:{told['port']}")
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(20)


def installed() -> Path:
    """A folder with the provider and the packages that it needs, installed once for each package.json."""
    digest = hashlib.sha256((SOURCE / "package.json").read_bytes()).hexdigest()[:16]
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "mlaas-tests"
    root.mkdir(parents=True, exist_ok=True)
    folder = root / f"openid-{digest}"
    with (root / f"openid-{digest}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "node_modules").is_dir():
            _install(root, folder)
        shutil.copy(SOURCE / "provider.mjs", folder)
    return folder


def _install(root: Path, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=root) as aside:
        made = Path(aside, "openid")
        made.mkdir()
        shutil.copy(SOURCE / "package.json", made)
        command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--loglevel=error"]
        done = subprocess.run(command, cwd=made, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)


@pytest.fixture(scope="session")
def openid() -> Iterator[Provider]:
    """The provider that the tests share. Who rotates its key or turns it off takes one of their own (`provider`)."""
    with provider() as found:
        yield found
