"""The machines of the tests themselves: they leave their host as it was."""

from __future__ import annotations

from pathlib import Path

from tests.support.vm import Machines


def test_a_machine_changes_nothing_of_the_hosts_control_groups(machines: Machines) -> None:
    """Or the host's engine counts no CPU and no memory of its containers from then on."""
    before = _hierarchies()
    machine = machines.start("groups", "debian13", with_docker=True)
    try:
        assert machine.sh("systemctl is-active docker").strip() == "active"
        assert _hierarchies() == before
    finally:
        machines.remove("groups")


def _hierarchies() -> tuple[list[str], list[str], list[str]]:
    memberships = sorted(line.split(":")[1] for line in Path("/proc/self/cgroup").read_text().splitlines())
    mounts = sorted(line for line in Path("/proc/self/mounts").read_text().splitlines() if " cgroup" in line)
    return memberships, mounts, sorted(path.name for path in Path("/sys/fs/cgroup").iterdir() if path.is_dir())
