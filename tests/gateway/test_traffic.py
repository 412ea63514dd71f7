"""Bytes: large uploads and long answers go through as they come; TLS; what is told while the service is away; certificates that change."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator

import httpx
import psutil
import pytest

from tests.gateway.browser import PAGE, browser, sign_in
from tests.gateway.engine import DOORS, HOST, certificate, gateway, hand_over, wait_until_up
from tests.gateway.recorder import recording

MEGABYTE = 1 << 20


def parts(number: int) -> Iterator[bytes]:
    block = bytes(MEGABYTE)
    for _ in range(number):
        yield block


def memory(gateway) -> int:
    """Bytes that the gateway's processes have for themselves."""
    return sum(psutil.Process(pid).memory_full_info().uss for pid in gateway.pids())


def written(gateway) -> int:
    """Bytes that the gateway's processes have written to disks."""
    return sum(psutil.Process(pid).io_counters().write_bytes for pid in gateway.pids())


@pytest.mark.parametrize("sized", [True, False], ids=["with its length", "in chunks"])
def test_a_large_upload_is_neither_held_nor_kept(recorded, recorder, openid, sized):
    size = 300 * MEGABYTE
    used, before = memory(recorded), written(recorded)
    peak = used
    done = threading.Event()

    def watch():
        nonlocal peak
        while not done.wait(0.1):
            peak = max(peak, memory(recorded))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        headers = {"Content-Type": "application/octet-stream"} | ({"Content-Length": str(size)} if sized else {})
        with recorded.client(openid.token()) as client:
            answer = client.put("/api/v1/workspaces/x", content=parts(300), headers=headers)
    finally:
        done.set()
        watcher.join()
    assert answer.status_code == 200
    assert answer.json()["length"] == size
    assert peak - used < 40 * MEGABYTE
    assert written(recorded) - before < 10 * MEGABYTE


def test_a_large_upload_without_a_token_is_refused_before_it_is_sent(recorded, recorder):
    before, sent = recorder.bytes, 0

    def counted() -> Iterator[bytes]:
        nonlocal sent
        for part in parts(300):
            sent += len(part)
            yield part

    with recorded.client() as client:
        try:
            answer = client.put("/api/v1/workspaces/x", content=counted())
            assert answer.status_code == 401
        except httpx.TransportError:
            pass  # the gateway had answered and left
    assert recorder.bytes == before
    assert sent <= 300 * MEGABYTE


def test_what_is_followed_comes_as_it_is_written(recorded, openid):
    with recorded.client(openid.token()) as client, client.stream("GET", "/api/v1/jobs/x/events?stream=3") as answer:
        began = time.monotonic()
        chunks = answer.iter_raw()
        assert b"first" in next(chunks)
        assert time.monotonic() - began < 2
        assert b"second" in b"".join(chunks)


def test_answers_may_take_their_time_but_not_for_ever(engine, tls, openid, recorder, ports):
    doors = ports[engine, "renewal"]
    with (
        gateway(engine, doors, dict.fromkeys(DOORS, recorder.url), openid.url, tls, gateway_timeout=4) as patient,
        patient.client(openid.token()) as client,
    ):
        assert client.get("/api/v1/me?wait=2").status_code == 200
        began = time.monotonic()
        answer = client.get("/api/v1/me?wait=9")
        assert answer.status_code in {502, 504}
        assert json.loads(answer.text)["status"] == answer.status_code
        assert time.monotonic() - began < 8


def test_errors_of_the_service_come_through(recorded, openid):
    with recorded.client(openid.token()) as client:
        for status in (400, 404, 409, 413, 422, 429, 500, 503, 507):
            answer = client.get(f"/api/v1/jobs?status={status}")
            assert answer.status_code == status
            assert answer.json()["target"].endswith(str(status))


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
def test_methods_come_through(recorded, recorder, openid, method):
    with recorded.client(openid.token()) as client:
        assert client.request(method, "/api/v1/x", content=b"abc" if method in {"POST", "PUT", "PATCH"} else None).status_code == 200
    assert recorder.last().method == method
    assert recorder.last().length == (3 if method in {"POST", "PUT", "PATCH"} else 0)


