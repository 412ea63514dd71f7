"""Signing in at a real OpenID provider: the device flow, tokens that end, oidc-agent, tokens found in the environment."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from mlaas.client.tokens import issuer_of
from tests.service.openid import Provider, provider
from tests.support.serve import Serving, serving

AGENT = ("agent", "agent-secret-agent-secret-agent-1")  # of the provider
pytestmark = pytest.mark.needs("node", "npm")


@pytest.fixture(scope="module")
def short() -> Iterator[Provider]:
    """A provider whose access tokens are used up after a moment."""
    with provider(TTL="35") as found:
        yield found


@pytest.fixture(scope="module")
def service(short: Provider, tmp_path_factory) -> Iterator[Serving]:
    """A service that trusts the provider. No jobs are run."""
    with serving(tmp_path_factory.mktemp("login"), **short.settings(), MLAAS_OIDC_LEEWAY="0") as found:
        yield found


def home(service: Serving, folder: Path) -> dict[str, str]:
    """Another user's environment."""
    return {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "config"), "XDG_RUNTIME_DIR": str(folder)}


def login(service: Serving, folder: Path, answer) -> tuple[int, str, str]:
    """`mlaas login` until it has shown the code, which `answer` is given; then its end."""
    command = [sys.executable, "-m", "mlaas.cli", "login", f"--server={service.url}"]
    with subprocess.Popen(
        command, env=service.environment | home(service, folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        shown = ""
        for line in process.stdout:
            shown += line
            if found := re.search(r"the code ([A-Z-]+)$", line.strip()):
                answer(found[1])
                break
        out, err = process.communicate(timeout=60)
    return process.returncode, shown + out, err


class TestDeviceFlow:
    def test_in_and_out(self, service, short, tmp_path):
        done = service.command("whoami", f"--server={service.url}", **home(service, tmp_path))
        assert done.returncode == 2
        assert f"you are not signed in at {service.url}; sign in with: mlaas login" in done.stderr
        code, out, err = login(service, tmp_path, lambda code: short.approve(code, "alice"))
        assert code == 0, err
        assert short.url in out
        assert f"signed in at {service.url} as " in out
        kept = json.loads((tmp_path / "config" / "mlaas" / "logins.json").read_text())["logins"][0]
        assert kept["refresh_token"]
        assert issuer_of(kept["access_token"]) == short.url
        assert kept["access_token"] not in out + err
        me = json.loads(service.ok("whoami", "--json", **home(service, tmp_path)))
        assert "/mlaas/users" in me["groups"]
        assert me["issuer"] == short.url
        assert f"signed out at {service.url}" in service.ok("logout", **home(service, tmp_path))
        assert service.command("whoami", f"--server={service.url}", **home(service, tmp_path)).returncode == 2

    def test_a_refusal(self, service, short, tmp_path):
        code, _out, err = login(service, tmp_path, short.deny)
        assert (code, err.splitlines()[-1]) == (2, "mlaas: signing in was refused in the browser")
        assert not (tmp_path / "config").exists()

    def test_somebody_who_may_not_use_the_service(self, service, short, tmp_path):
        code, _out, err = login(service, tmp_path, lambda code: short.approve(code, "bob"))
        assert code == 2
        assert "Traceback" not in err
        assert not (tmp_path / "config").exists()

    def test_the_token_is_renewed_by_one_of_those_who_need_it(self, service, short, tmp_path):
        assert login(service, tmp_path, lambda code: short.approve(code, "dave"))[0] == 0
        file = tmp_path / "config" / "mlaas" / "logins.json"
        before = json.loads(file.read_text())["logins"][0]
        spoilt = before | {"expires": time.time() - 1}
        file.write_text(json.dumps({"logins": [spoilt]}))
        asked = short.requests("/token")
        done: list[subprocess.CompletedProcess[str]] = []
        threads = [threading.Thread(target=lambda: done.append(service.command("whoami", **home(service, tmp_path)))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [one.returncode for one in done] == [0, 0, 0], [one.stderr for one in done]
        assert short.requests("/token") == asked + 1
        assert json.loads(file.read_text())["logins"][0]["access_token"] != before["access_token"]

    def test_a_provider_that_is_down_is_told(self, service, short, tmp_path):
        short.down()
        try:
            done = service.command("login", f"--server={service.url}", **home(service, tmp_path))
        finally:
            short.down(False)
        assert done.returncode == 2
        assert "OpenID provider" in done.stderr


def test_tokens_of_the_environment(service, short, openid, tmp_path):
    place = home(service, tmp_path)
    me = json.loads(service.ok("whoami", "--json", BEARER_TOKEN=short.token("carol"), **place))
    assert "admin" in me["roles"]
    (tmp_path / f"bt_u{os.geteuid()}").write_text(short.token("alice"))
    assert json.loads(service.ok("whoami", "--json", **place))["roles"] == ["user"]
    done = service.command("whoami", BEARER_TOKEN=openid.token("alice"), **(place | {"XDG_RUNTIME_DIR": str(tmp_path / "none")}))
    assert done.returncode == 2
    assert f"BEARER_TOKEN holds a token of {openid.url}, which is not for this service" in done.stderr
    (tmp_path / "token").write_text(short.token("dave"))
    assert json.loads(service.ok("whoami", "--json", f"--token-file={tmp_path / 'token'}", **place))["tenant"].startswith("dave-")
    assert json.loads(service.ok("whoami", "--json", "--token-file=-", given=short.token("dave") + "\n", **place))["tenant"].startswith("dave-")


def test_a_token_is_not_taken_from_the_command_line(service, tmp_path):
    done = service.command("whoami", "--token", "abcdef", **home(service, tmp_path))
    assert done.returncode == 2
    assert "--token-file" in done.stderr
    assert "abcdef" not in done.stderr


@pytest.mark.needs("oidc-agent", "oidc-gen")
def test_oidc_agent(service, short, tmp_path):
    """The real agent, with an account of the provider."""
    place = service.environment | home(service, tmp_path) | {"OIDC_ENCRYPTION_PW": "test"}
    refresh = _refresh_token(short)
    started = subprocess.run(["oidc-agent", "--json", "--no-autoload"], env=place, capture_output=True, text=True, check=True)
    agent = json.loads(started.stdout)
    place["OIDC_SOCK"] = agent["socket"]
    try:
        generated = subprocess.run(
            [
                "oidc-gen",
                "--manual",
                f"--issuer={short.url}/",
                f"--client-id={AGENT[0]}",
                f"--client-secret={AGENT[1]}",
                "--scope=openid offline_access",
                "--pw-env",
                "--flow=refresh",
                "--rt-env=MLAAS_TEST_REFRESH",
                "--prompt=none",
                "--confirm-default",
                "--no-scheme",
                "test",
            ],
            env=place | {"MLAAS_TEST_REFRESH": refresh},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert generated.returncode == 0, generated.stdout + generated.stderr
        me = json.loads(service.ok("whoami", "--json", "--oidc-agent=test", OIDC_SOCK=agent["socket"], **home(service, tmp_path)))
        assert me["tenant"].startswith("alice-")
        done = service.command("whoami", "--oidc-agent=other", OIDC_SOCK=agent["socket"], **home(service, tmp_path))
        assert (done.returncode, "mlaas: oidc-agent: " in done.stderr) == (2, True)
    finally:
        os.kill(int(agent["dpid"]), signal.SIGTERM)


def _refresh_token(short: Provider) -> str:
    """What the agent's own sign-in would end with: it cannot be driven without a terminal, but takes a refresh token."""
    asked = httpx.post(f"{short.url}/device/auth", data={"scope": "openid offline_access"}, auth=AGENT, trust_env=False).json()
    short.approve(asked["user_code"], "alice")
    form = {"grant_type": "urn:ietf:params:oauth:grant-type:device_code", "device_code": asked["device_code"]}
    return str(httpx.post(f"{short.url}/token", data=form, auth=AGENT, trust_env=False).json()["refresh_token"])
