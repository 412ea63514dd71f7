"""`mlaas serve`: start, what it tells, a part that dies, a second one, ports that are taken, stopping, dying."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.serve import Serving, begin, clean, command, end, ready, serving

MANY = 90.0  # s


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """A service of this module."""
    with serving(tmp_path_factory.mktemp("serve"), "--show-token") as found:
        yield found


def until(true: Callable[[], object], what: str, service: Serving) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + MANY
    while not true():
        assert time.monotonic() < deadline, f"{what}:\n{service.said()}"
        time.sleep(0.1)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False, timeout=5).is_success
    except httpx.HTTPError:
        return False


def test_what_it_tells(service):
    said = service.log.read_text()
    assert f"pages and API  {service.url}" in said
    assert f"inference      {service.record['inference']}" in said
    assert f"{service.url}/?token={service.token}" in said
    assert f"export MLAAS_DATA={service.data}" in said
    assert answers(service.url)
    assert answers(service.record["inference"])
    assert sorted(service.parts()) == ["inference", "server", "worker"]


def test_what_others_may_read(service):
    for path in (service.data, service.data / "secrets", service.data / "run"):
        assert path.stat().st_mode & 0o077 == 0, path
    for path in (service.data / "secrets" / "token", service.data / "mlaas.db", service.data / "run" / "serve.json"):
        assert path.stat().st_mode & 0o077 == 0, path
    for pid in (service.process.pid, *service.parts().values()):
        process = psutil.Process(pid)
        assert service.token not in " ".join(process.cmdline()) + " ".join(process.environ().values())


def test_a_second_one_is_refused(service):
    done = command("serve", f"--data={service.data}", "--port=0", environment=service.environment)
    assert done.returncode == 2
    assert f"a service runs on {service.data} already, at {service.url}" in done.stderr
    assert service.token not in done.stderr
    assert service.token in command("serve", f"--data={service.data}", "--show-token", environment=service.environment).stderr


@pytest.mark.parametrize("part", ["server", "worker", "inference"])
def test_a_part_that_dies_is_started_again(service, part):
    before = service.parts()[part]
    others = {name: pid for name, pid in service.parts().items() if name != part}
    os.kill(before, signal.SIGKILL)
    until(lambda: service.parts().get(part, before) != before, f"the {part} is not started again", service)
    until(lambda: answers(service.url) and answers(service.record["inference"]), "it does not answer again", service)
    assert f"mlaas: the {part} ended (killed by SIGKILL); it is started again in " in service.log.read_text()
    assert {name: pid for name, pid in service.parts().items() if name != part} == others
    assert service.ok("jobs", "--json") == "[]\n"


@pytest.mark.parametrize(
    ("flag", "setting"), [("--port", "MLAAS_PORT"), ("--inference-port", "MLAAS_INFERENCE_PORT"), ("--grpc-port", "MLAAS_GRPC_PORT")]
)
def test_a_port_that_is_taken(tmp_path, flag, setting):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        flags = {"--port": "0", "--inference-port": "0", "--grpc-port": "0"} | {flag: str(port)}
        done = command("serve", f"--data={tmp_path / 'data'}", *(f"{name}={value}" for name, value in flags.items()), environment=clean(tmp_path))
    assert done.returncode == 2
    assert f"port {port} is taken by another program; choose another with {flag} ({setting})" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data" / "run" / "serve.json").exists()
    assert not (tmp_path / "data" / "secrets").exists()  # the token is shown by the start that makes it


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"MLAAS_DATABASE": "postgresql+psycopg://nobody@127.0.0.1:1/none"}, "MLAAS_DATABASE: the database"),
        ({"MLAAS_PORT": "http"}, "MLAAS_PORT"),
        ({"MLAAS_AUTH": "oidc"}, "MLAAS_OIDC_ISSUERS"),
        ({"MLAAS_DATA": "/dev/null/x"}, "name another folder with --data"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path, settings, says):
    environment = clean(tmp_path, MLAAS_DATA=str(tmp_path / "data"), MLAAS_PORT="0", MLAAS_INFERENCE_PORT="0", MLAAS_GRPC_PORT="0") | settings
    done = command("serve", environment=environment)
    assert done.returncode == 2
    assert says in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def start(folder: Path) -> Serving:
    folder.mkdir(parents=True, exist_ok=True)
    environment = clean(folder, MLAAS_DATA=str(folder / "data"))
    process = begin(folder / "data", environment, folder / "serve.log")
    return Serving(process, folder / "data", ready(process, folder / "data", folder / "serve.log"), environment, folder / "serve.log")


def test_stopping_and_starting_again(tmp_path):
    first = start(tmp_path)
    try:
        pids = first.parts().values()
        token = first.token
        assert token not in first.log.read_text()  # not a terminal: a log keeps what is printed
        assert end(first.process, signal.SIGINT) == 0, first.said()
    finally:
        end(first.process, signal.SIGKILL)
    assert not any(map(runs, pids))
    assert not (first.data / "run" / "serve.json").exists()
    assert "Traceback" not in first.log.read_text()
    second = start(tmp_path)
    try:
        assert second.token == token
        assert second.ok("jobs", "--json") == "[]\n"
        pids = second.parts().values()
    finally:
        end(second.process, signal.SIGKILL)
    until(lambda: not any(map(runs, pids)), "parts outlive the process that started them", second)
    third = start(tmp_path)
    try:
        assert third.ok("jobs", "--json") == "[]\n"
        assert end(third.process) == 0
    finally:
        end(third.process, signal.SIGKILL)


def runs(pid: int) -> bool:
    """Whether a process runs, and is not only waiting for somebody to take note of its end."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