def test_long_tokens_come_through(recorded, recorder, openid):
    token = openid.sign(**{"wlcg.groups": ["/mlaas/users", *(f"/cms/a-group-with-a-long-name-{n}" for n in range(260))]})
    assert 10_000 < len(token) < 16_384
    with recorded.client(token) as client:
        assert client.get("/api/v1/me").status_code == 200
    assert recorder.last().all("Authorization") == [f"Bearer {token}"]


# ---- TLS


def handshake(gateway, door, *, least=ssl.TLSVersion.TLSv1_2, most=ssl.TLSVersion.TLSv1_3, ciphers="DEFAULT:@SECLEVEL=0"):
    """The version and the cipher of a connection."""
    context = ssl.create_default_context(cafile=gateway.ca)
    context.set_ciphers(ciphers)
    context.minimum_version, context.maximum_version = least, most
    with socket.create_connection((HOST, gateway.ports[door]), timeout=10) as plain, context.wrap_socket(plain, server_hostname=HOST) as connection:
        return connection.version(), connection.cipher()[0]


@pytest.mark.parametrize("door", DOORS)
def test_tls(recorded, door):
    assert handshake(recorded, door)[0] == "TLSv1.3"
    version, cipher = handshake(recorded, door, most=ssl.TLSVersion.TLSv1_2)
    assert version == "TLSv1.2"
    assert cipher.startswith("ECDHE-")
    for weak in ("AES128-SHA", "AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384"):
        with pytest.raises(ssl.SSLError):
            handshake(recorded, door, most=ssl.TLSVersion.TLSv1_2, ciphers=f"{weak}:@SECLEVEL=0")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")  # the versions are old: that is what is tested
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_of_tls_are_refused(recorded, version):
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(recorded, "server", least=version, most=version)


def test_only_the_newest_tls_where_it_is_asked_for(engine, tls, openid, recorder, ports):
    doors = ports[engine, "renewal"]
    with gateway(engine, doors, dict.fromkeys(DOORS, recorder.url), openid.url, tls, gateway_tls_version="1.3", gateway_hsts_seconds=0) as strict:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            handshake(strict, "server", most=ssl.TLSVersion.TLSv1_2)
        with strict.client(openid.token()) as client:
            assert "strict-transport-security" not in client.get("/api/v1/me").headers


@pytest.mark.parametrize("door", DOORS)
def test_without_tls_nothing_is_told(recorded, door):
    with socket.create_connection((HOST, recorded.ports[door]), timeout=10) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = connection.recv(4096)
    assert answer == b"" or b" 400 " in answer.split(b"\r\n")[0]


def test_browsers_are_told_to_stay_with_tls(recorded, openid):
    with recorded.client(openid.token()) as client:
        assert client.get("/api/v1/me").headers["strict-transport-security"] == "max-age=31536000"
    with browser(recorded) as client:
        assert sign_in(client).headers["strict-transport-security"] == "max-age=31536000"


def test_a_new_certificate_is_taken_and_cuts_nobody_off(engine, tls, openid, recorder, ports, tmp_path):
    """Apache by a signal; oauth2-proxy is started again, and ends when what is being answered is."""
    doors = ports[engine, "renewal"]
    with gateway(engine, doors, dict.fromkeys(DOORS, recorder.url), openid.url, tls) as found, browser(found) as client:
        sign_in(client)
        answers = []
        with found.client(openid.token()) as slow:
            running = threading.Thread(target=lambda: answers.append(slow.get("/api/v1/me?wait=3")))
            running.start()
            time.sleep(0.5)
            certificate(found.folder / "tls")
            hand_over(found.folder)
            if engine == "apache":
                found.processes[0].send_signal(signal.SIGUSR1)
            else:
                found.processes[0].terminate()
            running.join()
        assert [answer.status_code for answer in answers] == [200]
        if engine == "apache":
            time.sleep(1)
            wait_until_up(found)
            with browser(found) as again:
                again.cookies = client.cookies
                assert again.get("/jobs").status_code == 200, "sessions outlive a reload"


