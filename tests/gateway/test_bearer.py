"""The table of requests with bearer tokens, before the real service."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.gateway.engine import DOORS, gateway
from tests.service.openid import AUDIENCE, Provider

ADDRESSES = [("server", "/api/v1/me"), ("server", "/status_docker?process_name=x"), ("inference", "/models"), ("inference", "/v2/models/x")]


def _claims(openid: Provider) -> dict[str, object]:
    now = int(time.time())
    return {"iss": openid.url, "sub": "alice", "aud": AUDIENCE, "iat": now, "exp": now + 600, "wlcg.groups": ["/mlaas/users"]}


def _damaged(token: str) -> str:
    head, _, signature = token.rpartition(".")
    return f"{head}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"


def _of_a_stranger(openid: Provider) -> str:
    key = rsa.generate_private_key(65537, 2048)
    return jwt.encode(_claims(openid), key, "RS256", headers={"kid": "test-1"})


def _header(name: str, value: str) -> str:
    return f"{name} {value}"


@dataclass(frozen=True)
class Row:
    """A request: what Authorization holds (None: nothing), and the status of the answer; `stricter` that of oauth2-proxy, where it is another."""

    name: str
    authorization: Callable[[Provider], str | None]
    status: int
    stricter: int = 0


ROWS = [
    Row("none", lambda openid: None, 401),
    Row("good", lambda openid: f"Bearer {openid.token()}", 200),
    Row("good-in-small-letters", lambda openid: f"bearer {openid.token()}", 200, stricter=401),
    Row("administrator", lambda openid: f"Bearer {openid.token('carol')}", 200),
    Row("robot", lambda openid: f"Bearer {openid.robot()}", 200),
    Row("any-audience-of-wlcg", lambda openid: f"Bearer {openid.sign(aud='https://wlcg.cern.ch/jwt/v1/any')}", 401),
    Row("damaged", lambda openid: f"Bearer {_damaged(openid.token())}", 401),
    Row("expired", lambda openid: f"Bearer {openid.sign(exp=int(time.time()) - 120)}", 401),
    Row("wrong-audience", lambda openid: f"Bearer {openid.sign(aud='another-service')}", 401),
    Row("without-audience", lambda openid: f"Bearer {openid.sign(without=('aud',))}", 401),
    Row("wrong-issuer", lambda openid: f"Bearer {openid.sign(iss='https://evil.example.org')}", 401),
    Row("without-issuer", lambda openid: f"Bearer {openid.sign(without=('iss',))}", 401),
    Row("wrong-group", lambda openid: f"Bearer {openid.token('bob')}", 403),
    Row("without-groups", lambda openid: f"Bearer {openid.sign(without=('wlcg.groups',))}", 403),
    Row("unsigned", lambda openid: f"Bearer {jwt.encode(_claims(openid), None, 'none')}", 401),  # type: ignore[arg-type]
    Row("signed-with-a-word", lambda openid: f"Bearer {jwt.encode(_claims(openid), 'x' * 32, 'HS256', headers={'kid': 'test-1'})}", 401),
    Row("signed-by-a-stranger", lambda openid: f"Bearer {_of_a_stranger(openid)}", 401),
    Row("no-token-at-all", lambda openid: "Bearer abc", 401),
    Row("empty", lambda openid: "Bearer", 401),
    Row("two", lambda openid: f"Bearer {openid.token()}, Bearer {openid.token('carol')}", 401),
    Row("password", lambda openid: "Basic YWxpY2U6dGVzdA==", 401),
    Row("another-scheme", lambda openid: f"Token {openid.token()}", 401),
]


@pytest.mark.parametrize(("door", "path"), ADDRESSES, ids=[path for _, path in ADDRESSES])
@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_row(front, openid, row, door, path):
    given = row.authorization(openid)
    with front.client(door=door, headers={"Authorization": given} if given is not None else {}) as client:
        answer = client.get(path)
    wanted = row.stricter if row.stricter and front.engine == "oauth2-proxy" else row.status
    if wanted == 200:
        assert answer.status_code in {200, 404}, answer.text  # 404: the service's own, for what is not there
        json.loads(answer.text)
        return
    assert answer.status_code == wanted, answer.text
    assert "location" not in answer.headers
    assert answer.headers["content-type"].partition(";")[0] in {"application/json", "application/problem+json"}
    json.loads(answer.text)
    if front.engine == "apache" or wanted == 403:
        assert answer.json().get("detail", answer.json().get("error"))


def test_the_services_own_sentence_reaches_a_client_of_another_group(front, openid):
    with front.client(openid.token("bob")) as client:
        answer = client.get("/api/v1/me")
    assert answer.headers["content-type"] == "application/problem+json"
    assert "/mlaas/users" in answer.json()["detail"]
    assert answer.headers["www-authenticate"].startswith("Bearer ")


@pytest.mark.parametrize("place", ["?access_token=", "?token=", "?authorization=Bearer%20"])
def test_a_token_in_the_address_is_none(front, openid, place):
    with front.client() as client:
        assert client.get(f"/api/v1/me{place}{openid.token()}").status_code == 401
        assert client.post("/api/v1/jobs", data={"access_token": openid.token()}).status_code == 401
        client.cookies.set("access_token", openid.token())
        assert client.get("/api/v1/me").status_code == 401


@pytest.mark.parametrize(
    ("door", "path"),
    [("server", "/healthz"), ("server", "/api/v1/service"), ("inference", "/healthz"), ("inference", "/v2"), ("inference", "/v2/health/live")],
)
def test_open_to_everybody(front, door, path):
    with front.client(door=door) as client:
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.json()
        assert client.post(path, content=b"x").status_code in {302, 401, 403, 405}


@pytest.mark.parametrize("door", ["server", "inference"])
@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "/%6detrics", "//metrics", "/./metrics", "/x/../metrics", "/metrics?x", "/METRICS"])
def test_figures_are_closed(front, openid, door, path):
    with front.client(openid.token("carol"), door=door) as client:
        answer = client.send(client.build_request("GET", client.base_url.copy_with(raw_path=path.encode())))
    assert answer.status_code in {301, 307, 400, 403, 404}, answer.text
    assert "mlaas_http_requests" not in answer.text


def test_what_needs_a_token_needs_it_whatever_the_address_looks_like(front):
    with front.client() as client:
        for path in (
            "//api/v1/me",
            "/%61pi/v1/me",
            "/api/v1/./me",
            "/api/v1/service/../me",
            "/healthz/../api/v1/me",
            "/static/../api/v1/me",
            "/healthz%0a",
            "/API/v1/me",
            "/healthz/x",
        ):
            answer = client.send(client.build_request("GET", client.base_url.copy_with(raw_path=path.encode())))
            assert answer.status_code in {301, 302, 303, 307, 400, 401, 404}, (path, answer.status_code)
            assert "tenant" not in answer.text


def test_groups_that_the_gateway_itself_lets_through(engine, tls, openid, recorder, ports):
    doors = ports[engine, "renewal"]
    with gateway(engine, doors, dict.fromkeys(DOORS, recorder.url), openid.url, tls, gateway_allowed_groups=["/mlaas/admins", "/cms/higgs"]) as found:
        for user, allowed in {"alice": True, "bob": False, "carol": True, "dave": False}.items():
            before = len(recorder.requests)
            with found.client(openid.token(user)) as client:
                assert (client.get("/api/v1/me").status_code == 200) == allowed
            assert (len(recorder.requests) > before) == allowed
        for groups in ("/mlaas/admins", ["/mlaas/admins/x"], ["mlaas/admins"], {"/mlaas/admins": 1}):
            with found.client(openid.sign(**{"wlcg.groups": groups})) as client:
                assert client.get("/api/v1/me").status_code in ({200, 401, 403} if isinstance(groups, str) else {401, 403}), groups
