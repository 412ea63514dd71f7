"""What reaches the service: the client's own token unchanged, a browser's session never as one, and no header that says who somebody is."""

from __future__ import annotations

import socket
import ssl

import pytest

from tests.gateway.browser import browser, sign_in
from tests.gateway.engine import HOST

LIES = {
    "OIDC_CLAIM_sub": "carol",
    "OIDC-CLAIM-sub": "carol",
    "OIDC_CLAIM_groups": "/mlaas/admins",
    "OIDC_access_token": "forged",
    "X-Forwarded-User": "carol",
    "X_Forwarded_User": "carol",
    "X-Forwarded-Email": "carol@example.org",
    "X-Forwarded-Groups": "/mlaas/admins",
    "X-Forwarded-Preferred-Username": "carol",
    "X-Auth-Request-User": "carol",
    "X-Auth-Request-Groups": "/mlaas/admins",
    "X-Auth-Request-Access-Token": "forged",
    "X-Forwarded-Access-Token": "forged",
    "X_Forwarded_Access_Token": "forged",
    "Remote-User": "carol",
    "Remote_User": "carol",
    "X-Remote-User": "carol",
}


def test_a_clients_own_token_is_passed_unchanged(recorded, recorder, openid):
    token = openid.token()
    with recorded.client(token) as client:
        assert client.get("/api/v1/me?x=%2F&y=a+b").status_code == 200
    request = recorder.last()
    assert request.all("Authorization") == [f"Bearer {token}"]
    assert request.target == "/api/v1/me?x=%2F&y=a+b"
    assert request.all("Host") == [f"{HOST}:{recorded.ports['server']}"]
    assert set(request.all("X-Forwarded-Access-Token")) <= {token}


@pytest.mark.parametrize("name", LIES)
def test_lies_of_a_client_are_dropped(recorded, recorder, openid, name):
    with recorded.client(openid.token(), headers={name: LIES[name]}) as client:
        assert client.get("/api/v1/me").status_code == 200
    assert not {value for _, value in recorder.last().headers} & set(LIES.values())


@pytest.mark.parametrize("name", LIES)
def test_lies_let_nobody_in(recorded, recorder, name):
    before = len(recorder.requests)
    with recorded.client(headers={name: LIES[name]}) as client:
        assert client.get("/api/v1/me").status_code == 401
        assert len(recorder.requests) == before
        assert client.get("/healthz").status_code == 200
    assert not {value for _, value in recorder.last().headers} & set(LIES.values())


def test_addresses_of_the_client_are_those_of_the_connection(recorded, recorder, openid):
    lies = {
        "X-Forwarded-For": "203.0.113.7",
        "X-Real-IP": "203.0.113.7",
        "Forwarded": "for=203.0.113.7",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": "evil.example.org",
    }
    with recorded.client(openid.token(), headers=lies) as client:
        assert client.get("/api/v1/me").status_code == 200
    request = recorder.last()
    assert request.all("X-Forwarded-For") == ["127.0.0.1"]
    assert request.all("X-Forwarded-Proto") == ["https"]
    assert "203.0.113.7" not in str(request.headers)
    assert "evil.example.org" not in str(request.headers)


def test_a_browsers_session_is_passed_as_a_forwarded_token_only(recorded, recorder):
    with browser(recorded) as client:
        assert sign_in(client).status_code == 200
        for path in ("/jobs", "/api/v1/me", "/upload"):
            assert client.get(path).status_code == 200
            request = recorder.last()
            assert request.all("Authorization") == []
            (token,) = request.all("X-Forwarded-Access-Token")
            assert token.count(".") == 2
            assert "__Host-mlaas_gateway=" not in str(request.all("Cookie")) or recorded.engine == "oauth2-proxy"
            assert not [
                name
                for name, _ in request.headers
                if name.lower().startswith(("oidc", "x-auth", "x-forwarded-user", "x-forwarded-groups", "x-forwarded-email"))
            ]


def test_a_session_and_a_token_do_not_mix(recorded, recorder, openid):
    with browser(recorded) as client:
        sign_in(client)
        token = openid.token("dave")
        assert client.get("/api/v1/me", headers={"Authorization": f"Bearer {token}"}).status_code == 200
        assert recorder.last().all("Authorization") == [f"Bearer {token}"]
        assert set(recorder.last().all("X-Forwarded-Access-Token")) <= {token}
        for given in ("Bearer junk", "Basic eDp5"):
            before = len(recorder.requests)
            answer = client.get("/api/v1/me", headers={"Authorization": given})
            reached = recorder.requests[before:]
            assert answer.status_code == 401 or all(request.all("Authorization") == [given] for request in reached)  # the service refuses it


def test_open_addresses_pass_no_session_on(recorded, recorder):
    with browser(recorded) as client:
        sign_in(client)
        assert client.get("/healthz").status_code == 200
        assert recorder.last().all("Authorization") == []
        assert client.get("/api/v1/service", headers={"X-Forwarded-Access-Token": "forged"}).status_code == 200
        assert "forged" not in str(recorder.last().headers)


INNER = b"GET /smuggled HTTP/1.1\r\nHost: H\r\n\r\n"
POST, GET = b"POST /healthz HTTP/1.1\r\nHost: H\r\n", b"GET /healthz HTTP/1.1\r\nHost: H\r\n"
SMUGGLED = {
    "both lengths": POST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + INNER,
    "two lengths": POST + b"Content-Length: 0\r\nContent-Length: 39\r\n\r\n" + INNER,
    "a hidden coding": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + INNER,
    "an unknown coding": POST + b"Transfer-Encoding: xchunked\r\nContent-Length: 3\r\n\r\nabc" + INNER,
    "a negative length": POST + b"Content-Length: -1\r\n\r\n",
    "a folded line": GET + b"X-A: b\r\n Authorization: Bearer x\r\n\r\n",
    "a control character": GET + b"X-A: b\x00c\r\n\r\n",
    "bare line feeds": b"GET /healthz HTTP/1.1\nHost: H\nX-A: b\n\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "a space in the address": b"GET /healthz /smuggled HTTP/1.1\r\nHost: H\r\n\r\n",
    "an absolute address": b"GET http://127.0.0.1:1/smuggled HTTP/1.1\r\nHost: H\r\n\r\n",
    "a tunnel": b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: H\r\n\r\n",
}
REFUSED = {"two lengths", "a hidden coding", "an unknown coding", "a negative length", "a control character", "no host"}


@pytest.mark.parametrize("name", SMUGGLED)
def test_no_request_inside_another(recorded, recorder, name):
    before = len(recorder.requests)
    context = ssl.create_default_context(cafile=recorded.ca)
    with (
        socket.create_connection((HOST, recorded.ports["server"]), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=HOST) as connection,
    ):
        connection.sendall(SMUGGLED[name].replace(b"Host: H", f"Host: {HOST}".encode()))
        answer = connection.recv(65536)
        connection.settimeout(0.5)
        try:
            while more := connection.recv(65536):
                answer += more
        except (TimeoutError, OSError):
            pass
    reached = recorder.requests[before:]
    assert answer.startswith(b"HTTP/1.1 "), answer
    assert all("smuggled" not in request.target for request in reached)
    if name in REFUSED:
        assert answer.split()[1] in {b"400", b"501"}, answer[:200]
        assert reached == []
