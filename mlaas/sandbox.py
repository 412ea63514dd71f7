"""A process shuts itself in, for good, before it loads what users made: it reads a few folders, writes one, starts nothing, reaches nobody.

Landlock (linux/landlock.h) for files and TCP, a filter of system calls (linux/seccomp.h) for sockets and new processes, resource limits, and as root
a user id without rights. Descriptors that are open already stay usable: what the process must answer on is opened first.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import site
import socket
import stat
import struct
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlaas.errors import ResourceError

NO_NEW_PRIVS, PDEATHSIG, SECCOMP = 38, 1, 22
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
EXECUTE, READ_FILE, READ_DIR, WRITE_FILE = 1, 4, 8, 2
MAKE_CHAR, MAKE_BLOCK = 1 << 6, 1 << 11
CAPABILITY_VERSION, CAPBSET_DROP = 0x20080522, 24
SYSTEM = (
    "/usr",
    "/lib",
    "/lib64",
    "/bin",
    "/opt",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/passwd",
    "/etc/nsswitch.conf",
    "/proc",
    "/sys/devices/system",
)
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
# Beside these: what is answered as unknown, so that the C library falls back to a call that the filter can look into.
_Calls = tuple[int, tuple[int, ...], int, int, int]
CALLS: dict[str, _Calls] = {
    # AUDIT_ARCH, denied: socket ptrace fork vfork execve execveat kexec_load add_key request_key keyctl perf_event_open process_vm_readv/writev bpf
    # userfaultfd io_uring_setup, then clone, clone3 and socketpair
    "x86_64": (0xC000003E, (41, 101, 57, 58, 59, 322, 246, 248, 249, 250, 298, 310, 311, 321, 323, 425), 56, 435, 53),
    "aarch64": (0xC00000B7, (198, 117, 221, 281, 104, 217, 218, 219, 241, 270, 271, 280, 282, 425), 220, 435, 199),
}
CLONE_THREAD = 0x10000
X32 = 0x40000000  # the same calls again, under numbers from here on


@dataclass(frozen=True, slots=True)
class Limits:
    """memory: bytes of data (RLIMIT_DATA), 0 sets none. files: open at a time. processes: of the user id, threads too; only as root.
    file: the largest that may be written, bytes."""

    memory: int = 0
    files: int = 1024
    processes: int = 1024
    file: int = 10**9


def confine(
    readable: Sequence[Path | str],
    scratch: Path | str,
    *,
    user: int | None = None,
    limits: Limits | None = None,
    filters: bool = True,
) -> None:
    """Shut this process in; call it before there is a second thread.

    readable: folders that it may still read, beside the system's and Python's own. scratch: the only folder that it may write to.
    user: as root the user and group id to change to; where the folders above Python or `readable` are closed to others (a Python in /root), it stays
    root without any capability, which Landlock then must confine. filters: false leaves Landlock and the filter of system calls out.
    Raises ResourceError with a cure: this kernel cannot do it.
    """
    _prctl(NO_NEW_PRIVS, 1)
    os.umask(0o077)
    reached = [*python_folders(), *readable, Path(scratch).parent]
    other = user if user is not None and all(map(open_to_all, reached)) else None
    _limit(limits or Limits(), other is not None)
    version = abi() if filters else 0
    if filters and not version and other is None:
        raise ResourceError("this kernel has no Landlock, so models of users cannot be shut in; enable it (lsm=landlock), or set MLAAS_SANDBOX=off")
    rules = _rules([*SYSTEM, *python_folders(), *map(str, readable)], str(scratch), version) if version else None
    if other is not None:
        os.chown(scratch, other, other)
        become(other)
    if os.geteuid() == 0:
        drop_capabilities()
    if rules is not None:
        _syscall("landlock_restrict_self", RESTRICT_SELF, rules, 0)
        os.close(rules)
    if filters:
        _filter()


def die_with_parent() -> None:
    """Let the kernel kill this process when the thread that started it ends."""
    _prctl(PDEATHSIG, 9)


def become(user: int) -> None:
    """Change to a user and group id with no other groups, for good. Raises ResourceError."""
    try:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    except OSError as error:
        raise ResourceError(
            f"this process cannot change to the user id {user}: {error.strerror}; set MLAAS_JOB_UID_BASE to ids that exist here"
        ) from None


def open_to_all(path: Path | str) -> bool:
    """Whether any user may read a folder: through every folder above an absolute path, and from where the process is already for a relative one."""
    place = Path(path)
    if not place.is_absolute():
        return all(entry.stat().st_mode & (0o005 if entry.is_dir() else 0o004) for entry in [place, *place.rglob("*")])
    place = Path(os.path.realpath(place))
    return all(folder.stat().st_mode & 0o001 for folder in [place, *place.parents])


def drop_capabilities() -> None:
    """Give up every capability of this process, for good."""
    for capability in range(int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1):
        _prctl(CAPBSET_DROP, capability)
    header = ctypes.c_char_p(struct.pack("Ii", CAPABILITY_VERSION, 0))
    _checked(int(_libc.capset(header, bytes(24))), "capset")


def python_folders() -> list[str]:
    """The folders that this Python and this package are in."""
    found = [sys.prefix, sys.base_prefix, sys.exec_prefix, *site.getsitepackages(), str(Path(__file__).parent)]
    return sorted({os.path.realpath(path) for path in found if Path(path).exists()})


def abi() -> int:
    """The version of Landlock that this kernel offers; 0 when it has none."""
    try:
        return _syscall("landlock_create_ruleset", CREATE_RULESET, None, 0, 1)
    except OSError:
        return 0


def _limit(limits: Limits, root: bool) -> None:
    wanted = {resource.RLIMIT_CORE: 0, resource.RLIMIT_NOFILE: limits.files, resource.RLIMIT_FSIZE: limits.file}
    if limits.memory:
        wanted[resource.RLIMIT_DATA] = limits.memory
    if root:
        wanted[resource.RLIMIT_NPROC] = limits.processes
    for kind, most in wanted.items():
        hard = resource.getrlimit(kind)[1]
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (allowed, allowed))


def _rules(paths: Iterable[str], scratch: str, version: int) -> int:
    """A Landlock ruleset: these paths can be read, scratch and devices used, nothing else; no TCP, no signals to others."""
    files = (1 << (16 if version >= 5 else 15 if version >= 3 else 14 if version >= 2 else 13)) - 1
    attributes = struct.pack("QQQ", files, 3, 3)[: 24 if version >= 6 else 16 if version >= 4 else 8]
    rules = _syscall("landlock_create_ruleset", CREATE_RULESET, ctypes.c_char_p(attributes), len(attributes), 0)
    os.set_inheritable(rules, False)
    for path in paths:
        _allow(rules, path, READ_FILE | READ_DIR | EXECUTE)
    _allow(rules, scratch, files & ~(MAKE_CHAR | MAKE_BLOCK | EXECUTE))
    for path in DEVICES:
        _allow(rules, path, READ_FILE | WRITE_FILE)
    return rules


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # not there: then there is nothing to allow
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= ~READ_DIR
        _syscall("landlock_add_rule", ADD_RULE, rules, 1, ctypes.c_char_p(struct.pack("=Qi", rights, place)), 0)
    finally:
        os.close(place)


def _filter() -> None:
    """Refuse new processes, programs, sockets and looking into others (EPERM); threads go on. On unknown processors nothing is filtered."""
    known = CALLS.get(platform.machine())
    if known is None:
        return
    code = program(known)
    kept = ctypes.create_string_buffer(code)
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(kept)))
    _prctl(SECCOMP, 2, ctypes.addressof(header))


def program(known: _Calls) -> bytes:
    """The filter of system calls for a processor."""
    architecture, denied, clone, clone3, socketpair = known
    refuse, allow = _op(0x06, 0x00050000 | errno.EPERM), _op(0x06, 0x7FFF0000)
    code = [_op(0x20, 4), _op(0x15, architecture, 1, 0), _op(0x06, 0x80000000), _op(0x20, 0)]
    code += [_op(0x35, X32, 0, 1), _op(0x06, 0x00050000 | errno.ENOSYS)]
    for number in denied:
        code += [_op(0x15, number, 0, 1), refuse]
    code += [_op(0x15, clone3, 0, 1), _op(0x06, 0x00050000 | errno.ENOSYS)]
    # a pair of datagram sockets is no wall: each can be given another address
    code += [_op(0x15, socketpair, 0, 5), _op(0x20, 24), _op(0x54, 0xF), _op(0x15, socket.SOCK_DGRAM, 0, 1), refuse, allow]
    code += [_op(0x15, clone, 0, 3), _op(0x20, 16), _op(0x45, CLONE_THREAD, 1, 0), refuse]
    return b"".join([*code, allow])


def _op(code: int, value: int, then: int = 0, other: int = 0) -> bytes:
    return struct.pack("HBBI", code, then, other, value)


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _syscall(name: str, number: int, *arguments: Any) -> int:
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    return _checked(int(_libc.syscall(ctypes.c_long(number), *words)), name)


def _prctl(option: int, *arguments: int) -> None:
    words = [ctypes.c_ulong(word) for word in (*arguments, 0, 0, 0, 0)[:4]]
    _checked(int(_libc.prctl(ctypes.c_int(option), *words)), "prctl")


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
