"""What the process of a model can still do once it has shut itself in; each check is made in such a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlaas.inference.confinement import readable_by_all

CODE = """
import json, os, resource, socket, sys, threading
from pathlib import Path
from mlaas.inference.confinement import Limits, confine
allowed, scratch, secret = sys.argv[1:4]
os.environ["TMPDIR"] = scratch
user = int(sys.argv[4]) or None
confine(Path(allowed), Path(scratch), parent=os.getppid(), user=user, limits=Limits(memory=2 * 10**9, file=1000))

def outcome(call):
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return "done"

def thread():
    started = threading.Thread(target=lambda: None)
    started.start()
    started.join()

Path(scratch, "p").write_text("#!/bin/sh")
print(json.dumps({
    "read allowed": outcome(lambda: Path(allowed, "file").read_text()),
    "read python": outcome(lambda: __import__("wave")),
    "write scratch": outcome(lambda: Path(scratch, "x").write_text("x")),
    "thread": outcome(thread),
    "read secret": outcome(lambda: Path(secret).read_text()),
    "through /proc": outcome(lambda: Path("/proc/self/root" + secret).read_text()),
    "read environ of the parent": outcome(lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes()),
    "write allowed": outcome(lambda: Path(allowed, "y").write_text("x")),
    "link out": outcome(lambda: (Path(scratch, "l").symlink_to(secret), Path(scratch, "l").read_text())),
    "execute scratch": outcome(lambda: os.execv(Path(scratch, "p"), ["p"]) if os.chmod(Path(scratch, "p"), 0o700) is None else None),
    "list above": outcome(lambda: os.listdir(Path(allowed).parent)),
    "shared memory": outcome(lambda: Path("/dev/shm/mlaas-test-of-models").write_text("x")),
    "large file": outcome(lambda: Path(scratch, "z").write_bytes(bytes(2000))),
    "fork": outcome(os.fork),
    "program": outcome(lambda: os.execv("/bin/true", ["true"])),
    "spawn": outcome(lambda: os.posix_spawn("/bin/true", ["true"], {})),
    "tcp": outcome(lambda: socket.socket()),
    "unix": outcome(lambda: socket.socket(socket.AF_UNIX)),
    "pair": outcome(socket.socketpair),
    "letter": outcome(lambda: socket.socketpair(type=socket.SOCK_DGRAM)),
    "raw letter": outcome(lambda: socket.socketpair(type=socket.SOCK_RAW)),
    "signal": outcome(lambda: os.kill(os.getppid(), 0)),
    "limits of the parent": outcome(lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CORE, (0, 0))),
    "memory": outcome(lambda: bytearray(3 * 10**9)),
    "become root": outcome(lambda: os.setuid(0)) if os.geteuid() else "PermissionError",
    "mount": outcome(lambda: os.chroot(scratch)),
    "where": os.getcwd(),
    "user": os.getresuid() + os.getresgid(),
    "status": Path("/proc/self/status").read_text(),
}))
"""
MAY = {"read allowed", "read python", "write scratch", "thread", "pair"}
NOBODY = 654_340
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")


@pytest.fixture
def places(tmp_path) -> tuple[Path, Path, Path]:
    allowed, scratch, secret = tmp_path / "allowed", tmp_path / "scratch", tmp_path / "secret"
    allowed.mkdir()
    scratch.mkdir(mode=0o700)
    (allowed / "file").write_text("x")
    secret.write_text("x")
    return allowed, scratch, secret


def shut_in(places: tuple[Path, ...], user: int = 0, before: str = "") -> dict[str, Any]:
    run = subprocess.run([sys.executable, "-c", before + CODE, *map(str, places), str(user)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def reached(found: dict[str, Any]) -> set[str]:
    return {name for name, outcome in found.items() if outcome == "done"}


def privileges(found: dict[str, Any]) -> dict[str, str]:
    lines = dict(line.split(":\t", 1) for line in found["status"].splitlines() if ":\t" in line)
    return {name: lines[name].strip() for name in ("NoNewPrivs", "CapInh", "CapPrm", "CapEff", "CapAmb", "Seccomp", "Groups")}


@pytest.mark.parametrize("user", [0, pytest.param(NOBODY, marks=root_only)])
def test_a_shut_in_process_reaches_nothing(places, user):
    found = shut_in(places, user)
    assert reached(found) == MAY, found
    assert found["memory"] == "MemoryError"
    assert found["where"] == str(places[0])
    none = "0" * 16
    shown = privileges(found)
    assert shown | {"Groups": ""} == {"NoNewPrivs": "1", "CapInh": none, "CapPrm": none, "CapEff": none, "CapAmb": none, "Seccomp": "2", "Groups": ""}
    assert not user or not shown["Groups"]


@root_only
def test_root_becomes_another_user_though_the_folders_above_are_closed(places, tmp_path):
    tmp_path.chmod(0o700)
    found = shut_in(places, NOBODY)
    assert found["user"] == [NOBODY] * 6
    assert reached(found) == MAY, found
    assert places[1].stat().st_uid == NOBODY
    assert (places[1] / "x").read_text() == "x"  # what it wrote is not in mounts of its own
    assert places[0].stat().st_uid == 0


@root_only
def test_where_others_may_not_read_the_model_root_stays_and_reaches_nothing(places):
    (places[0] / "file").chmod(0o600)
    found = shut_in(places, NOBODY)
    assert found["user"] == [0] * 6
    assert reached(found) == MAY, found


@root_only
def test_without_mounts_root_stays_where_the_way_is_closed(places, tmp_path):
    tmp_path.chmod(0o700)
    found = shut_in(places, NOBODY, before="from mlaas.sandbox import namespace\nnamespace.enter = lambda: False\n")
    assert found["user"] == [0] * 6
    assert reached(found) == MAY, found


@root_only
def test_user_ids_that_are_not_there_are_told_with_the_cure(places):
    before = """
