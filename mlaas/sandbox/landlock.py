"""Landlock: the files and TCP ports that a process and its children may still reach, decided by the process itself, for good; root is not needed.

Numbers and structures: linux/landlock.h. What a kernel knows is told by its ABI version (1: Linux 5.13, 6: Linux 6.12).
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from typing import Literal

from mlaas.sandbox import kernel

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on every architecture
GET_VERSION, PATH_BENEATH = 1, 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = (1 << bit for bit in range(6, 13))
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
BIND_TCP, CONNECT_TCP = 1, 2
SCOPE_ABSTRACT_SOCKETS, SCOPE_SIGNALS = 1, 2

Access = Literal["list", "read", "run", "device", "keep", "write"]
"""list: names in folders. read: files and folders. run: read and execute. device: read, write, control. write: all but making devices; keep: the
same, but nothing there can be executed."""

RIGHTS: dict[Access, int] = {
    "list": READ_DIR,
    "read": READ_FILE | READ_DIR,
    "run": READ_FILE | READ_DIR | EXECUTE,
    "device": READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV,
    "keep": (1 << 15) - 1 & ~(MAKE_CHAR | MAKE_BLOCK | EXECUTE),
    "write": (1 << 15) - 1 & ~(MAKE_CHAR | MAKE_BLOCK),
}
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV


def abi() -> int:
    """The version of Landlock that this kernel offers; 0 when it has none."""
    try:
        return kernel.syscall("landlock_create_ruleset", CREATE_RULESET, None, 0, GET_VERSION)
    except OSError:
        return 0


def handled(version: int) -> int:
    """Every right on files that this version can withhold."""
    return (1 << (16 if version >= 5 else 15 if version >= 3 else 14 if version >= 2 else 13)) - 1


def ruleset(rules: Iterable[tuple[str, Access]], version: int, *, tcp: bool = True) -> int:
    """A set of rules as a file descriptor for `restrict`: everything is withheld but what they allow. Paths that are not there are passed over.

    tcp: leave TCP alone; else it is withheld where the kernel can (version 4), as are signals to and abstract sockets of processes
    outside (version 6). Raises OSError.
    """
    words = [handled(version), 0 if tcp else BIND_TCP | CONNECT_TCP, SCOPE_ABSTRACT_SOCKETS | SCOPE_SIGNALS]
    attributes = struct.pack("QQQ", *words)[: 24 if version >= 6 else 16 if version >= 4 else 8]
    made = kernel.syscall("landlock_create_ruleset", CREATE_RULESET, ctypes.c_char_p(attributes), len(attributes), 0)
    os.set_inheritable(made, False)
    for path, access in rules:
        _allow(made, path, RIGHTS[access] & handled(version))
    return made


def _allow(made: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # not there, or a mount that has died: then there is nothing to allow
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= OF_FILES
        if rights:
            rule = ctypes.c_char_p(struct.pack("=Qi", rights, place))
            kernel.syscall("landlock_add_rule", ADD_RULE, made, PATH_BENEATH, rule, 0)
    finally:
        os.close(place)


def restrict(made: int) -> None:
    """Put this process under a set of rules; needs no_new_privs or CAP_SYS_ADMIN. Raises OSError."""
    kernel.syscall("landlock_restrict_self", RESTRICT_SELF, made, 0)
    os.close(made)
