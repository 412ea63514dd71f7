"""`mlaas deploy`: a small collection, really run by ansible-runner; lines for people, a sentence for what failed, nothing secret left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlaas.cli import main
from mlaas.deploy import collection

SITE = """
- name: Try
  hosts: all
  gather_facts: false
  roles: [mlaas4hep.mlaas.part]
"""
PREFLIGHT = """
- name: Look at the mood
  ansible.builtin.assert: {that: mood != 'bad', fail_msg: "mood must not be bad: set it to good"}
- name: Go round
  block:
    - name: Fail and be rescued
      ansible.builtin.fail: {msg: nobody need know}
  rescue:
    - name: Rescue
      ansible.builtin.debug: {msg: rescued}
- name: Fail, and nobody minds
  ansible.builtin.fail: {msg: nobody minds}
  ignore_errors: true
"""
RUN = """
- name: Write
  ansible.builtin.copy: {content: "{{ mood }}", dest: "{{ playbook_dir }}/written", mode: "0600"}
- name: Run a command
  ansible.builtin.command: sh -c 'echo first >&2; echo the reason >&2; exit 3'
  when: mood == 'command'
- name: Go through a list
  ansible.builtin.fail: {msg: "no {{ item }}"}
  loop: [bread, wine]
  when: mood == 'loop'
- name: Keep a secret
  ansible.builtin.fail: {msg: "the secret is {{ mood }}"}
  no_log: true
  when: mood == 'hidden'
- name: Wait long
  ansible.builtin.command: sleep 300
  when: mood == 'slow'
"""
MAIN = """
- ansible.builtin.import_tasks: preflight.yml
  tags: [preflight]
- ansible.builtin.import_tasks: run.yml
"""
INVENTORY = f"all: {{hosts: {{vm1: {{ansible_connection: local, ansible_python_interpreter: {sys.executable}}}}}}}\n"


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A collection with one role."""
    folder = tmp_path_factory.mktemp("collection")
    files = {
        "galaxy.yml": "namespace: mlaas4hep\nname: mlaas\nversion: 0.1.0\n",
        "playbooks/site.yml": SITE,
        "playbooks/smoke.yml": "- name: Broken\n  hosts: all\n  tasks:\n    - no_such_module: {}\n",
        "roles/part/tasks/main.yml": MAIN,
        "roles/part/tasks/preflight.yml": PREFLIGHT,
        "roles/part/tasks/run.yml": RUN,
        "inventories/local/hosts.yml": INVENTORY,
        "inventories/gone/hosts.yml": "all: {hosts: {far: {ansible_host: 127.0.0.1, ansible_port: 1}}}\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def deploy(repository, home, monkeypatch, capsys):
    """Runs the command, and returns its status, stdout, stderr."""
    monkeypatch.setattr(collection, "find", lambda: collection.Collection(repository, "0.1.0", True))

    def run(*arguments):
        status = main(["deploy", *arguments])
        done = capsys.readouterr()
        return status, done.out, done.err

    return run


def log(home) -> Path:
    """The newest log."""
    return max((home / "state" / "mlaas" / "deploy").glob("*.log"))


def test_a_line_for_each_step_and_nothing_the_second_time(deploy, home, repository):
    status, out, err = deploy("-e", "mood=good")
    assert status == 0, err
    assert re.search(r"^ +\d+\.\d s  part: preflight\n +\d+\.\d s  part: run +1 changed\n", err)
    assert out == "vm1: 4 ok, 1 changed\nrescued\n"
    assert (repository / "playbooks" / "written").read_text() == "good"
    assert log(home).stat().st_mode & 0o777 == 0o600
    assert "TASK [mlaas4hep.mlaas.part : Write]" in log(home).read_text()
    assert deploy("local", "-e", "mood=good")[1] == "vm1: 4 ok, 0 changed\nrescued\n"


def test_check_changes_nothing(deploy, repository):
    (repository / "playbooks" / "written").unlink(missing_ok=True)
    status, out, err = deploy("--check", "-e", '{"mood": "good"}')
    assert (status, out) == (0, "vm1: 4 ok, 1 changed\nrescued\n")
    assert "site could be run in" in err
    assert not (repository / "playbooks" / "written").exists()


def test_tags(deploy):
    status, _, err = deploy("--tags=preflight", "-e", "mood=good")
    assert status == 0
    assert "part: run" not in err


@pytest.mark.parametrize(
    ("mood", "sentence"),
    [
        ("bad", "vm1, part: preflight (Look at the mood): mood must not be bad: set it to good"),
        ("command", "vm1, part: run (Run a command): first\nthe reason"),
        ("loop", "vm1, part: run (Go through a list): no bread; no wine"),
        ("hidden", "vm1, part: run (Keep a secret): what went wrong is hidden, for it may hold a secret"),
    ],
)
def test_what_failed_is_a_sentence(deploy, home, mood, sentence):
    status, out, err = deploy("-e", f"mood={mood}")
    assert (status, out) == (2, "")
    assert f"mlaas: {sentence}\nThe whole log is in {log(home)}\n" in err
    assert "Traceback" not in err
    assert "nobody" not in err
    assert "the secret is" not in log(home).read_text()


def test_a_variable_that_is_missing(deploy):
    assert "'mood' is undefined" in deploy()[2]


def test_a_machine_that_is_not_there(deploy):
    status, _, err = deploy("gone", "-e", "mood=good")
    assert status == 2
    assert "far, " in err
    assert "Connection refused" in err


def test_a_playbook_that_ansible_cannot_read(deploy):
    status, _, err = deploy("--playbook=smoke")
    assert status == 2
    assert "couldn't resolve module/action 'no_such_module'" in err


def test_secrets_stay_out_of_arguments(deploy, home, tmp_path):
    for text in ("mlaas_oidc_client_secret=abc", '{"tls_acme_eab_key": "abc"}', "database_password=abc"):
        status, _, err = deploy("-e", text)
        assert status == 2
        assert "can be read by everybody on this machine" in err
        assert "abc" not in err
    (tmp_path / "secrets.yml").write_text("mlaas_oidc_client_secret: abc\nmood: good\n")
    assert deploy("-e", f"@{tmp_path / 'secrets.yml'}")[0] == 0
    assert deploy("-e", "tls_key=/etc/key.pem", "-e", "mood=good")[0] == 0  # a path is none


def test_a_vault(deploy, home, tmp_path):
    (tmp_path / "secrets.yml").write_text("mood: good\n")
    (tmp_path / "password").write_text("open sesame\n")
    vault = [
        str(Path(sys.executable).parent / "ansible-vault"),
        "encrypt",
        f"--vault-password-file={tmp_path / 'password'}",
        tmp_path / "secrets.yml",
    ]
    subprocess.run(vault, check=True, capture_output=True)
    assert deploy("-e", f"@{tmp_path / 'secrets.yml'}", f"--vault-password-file={tmp_path / 'password'}")[0] == 0
    assert "vault" in deploy("-e", f"@{tmp_path / 'secrets.yml'}")[2].lower()
    assert "there is no file nowhere" in deploy("--vault-password-file=nowhere")[2]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "there is no inventory nowhere: give its path, or one of gone, local"),
        (["lokal"], "there is no inventory lokal (did you mean 'local'?)"),
        (["-e", "mood"], "-e takes NAME=VALUE, a JSON object or @FILE, got: mood"),
        (["-e", "{mood"], "this is no JSON"),
        (["-e", "@nowhere.yml"], "there is no file nowhere.yml"),
        (["--playbook=backup"], "has no playbook backup"),
    ],
)
def test_bad_input(deploy, arguments, sentence):
    status, _, err = deploy(*arguments)
    assert status == 2
    assert sentence in err
    assert err.count("\n") == 1