import os
def setresuid(*_):
    raise OSError(22, os.strerror(22))
os.setresuid = setresuid
"""
    run = subprocess.run([sys.executable, "-c", before + CODE, *map(str, places), str(NOBODY)], capture_output=True, text=True, check=False)
    sentence = f"this process cannot change to the user id {NOBODY}: Invalid argument; set MLAAS_JOB_UID_BASE to ids that exist here"
    assert run.stderr.strip().endswith(sentence)


def test_without_landlock_a_model_is_refused(places):
    before = "from mlaas.sandbox import landlock\nlandlock.abi = lambda: 0\n"
    run = subprocess.run([sys.executable, "-c", before + CODE, *map(str, places), "0"], capture_output=True, text=True, check=False)
    assert "this kernel has no Landlock" in run.stderr.splitlines()[-1]


DYING = """
import os, subprocess, sys
code = '''
import os, sys, time
from pathlib import Path
from mlaas.inference.confinement import confine
confine(Path(sys.argv[1]), Path(sys.argv[2]), parent=os.getppid(), user=int(sys.argv[3]) or None)
print(os.getuid(), flush=True)
time.sleep(20)
print("outlived it", file=sys.stderr)
'''
print(subprocess.Popen([sys.executable, "-c", code, *sys.argv[1:]], stdout=subprocess.PIPE, text=True).stdout.readline())
"""


@pytest.mark.parametrize("user", [0, pytest.param(NOBODY, marks=root_only)])
def test_it_ends_with_its_parent(places, user):
    """Also after a change of user, which undoes the kernel's promise."""
    run = subprocess.run([sys.executable, "-c", DYING, *map(str, places[:2]), str(user)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(user or os.getuid())
    assert "outlived it" not in run.stderr  # its end is waited for


def test_what_is_in_a_folder_counts_not_what_is_above(tmp_path):
    inner = tmp_path / "closed" / "model"
    inner.mkdir(parents=True)
    (inner / "file").write_text("x")
    (inner / "file").chmod(0o644)
    inner.chmod(0o755)
    (tmp_path / "closed").chmod(0o700)
    assert readable_by_all(inner)
    (inner / "file").chmod(0o600)
    assert not readable_by_all(inner)
    (inner / "file").chmod(0o644)
    inner.chmod(0o750)
    assert not readable_by_all(inner)
