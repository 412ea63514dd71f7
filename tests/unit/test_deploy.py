"""What doctor and deploy decide, without a machine: findings, what is asked for, and the account of a play."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from mlaas.deploy import findings, inventory, look, play, wanted
from mlaas.deploy.account import Account, sentence, step_name
from mlaas.deploy.hosts import HostError, Local
from mlaas.deploy.look import Disk, Machine
from mlaas.deploy.ssh import Login
from mlaas.deploy.wanted import Wanted, from_variables, redirector
from mlaas.errors import UserError

ROOT = Path(__file__).parents[2]
GB = 10**9
GOOD = Machine(
    os="debian",
    os_version="12",
    os_name="Debian 12",
    architecture="x86_64",
    kernel="6.1",
    cpus=4,
    memory=16 * GB,
    user="root",
    sudo="root",
    disks={wanted.DATA: Disk(200 * GB, 300 * GB), wanted.ENGINE: Disk(200 * GB, 300 * GB)},
    docker_client="Docker version 20.10",
    docker="20.10.24",
    docker_driver="overlay2",
    compose="2.26.1",
    cgroup="cgroup2fs",
    seccomp="0",
    lsm="lockdown,capability,landlock,apparmor",
    landlock=4,
    systemd=True,
    synchronised="yes",
    python="3.11.2",
    reach={"packages": "good 200"},
)


def verdicts(machine, asked=None):
    return {finding.name: finding.verdict for finding in findings.judge(machine, asked or Wanted())}


def text(machine, name, asked=None):
    return next(finding for finding in findings.judge(machine, asked or Wanted()) if finding.name == name)


def test_a_good_machine():
    assert set(verdicts(GOOD).values()) == {"good"}


@pytest.mark.parametrize(
    ("change", "name", "verdict"),
    [
        ({"os_version": "11"}, "system", "bad"),
        ({"os": "ubuntu", "os_version": "24.04"}, "system", "good"),
        ({"os": "ubuntu", "os_version": "24.10"}, "system", "bad"),
        ({"os": "rocky", "os_like": "rhel centos fedora", "os_version": "9.4"}, "system", "good"),
        ({"os": "almalinux", "os_like": "rhel centos fedora", "os_version": "8.9"}, "system", "bad"),
        ({"os": "fedora", "os_version": "41"}, "system", "bad"),
        ({"architecture": "aarch64"}, "architecture", "bad"),
        ({"systemd": False}, "init", "bad"),
        ({"cpus": 1}, "CPUs", "warning"),
        ({"memory": 2 * GB}, "memory", "bad"),
        ({"memory": 5 * GB}, "memory", "warning"),
        ({"disks": {wanted.DATA: Disk(2 * GB, 10 * GB)}}, "disk", "bad"),
        ({"disks": {wanted.DATA: Disk(20 * GB, 30 * GB)}}, "disk", "warning"),
        ({"clock": 31.0}, "clock", "bad"),
        ({"clock": -8.0}, "clock", "warning"),
        ({"synchronised": "no"}, "clock", "warning"),
        ({"taken": {4433: "nginx"}}, "port 4433", "bad"),
        ({"taken": {4433: "docker-proxy"}, "ours": frozenset({4433})}, "port 4433", "good"),
        ({"sudo": "password"}, "root", "warning"),
        ({"sudo": "missing"}, "root", "bad"),
        ({"python": ""}, "Python", "bad"),
        ({"python": "3.6.8"}, "Python", "bad"),
        ({"docker": "19.3.1"}, "Docker", "bad"),
        ({"docker": ""}, "Docker", "warning"),
        ({"docker": "", "docker_client": ""}, "Docker", "good"),
        ({"docker": "", "podman": "podman version 4.9"}, "Docker", "warning"),
        ({"compose": "2.3.3"}, "Compose", "warning"),
        ({"landlock": 0}, "Landlock", "warning"),
        ({"cgroup": ""}, "control groups", "bad"),
        ({"lsm": "lockdown,capability"}, "AppArmor, SELinux", "warning"),
        ({"selinux": "Enforcing"}, "SELinux", "good"),
        ({"reach": {}}, "package mirror", "warning"),
        ({"reach": {"packages": "no timed out"}}, "package mirror", "warning"),  # Docker is there already
        ({"reach": {"packages": "no timed out"}, "docker": "", "docker_client": ""}, "package mirror", "bad"),
    ],
)
def test_what_is_wrong_with_it(change, name, verdict):
    machine = replace(GOOD, **change)
    found = [finding for finding in findings.judge(machine, Wanted()) if finding.name == name]
    assert verdict in {finding.verdict for finding in found}, findings.judge(machine, Wanted())
    assert all(finding.cure for finding in found if finding.verdict != "good")


@pytest.mark.parametrize(
    ("said", "verdict", "words"),
    [
        ("good https://iam.example.org/", "good", "reached"),
        ("good https://iam.example.org", "bad", "https://iam.example.org/ calls itself https://iam.example.org"),
        ("good", "bad", "calls itself nothing"),
        ("untrusted", "bad", "not trusted"),
        ("status 404", "bad", "status 404"),
        ("no [Errno -2] Name or service not known", "bad", "not reached (https://iam.example.org/): name or service not known"),
        ("", "warning", "not tried"),
    ],
)
def test_the_issuer(said, verdict, words):
    asked = Wanted(issuer="https://iam.example.org/")
    assert asked.reached == {"issuer": "https://iam.example.org/.well-known/openid-configuration"}
    found = text(replace(GOOD, reach={"packages": "good 200", "issuer": said}), "OpenID issuer", asked)
    assert (found.verdict, bool(found.cure)) == (verdict, verdict != "good")
    assert words in found.text


def test_the_defaults_are_those_of_the_roles():
    defaults = yaml.safe_load((ROOT / "roles" / "mlaas" / "defaults" / "main.yml").read_text())
    variables = yaml.safe_load((ROOT / "roles" / "mlaas" / "vars" / "main.yml").read_text())
    plain = {name: value for name, value in defaults.items() if not (isinstance(value, str) and "{{" in value)}
    assert from_variables(plain) == Wanted()
    assert {name.lower(): tuple(versions) for name, versions in variables["_mlaas_systems"].items()} == {
        name.replace("enterprise linux", "redhat"): versions for name, versions in wanted.SYSTEMS.items()
    }
    assert tuple(variables["_mlaas_architectures"]) == wanted.ARCHITECTURES


def test_what_an_inventory_asks_for():
    asked = from_variables(
        {
            "mlaas_components": ["gateway", "identity"],
            "mlaas_server_port": "443",
            "mlaas_minimum_memory": "6GB",
            "mlaas_oidc_issuer": "https://this:9443",
            "mlaas_data_folder": "/srv/mlaas",
            "mlaas_image_source": "pull",
            "mlaas_images": "registry.example.org/group/mlaas",
            "tls_source": "acme",
            "tls_acme_directory": "https://acme.example.org/dir",
            "server_redirector": "root://xrootd.example.org//",
            "mlaas_clock_tolerance": "{{ later }}",
        }
    )
    assert list(asked.ports) == [443, 8081, 9443, 80]
    assert asked.memory == 6 * 2**30
    assert asked.issuer == ""  # the provider runs on the machine itself
    assert asked.targets == {
        "acme": "https://acme.example.org/dir",
        "images": "https://registry.example.org/v2/",
        "redirector:xrootd.example.org:1094": "xrootd.example.org:1094",
    }
    for wrong in ({"mlaas_server_port": "https"}, {"mlaas_server_port": 70000}, {"mlaas_minimum_disk": "much"}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            from_variables(wrong)


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("root://a.example.org//store", "a.example.org:1094"),
        ("roots://a.example.org:1095/", "a.example.org:1095"),
        ("a.example.org", "a.example.org:1094"),
        ("root://[2001:db8::1]:1096", "[2001:db8::1]:1096"),
        ("https://a.example.org", ""),
        ("*.example.org:1094", ""),
        ("", ""),
    ],
)
def test_redirectors(address, place):
    assert redirector(address) == place


@pytest.mark.parametrize(
    ("given", "login"),
    [
        ("vm1", Login("vm1")),
        ("root@vm1:2222", Login("vm1", "root", 2222)),
        ("jo@[2001:db8::1]:22", Login("2001:db8::1", "jo", 22)),
        ("2001:db8::1", Login("2001:db8::1")),
    ],
)
def test_how_a_machine_is_named(given, login):
    assert Login.parse(given) == login
    assert Login.parse(given, user="other", port=0).user == "other"


def test_no_machine():
    with pytest.raises(HostError, match="names no machine"):
        Login.parse("root@")


def test_flags_win_over_the_inventory():
    found = {"ansible_host": "192.0.2.1", "ansible_port": 2222, "ansible_user": "debian", "ansible_ssh_private_key_file": "/k"}
    assert inventory.login(found, Login("vm1")) == Login("192.0.2.1", "debian", 2222, "/k")
    assert inventory.login(found, Login("vm1", "root", 22, "/l", "gate")) == Login("192.0.2.1", "root", 22, "/l", "gate")
    by_gate = {"ansible_ssh_common_args": "-o ConnectTimeout=5 -J jo@gate:2222"}
    assert inventory.login(by_gate, Login("vm1")) == Login("vm1", jump="jo@gate:2222")
    assert inventory.jump("-o ProxyJump=gate") == "gate"
    assert inventory.login({"ansible_connection": "ansible.builtin.local"}, Login("vm1")) is None
    assert inventory.login({}, Login("localhost")) is None
    assert inventory.login({}, Login("localhost", port=2222)) == Login("localhost", port=2222)


def test_a_login_shell_that_greets():
    machine = look.machine(look.read("Welcome!\nLast login:\tyesterday\nkernel\t6.1\ntaken\t80\nholder\t80 nginx\ndisk\t/srv 5\n"), time.time())
    assert (machine.kernel, dict(machine.taken), dict(machine.disks)) == ("6.1", {80: "nginx"}, {})


@pytest.mark.parametrize(("offset", "clock"), [(0, 0), (90, 90), (-90, -90)])
def test_the_clock(offset, clock):
    now = time.time()
    machine = look.machine({"time": [str(int(now + offset))]}, now - 3)
    assert machine.clock == pytest.approx(clock, abs=4)
    assert (machine.clock == 0) == (clock == 0)


def test_the_script_survives_odd_targets(tmp_path):
    sneaky = "https://127.0.0.1:1/'; touch " + str(tmp_path / "made") + "; '$(id)"
    machine = look.look(Local(), ["/no/such folder'", str(tmp_path)], [1], {"odd": sneaky}, 60)
    assert not (tmp_path / "made").exists()
    assert machine.disks[str(tmp_path)].free > 0
    assert machine.cpus > 0
    assert machine.reach["odd"].startswith("no ")


def event(kind, **data):
    return {"event": kind, "event_data": data}


def told(*events):
    lines = []
    account = Account(lines.append, clock=iter(range(100)).__next__)
    for one in events:
        account.event(one)
    return account, lines


TASK = {"role": "mlaas4hep.mlaas.tls", "task_path": "/x/roles/tls/tasks/run.yml:3", "play": "Install", "task": "Renew"}


def test_steps():
    account, lines = told(
        event("playbook_on_task_start", play="Install", task="Gathering Facts", task_path="/x/site.yml:2"),
        event("playbook_on_task_start", **TASK),
        event("runner_on_ok", host="vm1", res={"changed": True}),
        event("playbook_on_task_start", **TASK | {"task": "Validating arguments against arg spec 'main'", "task_path": "/x/site.yml:9"}),
        event("playbook_on_handler_task_start", **TASK | {"task_path": "/x/roles/tls/handlers/main.yml:2"}),
        event("playbook_on_stats", ok={"vm1": 3}, changed={"vm1": 1}, processed={"vm1": 1}),
    )
    assert [line.split(maxsplit=2)[2] for line in lines] == ["Install", "tls: run                    1 changed", "tls: handlers"]
    assert account.summary() == "vm1: 3 ok, 1 changed"


def test_what_was_rescued_is_no_failure():
    account, _ = told(
        event("playbook_on_task_start", **TASK),
        event("runner_on_failed", **TASK | {"host": "vm1", "task": "A", "res": {"msg": "rescued"}}),
        event("runner_on_failed", **TASK | {"host": "vm2", "task": "B", "res": {"msg": "it is gone"}}),
        event("playbook_on_stats", failures={"vm2": 1}, rescued={"vm1": 1}, processed={"vm1": 1, "vm2": 1}),
    )
    assert account.failure() == "vm2, tls: run (B): it is gone"


def test_what_a_playbook_has_for_its_user():
    def says(host, **result):
        return event("runner_on_ok", host=host, task_action="ansible.builtin.debug", res=result)

    one, _ = told(says("vm1", msg=["it is there", "so it is"]), says("vm1", censored="hidden"), event("runner_on_ok", host="vm1", res={"msg": "no"}))
    assert one.words() == "it is there\nso it is"
    item = event("runner_item_on_ok", host="vm1", task_action="debug", res={"msg": "bread"})
    assert told(item, says("vm1", msg="All items completed", results=[{"msg": "bread"}]))[0].words() == "bread"
    assert told(says("vm1", msg="a"), says("vm2", msg="b"))[0].words() == "vm1: a\nvm2: b"


def test_nothing_to_do():
    assert told(event("playbook_on_stats"))[0].summary() == "no machine in the inventory was meant"
    assert told()[0].failure() == "Ansible failed"


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({"msg": "Task failed: Action failed: no disk"}, "no disk"),
        ({"msg": ["a", "b"]}, "a\nb"),
        ({"msg": "non-zero return code", "stderr": "1\n2\n3\n4\n5\n6"}, "2\n3\n4\n5\n6"),
        ({"msg": "MODULE FAILURE", "module_stderr": "Traceback\nImportError: no yaml"}, "Traceback\nImportError: no yaml"),
        ({"msg": "non-zero return code", "stderr": "", "stdout": "only here"}, "only here"),
        ({"msg": "One or more items failed", "results": [{"failed": True, "msg": "a"}, {"failed": False}, {"failed": True, "msg": "a"}]}, "a"),
        ({"msg": "Validation of arguments failed", "argument_errors": ["x is of type str", "y is missing"]}, "x is of type str; y is missing"),
        ({"censored": "hidden", "msg": "secret"}, "what went wrong is hidden, for it may hold a secret"),
    ],
)
def test_sentences(result, words):
    assert sentence(result) == words


def test_names_of_steps():
    assert step_name({"role": "docker", "task_path": "/r/tasks/main.yml:1"}) == "docker"
    assert step_name({"role": "a.b.docker", "task_path": "/r/tasks/install.yml:1"}) == "docker: install"
    assert step_name({"play": "Smoke"}) == "Smoke"
    assert step_name({"role": "a.b.tls", "task": "Validating arguments against arg spec 'main'", "task_path": "/x/site.yml:1"}) == "tls"


def test_a_censored_task_leaves_nothing_in_the_log():
    shown = "[ERROR]: Task failed: the secret is x\nOrigin: /a.yml\nfatal: [vm1]: FAILED! => {censored}"
    assert play.logged({"stdout": shown, "event_data": {"res": {"censored": "hidden"}}}) == "fatal: [vm1]: FAILED! => {censored}"
    assert play.logged({"stdout": shown, "event_data": {"res": {"results": [{"censored": "hidden"}]}}}).startswith("fatal:")
    assert play.logged({"stdout": shown, "event_data": {"res": {"msg": "x"}}}) == shown
    assert play.logged({"event": "runner_on_start"}) == ""
