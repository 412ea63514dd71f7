"""Serving with one and with several processes: ends that cut nobody off, crashes, TLS, sockets that are handed over."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

ROOT = Path(__file__).parents[2]


@contextmanager
def served(folder, workers=1, *, environment=None, arguments=(), wait=True, **options):
    """A process that serves tests/service/served.py; gives the process and its address."""
    settings = {"MLAAS_DATA": str(folder / "data"), "MLAAS_SHUTDOWN_TIMEOUT": "5"} | (environment or {})
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.service.served", str(workers), *arguments],
            cwd=ROOT,
            env=os.environ | settings,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            **options,
        )
        try:
            address = process.stdout.readline().strip()
            if wait:
                up(address, process, folder)
            yield process, address
        finally:
            children = psutil.Process(process.pid).children() if process.poll() is None else []
            process.kill()
            process.wait()
            process.stdout.close()
            for child in children:
                with_patience(lambda child=child: not child.is_running())


def with_patience(check, seconds=30.0):
    """Wait until something holds."""
    until = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < until, "it does not come true"
        time.sleep(0.02)
    return found


def up(address, process, folder):
    """Wait until it serves: then it has said so, and its port takes connections."""

    def ready():
        assert process.poll() is None, "it has ended"
        return "Application startup complete" in (folder / "log.txt").read_text()

    with_patience(ready)


def get(url, **options):
    """One request on a connection of its own."""
    verify = options.pop("verify", url.startswith("https"))
    return httpx.get(url, trust_env=False, timeout=30, verify=verify, **options)


def lines(folder):
    return [json.loads(line) for line in (folder / "log.txt").read_text().splitlines()]


@pytest.mark.parametrize(("workers", "number"), [(1, signal.SIGINT), (2, signal.SIGTERM)])
def test_running_requests_finish_and_streams_end(tmp_path, workers, number):
    with served(tmp_path, workers) as (process, address), ThreadPoolExecutor(3) as pool:
        slow = pool.submit(get, f"{address}/slow/1.5")
        stream = pool.submit(get, f"{address}/stream")
        with_patience(lambda: "mlaas_http_requests_running 3.0" in get(f"{address}/metrics").text)
        process.send_signal(number)
        assert slow.result().status_code == 200
        assert "event: end\r\ndata: stopping" in stream.result().text
        assert process.wait(20) == 0
        with pytest.raises(httpx.TransportError):
            get(f"{address}/healthz")
    written = lines(tmp_path)
    assert all(line["part"] == "test" for line in written)
    assert not [line for line in written if line["level"] in {"error", "critical"}]


def test_a_request_that_takes_too_long_is_cut_off(tmp_path):
    with served(tmp_path, environment={"MLAAS_SHUTDOWN_TIMEOUT": "1"}) as (process, address), ThreadPoolExecutor(1) as pool:
        slow = pool.submit(get, f"{address}/slow/60")
        with_patience(lambda: "mlaas_http_requests_running 2.0" in get(f"{address}/metrics").text)
        process.terminate()
        assert process.wait(20) == 0
        assert isinstance(slow.exception(), httpx.TransportError) or slow.result().status_code >= 500


def pids(address, number=16):
    """The processes that answer; each request is a connection of its own."""
    return {get(f"{address}/pid").json() for _ in range(number)}


def test_a_crashed_process_is_replaced_and_its_requests_stay_counted(tmp_path):
    with served(tmp_path, 2) as (_, address):
        with_patience(lambda: len(pids(address, 10)) == 2)
        before = pids(address)
        counted = 'mlaas_http_requests_total{method="GET",route="/pid",status="200"}'

        def count():
            found = [line for line in get(f"{address}/metrics").text.splitlines() if line.startswith(counted)]
            return float(found[0].split()[-1])

        asked = count()
        with pytest.raises(httpx.TransportError):
            get(f"{address}/kill/9")
        now = with_patience(lambda: (found := pids(address)) != before and len(found) == 2 and found)
        assert len(now & before) == 1
        assert count() >= asked + 16
        assert all(get(f"{address}/slow/0").status_code == 200 for _ in range(20))
    assert [line for line in lines(tmp_path) if "died (-9)" in line["message"]]


def test_no_process_outlives_the_first(tmp_path):
    with served(tmp_path, 2) as (process, _):
        children = with_patience(lambda: (found := psutil.Process(process.pid).children(recursive=True)) and len(found) >= 2 and found)
        process.kill()
        process.wait()
        with_patience(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children))


def test_a_hangup_replaces_all_without_a_failed_request(tmp_path):
    with served(tmp_path, 2) as (process, address):
        with_patience(lambda: len(pids(address, 10)) == 2)
        before = pids(address)
        process.send_signal(signal.SIGHUP)
        with_patience(lambda: not before & pids(address))
        process.terminate()
        assert process.wait(20) == 0


@pytest.mark.parametrize(("workers", "trouble", "said"), [(2, "MLAAS_X: is wrong", "MLAAS_X: is wrong"), (1, "fault", "the service cannot start")])
def test_what_cannot_start_ends(tmp_path, workers, trouble, said):
    with served(tmp_path, workers, environment={"SERVED_FAILS": trouble}, wait=False) as (process, _):
        assert process.wait(30) == 3
    found = [line for line in lines(tmp_path) if line["message"] == said]
    assert len(found) in {1, workers}
    assert ("trace" in found[0]) == (trouble == "fault")


def test_a_port_that_is_taken_is_named(tmp_path):
    from mlaas.errors import UserError
    from mlaas.settings import Settings
    from mlaas.web.serving import _bind, _check_tls

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"127.0.0.1:{port} cannot be listened on: Address already in use"):
            _bind("127.0.0.1", port, None)
    with pytest.raises(UserError, match="MLAAS_TLS_KEY: a certificate and its key belong together"):
        _check_tls(Settings(tls_certificate=tmp_path / "x"))
    with pytest.raises(UserError, match=r"MLAAS_TLS_CERTIFICATE: .* cannot be read"):
        _check_tls(Settings(tls_certificate=tmp_path / "x", tls_key=tmp_path / "y"))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_socket_that_is_handed_over(tmp_path, workers):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port, fd = listening.getsockname()[1], listening.fileno()
        with served(tmp_path, workers, arguments=[str(fd)], pass_fds=[fd]) as (process, address):
            assert address == f"http://127.0.0.1:{port}"
            assert get(f"{address}/pid").status_code == 200
            process.terminate()
            assert process.wait(20) == 0


def test_tls_and_the_clients_address(tmp_path):
    certificate = tmp_path / "certificate.pem"
    key = tmp_path / "key.pem"
    write_certificate(certificate, key)
    environment = {"MLAAS_TLS_CERTIFICATE": str(certificate), "MLAAS_TLS_KEY": str(key)}
    with served(tmp_path, environment=environment) as (_, address):
        assert address.startswith("https://127.0.0.1:")
        context = ssl.create_default_context(cafile=certificate)
        assert get(f"{address}/client", verify=context).json() == ["127.0.0.1", "https"]
        assert get(f"{address}/client", verify=context, headers={"X-Forwarded-For": "1.2.3.4, 10.9.8.7"}).json()[0] == "10.9.8.7"
        with pytest.raises(httpx.TransportError):
            get(f"{address}/client")


def test_forwarded_addresses_count_from_trusted_gateways_only(tmp_path):
    with served(tmp_path, environment={"MLAAS_TRUSTED_PROXIES": "192.0.2.1"}) as (_, address):
        headers = {"X-Forwarded-For": "10.9.8.7", "X-Forwarded-Proto": "https"}
        assert get(f"{address}/client", headers=headers).json() == ["127.0.0.1", "http"]


def test_log_lines_are_json_and_hold_no_token(tmp_path):
    with served(tmp_path) as (process, address):
        secret = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"  # noqa: S105
        get(f"{address}/pid", headers={"Authorization": f"Bearer {secret}"}, params={"token": secret})
        get(f"{address}/metrics", headers={"Authorization": f"Bearer {secret}"})
        process.terminate()
        process.wait(20)
    text = (tmp_path / "log.txt").read_text()
    assert secret not in text
    assert {"GET /pid", f"listening on {address}"} <= {line["message"] for line in lines(tmp_path)}


def write_certificate(certificate, key):
    """A self-signed certificate of 127.0.0.1."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    own = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(own, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    key.write_bytes(own.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
