"""Where a token comes from: the order, whom it may be sent to, what login keeps, oidc-agent."""

# ruff: noqa: S105, S106 - tokens of these tests
from __future__ import annotations

import base64
import json
import os
import socket
import threading
import time
from multiprocessing import get_context

import httpx
import pytest

from mlaas.client import Client, NotSignedIn, agent, local, logins
from mlaas.client.documents import Service
from mlaas.client.logins import Login
from mlaas.client.tokens import Reading, find, issuer_of, read_token
from mlaas.errors import DataError, UserError
from mlaas.settings import Settings
from tests.support.answers import answering, document, problem

ISSUER = "https://iam.example.org/"
SERVER = httpx.URL("https://mlaas.example.org")
OIDC = Service(name="m", version="1", auth="oidc", inference_url="", issuers=[ISSUER], audience="mlaas")
EMBEDDED = Service(name="m", version="1", auth="token", inference_url="")


def jwt(issuer=ISSUER, name="a"):
    claims = base64.urlsafe_b64encode(json.dumps({"iss": issuer, "sub": name}).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJSUzI1NiJ9.{claims}.c2ln"


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """Nothing of whoever runs the tests."""
    for name in ("BEARER_TOKEN", "BEARER_TOKEN_FILE", "OIDC_SOCK"):
        monkeypatch.delenv(name, raising=False)
    for name in ("XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
        (tmp_path / name).mkdir()
    monkeypatch.setenv("MLAAS_DATA", str(tmp_path / "data"))
    (tmp_path / "data" / "secrets").mkdir(parents=True)
    (tmp_path / "data" / "run").mkdir()
    return tmp_path


def discovered(places, token):
    (places / "XDG_RUNTIME_DIR" / f"bt_u{os.geteuid()}").write_text(token)


def embedded(places, token="mlaas_embedded-token-of-this-machine"):  # noqa: S107
    file = places / "data" / "secrets" / "token"
    file.write_text(token + "\n")
    file.chmod(0o600)
    return token


class TestOrder:
    def test_each_one_after_the_other(self, places, monkeypatch):
        with pytest.raises(NotSignedIn, match=r"mlaas login --server https://mlaas\.example\.org"):
            find(SERVER, OIDC, Settings())
        discovered(places, jwt(name="file"))
        assert find(SERVER, OIDC, Settings()).token() == jwt(name="file")
        logins.put(Login(server=str(SERVER), access_token="kept"))
        assert find(SERVER, OIDC, Settings()).token() == "kept"
        assert find(SERVER, OIDC, Settings(oidc_agent="mine")).name == "oidc-agent (mine)"
        monkeypatch.setenv("BEARER_TOKEN", jwt(name="environment"))
        assert find(SERVER, OIDC, Settings(oidc_agent="mine")).token() == jwt(name="environment")

    def test_a_token_of_another_issuer_is_passed_over(self, places, monkeypatch):
        monkeypatch.setenv("BEARER_TOKEN", jwt("https://elsewhere.example.org"))
        discovered(places, "opaque")
        with pytest.raises(NotSignedIn, match=r"BEARER_TOKEN holds a token of https://elsewhere.* bt_u .* of no issuer") as caught:
            find(SERVER, OIDC, Settings())
        assert "eyJ" not in str(caught.value)

    def test_a_grid_token_is_not_sent_to_a_service_with_a_token_of_its_own(self, places, monkeypatch):
        monkeypatch.setenv("BEARER_TOKEN", jwt())
        with pytest.raises(NotSignedIn):
            find(SERVER, EMBEDDED, Settings())
        monkeypatch.setenv("BEARER_TOKEN", "mlaas_something")
        assert find(SERVER, EMBEDDED, Settings()).token() == "mlaas_something"

    def test_a_login_elsewhere_is_not_used(self):
        logins.put(Login(server="https://other.example.org", access_token="kept"))
        with pytest.raises(NotSignedIn):
            find(SERVER, OIDC, Settings())

    def test_a_file_that_is_renewed_in_its_place(self, places, monkeypatch):
        monkeypatch.setenv("BEARER_TOKEN_FILE", str(places / "token"))
        (places / "token").write_text(jwt(name="one"))
        source = find(SERVER, OIDC, Settings())
        assert isinstance(source, Reading)
        (places / "token").write_text(jwt(name="two"))
        assert source.token() == jwt(name="two")

    def test_what_is_no_token_is_told_and_not_shown(self, monkeypatch):
        monkeypatch.setenv("BEARER_TOKEN", "two words")
        with pytest.raises(DataError, match="BEARER_TOKEN does not hold") as caught:
            find(SERVER, OIDC, Settings())
        assert "two words" not in str(caught.value)

    @pytest.mark.parametrize("token", ["a.b", "a.b.c", "a.e30.c.d", "x.!!.y", f"a.{base64.urlsafe_b64encode(b'[1]').decode()}.c"])
    def test_what_is_no_jwt(self, token):
        assert issuer_of(token) is None


class TestThisMachine:
    @pytest.mark.parametrize("server", ["http://127.0.0.1:8080", "http://localhost:8080", "http://[::1]:8080"])
    def test_the_token_of_the_data_folder(self, places, server):
        token = embedded(places)
        assert find(httpx.URL(server), EMBEDDED, Settings()).token() == token

    @pytest.mark.parametrize("server", ["http://127.0.0.1:8081", "http://127.0.0.1", "https://mlaas.example.org:8080", "http://10.0.0.1:8080"])
    def test_it_goes_to_no_other_server(self, places, server):
        embedded(places)
        with pytest.raises(NotSignedIn):
            find(httpx.URL(server), EMBEDDED, Settings())

    def test_the_port_that_the_service_took(self, places):
        token = embedded(places)
        record = {"pid": os.getpid(), "server": "http://127.0.0.1:41234", "inference": "http://127.0.0.1:41235"}
        (places / "data" / "run" / "serve.json").write_text(json.dumps(record))
        assert local.default_server(Settings()) == "http://127.0.0.1:41234"
        assert local.embedded_token(httpx.URL("http://127.0.0.1:41234"), Settings()) == token

    @pytest.mark.parametrize("record", ["", "{", "[]", '{"pid": "x"}', '{"pid": 4194305, "server": "http://127.0.0.1:1", "inference": ""}'])
    def test_a_service_that_is_gone(self, places, record):
        (places / "data" / "run" / "serve.json").write_text(record)
        assert local.default_server(Settings()) == "http://127.0.0.1:8080"

    def test_a_token_that_others_can_read_is_not_used(self, places):
        embedded(places)
        (places / "data" / "secrets" / "token").chmod(0o644)
        assert local.embedded_token(httpx.URL("http://127.0.0.1:8080"), Settings()) == ""


def _put(number):
    logins.put(Login(server=f"https://s{number}.example.org", access_token=f"t{number}"))


class TestLogins:
    def test_kept_for_this_user_only(self, places):
        logins.put(Login(server="https://a.org", access_token="one"))
        logins.put(Login(server="https://b.org", access_token="two"))
        logins.put(Login(server="https://a.org", access_token="three"))
        assert logins.path() == places / "XDG_CONFIG_HOME" / "mlaas" / "logins.json"
        assert logins.path().stat().st_mode & 0o777 == 0o600
        assert logins.current() == "https://a.org"
        assert [login.access_token for login in logins.every()] == ["two", "three"]
        assert logins.drop("https://a.org").access_token == "three"
        assert logins.current() == "https://b.org"
        assert sorted(path.name for path in logins.path().parent.iterdir()) == [".logins.lock", "logins.json"]

    def test_a_login_does_not_show_its_tokens(self):
        assert "secret" not in repr(Login(server="s", access_token="secret", refresh_token="secret"))

    @pytest.mark.parametrize("content", ["{", "[]", '{"logins": [{"server": 3}]}', '{"logins": {}}'])
    def test_a_damaged_file(self, content):
        logins.path().parent.mkdir()
        logins.path().write_text(content)
        logins.path().chmod(0o600)
        with pytest.raises(UserError, match="damaged"):
            logins.current()

    def test_a_file_that_others_can_read(self):
        logins.put(Login(server="https://a.org", access_token="one"))
        logins.path().chmod(0o640)
        with pytest.raises(UserError, match="can be read by others"):
            logins.get("https://a.org")

    def test_processes_do_not_lose_each_others_logins(self):
        with get_context("spawn").Pool(4) as pool:
            pool.map(_put, range(12))
        assert sorted(login.access_token for login in logins.every()) == sorted(f"t{number}" for number in range(12))


class TestRefresh:
    def provider(self, asked):
        if asked.path.startswith("/.well-known"):
            here = f"http://{asked.headers['host']}"
            return document({"issuer": here, "token_endpoint": f"{here}/token"})
        if asked.path == "/token":
            if b"refresh_token=r1" not in asked.body:
                return problem(400, "no")
            return document({"access_token": "new", "refresh_token": "r2", "expires_in": 300})
        me = {"tenant": "t", "name": "", "issuer": "", "groups": [], "roles": []}
        usage = {"queued": 0, "running": 0, "cpus": 0, "memory": 0, "disk": 0, "cpu_seconds": 0}
        if asked.headers["authorization"] != "Bearer new":
            return problem(401, "the token has ended")
        return document(me | {"usage": usage, "limits": {"jobs": 1}})

    @pytest.mark.parametrize("expires", [1.0, 4e9], ids=["ended", "refused"])
    def test_a_token_that_ended_is_renewed_and_kept(self, expires):
        with answering(self.provider) as server:
            wire = json.dumps({"name": "m", "version": "1", "auth": "oidc", "inference_url": "", "issuers": [server.url]})
            logins.put(Login(server=server.url, access_token="old", refresh_token="r1", expires=expires, issuer=server.url, client_id="c"))
            with Client(server.url, options=Settings()) as client:
                client._service = Service(**json.loads(wire))
                assert client.me().tenant == "t"
            assert [asked.path for asked in server.asked].count("/token") == 1
        kept = logins.get(server.url)
        assert (kept.access_token, kept.refresh_token) == ("new", "r2")
        assert time.time() < kept.expires < time.time() + 301

    def test_without_a_refresh_token_one_signs_in_again(self):
        logins.put(Login(server=str(SERVER), access_token="old", expires=1.0, issuer=ISSUER))
        with pytest.raises(NotSignedIn, match="mlaas login --server"):
            find(SERVER, OIDC, Settings()).token()


class TestAgent:
    @pytest.fixture
    def ask(self, tmp_path, monkeypatch):
        """An agent that gives certain answers; returns what it was asked."""
        path = str(tmp_path / "agent")
        asked, answers = [], []
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        listening.listen()
        monkeypatch.setenv("OIDC_SOCK", path)

        def run():
            while True:
                try:
                    link, _ = listening.accept()
                except OSError:
                    return
                with link:
                    asked.append(json.loads(link.recv(65536)))
                    for piece in answers.pop(0):
                        link.sendall(piece)

        thread = threading.Thread(target=run)
        thread.start()
        yield asked, answers
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()

    def test_a_token(self, ask):
        asked, answers = ask
        answers.append([b'{"status":"success","access_', b'token":"abc","expires_at":1}'])
        assert agent.access_token(account="mine", audience="mlaas") == "abc"
        assert asked == [{"request": "access_token", "account": "mine", "min_valid_period": 60, "application_hint": "mlaas", "audience": "mlaas"}]

    @pytest.mark.parametrize(
        ("answer", "says"),
        [
            (b'{"status":"failure","error":"Account not loaded.","info":"Load it"}', r"oidc-agent: Account not loaded\. Load it; the accounts"),
            (b"", "not understood"),
            (b"[]", "no token"),
            (b'{"status":"success","access_token":3}', "no token"),
        ],
    )
    def test_no_token(self, ask, answer, says):
        ask[1].append([answer])
        with pytest.raises(UserError, match=says):
            agent.access_token(issuer=ISSUER)

    def test_no_agent(self, monkeypatch, tmp_path):
        with pytest.raises(UserError, match="OIDC_SOCK is not set"):
            agent.access_token(account="a")
        monkeypatch.setenv("OIDC_SOCK", str(tmp_path / "none"))
        with pytest.raises(UserError, match="not the socket of a running agent"):
            agent.access_token(account="a")

    def test_it_is_asked_by_the_issuer(self, ask):
        asked, answers = ask
        answers += [[json.dumps({"status": "success", "access_token": jwt()}).encode()]] * 2
        assert find(SERVER, OIDC, Settings()).token() == jwt()
        assert asked[0]["issuer"] == ISSUER


def test_a_token_from_a_file_or_a_pipe(tmp_path, monkeypatch):
    (tmp_path / "token").write_text("abc\n")
    assert read_token(str(tmp_path / "token")) == "abc"
    with pytest.raises(UserError, match="cannot be read"):
        read_token(str(tmp_path / "none"))
    (tmp_path / "token").write_text("a\nb\n")
    with pytest.raises(UserError, match="does not hold a bearer token"):
        read_token(str(tmp_path / "token"))
    with (tmp_path / "token").open() as opened:
        monkeypatch.setattr("sys.stdin", opened)
        assert read_token("-") == "a"
