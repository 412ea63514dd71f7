"""A WLCG token by client credentials opens an origin that demands one, and is renewed while files are read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.service.openid import provider
from tests.support.collection import ROOT
from tests.support.origin import AUDIENCE, SYSTEM_BUNDLE, Origin, events
from tests.support.ports import free_port
from tests.xrootd.chain import Proxy, Renewer, read, reader, run, watched

X = sum(range(1000))
SECRET = "robot-secret-robot-secret-robot-1"  # noqa: S105
LIFE = 30  # s
KEPT = 60  # s for which an origin goes on taking a token that it has seen
# one session for all, as a job has it: it opens a file again and again, and reads on in another
SESSION = """
import sys, time
from mlaas.data.credentials import storage_options
storage_options(sys.argv[1])
from XRootD import client
until, first = time.monotonic() + float(sys.argv[2]), client.File()
assert first.open(sys.argv[1])[0].ok
while time.monotonic() < until:
    file = client.File()
    for status in (file.open(sys.argv[1], timeout=60)[0], first.read(0, 100, timeout=60)[0], file.close()[0]):
        assert status.ok, status.message
    time.sleep(2)
"""

pytestmark = pytest.mark.needs("node", "npm")


@pytest.fixture(scope="module")
def issuer(authority):
    host = authority.host("localhost")
    port = free_port()
    environment = {"ISSUER": f"https://localhost:{port}", "TLS_PORT": str(port), "TLS_CERT": str(host.certificate), "TLS_KEY": str(host.key)}
    with provider(AUDIENCE=AUDIENCE, TTL=str(LIFE), **environment) as found:
        yield found


@pytest.fixture(scope="module")
def storage(place, authority, issuer):
    """An origin that takes the issuer's tokens."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount, and libSciTokens knows no other place of what it trusts")
    bundle = place / "bundle.pem"
    bundle.write_bytes(Path(SYSTEM_BUNDLE).read_bytes() + b"\n" + authority.pem.read_bytes())
    made = Origin(place / "storage", authority, port=free_port(), demand="token", issuer=issuer.url, bundle=bundle)
    events(made.store / "x.root").chmod(0o644)
    with made:
        yield made


@pytest.fixture(scope="module")
def tokens(rendered, authority, storage, issuer):
    """The proxy's configuration, in mode origin."""

    def make(name, **variables):
        settings = {
            "xrootd_mode": "origin",
            "xrootd_origin": f"localhost:{storage.port}",
            "xrootd_credential": "token",
            "xrootd_token_issuer": issuer.url,
            "xrootd_token_client_id": "robot",
            "xrootd_token_client_secret": SECRET,
            "xrootd_token_audience": AUDIENCE,
        }
        found = rendered(name, made=False, **(settings | variables))
        shutil.copy(authority.pem, found.folder / "ca.pem")
        return found

    return make


def test_it_is_renewed_while_files_are_read(place, tokens, storage, issuer):
    found = tokens("token")
    assert [path.name for path in found.secrets.iterdir()] == ["client-secret"]
    with Proxy(found, free_port()) as proxy, Renewer(found) as renewer:
        renewer.wait('"renewed: valid for')
        first = (found.credential / "token").read_text()
        urls = [f"{proxy.url}//store/x.root", proxy.through(f"roots://localhost:{storage.port}//store/x.root")]
        assert read(place, *urls) == [X, X]
        with pytest.raises(AssertionError):
            read(place, f"root://localhost:{storage.port}//store/x.root")
        seconds = KEPT + 1.5 * LIFE
        ends = time.monotonic() + seconds
        environment = {name: value for name, value in reader(place).items() if not name.startswith("XRD")} | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", SESSION, urls[0], str(seconds)]
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as session:
            while time.monotonic() < ends:
                assert read(place, *urls) == [X, X]
                time.sleep(1)
            assert session.communicate(timeout=60) == (None, "")
            assert session.returncode == 0
        assert "the proxy starts anew" in proxy.log.read_text()
        assert (found.credential / "token").read_text() != first
        assert run(found, "health", "--port", str(proxy.port)).returncode == 0
        issuer.down()
        try:
            renewer.hangup()
            renewer.wait("answered 503")
            told = run(found, "health")
            assert told.returncode == 1
            assert told.stdout.endswith(f"the last renewal failed: {issuer.url}/.well-known/openid-configuration answered 503\n")
            time.sleep(LIFE)
            told = run(found, "health", "--port", str(proxy.port))
            assert told.returncode == 1
            assert told.stdout.startswith("the token expired ")
            with pytest.raises(AssertionError):
                read(place, urls[0])
        finally:
            issuer.down(False)
        renewer.hangup()
        renewer.wait('"renewed: valid for', renewer.log.read_text().count('"renewed') + 1)
        assert read(place, urls[0]) == [X]
        assert SECRET not in renewer.log.read_text()
        assert first not in renewer.log.read_text() + proxy.log.read_text()


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"xrootd_token_client_secret": "wrong-wrong-wrong-wrong-wrong-wrong"}, "/token answered 401: invalid_client"),
        ({"xrootd_token_client_id": "stranger"}, "/token answered 401: invalid_client"),
        ({"xrootd_token_issuer": "https://localhost:1"}, "https://localhost:1/.well-known/openid-configuration cannot be asked: [Errno 111]"),
    ],
)
def test_what_the_issuer_refuses_is_told(tokens, variables, sentence):
    found = tokens(f"refused-{len(sentence)}-{len(variables)}", **variables)
    done = run(found, "renew", "--once")
    assert done.returncode == 1
    assert sentence in json.loads(done.stdout.splitlines()[-1])["message"]
    assert "wrong-wrong" not in done.stdout


def test_an_issuer_that_is_not_trusted(tokens):
    found = tokens("untrusted")
    shutil.copy(SYSTEM_BUNDLE, found.folder / "ca.pem")
    assert "certificate verify failed" in run(found, "renew", "--once").stdout


def test_no_secret_is_seen_by_others(tokens):
    found = tokens("watched")
    with watched(SECRET) as seen:
        assert run(found, "renew", "--once").returncode == 0
    assert seen == []
