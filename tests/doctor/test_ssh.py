"""`mlaas doctor` over a real SSH server: what it finds, and what it says when it cannot get in."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time

import pytest

from mlaas.cli import main
from mlaas.deploy import ssh
from mlaas.deploy.hosts import HostError
from tests.doctor.conftest import make_key
from tests.support.ports import free_port
from tests.support.programs import find_program

pytestmark = pytest.mark.needs("sshd")


def login(server, **others):
    return ssh.Login(**({"host": "127.0.0.1", "user": server.user, "port": server.port, "key": str(server.key)} | others))


def refused(given, **options):
    """The sentence with which signing in fails."""
    with pytest.raises(HostError) as error:
        ssh.connect(given, **({"ask": False, "timeout": 5.0} | options)).close()
    assert "\n" not in str(error.value)
    return str(error.value)


def doctor(server, *flags):
    try:
        return main(["doctor", f"{server.user}@127.0.0.1:{server.port}", f"--key={server.key}", *flags])
    except SystemExit as end:
        return end.code


def test_the_table(server, known, capsys):
    status = doctor(server, "--quiet")
    out = capsys.readouterr().out
    assert status == (1 if re.search("^bad ", out, re.MULTILINE) else 0)
    for line in (r"good +architecture +x86_64", r"good +clock +as this machine's", r"(good|bad) +port 4433 ", r"good +root +signed in as root"):
        assert re.search(f"^{line}", out, re.MULTILINE), out


def test_as_json_and_fast(server, known, capsys):
    began = time.monotonic()
    assert doctor(server, "--json", "--reach=127.0.0.1:1") == 1  # it answers nobody
    assert time.monotonic() - began < 20
    document = json.loads(capsys.readouterr().out)
    found = {finding["name"]: finding for finding in document["findings"]}
    assert document["fit"] is False
    assert found["127.0.0.1:1"]["verdict"] == "bad"
    assert "connection refused" in found["127.0.0.1:1"]["text"]
    assert found["127.0.0.1:1"]["cure"]
    assert all(finding["cure"] for finding in document["findings"] if finding["verdict"] != "good")


def test_a_port_that_is_taken(server, known, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (known / "hosts.yml").write_text(
            json.dumps(
                {
                    "all": {
                        "hosts": {
                            "vm1": {
                                "ansible_host": "127.0.0.1",
                                "ansible_port": server.port,
                                "ansible_user": "root",
                                "ansible_ssh_private_key_file": str(server.key),
                                "mlaas_server_port": port,
                                "mlaas_inference_port": free_port(),
                                "mlaas_oidc_issuer": "{{ later }}",
                            }
                        }
                    }
                }
            )
        )
        with pytest.raises(SystemExit):
            main(["doctor", "vm1", f"--inventory={known / 'hosts.yml'}", "--json"])
    found = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert found[f"port {port}"]["verdict"] == "bad"
    assert "listens on it" in found[f"port {port}"]["text"]
    assert "port 4433" not in found
    assert "OpenID issuer" not in found


def test_a_machine_that_the_inventory_does_not_have(known, capsys):
    (known / "hosts.yml").write_text('{"all": {"hosts": {"vm1": {}}}}')
    assert main(["doctor", "vm2", f"--inventory={known / 'hosts.yml'}"]) == 2
    assert "has no machine 'vm2' (did you mean 'vm1'?); it has vm1" in capsys.readouterr().err
    assert main(["doctor", "vm2", "--inventory=nowhere"]) == 2
    assert "there is no inventory nowhere" in capsys.readouterr().err


def test_an_unknown_key(server, home, capsys):
    assert doctor(server) == 2
    said = capsys.readouterr().err
    assert "is unknown (ssh-ed25519 SHA256:" in said
    assert not (home / ".ssh" / "known_hosts").exists()


def test_an_unknown_key_that_a_person_confirms(server, home, monkeypatch, capsys):
    answers = iter(["no", "yes"])
    monkeypatch.setattr("builtins.input", lambda _: next(answers))
    assert "was not confirmed" in refused(login(server), ask=True)
    ssh.connect(login(server), ask=True).close()
    shown = capsys.readouterr().err
    listed = subprocess.run([str(find_program("ssh-keygen")), "-lf", server.folder / "host.pub"], capture_output=True, text=True, check=True).stdout
    assert re.search(r"SHA256:\S+", shown).group() == re.search(r"SHA256:\S+", listed).group()
    ssh.connect(login(server), ask=False).close()  # it is known now


def test_a_key_that_changed(server, home, tmp_path):
    make_key(tmp_path / "other")
    (home / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{server.port} {(tmp_path / 'other.pub').read_text()}")
    said = refused(login(server))
    assert "is not the one in known_hosts" in said
    assert f"ssh-keygen -R [127.0.0.1]:{server.port}" in said
    assert refused(login(server), ask=True) == said  # a person is not asked to take it


def test_a_wrong_user_and_a_wrong_key(server, known, tmp_path):
    assert refused(login(server, user="nobody-here")).startswith(f"127.0.0.1:{server.port} refuses nobody-here: name another user")
    make_key(tmp_path / "wrong")
    assert "refuses root" in refused(login(server, key=str(tmp_path / "wrong")))
    assert refused(login(server, key="/nowhere/key")) == "there is no key file /nowhere/key"


def test_a_key_with_a_passphrase(server, known, tmp_path):
    make_key(tmp_path / "locked", passphrase="open sesame")  # noqa: S106
    with (server.folder / "authorized").open("a") as file:
        file.write((tmp_path / "locked.pub").read_text())
    given = login(server, key=str(tmp_path / "locked"))
    assert "has a passphrase: add it to an agent" in refused(given)
    ssh.connect(given, ask=True, secret=lambda _: "open sesame").close()


def test_an_agent(server, known, monkeypatch, tmp_path):
    agent = subprocess.Popen([str(find_program("ssh-agent")), "-D", "-a", str(tmp_path / "agent")], stdout=subprocess.DEVNULL)
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        until = time.monotonic() + 10
        while subprocess.run([str(find_program("ssh-add")), "-q", str(server.key)], capture_output=True, check=False).returncode:
            assert time.monotonic() < until
            time.sleep(0.1)
        ssh.connect(login(server, key=""), ask=False).close()
    finally:
        agent.kill()
        agent.wait()


def test_the_configuration_of_openssh(server, known):
    (known / ".ssh" / "config").write_text(f"Host short\n  HostName 127.0.0.1\n  Port {server.port}\n  User root\n  IdentityFile {server.key}\n")
    host = ssh.connect(ssh.Login("short"), ask=False)
    assert host.run("echo here", 10).out == "here\n"
    host.close()


def test_a_jump_host(server, known, another):
    inner = another()
    with (server.folder / "authorized").open("a") as file:
        file.write((inner.folder / "user.pub").read_text())
    given = ssh.Login("127.0.0.1", "root", inner.port, str(inner.key), f"root@127.0.0.1:{server.port}")
    assert f"the key of [127.0.0.1]:{inner.port} is unknown" in refused(given)
    with (known / ".ssh" / "known_hosts").open("a") as file:
        file.write(inner.known)
    host = ssh.connect(given, ask=False)
    assert host.run("echo $SSH_CONNECTION", 10).out.split()[3] == str(inner.port)
    host.close()
    inner.stop()
    assert f"127.0.0.1 does not lead to 127.0.0.1:{inner.port}" in refused(given)


def test_nobody_there(home):
    port = free_port()
    assert refused(ssh.Login("127.0.0.1", "root", port)).startswith(f"127.0.0.1:{port} cannot be reached (")
    assert "the name no-such-machine.invalid is unknown" in refused(ssh.Login("no-such-machine.invalid", "root"))


def test_one_that_says_nothing(home):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        said = refused(ssh.Login("127.0.0.1", "root", silent.getsockname()[1]), timeout=1.0)
        assert time.monotonic() - began < 10
    assert "answers, but not as an SSH server does" in said


def test_a_script_that_takes_too_long(server, known):
    host = ssh.connect(login(server), ask=False)
    with pytest.raises(HostError, match="did not answer within 1 s"):
        host.run("sleep 30", 1.0)
    assert host.run("seq 200000", 30).out.endswith("\n200000\n")  # more than fits into one window
    host.close()


def test_a_connection_that_is_lost(known, another):
    lost = another()
    (known / ".ssh" / "known_hosts").write_text(lost.known)
    host = ssh.connect(login(lost), ask=False)
    subprocess.run(["pkill", "-P", str(lost.processes[0].pid)], check=False)  # the session's own process
    with pytest.raises(HostError, match="was lost"):
        host.run("echo here", 5)
    host.close()


@pytest.fixture
def bare(tmp_path, home, another):
    """A server whose users find few programs: no Python, no Docker."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "awk", "cat", "date", "df", "dirname", "grep", "head", "id", "sed", "sort", "stat", "tr", "uname"):
        (programs / name).symlink_to(find_program(name))
    made = another(f"SetEnv PATH={programs}")
    (home / ".ssh" / "known_hosts").write_text(made.known)
    return made


