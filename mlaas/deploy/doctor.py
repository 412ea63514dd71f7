"""Look whether a machine is fit for the service."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from mlaas.console import SILENT, Progress
from mlaas.deploy import inventory, ssh
from mlaas.deploy.findings import Finding, judge
from mlaas.deploy.hosts import Host, Local
from mlaas.deploy.look import look
from mlaas.deploy.wanted import ENGINE, Wanted, from_variables

TIME = 30.0  # s for the whole look


def examine(
    flags: ssh.Login,
    *,
    source: str = "",
    vault: str = "",
    more: Wanted | None = None,
    progress: Progress = SILENT,
    ask: bool | None = None,
    timeout: float = TIME,
) -> list[Finding]:
    """The findings of one machine; `source` is an inventory that says more of it (`vault`: the file of its password),
    `more` what flags ask for besides. Raises `HostError`.
    """
    found = inventory.variables(source, flags.host, vault) if source else {}
    asked = from_variables(found)
    if more is not None:
        asked = replace(asked, issuer=more.issuer or asked.issuer, targets={**asked.targets, **more.targets}, data=more.data or asked.data)
    login = inventory.login(found, flags)
    with progress.stage("sign in", unit=""):
        host: Host = Local() if login is None else ssh.connect(login, ask=ask, timeout=min(timeout, ssh.CONNECT_TIME))
    try:
        with progress.stage("look at the machine", unit=""):
            machine = look(host, [asked.data, ENGINE], list(asked.ports), asked.reached, timeout)
    finally:
        host.close()
    return judge(machine, asked)


def fit(findings: Iterable[Finding]) -> bool:
    """Whether nothing is bad."""
    return all(finding.verdict != "bad" for finding in findings)
