"""What all tests share: marks for what a machine may lack, the list of what did not run, and an environment of their own."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlaas.models.order import before_tensorflow
from tests.support.programs import find_program

# before anything imports a library that reads them: one thread each, for the tests share two cores and must repeat exactly
for _name, _value in {"OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "2", "KERAS_BACKEND": "tensorflow", "MPLBACKEND": "agg"}.items():
    os.environ.setdefault(_name, _value)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background: processes that tests start would ignore Ctrl-C, too
    signal.signal(signal.SIGINT, signal.default_int_handler)

before_tensorflow()  # the tests load every framework into one process

PACKAGES = {
    "xrootd": "xrootd-server",
    "c++": "g++",
    "dockerd": "docker.io",
    "initdb": "postgresql",
    "node": "nodejs",
    "oidc-agent": "oidc-agent-cli",
    "sshd": "openssh-server",
    "xrdfs": "xrootd-client",
    "voms-proxy-init": "voms-clients",
    "setpriv": "util-linux",
    "apache2": "libapache2-mod-auth-openidc",
}
HARDWARE = {"gpu": "nvidia-smi"}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*programs): programs (or 'gpu') without which the test cannot run")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A missing program fails the test where it could be installed (CI, root on Debian); elsewhere the test is left out and listed."""
    for mark in item.iter_markers("needs"):
        for need in mark.args:
            if find_program(HARDWARE.get(need, need)):
                continue
            if need in HARDWARE:
                pytest.skip(f"this machine has no {need.upper()}")
            reason = f"the program {need} is missing (apt-get install {PACKAGES.get(need, need)})"
            if os.environ.get("CI") or _debian_root():
                pytest.fail(reason, pytrace=False)
            pytest.skip(reason)


def _debian_root() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List what did not run and why."""
    left_out: dict[str, list[str]] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        left_out.setdefault(reason.removeprefix("Skipped: "), []).append(report.nodeid)
    terminalreporter.section("not run on this machine")
    if not left_out:
        terminalreporter.write_line("nothing: every test ran")
    for reason, tests in left_out.items():
        terminalreporter.write_line(f"{reason}:")
        for test in tests:
            terminalreporter.write_line(f"    {test}")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep specs and handled data of the tests away from the user's."""
    before = {name: value for name, value in os.environ.items() if name.startswith("MLAAS_")}
    for name in before:
        del os.environ[name]
    os.environ["MLAAS_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["MLAAS_PROGRESS"] = "false"
    yield
    del os.environ["MLAAS_CACHE"], os.environ["MLAAS_PROGRESS"]
    os.environ.update(before)


@pytest.fixture(scope="session")
def tth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with signal.root and background.root (2,000 toy events each) and the demo's workflow files."""
    from mlaas.demo.generate import write_pair, write_workflow

    folder = tmp_path_factory.mktemp("tth")
    write_pair(folder, 4000, profile="seed", basket=700)
    write_workflow(folder)
    return folder