def test_the_password_of_sudo_is_in_no_argument(deploy, monkeypatch, repository):
    seen = []

    def get(prompt):
        seen.append(prompt)
        return "open sesame"

    monkeypatch.setattr("getpass.getpass", get)
    monkeypatch.setattr("mlaas.deploy.play._flags", _watched(seen))
    deploy("-K", "-e", "mood=good")
    assert seen[0] == "password for sudo on the machines: "
    assert "open sesame" not in str(seen[1])
    assert "--become-password-file" in seen[1]


def _watched(seen):
    from mlaas.deploy.play import _flags

    def flags(play, scratch, files):
        made = _flags(play, scratch, files)
        seen.append(made)
        path = Path(made[made.index("--become-password-file") + 1])
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        return made

    return flags


def test_ctrl_c_ends_ansible_too(repository, home, tmp_path):
    code = (
        "import sys; from pathlib import Path; from mlaas.deploy import collection; from mlaas.cli import main; "
        f"collection.find = lambda: collection.Collection(Path({str(repository)!r}), '0.1.0', True); sys.exit(main(['deploy', '-e', 'mood=slow']))"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    until = time.monotonic() + 60
    while "sleep 300" not in _commands(tmp_path):
        assert time.monotonic() < until
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "stopped" in err
    assert not list(tmp_path.glob("mlaas-deploy-*"))
    until = time.monotonic() + 10
    while "sleep 300" in _commands(tmp_path):
        assert time.monotonic() < until, "the task goes on"
        time.sleep(0.2)


def _commands(folder: Path) -> str:
    """The command lines of processes that were started with this folder for temporary files."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"TMPDIR={folder}" in (entry / "environ").read_text():
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return "\n".join(found)


def test_the_repository_is_found():
    found = collection.find()
    assert found.repository
    assert found.playbook("site").is_file()
    assert found.inventory("local").exists()
