"""What the table of requests needs: a provider, the service, a recording server, and an engine of the gateway in front of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.gateway.engine import DOORS, HOST, OAUTH2_PROXY, Gateway, certificate, gateway
from tests.gateway.recorder import Recorder, recording
from tests.service.openid import Provider, provider
from tests.service.service import Service, running
from tests.support.ports import free_ports

ENGINES = ("apache", "oauth2-proxy")
KINDS = ("service", "recorder", "renewal")
Ports = Mapping[tuple[str, str], dict[str, int]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "[apache" in item.name:
            item.add_marker(pytest.mark.needs("apache2"))


@pytest.fixture(scope="session", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """An engine; oauth2-proxy where its binary is named."""
    if request.param == "oauth2-proxy" and not OAUTH2_PROXY:
        pytest.skip("no oauth2-proxy (name its binary in MLAAS_TEST_OAUTH2_PROXY; no registry carries it, its public repository builds it)")
    return str(request.param)


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of gateway and provider."""
    folder = tmp_path_factory.mktemp("tls")
    certificate(folder)
    return folder


@pytest.fixture(scope="session")
def ports() -> Ports:
    """The doors of every gateway, known before the provider starts, which must know the addresses that it leads to."""
    found = iter(free_ports(len(ENGINES) * len(KINDS) * 3))
    return {(engine, kind): {door: next(found) for door in (*DOORS, "provider")} for engine in ENGINES for kind in KINDS}


@pytest.fixture(scope="session")
def openid(tls: Path, ports: Ports) -> Iterator[Provider]:
    """A provider with TLS, without which Apache takes no provider."""
    port = free_ports(1)[0]
    doors = [number for found in ports.values() for number in found.values()]
    environment = {
        "ISSUER": f"https://{HOST}:{port}",
        "TLS_PORT": str(port),
        "TLS_CERT": str(tls / "fullchain.pem"),
        "TLS_KEY": str(tls / "privkey.pem"),
        "REDIRECT": ",".join(f"https://{HOST}:{number}/oauth2/callback" for number in doors),
        "SIGNED_OUT": ",".join(f"https://{HOST}:{number}/oauth2/signed_out" for number in doors),
    }
    with provider(**environment) as found:
        yield found


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, openid: Provider, tls: Path) -> Iterator[Service]:
    """The MLaaS server, its worker and the inference service."""
    settings = openid.settings() | {"MLAAS_OIDC_CA_FILE": str(tls / "ca.pem")}
    with running(tmp_path_factory.mktemp("service") / "data", settings) as found:
        yield found


@pytest.fixture(scope="session")
def front(engine: str, ports: Ports, openid: Provider, service: Service, tls: Path) -> Iterator[Gateway]:
    """A gateway before the service."""
    with gateway(engine, ports[engine, "service"], {"server": service.server, "inference": service.inference}, openid.url, tls) as found:
        yield found


@pytest.fixture(scope="session")
def recorder() -> Iterator[Recorder]:
    """A server that tells what reached it."""
    with recording() as found:
        yield found


@pytest.fixture(scope="session")
def recorded(engine: str, ports: Ports, openid: Provider, recorder: Recorder, tls: Path) -> Iterator[Gateway]:
    """A gateway before the recorder."""
    with gateway(engine, ports[engine, "recorder"], dict.fromkeys(DOORS, recorder.url), openid.url, tls) as found:
        yield found
