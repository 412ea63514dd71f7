"""Machines for the tests of the deployment, and the scenarios of molecule, which run beside the other tests."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest

from tests.deployment.scenarios import Scenarios, scenario_of
from tests.support import vm
from tests.support.programs import find_program


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The results of the scenarios are asked for last: until then they run beside the other tests."""
    items.sort(key=lambda item: scenario_of(item) is not None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let fixtures know whether their test failed."""
    report = yield
    item.failed = report.failed or getattr(item, "failed", False)  # type: ignore[attr-defined]
    return report


@pytest.fixture(scope="session")
def machines() -> Iterator[vm.Machines]:
    """The outer engine; machines are started in it."""
    if os.geteuid() != 0:
        pytest.skip("only root can start a Docker engine")
    for program in ("dockerd", "mmdebstrap"):
        if not find_program(program):
            pytest.fail(f"the program {program} is missing", pytrace=False)
    with vm.machines() as found:
        yield found


@pytest.fixture(scope="session", autouse=True)
def scenarios(request: pytest.FixtureRequest) -> Iterator[Scenarios | None]:
    """The scenarios that were selected: they begin with the first test and run on beside the following ones."""
    selected = [name for item in request.session.items if (name := scenario_of(item))]
    if not selected:
        yield None
        return
    with Scenarios(request.getfixturevalue("machines"), selected) as running:
        yield running
