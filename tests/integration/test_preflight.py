"""Every wrong variable is refused by a sentence before anything is changed: one run of the preflight, a machine of the inventory per mistake."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.collection import environment

ROOT = Path(__file__).parents[2]
GOOD: dict[str, Any] = {
    "ansible_connection": "local",
    "ansible_python_interpreter": "/usr/bin/python3",
    "ansible_become": False,
    "mlaas_host_name": "mlaas.example.org",
    "mlaas_oidc_issuer": "https://iam.example.org/",
    "mlaas_oidc_client_secret": "the-secret-of-the-client-at-its-provider",
    "mlaas_user_groups": ["/mlaas/users"],
    "mlaas_clock_tolerance": 600,  # s; on a busy machine that many hosts wait for each other between two tasks
    "mlaas_reach_timeout": 0,
    "mlaas_minimum_memory": "1GB",
    "mlaas_minimum_disk": "1MB",
    "mlaas_server_port": 24433,
    "mlaas_inference_port": 28081,
    "mlaas_identity_port": 29443,
    "mlaas_folder": "/nonexistent/mlaas",
}
POSTGRES = "postgresql+psycopg://mlaas@db.example.org/mlaas"
WORKER = {"mlaas_components": ["worker"], "server_database": POSTGRES}
TRAIN = ("Train-1.example.org", "Train-2.example.org")
"""Machines that train; the names of their workers are made of these."""
# what is wrong, and what the sentence says
ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "no-issuer": ({"mlaas_oidc_issuer": ""}, "mlaas_oidc_issuer must be the address (https://...) of your OpenID provider"),
    "plain-issuer": ({"mlaas_oidc_issuer": "http://iam.example.org"}, "exactly as its tokens name it, got: http://iam.example.org"),
    "open": ({"mlaas_user_groups": []}, "mlaas_user_groups is empty: name the groups that may use the service, or let every user"),
    "open-inference": ({"inference_user_groups": []}, "mlaas_user_groups is empty"),
    "no-audience": ({"mlaas_oidc_audience": ""}, "mlaas_oidc_audience must name the audience"),
    "name": ({"mlaas_host_name": "MLaaS_1"}, "mlaas_host_name must be a full name in lower case such as mlaas.example.org, got: MLaaS_1"),
    "name-of-itself": ({"mlaas_host_name": "mlaas.localhost"}, "mlaas.localhost means to each container itself; set mlaas_host_name to another"),
    "nothing": ({"mlaas_components": []}, "mlaas_components is empty: name what this machine runs"),
    "component": (
        {"mlaas_components": ["sever"]},
        "must be one or more of: gateway, server, worker, inference, xrootd, identity. Got no match for: sever",
    ),
    "source": ({"mlaas_image_source": "hub"}, "value of mlaas_image_source must be one of: pull, build, load, got: hub"),
    "pull": ({"mlaas_image_source": "pull"}, "mlaas_images must then name the registry"),
    "load": ({"mlaas_image_source": "load"}, "mlaas_image_folder must then name the folder"),
    "prefix": ({"mlaas_images": "-x"}, "mlaas_images must be the beginning of an image name"),
    "version": ({"mlaas_version": "latest"}, "mlaas_version must be a version such as 0.1.0, got: latest"),
    "older": ({"mlaas_folder": "{{ inventory_dir }}", "mlaas_version": "0.0.9"}, "runs version 0.1.0, which is newer than mlaas_version (0.0.9)"),
    "newer": (
        {"mlaas_folder": "{{ inventory_dir }}", "mlaas_version": "0.10.0"},
        "runs version 0.1.0; use playbooks/upgrade.yml to go to mlaas_version",
    ),
    "subnet-everybody": ({"mlaas_back_subnet": "0.0.0.0/0"}, "mlaas_back_subnet must be a private network from /16 to /29"),
    "subnet-public": ({"mlaas_back_subnet": "137.138.0.0/24"}, "mlaas_back_subnet must be a private network"),
    "subnet-address": ({"mlaas_back_subnet": "10.213.17.1/24"}, "such as 10.213.17.0/24"),
    "memory": ({"mlaas_minimum_memory": "64TB"}, "of memory; mlaas_minimum_memory asks for 64TB"),
    "disk": ({"mlaas_minimum_disk": "1000TB"}, "is less than mlaas_minimum_disk (1000TB)"),
    "unreached": (
        {"mlaas_reach_timeout": 2, "mlaas_oidc_issuer": "https://127.0.0.1:1/"},
        "this machine does not reach 127.0.0.1:1 (Connection refused)",
    ),
    "unknown-registry": (
        {"mlaas_reach_timeout": 2, "mlaas_oidc_issuer": "https://127.0.0.1:1/", "mlaas_image_source": "pull", "mlaas_images": "registry.invalid/x"},
        "registry.invalid:443 (",
    ),
    "type": ({"mlaas_server_port": "https"}, "mlaas_server_port"),
    "range": ({"mlaas_server_port": 70000}, "a port is a number from 1 to 65535, got: 70000"),
    "same-port": ({"mlaas_inference_port": 24433}, "must differ, got: 24433, 24433, 29443"),
    "folder": ({"mlaas_data_folder": "data"}, "these must be absolute paths other than /: mlaas_data_folder"),
    "system-folder": ({"mlaas_data_folder": "/var/lib/"}, "these folders hold more than the service, name some of its own: /var/lib"),
    "folder-within": (
        {"mlaas_data_folder": "/srv/mlaas", "mlaas_backup_folder": "/srv/./mlaas/backups"},
        "no folder of the service may be, or be within, another one of them, got: /srv/mlaas/backups in /srv/mlaas",
    ),
    "same-folder": ({"mlaas_backup_folder": "/etc/mlaas"}, "got: /etc/mlaas in /etc/mlaas"),
    "authority": ({"mlaas_site_cas": ["/nonexistent.pem"]}, "neither a PEM certificate nor a file of the controller: /nonexistent.pem"),
    "typo": ({"server_user_job": 3}, "server_user_job: no variable has this name; is server_user_jobs meant?"),
    "public-identity": (
        {"mlaas_components": ["gateway", "server", "worker", "inference", "identity"]},
        "mlaas.example.org is a public name: this provider is for laptops and tests",
    ),
    "identity-address": (
        {"mlaas_components": ["gateway", "server", "worker", "identity"], "mlaas_host_name": "a.test", "identity_address": "::1"},
        "identity_address must be an IPv4 address of this machine, or 0.0.0.0 for all, got: ::1",
    ),
    "gateway-address": (
        {"gateway_address": "2001:db8::1"},
        "gateway_address must be an IPv4 address of this machine, or 0.0.0.0 for all, got: 2001:db8::1",
    ),
    "identity-alone": ({"mlaas_components": ["identity"], "mlaas_host_name": "a.test"}, "mlaas_components names identity without gateway"),
    "user": (
        {"identity_users": [{"name": "Al ice"}], "mlaas_components": ["gateway", "server", "worker", "identity"], "mlaas_host_name": "a.test"},
        "Al ice",
    ),
    "sqlite-cluster": ({"mlaas_components": ["gateway", "server"]}, "set server_database to a PostgreSQL URL"),
    "database": ({"server_database": "mysql://db/mlaas"}, "server_database must be empty (SQLite) or like postgresql+psycopg://user@host/name"),
    "password-in-url": ({"server_database": "postgresql+psycopg://u:p@db/mlaas"}, "without the password, which is server_database_password"),
    "password-alone": ({"server_database_password": "x" * 30}, "server_database_password is set without server_database"),
    "worker-1": (WORKER | {"server_worker_name": "a"}, "server_worker_name is a on worker-1 and worker-2, too: give each machine that trains a name"),
    "worker-2": (WORKER | {"server_worker_name": "a"}, "server_worker_name is a on worker-1 and worker-2"),
    "worker-name": (
        WORKER | {"server_worker_name": "train.example.org"},
        "letters, digits and hyphens, 63 at most, got: train.example.org",
    ),
    "size": ({"server_job_memory": "much"}, "these must be sizes such as 512MB, 4GB or 2GiB: server_job_memory"),
    "number": ({"server_user_jobs": "few"}, "server_user_jobs"),
    "network": ({"server_docker_network": "bridge"}, "server_docker_network must be none or mlaas_jobs"),
    "inference-size": ({"inference_memory": "4 apples"}, "these must be sizes such as 512MB, 4GB or 2GiB: inference_memory"),
    "inference-workers": ({"inference_workers": 0}, "inference_workers must be from 1 to 256, got: 0"),
    "log-size": ({"docker_log_size": "big"}, "docker_log_size must be a size such as 10m, got: big"),
    "pools": ({"docker_address_pools": [{"base": "10.0.0.0", "size": 24}]}, "base must be a network such as 10.214.0.0/16"),
    "nvidia": ({"docker_nvidia": True}, "docker_nvidia needs docker_nvidia_repository and docker_nvidia_key"),
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the preflight says to each machine; nothing where it passes."""
    folder = tmp_path_factory.mktemp("preflight")
    upgraded = GOOD | {"mlaas_folder": "{{ inventory_dir }}", "mlaas_version": "0.10.0", "mlaas_upgrade": True}
    hosts = {name: GOOD | wrong for name, (wrong, _) in ROWS.items()} | {"good": GOOD, "upgraded": upgraded} | dict.fromkeys(TRAIN, GOOD | WORKER)
    (folder / ".env").write_text("MLAAS_IMAGES=mlaas\nMLAAS_VERSION=0.1.0\n")
    return look(folder, hosts, "--check")


