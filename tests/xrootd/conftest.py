"""What the chain needs: an authority, a robot, origins, and places that users without rights can reach."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.origin import GROUP, PASSPHRASE, Origin, events
from tests.support.pki import Authority, Pair
from tests.support.ports import free_port
from tests.support.voms import Organisation
from tests.xrootd.chain import run
from tests.xrootd.render import Rendered, render

PROGRAMS = ("xrootd", "xrdfs", "voms-proxy-init", "openssl", "setpriv")
PLUGINS = {"libXrdVoms-5.so": "xrootd-voms-plugins", "libXrdAccSciTokens-5.so": "xrootd-scitokens-plugins"}
Rendering = Callable[..., Rendered]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/xrootd" in item.nodeid:
            item.add_marker(pytest.mark.needs(*PROGRAMS))


@pytest.fixture(scope="session", autouse=True)
def needed() -> None:
    """The role gives files to the users of the service, which only root can."""
    if os.geteuid():
        pytest.skip("the tests of role xrootd need root: it gives files to other users")
    libraries = [name for folder in (Path("/usr/lib64"), *Path("/usr/lib").glob("*-linux-gnu")) for name in folder.glob("libXrd*.so")]
    missing = [package for library, package in PLUGINS.items() if library not in {path.name for path in libraries}]
    if missing:
        told = pytest.fail if shutil.which("apt-get") else pytest.skip
        told(f"plugins of XRootD are missing (apt-get install {' '.join(missing)})")


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """A folder that every user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="mlaas-xrootd-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def authority(place: Path) -> Authority:
    """The authority that all trust."""
    return Authority(place / "authority")


@pytest.fixture(scope="session")
def robot(authority: Authority) -> Pair:
    """The robot whose certificate the proxy has."""
    return authority.user("Robot", passphrase=PASSPHRASE)


@pytest.fixture(scope="session")
def origin(place: Path, authority: Authority, robot: Pair) -> Iterator[Origin]:
    """An origin that demands GSI and knows the robot."""
    made = Origin(place / "origin", authority, port=free_port(), users=(robot.subject,))
    for number, name in enumerate(("x.root", "y.root")):
        events(made.store / name, first=number).chmod(0o644)
    with made:
        yield made


@pytest.fixture(scope="session")
def other(place: Path, authority: Authority, robot: Pair) -> Iterator[Origin]:
    """Another one, with other content by the same name."""
    made = Origin(place / "other", authority, port=free_port(), users=(robot.subject,))
    events(made.store / "x.root", first=100).chmod(0o644)
    with made:
        yield made


@pytest.fixture(scope="session")
def rendered(place: Path, authority: Authority, robot: Pair) -> Rendering:
    """Render a configuration by the role, with the robot's credential made once."""

    def make(name: str, *, made: bool = True, **variables: Any) -> Rendered:
        common = {
            "xrootd_credential": "x509",
            "xrootd_certificate": str(robot.certificate),
            "xrootd_key": str(robot.key),
            "xrootd_passphrase": PASSPHRASE,
            "xrootd_certificates": str(authority.certificates),
        }
        found = render(place / "rendered" / name, **(common | variables))
        if made:
            done = run(found, "renew", "--once")
            assert done.returncode == 0, done.stdout
        return found

    return make


@pytest.fixture
def organisation(place: Path, authority: Authority, robot: Pair) -> Iterator[Organisation]:
    """An organisation that has the robot in the group that an origin demands."""
    found = Organisation(place / "organisation", authority, robot, PASSPHRASE, GROUP)
    yield found
    found.close()
