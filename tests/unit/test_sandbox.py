"""The means to shut processes in: rights on files, the filter of system calls, ways through closed folders."""

from __future__ import annotations

import errno
import os
import resource
import socket
import struct
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlaas.sandbox import landlock, namespace, python, seccomp

FAIL, UNKNOWN = seccomp.FAIL | errno.EPERM, seccomp.FAIL | errno.ENOSYS

# ---- rights on files


def test_rights_are_what_the_kernel_of_each_version_knows():
    assert [landlock.handled(version).bit_count() for version in (1, 2, 3, 4, 5, 6, 7)] == [13, 14, 15, 15, 16, 16, 16]
    assert not landlock.RIGHTS["write"] & (landlock.MAKE_CHAR | landlock.MAKE_BLOCK | landlock.IOCTL_DEV)
    assert not landlock.RIGHTS["run"] & ~(landlock.READ_FILE | landlock.READ_DIR | landlock.EXECUTE)
    assert landlock.RIGHTS["write"] & ~landlock.RIGHTS["keep"] == landlock.EXECUTE
    assert not landlock.RIGHTS["keep"] & ~landlock.RIGHTS["write"]


# ---- the filter of system calls


def decide(program: bytes, audit: int, number: int, *arguments: int) -> int:
    """What a filter answers, step by step as the kernel does."""
    data = struct.pack("=IIQ6Q", number, audit, 0, *arguments, *[0] * (6 - len(arguments)))
    accumulator = line = 0
    while True:
        code, yes, no, value = struct.unpack_from("=HBBI", program, line * 8)
        line += 1
        if code == seccomp.RETURN:
            return value
        if code == seccomp.LOAD:
            accumulator = struct.unpack_from("=I", data, value)[0]
        elif code == seccomp.AND:
            accumulator &= value
        else:
            holds = {
                seccomp.EQUAL: accumulator == value,
                seccomp.AT_LEAST: accumulator >= value,
                seccomp.ANY: bool(accumulator & value),
            }[code]
            line += yes if holds else no


def expected(calls: seccomp.Calls, truncate: bool, alone: bool, number: int, arguments: tuple[int, ...]) -> int:
    """What it should answer, said in another way."""
    first, second, third = arguments[0] & 0xFFFFFFFF, arguments[1] & 0xFFFFFFFF, arguments[2]
    if number >= seccomp.X32 or (alone and number == calls.clone3):
        return UNKNOWN
    denied = number in calls.denied or (truncate and number == calls.truncate)
    denied |= number == calls.socket and (alone or first == socket.AF_UNIX)
    denied |= number == calls.socketpair and second & 0xF != socket.SOCK_STREAM
    denied |= number == calls.prlimit64 and first != 0 and third != 0
    denied |= alone and (number in (*calls.programs, *calls.others) or (number == calls.clone and not first & seccomp.CLONE_THREAD))
    return FAIL if denied else seccomp.ALLOW


words = st.one_of(
    st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 2, 3, 5, 10, 0x10000, 0x3D0F00, 1 << 32, socket.SOCK_STREAM | socket.SOCK_CLOEXEC])
)
NAMED = sorted(
    {number for calls in seccomp.CALLS.values() for value in vars(calls).values() for number in (value if isinstance(value, tuple) else [value])}
)


@pytest.mark.parametrize("machine", sorted(seccomp.CALLS))
@given(
    st.booleans(),
    st.booleans(),
    st.one_of(st.integers(0, 500), st.sampled_from([*NAMED, seccomp.X32, seccomp.X32 + 41])),
    st.tuples(*[words] * 6),
)
def test_the_filter_denies_what_it_should_and_nothing_else(machine, truncate, alone, number, arguments):
    calls = seccomp.CALLS[machine]
    answer = decide(seccomp.program(calls, truncate=truncate, alone=alone), calls.audit, number, *arguments)
    assert answer == expected(calls, truncate, alone, number, arguments)


