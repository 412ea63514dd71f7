"""The collection's own modules, filter and lookup."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import stat
import tarfile
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible.module_utils.testing import patch_module_args

ROOT = Path(__file__).parents[2] / "plugins"
ME = {"owner": os.geteuid(), "group": os.getegid()}


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    """Run a module as Ansible does; returns what it answers."""

    def _run(name: str, **arguments: Any) -> dict[str, Any]:
        with patch_module_args(arguments), pytest.raises(SystemExit):
            load(f"modules/{name}.py").main()
        return json.loads(capsys.readouterr().out)

    return _run


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ---- secret


def test_a_secret_is_made_once(run, tmp_path):
    path = tmp_path / "key"
    first = run("secret", path=str(path), **ME)
    text = path.read_text()
    again = run("secret", path=str(path), **ME)
    assert (first["changed"], first["made"], again["changed"], again["made"]) == (True, True, False, False)
    assert first["state"] == again["state"] != ""
    assert path.read_text() == text
    assert len(text) == 49
    assert mode(path) == 0o400
    assert text.strip() not in json.dumps(first)
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


def test_a_given_secret_replaces_the_one_that_is_there(run, tmp_path):
    path = tmp_path / "key"
    run("secret", path=str(path), **ME)
    answer = run("secret", path=str(path), content="the given one", newline=False, mode="0440", **ME)
    assert (answer["changed"], answer["made"]) == (True, False)
    assert path.read_text() == "the given one"
    assert mode(path) == 0o440
    assert not run("secret", path=str(path), content="the given one", newline=False, mode="0440", **ME)["changed"]
    assert "the given one" not in json.dumps(answer)


def test_the_mode_of_a_secret_is_mended_and_its_text_kept(run, tmp_path):
    path = tmp_path / "key"
    path.write_text("old")
    path.chmod(0o644)
    assert run("secret", path=str(path), **ME)["changed"]
    assert (path.read_text(), mode(path)) == ("old", 0o400)


def test_check_mode_makes_no_secret(run, tmp_path):
    answer = run("secret", path=str(tmp_path / "key"), _ansible_check_mode=True, **ME)
    assert answer["changed"]
    assert not list(tmp_path.iterdir())


def test_a_link_is_no_secret(run, tmp_path):
    (tmp_path / "elsewhere").write_text("another's")
    (tmp_path / "key").symlink_to(tmp_path / "elsewhere")
    run("secret", path=str(tmp_path / "key"), **ME)
    assert (tmp_path / "elsewhere").read_text() == "another's"
    assert not (tmp_path / "key").is_symlink()


def test_a_secret_in_a_folder_that_is_not_there_has_its_sentence(run, tmp_path):
    answer = run("secret", path=str(tmp_path / "none" / "key"), **ME)
    assert answer["failed"]
    assert "No such file or directory" in answer["msg"]


def test_a_secret_that_comes_back_from_an_archive_is_the_same(run, tmp_path):
    first = run("secret", path=str(tmp_path / "key"), **ME)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "key", "key")
    (tmp_path / "key").unlink()
    with tarfile.open(tmp_path / "a.tar") as archive:
        archive.extract("key", tmp_path, filter="data")
    assert run("secret", path=str(tmp_path / "key"), **ME)["state"] == first["state"]


# ---- machine_facts


def test_a_machine_is_looked_at(run, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        mine = str(tmp_path / "compose.yaml")
        found = run("machine_facts", folders=[str(tmp_path / "not" / "yet")], ports=[port, 1], file=mine, clock=time.time() - 100)
    assert 100 <= found["drift"] < 160
    assert found["taken"] == [port]
    assert found["memory"] > 10**8
    assert found["disks"][str(tmp_path / "not" / "yet")] > 0
    assert found["architecture"] == os.uname().machine
    assert not found["project"]
    assert found["version"] == ""
    assert not found["changed"]
    (tmp_path / ".env").write_text("MLAAS_IMAGES='mlaas'\nMLAAS_VERSION='0.1.0'\n")
    other = run("machine_facts", file=str(tmp_path / "compose.yaml"))
    assert other["version"] == "0.1.0"


def test_what_is_not_reached_is_told_with_the_reason(run):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        wanted = [f"https://127.0.0.1:{port}/realm", f"127.0.0.1:{port}", "127.0.0.1:1", "https://nowhere.invalid/x"]
        found = run("machine_facts", reach=wanted, reach_timeout=3)["unreached"]
        assert run("machine_facts", reach=wanted, reach_timeout=0)["unreached"] == {}
    assert set(found) == {"127.0.0.1:1", "nowhere.invalid:443"}
    assert found["127.0.0.1:1"] == "Connection refused"


def test_users_whose_ids_are_taken_are_told(run):
    found = run("machine_facts", users={"mlaas": 2, "daemon": 1, "bin": 40000})["strangers"]
    assert found == ["bin has the id 2 of mlaas", "bin has the id 2 instead of 40000"]


def test_packages_are_fetched_from_what_apt_names(tmp_path, monkeypatch):
    module = load("modules/machine_facts.py")
    monkeypatch.setattr(module, "APT", tmp_path)
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "apt.conf.d").mkdir()
    (tmp_path / "sources.list").write_text("deb http://deb.example.org/debian trixie main\n# deb http://old.example.org/ x main\n")
    (tmp_path / "sources.list.d" / "a.list").write_text("deb [signed-by=/k.asc arch=amd64] https://b.example.org/debian trixie main\n")
    (tmp_path / "sources.list.d" / "c.sources").write_text("Types: deb\nURIs: http://c.example.org:8080/debian\nSuites: trixie\n")
    assert [module._place(found) for found in module._mirrors()] == [("deb.example.org", 80), ("b.example.org", 443), ("c.example.org", 8080)]
    (tmp_path / "apt.conf.d" / "proxy").write_text('Acquire::http::Proxy "http://proxy.example.org:3128";\n')
    assert module._mirrors() == []


# ---- identity_files


def identity(run, folder: Path, **more: Any) -> dict[str, Any]:
    passwords = folder / "passwords"
    passwords.mkdir(exist_ok=True)
    users = more.pop("users", [{"name": "alice", "groups": ["/cms"]}])
    clients = [{"client_id": "robot", "groups": ["/cms"], "secret_file": str(passwords / "robot"), "secret_owner": os.geteuid()}]
    return run("identity_files", folder=str(folder), passwords=str(passwords), owner=os.geteuid(), users=users, clients=clients, **more)


def test_users_and_clients_get_passwords_of_their_own(run, tmp_path):
    first = identity(run, tmp_path)
    users, clients = (json.loads((tmp_path / f"identity-{name}").read_text()) for name in ("users", "clients"))
    password = (tmp_path / "passwords" / "alice").read_text()
    module = load("modules/identity_files.py")
    assert module.hashed(password, users[0]["password"]) == users[0]["password"]
    assert module.hashed("wrong", users[0]["password"]) != users[0]["password"]
    assert clients[0]["client_secret"] == (tmp_path / "passwords" / "robot").read_text()
    assert "secret_file" not in clients[0]
    assert mode(tmp_path / "identity-users") == mode(tmp_path / "passwords" / "alice") == 0o400
    again = identity(run, tmp_path)
    assert (first["changed"], again["changed"]) == (True, False)
    assert first["state"] == again["state"]
    assert password not in json.dumps([first, again])


def test_a_given_password_changes_the_user(run, tmp_path):
    identity(run, tmp_path)
    before = (tmp_path / "identity-users").read_text()
    assert identity(run, tmp_path, users=[{"name": "alice", "groups": ["/cms"], "password": "the new one"}])["changed"]
    assert (tmp_path / "identity-users").read_text() != before
    assert (tmp_path / "passwords" / "alice").read_text() == "the new one"
    assert "the new one" not in (tmp_path / "identity-users").read_text()


def test_check_mode_makes_no_users(run, tmp_path):
    assert identity(run, tmp_path, _ansible_check_mode=True)["changed"]
    assert [path.name for path in tmp_path.rglob("*")] == ["passwords"]


# ---- filter and lookup


def test_variables_become_lines():
    environment = load("filter/environment.py").environment
    written = environment({"A": ["/cms", "/atlas"], "B": {"x": "$y"}, "C": True, "D": 3, "E": None, "F": "", "G": "a b # c"})
    assert written == "A='/cms,/atlas'\nB='{\"x\": \"$y\"}'\nC=true\nD=3\nF=''\nG='a b # c'\n"


@pytest.mark.parametrize("value", ["it's", "two\nlines", ["a,b"]])
def test_what_cannot_be_written_is_refused_by_name(value):
    with pytest.raises(AnsibleFilterError, match="SITE"):
        load("filter/environment.py").environment({"SITE": value})


def test_names_that_nothing_reads_are_found():
    unknown = load("lookup/unknown_variables.py").unknown
    roles = {"server": {"server_user_jobs"}, "docker": {"docker_options"}}
    assert unknown(["server_user_job", "other", "docker_options"], roles, []) == [
        "server_user_job: no variable has this name; is server_user_jobs meant?"
    ]
    assert unknown(["server_room"], roles, ["server_room"]) == []


def test_all_entry_points_are_documents():
    found = load("lookup/unknown_variables.py").documented(ROOT.parent / "roles")
    assert {"mlaas_up_services", "mlaas_host_name"} <= found["mlaas"]


# ---- layout


def laid(run, folder: Path, **more: Any) -> dict[str, Any]:
    mine = os.geteuid()
    return run("layout", folder=str(folder), folders=[{"path": str(folder / "a"), "owner": mine, "mode": "0750"}], owner=mine, **more)


def test_folders_and_files_are_laid_out_once(run, tmp_path):
    files = {"a/x": "one\n", "y": 'quotes "and" ü\n'}
    dry = laid(run, tmp_path, files=files, _ansible_check_mode=True)
    assert (dry["changed"], dry["paths"]) == (True, [str(tmp_path / name) for name in ("a", "a/x", "y")])
    assert not any(tmp_path.iterdir())
    first, again = laid(run, tmp_path, files=files), laid(run, tmp_path, files=files)
    assert (first["changed"], again["changed"], again["paths"], again["diff"]) == (True, False, [], [])
    assert first["checksum"] == again["checksum"] == dry["checksum"]
    assert [(tmp_path / name).read_text() for name in files] == list(files.values())
    assert (mode(tmp_path / "a"), mode(tmp_path / "y")) == (0o750, 0o644)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "x", "y"]


def test_what_differs_is_mended_and_shown(run, tmp_path):
    first = laid(run, tmp_path, files={"y": "one\n"})
    (tmp_path / "y").chmod(0o600)
    assert laid(run, tmp_path, files={"y": "one\n"})["paths"] == [str(tmp_path / "y")]
    assert mode(tmp_path / "y") == 0o644
    (tmp_path / "y").unlink()
    (tmp_path / "y").symlink_to("/etc/hostname")
    assert laid(run, tmp_path, files={"y": "one\n"})["changed"]
    assert not (tmp_path / "y").is_symlink()
    found = laid(run, tmp_path, files={"y": "two\n"}, absent=["nothing"])
    assert [(one["before"], one["after"]) for one in found["diff"]] == [("one\n", "two\n")]
    assert found["checksum"] != first["checksum"]
    gone = laid(run, tmp_path, absent=["y", "a", "a/b"])
    assert gone["paths"] == [str(tmp_path / "y"), str(tmp_path / "a")]


def test_a_folder_that_is_a_link_is_used_as_it_is(run, tmp_path):
    (tmp_path / "disk").mkdir(mode=0o750)
    (tmp_path / "a").symlink_to("disk")
    laid(run, tmp_path, files={"a/x": "one\n"})
    assert (tmp_path / "a").is_symlink()
    assert (tmp_path / "disk" / "x").read_text() == "one\n"


def test_what_is_missing_above_a_folder_is_made(run, tmp_path):
    wanted = {"folder": str(tmp_path), "folders": [{"path": "x/y/z", "owner": os.geteuid(), "mode": "0700"}]}
    assert run("layout", **wanted)["changed"]
    assert not run("layout", **wanted)["changed"]
    assert (mode(tmp_path / "x" / "y"), mode(tmp_path / "x" / "y" / "z")) == (0o755, 0o700)


def test_what_cannot_be_laid_out_is_said(run, tmp_path):
    (tmp_path / "a").write_text("")
    assert laid(run, tmp_path)["msg"] == f"{tmp_path / 'a'} must be a folder, and is something else"
    said = run("layout", folder=str(tmp_path), files={"no/where": "x"}, **{"owner": os.geteuid()})
    assert said["msg"] == f"{tmp_path / 'no/where'} cannot be written: No such file or directory"
    assert "octal number" in run("layout", folder=str(tmp_path), files={"x": ""}, mode="u=rw")["msg"]