def test_no_python(bare, capsys):
    assert doctor(bare, "--json", "--issuer=https://127.0.0.1:1") == 1
    found = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert found["Python"] == {"name": "Python", "verdict": "bad", "text": "none", "cure": "install python3 on the machine: Ansible needs it there"}
    assert found["memory"]["text"].endswith("B")
    assert found["OpenID issuer"]["verdict"] == "warning"
    assert found["Docker"]["text"] == "none yet; the role docker installs it"


def test_an_account_without_a_shell(known, another, capsys):
    made = another("ForceCommand echo 'This account is not available.'")
    (known / ".ssh" / "known_hosts").write_text(made.known)
    assert doctor(made) == 2
    assert "runs no POSIX shell for this user (it said: This account is not available.)" in capsys.readouterr().err


def test_a_password_is_asked_for_and_in_no_argument(known, another):
    made = another("PasswordAuthentication yes", "PermitRootLogin yes", "PubkeyAuthentication no")
    (known / ".ssh" / "known_hosts").write_text(made.known)
    asked = []

    def secret(prompt):
        asked.append(prompt)
        return "wrong"

    assert "refuses root" in refused(login(made, key=""), ask=True, secret=secret)
    assert asked == ["password of root@127.0.0.1: "]
    shown = subprocess.run([sys.executable, "-m", "mlaas.cli", "doctor", "--help"], capture_output=True, text=True, check=True).stdout
    assert "--password" not in shown