@pytest.mark.parametrize("machine", sorted(seccomp.CALLS))
@pytest.mark.parametrize("alone", [False, True])
def test_every_way_to_name_a_call_is_known(machine, alone):
    calls = seccomp.CALLS[machine]
    program = seccomp.program(calls, truncate=False, alone=alone)
    assert decide(program, calls.audit + 1, 0) == UNKNOWN  # another architecture
    assert {decide(program, calls.audit, seccomp.X32 + number) for number in (0, 41, 57)} == {UNKNOWN}
    assert {decide(program, calls.audit, number) for number in calls.denied} == {FAIL}
    assert decide(program, calls.audit, 0) == seccomp.ALLOW


NUMBERS = {"x86_64": (41, 53, 56, 57, 58, 59, 322, 435), "aarch64": (198, 199, 220, 221, 281, 435)}


@pytest.mark.parametrize("machine", sorted(seccomp.CALLS))
def test_a_process_alone_starts_nothing_but_threads(machine):
    """By the numbers of the kernel's tables: socket, socketpair, clone, (fork, vfork,) execve, execveat, clone3."""
    calls, (sockets, pair, clone, *programs, clone3) = seccomp.CALLS[machine], NUMBERS[machine]
    program = seccomp.program(calls, truncate=False, alone=True)
    assert {decide(program, calls.audit, number) for number in (sockets, *programs)} == {FAIL}
    assert decide(program, calls.audit, clone3) == UNKNOWN
    assert [decide(program, calls.audit, clone, flags) for flags in (0, 17, 0x4100, 0x3D0F00)] == [FAIL, FAIL, FAIL, seccomp.ALLOW]
    kinds = [socket.SOCK_STREAM, socket.SOCK_STREAM | socket.SOCK_CLOEXEC, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET]
    assert [decide(program, calls.audit, pair, 1, kind) for kind in kinds] == [seccomp.ALLOW, seccomp.ALLOW, FAIL, FAIL, FAIL]


# ---- ways


def test_python_is_found_by_all_its_names(tmp_path, monkeypatch):
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "link"))
    monkeypatch.setattr(sys, "exec_prefix", str(tmp_path / "gone"))
    found = python.python_folders()
    assert {tmp_path / "link", real} <= set(found)
    assert tmp_path / "gone" not in found
    assert len(found) == len(set(found))


def test_a_closed_folder_above_is_found(tmp_path):
    inner = tmp_path / "shut" / "open" / "model"
    inner.mkdir(parents=True)
    for folder in (tmp_path, inner.parent, inner):
        folder.chmod(0o711)
    (tmp_path / "shut").chmod(0o700)
    stranger = 654_341
    top = namespace.closed(inner, stranger, stranger)
    assert top is not None
    assert top in (tmp_path / "shut", *(tmp_path / "shut").parents)
    assert namespace.closed(tmp_path / "shut", os.geteuid(), os.getegid()) is None


WAYS = """
import os, sys
from pathlib import Path
from mlaas.sandbox import namespace, privileges
user, needed = int(sys.argv[1]), [Path(path) for path in sys.argv[2:]]
os.umask(0o077)
if not namespace.enter():
    sys.exit("no mounts")
namespace.own_shared_memory(2**20)
namespace.open_ways(needed, user, user)
privileges.become(user)
print(needed[0].joinpath("file").read_text(), sorted(os.listdir(needed[0].parent)), os.listdir("/dev/shm"), os.umask(0o022))
try:
    needed[0].parent.joinpath("new").touch()
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_only_what_is_needed_appears_on_the_way(tmp_path):
    place = tmp_path / "shut"
    for name in ("model", "secret"):
        (place / name).mkdir(parents=True)
        (place / name / "file").write_text(name)
    place.chmod(0o700)
    run = subprocess.run([sys.executable, "-c", WAYS, "654341", str(place / "model")], capture_output=True, text=True, check=False)
    if run.stderr.strip() == "no mounts":
        pytest.skip("root may not mount here")
    assert run.stdout == "model ['model'] [] 63\nRead-only file system\n", run.stderr
    assert sorted(path.name for path in place.iterdir()) == ["model", "secret"]


def test_a_limit_is_only_lowered():
    code = "import resource, sys; from mlaas.sandbox.privileges import lower\n" + "".join(
        f"lower(resource.RLIMIT_NOFILE, {most}); print(*resource.getrlimit(resource.RLIMIT_NOFILE))\n" for most in (100, 50, 80)
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "100 100\n50 50\n50 50\n"
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] > 100
