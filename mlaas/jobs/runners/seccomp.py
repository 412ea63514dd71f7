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

from mlaas.jobs.runners import kernel

SECCOMP_MODE_FILTER = 2
ALLOW, FAIL = 0x7FFF0000, 0x00050000
LOAD, EQUAL, AT_LEAST, AND, RETURN = 0x20, 0x15, 0x35, 0x54, 0x06  # BPF: LD|W|ABS, JMP|JEQ|K, JMP|JGE|K, ALU|AND|K, RET|K
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
X32 = 0x40000000
TYPE = 0xF  # the bits of a socket's type; the others are flags


@dataclass(frozen=True)
class Calls:
    """The numbers of an architecture."""

    audit: int
    socket: int
    socketpair: int
    prlimit64: int
    truncate: int
    denied: tuple[int, ...]


# denied: add_key, request_key, keyctl, ptrace, perf_event_open, bpf, userfaultfd, io_uring_setup (which opens sockets past this filter)
CALLS = {
    "x86_64": Calls(0xC000003E, 41, 53, 302, 76, (248, 249, 250, 101, 298, 321, 323, 425)),
    "aarch64": Calls(0xC00000B7, 198, 199, 261, 45, (217, 218, 219, 117, 241, 280, 282, 425)),
}


def calls() -> Calls | None:
    """The numbers of this machine's architecture; None when they are not known."""
    return CALLS.get(os.uname().machine)


def program(known: Calls, *, truncate: bool) -> bytes:
    """The filter as BPF; truncate: deny truncate(2) also, which Landlock cannot withhold before its version 3."""
    deny = RETURN, 0, 0, FAIL | errno.EPERM
    lines = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, known.audit),
        (RETURN, 0, 0, FAIL | errno.ENOSYS),  # calls of another architecture have other numbers
        (LOAD, 0, 0, NUMBER),
        (AT_LEAST, 0, 1, X32),
        (RETURN, 0, 0, FAIL | errno.ENOSYS),
    ]
    for number in (*known.denied, *((known.truncate,) if truncate else ())):
        lines += [(EQUAL, 0, 1, number), deny]
    lines += [(EQUAL, 0, 4, known.socket), (LOAD, 0, 0, ARGUMENTS), (EQUAL, 0, 1, socket.AF_UNIX), deny, (RETURN, 0, 0, ALLOW)]
    # a pair of datagram sockets is no wall: each can be given another address
    kind = [(LOAD, 0, 0, ARGUMENTS + 8), (AND, 0, 0, TYPE), (EQUAL, 0, 1, socket.SOCK_DGRAM), deny, (RETURN, 0, 0, ALLOW)]
    lines += [(EQUAL, 0, len(kind), known.socketpair), *kind]
    own = [(LOAD, 0, 0, ARGUMENTS), (EQUAL, 5, 0, 0)]  # prlimit64 of this process, or
    new = [(LOAD, 0, 0, ARGUMENTS + 16), (EQUAL, 0, 2, 0), (LOAD, 0, 0, ARGUMENTS + 20), (EQUAL, 1, 0, 0)]  # one that only asks
    lines += [(EQUAL, 0, len(own) + len(new) + 1, known.prlimit64), *own, *new, deny, (RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("lines", ctypes.c_char_p))


def install(filter_: bytes) -> None:
    """Put this process and its children under a filter, for good; needs no_new_privs. Raises OSError."""
    kernel.prctl(kernel.PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(_Program(len(filter_) // 8, filter_)))
