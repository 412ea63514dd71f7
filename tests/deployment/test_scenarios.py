"""Every scenario of molecule: a role on a machine of its own, twice, and what it left there."""

from __future__ import annotations

import pytest

from tests.deployment.scenarios import LIMIT, NAMES, Scenarios


@pytest.mark.timeout(LIMIT * len(NAMES) + 60)  # they share the machine; each has a limit of its own
@pytest.mark.parametrize("scenario", NAMES)
def test_scenario(scenario: str, scenarios: Scenarios):
    result = scenarios.result(scenario)
    print(f"{scenario}: {result.seconds:.0f} s")
    assert result.status == 0, f"{result.output[-12000:]}\n{result.journal[-12000:]}"
