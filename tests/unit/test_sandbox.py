"""What a process can still do once it has shut itself in; each check is made in such a process."""

from __future__ import annotations

import errno
import json
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from mlaas import sandbox

CODE = """
import ctypes, json, os, socket, sys, threading
from pathlib import Path
from mlaas import sandbox
allowed, scratch, secret = sys.argv[1:4]
os.environ["TMPDIR"] = scratch
sandbox.confine([allowed], scratch, limits=sandbox.Limits(memory=2 * 10**9, file=1000))

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
    "large file": outcome(lambda: Path(scratch, "z").write_bytes(bytes(2000))),
    "fork": outcome(os.fork),
    "program": outcome(lambda: os.execv("/bin/true", ["true"])),
    "spawn": outcome(lambda: os.posix_spawn("/bin/true", ["true"], {})),
    "tcp": outcome(lambda: socket.socket()),
    "unix": outcome(lambda: socket.socket(socket.AF_UNIX)),
    "letter": outcome(lambda: socket.socketpair(type=socket.SOCK_DGRAM)),
    "signal": outcome(lambda: os.kill(os.getppid(), 0)),
    "memory": outcome(lambda: bytearray(3 * 10**9)),
    "become root": outcome(lambda: os.setuid(0)) if os.geteuid() else "PermissionError",
    "mount": outcome(lambda: os.chroot(scratch)),
    "privileges": all(line in Path("/proc/self/status").read_text() for line in ("NoNewPrivs:\\t1", "CapEff:\\t0000000000000000")),
}))
"""
DENIED = {"x86_64": {41, 57, 101, 425}, "aarch64": {117, 198, 221, 425}}  # socket, ptrace, fork or execve, io_uring_setup
MAY = {"read allowed", "read python", "write scratch", "thread"}


@pytest.fixture
def places(tmp_path) -> tuple[Path, Path, Path]:
    allowed, scratch, secret = tmp_path / "allowed", tmp_path / "scratch", tmp_path / "secret"
    allowed.mkdir()
    scratch.mkdir()
    (allowed / "file").write_text("x")
    secret.write_text("x")
    return allowed, scratch, secret


def test_a_shut_in_process_reaches_nothing(places):
    run = subprocess.run([sys.executable, "-c", CODE, *map(str, places)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found.pop("privileges") is True
    assert {name for name, outcome in found.items() if outcome == "done"} == MAY, found
    assert found["memory"] == "MemoryError"


def test_the_folder_above_what_is_open_counts(tmp_path, monkeypatch):
    from mlaas.sandbox import open_to_all

    inner = tmp_path / "closed" / "model"
    inner.mkdir(parents=True)
    (inner / "file").write_text("x")
    (tmp_path / "closed").chmod(0o700)
    inner.chmod(0o755)
    assert not open_to_all(inner)
    monkeypatch.chdir(inner)
    (inner / "file").chmod(0o644)
    assert open_to_all(".")  # where it is already
    (inner / "file").chmod(0o600)
    assert not open_to_all(".")


def decide(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """What a filter answers, step by step as the kernel does."""
    data = struct.pack("=IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    accumulator = line = 0
    while True:
        code, yes, no, value = struct.unpack_from("=HBBI", program, line * 8)
        line += 1
        if code == 0x06:
            return value
        if code == 0x20:
            accumulator = struct.unpack_from("=I", data, value)[0]
        elif code == 0x54:
            accumulator &= value
        else:
            line += yes if {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: accumulator & value}[code] else no


@pytest.mark.parametrize("machine", sorted(sandbox.CALLS))
def test_the_filter_knows_every_way_to_name_a_call(machine):
    architecture, _, clone, clone3, pair = known = sandbox.CALLS[machine]
    program = sandbox.program(known)
    allow, eperm, enosys = 0x7FFF0000, 0x00050001, 0x00050000 + errno.ENOSYS
    assert {decide(program, architecture, number) for number in DENIED[machine]} == {eperm}
    assert decide(program, architecture + 1, 0) == 0x80000000
    assert {decide(program, architecture, sandbox.X32 + number) for number in (0, 41, 57)} == {enosys}
    assert decide(program, architecture, clone3) == enosys
    assert [decide(program, architecture, clone, flags) for flags in (0, sandbox.CLONE_THREAD)] == [eperm, allow]
    kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    assert [decide(program, architecture, pair, 1, kind) for kind in kinds] == [allow, eperm, eperm]
    assert decide(program, architecture, 0) == allow
