"""What the role refuses before it changes anything: one play, with a machine of the inventory for each case."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.collection import collections_path
from tests.support.pki import Authority

ROLE = Path(__file__).parents[2] / "roles" / "tls"
ACME = {"tls_source": "acme", "tls_acme_terms_agreed": True}
WRONG = {
    "nothing given": ({"tls_source": "provided"}, "tls_source is provided; tls_certificate and tls_key must then be given"),
    "no file": ({"tls_source": "provided", "tls_certificate": "/nowhere", "tls_key": "/etc/hostname"}, "a file of the controller: tls_certificate ("),
    "relative": (
        {"tls_source": "provided", "tls_files_on": "host", "tls_certificate": "a.pem", "tls_key": "-----BEGIN PRIVATE KEY-----"},
        "these must then be absolute paths: tls_certificate, tls_key",
    ),
    "terms": ({"tls_source": "acme"}, "set tls_acme_terms_agreed: true"),
    "address": (ACME | {"mlaas_host_name": "192.0.2.7"}, "ACME gives certificates for DNS names only; mlaas_host_name is 192.0.2.7"),
    "short name": (ACME | {"mlaas_host_name": "vm"}, "ACME needs a full public name, and mlaas_host_name is vm"),
    "wild": (ACME | {"tls_names": ["*.example.org"]}, "needs a challenge by DNS"),
    "directory": (ACME | {"tls_acme_directory": "http://acme"}, "tls_acme_directory must be an https:// address, got: http://acme"),
    "port": (ACME | {"tls_acme_port": 4433}, "is a port of the gateway: take another one"),
    "binding": ({"tls_acme_eab_key_id": "a"}, "belong together: give both or neither"),
    "names": ({"tls_names": ["https://mlaas.example.org"]}, "tls_names must be DNS names such as"),
    "addresses": ({"tls_addresses": ["mlaas.example.org"]}, "tls_addresses must be addresses such as"),
    "days": ({"tls_days": 20}, "tls_renew_days (30) must be less than tls_days (20)"),
}


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What the preflight says in each case: nothing, or the sentences of its failure."""
    folder = tmp_path_factory.mktemp("preflight")
    authority = Authority(folder / "ca")
    pair, other = authority.host("mlaas.example.org", days=90), authority.host("other.example.org", days=90)
    given = {"tls_source": "provided", "tls_certificate": pair.certificate.read_text(), "tls_key": str(pair.key), "tls_ca": str(authority.pem)}
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as freed:
        free = freed.getsockname()[1]
        freed.close()
        cases = {name: variables for name, (variables, _) in WRONG.items()} | {
            "default": {},
            "provided": given,
            "mixed up": given | {"tls_certificate": str(other.certificate), "tls_key": pair.key.read_text()},
            "taken": ACME | {"tls_acme_port": taken.getsockname()[1]},
            "free": ACME | {"tls_acme_port": free},
        }
        return _play(folder, cases)


def _play(folder, cases):
    roles = [
        *(ROLE.parent / "mlaas" / part / "main.yml" for part in ("defaults", "vars")),
        ROLE / "defaults" / "main.yml",
        ROLE / "vars" / "main.yml",
    ]
    shared = {name: value for path in roles for name, value in yaml.safe_load(path.read_text()).items()}
    shared |= {"role_path": str(ROLE), "mlaas_host_name": "mlaas.example.org", "ansible_connection": "local"}
    shared |= {"ansible_python_interpreter": sys.executable, "tls_addresses": []}
    inventory = {"all": {"vars": shared, "hosts": {name.replace(" ", "_"): variables for name, variables in cases.items()}}}
    (folder / "hosts.json").write_text(json.dumps(inventory))
    tasks = [{"ansible.builtin.import_tasks": str(ROLE / "tasks" / "preflight.yml")}]
    (folder / "play.yml").write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "--check", "-i", str(folder / "hosts.json"), str(folder / "play.yml")]
    own = {"ANSIBLE_COLLECTIONS_PATH": str(collections_path()), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default"}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | own, timeout=300, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "-----BEGIN" not in done.stdout + done.stderr
    failed = dict(re.findall(r"^fatal: \[(\w+)[^]]*\]: FAILED! => (.*)$", done.stdout, re.MULTILINE))
    return {name: json.loads(failed[key])["msg"] if (key := name.replace(" ", "_")) in failed else "" for name in cases}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_variable_is_a_sentence(said, case):
    assert WRONG[case][1] in said[case]


@pytest.mark.parametrize("case", ["default", "provided", "free"])
def test_what_can_work(said, case):
    assert said[case] == ""


def test_what_does_not_fit(said):
    assert "tls_key does not belong to tls_certificate" in said["mixed up"]
    assert "is for other.example.org, and not for mlaas.example.org" in said["mixed up"]


def test_a_port_that_is_taken(said):
    assert re.search(r"another program listens on port \d+, which the ACME challenge needs", said["taken"])