def look(folder: Path, hosts: dict[str, Any], *words: str) -> dict[str, str]:
    """Run it on these machines."""
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    found = environment(folder / "ansible") | {"ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json", "ANSIBLE_FORKS": str(os.cpu_count() or 2)}
    command = ["ansible-playbook", "-i", str(folder / "hosts.yml"), str(ROOT / "playbooks" / "site.yml"), "--tags", "preflight", *words]
    done = subprocess.run(command, env=found, capture_output=True, text=True, check=False, timeout=600)
    assert "{" in done.stdout, done.stdout + done.stderr
    document = json.loads(done.stdout[done.stdout.index("{") :])
    sentences = dict.fromkeys(hosts, "")
    for play in document["plays"]:
        for task in play["tasks"]:
            for host, result in task["hosts"].items():
                assert not result.get("changed"), f"{task['task']['name']} changes something"
                if result.get("failed"):
                    sentences[host] += str(result.get("msg")) + str(result.get("results", ""))
    return sentences


def test_good_variables_pass(said):
    assert said["good"] == said["upgraded"] == ""
    assert [said[name] for name in TRAIN] == ["", ""]


@pytest.mark.parametrize("row", ROWS)
def test_each_mistake_has_its_sentence(said, row):
    assert ROWS[row][1] in said[row]


def test_a_sentence_is_not_a_fault_of_the_program(said):
    assert [row for row, sentence in said.items() if "Error rendering template" in sentence or "is undefined" in sentence] == []


def test_a_machine_alone_shares_its_data_with_none(tmp_path):
    """A cluster's data folder must be there before; that of a machine with its database elsewhere is made."""
    alone = GOOD | {"server_database": POSTGRES, "mlaas_data_folder": "/nonexistent/data"}
    assert look(tmp_path, {"alone": alone}) == {"alone": ""}
    assert "is not shared with the machine of the server" in look(tmp_path, {"worker": alone | WORKER})["worker"]