# ---- the service away


def test_the_service_away(engine, tls, openid, ports):
    """Told as JSON to programs; back again as soon as the service is."""
    with recording() as behind:
        pass
    doors = ports[engine, "renewal"]
    with gateway(engine, doors, dict.fromkeys(DOORS, behind.url), openid.url, tls) as found:
        for door in DOORS:
            with found.client(openid.token(), door=door) as client:
                answer = client.get("/healthz")
                assert answer.status_code in {502, 503}
                document = json.loads(answer.text)
                assert document["status"] == answer.status_code
                assert "does not answer" in document["detail"]
                assert client.get("/api/v1/me" if door == "server" else "/models").status_code in {502, 503}
        with found.client(openid.token(), headers=PAGE) as client:
            page = client.get("/jobs")
            assert page.status_code in {502, 503}
            assert "does not answer" in page.text
        if engine == "apache":
            assert page.headers["content-type"].startswith("text/html")


def test_the_service_is_not_even_there(engine, tls, openid, ports):
    """As where its container is gone: nobody knows its name."""
    doors = ports[engine, "renewal"]
    with gateway(engine, doors, dict.fromkeys(DOORS, "http://nobody.invalid:8080"), openid.url, tls) as found, found.client(openid.token()) as client:
        answer = client.get("/api/v1/me")
        assert answer.status_code in {500, 502, 503}
        assert json.loads(answer.text)["status"] == answer.status_code


def test_the_service_comes_back(engine, tls, openid, ports):
    with recording() as behind:
        port = int(behind.url.rpartition(":")[2])
    doors = ports[engine, "renewal"]
    with gateway(engine, doors, dict.fromkeys(DOORS, behind.url), openid.url, tls) as found, found.client(openid.token()) as client:
        assert client.get("/api/v1/me").status_code in {502, 503}
        with recording(port):
            assert client.get("/api/v1/me").status_code == 200
        assert client.get("/api/v1/me").status_code in {502, 503}
        with recording(port):
            assert client.post("/api/v1/jobs", content=b"x").status_code == 200


# ---- what is written


def test_logs_are_json_and_hold_no_secret(recorded, openid):
    token = openid.token()
    with recorded.client(token) as client:
        client.get("/api/v1/me?password=hunter2&code=c0de")
        client.get('/api/v1/"quoted"\\back/é/%01/%0b?x')
    with recorded.client(openid.token("bob")[:-3] + "abc") as client:
        client.get("/api/v1/me")
    with browser(recorded) as client:
        sign_in(client)
        session = [str(cookie.value) for cookie in client.cookies.jar if cookie.name.startswith("__Host-mlaas_gateway")]
    time.sleep(0.5)
    log = recorded.log
    lines = [line for line in log.splitlines() if line.startswith("{")]
    assert len(lines) > 4
    for line in lines:
        json.loads(line)
    for secret in (
        token,
        token.split(".")[1],
        "hunter2",
        "c0de",
        "gateway-secret-gateway-secret-1",
        "0123456789abcdef0123456789ABCDEF",
        *(value for value in session if value),
    ):
        assert secret not in log
    if recorded.engine == "apache":
        assert any(json.loads(line).get("path") == "/api/v1/me" for line in lines)


def test_secrets_are_in_files_only(recorded):
    for pid in recorded.pids():
        process = psutil.Process(pid)
        told = " ".join([*process.cmdline(), *process.environ().values()])
        assert "gateway-secret-gateway-secret-1" not in told
        assert "0123456789abcdef0123456789ABCDEF" not in told
    for path in (recorded.folder / "config").rglob("*"):
        if path.is_file():
            assert "gateway-secret" not in path.read_text()
    for path in (recorded.folder / "run").glob("*.conf"):
        assert path.stat().st_mode & 0o077 == 0
