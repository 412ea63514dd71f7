"""`make deploy` as the README tells it: a bare machine, a copy of this repository, and no more; killed half way, repeated, and used."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.deployment.machines import ROOT
from tests.support import vm
from tests.support.orchestrator import trust_as_here

pytestmark = [pytest.mark.needs("dockerd", "mmdebstrap", "git"), pytest.mark.timeout(1800)]
FOLDER = "/root/mlaas"
BEFORE = "export HOME=/root LC_ALL=C.UTF-8; cd /root/mlaas;"
LIMIT = 900.0  # s


@pytest.fixture(scope="module")
def machine(machines: vm.Machines) -> Iterator[vm.Machine]:
    """It has make, and no Docker; its engine will find the images, as if they had been built there."""
    made = machines.start("mlaas-deploy", "debian12", golden=vm.golden(), hostname="laptop")
    try:
        trust_as_here(made)
        made.sh("apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends make")
        files = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
        ).stdout
        packed = subprocess.run(
            ["tar", "--create", "--null", "--files-from=-", "--ignore-failed-read"], cwd=ROOT, input=files, capture_output=True, check=True
        ).stdout
        made.sh(f"mkdir {FOLDER}")
        made.run("tar", "-x", "--no-same-owner", "-C", FOLDER, stdin=packed)
        made.sh("cp /etc/hosts /root/hosts-before")
        yield made
    finally:
        machines.remove("mlaas-deploy")


def deploy(machine: vm.Machine) -> tuple[int, int]:
    """Play it to its end; returns how many tasks changed something, and how long it took, in s."""
    began = time.monotonic()
    said = machine.sh(f"{BEFORE} make deploy 2>&1", check=False, timeout=LIMIT)
    found = re.search(r"^localhost: (\d+) ok, (\d+) changed$", said, re.MULTILINE)
    assert found, said[-6000:]
    assert "pages and API at https://mlaas.internal:4433, predictions at https://mlaas.internal:8081" in said
    return int(found[2]), round(time.monotonic() - began)


def test_killed_while_it_installs_packages(machine):
    machine.sh(f"{BEFORE} systemd-run --quiet --unit=first --setenv=HOME=/root --working-directory={FOLDER} make deploy")
    until = time.monotonic() + LIMIT
    while not machine.sh("ls /var/lib/dpkg/info/*docker*.list 2>/dev/null || true"):
        assert "inactive" not in machine.sh("systemctl is-active first", check=False), machine.sh("journalctl --no-pager -u first | tail -50")
        assert time.monotonic() < until
        time.sleep(0.2)
    machine.sh("systemctl kill --signal=KILL first")
    assert machine.sh("docker ps --quiet 2>/dev/null || true") == ""


def test_it_can_be_repeated(machine):
    changed, seconds = deploy(machine)
    assert changed > 20
    print(f"make deploy: {seconds} s")


def test_the_second_run_changes_nothing(machine):
    changed, seconds = deploy(machine)
    assert changed == 0
    print(f"make deploy, again: {seconds} s")


def test_the_service_can_be_used(machine):
    assert "127.0.0.1 mlaas.internal" in machine.sh("cat /etc/hosts")
    said = machine.sh(f"{BEFORE} .venv/bin/mlaas deploy local --playbook=smoke 2>&1", check=False, timeout=LIMIT)
    assert re.search(r"^smoke done in \d+ s$", said, re.MULTILINE), said
    assert "it refuses who has no token" in said


def test_nothing_but_its_doors_is_open(machine):
    listening = machine.sh("ss -Hltn | awk '{print $4}'").split()
    assert sorted(where for where in listening if not where.startswith(("127.", "[::1]"))) == ["0.0.0.0:4433", "0.0.0.0:8081"]


def test_destroy_gives_the_machine_back(machine):
    said = machine.sh(f"{BEFORE} .venv/bin/mlaas deploy local --playbook=destroy -e destroy=mlaas.internal 2>&1", check=False, timeout=LIMIT)
    assert "destroy done" in said, said
    assert machine.sh("cat /etc/hosts") == machine.sh("cat /root/hosts-before") != ""
    assert machine.sh("ls -d /opt/mlaas /etc/mlaas /var/lib/mlaas 2>/dev/null || true") == ""
