"""A filter of system calls for what Landlock leaves open to a process of the same user: UNIX sockets by path (the Docker engine, D-Bus, the
database), keyrings, limits of other processes. Pipes and pairs of stream sockets, which multiprocessing works with, stay.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from dataclasses import dataclass

from mlaas.sandbox import kernel

SECCOMP_MODE_FILTER = 2
ALLOW, FAIL = 0x7FFF0000, 0x00050000
# BPF: LD|W|ABS, JMP|JEQ|K, JMP|JGE|K, JMP|JSET|K, ALU|AND|K, RET|K
LOAD, EQUAL, AT_LEAST, ANY, AND, RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
X32 = 0x40000000  # the same calls again, under numbers from here on
TYPE = 0xF  # the bits of a socket's type; the others are flags
CLONE_THREAD = 0x10000

Line = tuple[int, int, int, int]
"""A step: what to do, the steps to pass over when it holds and when not, a value."""

DENY: Line = (RETURN, 0, 0, FAIL | errno.EPERM)
UNKNOWN: Line = (RETURN, 0, 0, FAIL | errno.ENOSYS)
PASS: Line = (RETURN, 0, 0, ALLOW)


@dataclass(frozen=True)
class Calls:
    """The numbers of an architecture. denied: to everybody. programs: what starts processes and programs. others: what looks into others."""

    audit: int
    socket: int
    socketpair: int
    prlimit64: int
    truncate: int
    clone: int
    clone3: int
    denied: tuple[int, ...]
    programs: tuple[int, ...]
    others: tuple[int, ...]


# denied: add_key, request_key, keyctl, ptrace, perf_event_open, bpf, userfaultfd, io_uring_setup (which opens sockets past this filter)
# programs: fork, vfork (x86 only), execve, execveat; others: kexec_load, process_vm_readv, process_vm_writev
CALLS = {
    "x86_64": Calls(
        audit=0xC000003E, socket=41, socketpair=53, prlimit64=302, truncate=76, clone=56, clone3=435,
        denied=(248, 249, 250, 101, 298, 321, 323, 425), programs=(57, 58, 59, 322), others=(246, 310, 311),
    ),
    "aarch64": Calls(
        audit=0xC00000B7, socket=198, socketpair=199, prlimit64=261, truncate=45, clone=220, clone3=435,
        denied=(217, 218, 219, 117, 241, 280, 282, 425), programs=(221, 281), others=(104, 270, 271),
    ),
}  # fmt: skip


def calls() -> Calls | None:
    """The numbers of this machine's architecture; None when they are not known."""
    return CALLS.get(os.uname().machine)


def program(known: Calls, *, truncate: bool, alone: bool = False) -> bytes:
    """The filter as BPF. truncate: deny truncate(2) also, which Landlock cannot withhold before its version 3. alone: no new processes
    (threads are none), no programs, no sockets of any kind but pairs, no look into others.
    """
    lines = _known_numbers(known)
    for number in (*known.denied, *((known.truncate,) if truncate else ())):
        lines += _at(number, DENY)
    if alone:
        lines += _stay_alone(known)
    else:
        lines += _at(known.socket, _argument(0), (EQUAL, 0, 1, socket.AF_UNIX), DENY, PASS)
    # only pairs of stream sockets are a wall: each of datagram sockets (the kernel makes such of raw ones) can be given another address
    lines += _at(known.socketpair, _argument(1), (AND, 0, 0, TYPE), (EQUAL, 1, 0, socket.SOCK_STREAM), DENY, PASS)
    lines += _limits_of_others(known)
    return b"".join(struct.pack("=HBBI", *line) for line in (*lines, PASS))


def _at(number: int, *lines: Line) -> list[Line]:
    """Steps for one call; the last one returns."""
    return [(EQUAL, 0, len(lines), number), *lines]


def _argument(index: int, *, high: bool = False) -> Line:
    """Load an argument's lower half, or the higher."""
    return LOAD, 0, 0, ARGUMENTS + 8 * index + (4 if high else 0)


def _known_numbers(known: Calls) -> list[Line]:
    """Load the number of the call; those of another architecture, where they mean other calls, are answered as unknown."""
    architecture = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, known.audit), UNKNOWN]
    return [*architecture, (LOAD, 0, 0, NUMBER), (AT_LEAST, 0, 1, X32), UNKNOWN]


def _stay_alone(known: Calls) -> list[Line]:
    lines = [line for number in (*known.programs, *known.others, known.socket) for line in _at(number, DENY)]
    # clone3 keeps its flags where no filter can look: when it is unknown, the C library takes clone
    return [*lines, *_at(known.clone3, UNKNOWN), *_at(known.clone, _argument(0), (ANY, 1, 0, CLONE_THREAD), DENY, PASS)]


def _limits_of_others(known: Calls) -> list[Line]:
    """prlimit64 is for this process itself (0), or to ask: the pointer to new limits is null."""
    asks: list[Line] = [_argument(2), (EQUAL, 0, 2, 0), _argument(2, high=True), (EQUAL, 1, 0, 0)]
    return _at(known.prlimit64, _argument(0), (EQUAL, len(asks) + 1, 0, 0), *asks, DENY, PASS)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("lines", ctypes.c_char_p))


def install(filter_: bytes) -> None:
    """Put this process and its children under a filter, for good; needs no_new_privs. Raises OSError."""
    kernel.prctl(kernel.PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(_Program(len(filter_) // 8, filter_)))
