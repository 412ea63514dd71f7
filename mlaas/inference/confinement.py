"""What the process of an isolated model may reach: it reads the model, Python and the system, writes one folder, starts nothing, reaches nobody.

Descriptors that are open already stay usable: what the process must answer on is opened first.
"""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlaas.errors import ResourceError
from mlaas.sandbox import kernel, landlock, namespace, privileges, seccomp
from mlaas.sandbox.landlock import Access
from mlaas.sandbox.python import SYSTEM, python_folders

FILES = ("/etc/ld.so.cache", "/etc/localtime", "/etc/passwd", "/etc/nsswitch.conf", "/proc", "/sys/devices/system")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
SHARED_MEMORY = 2**20  # bytes; no model needs any
NO_LANDLOCK = "this kernel has no Landlock, so models of users cannot be shut in; enable it (lsm=landlock), or set MLAAS_SANDBOX=off"


@dataclass(frozen=True, slots=True)
class Limits:
    """memory: bytes of data (RLIMIT_DATA), 0 sets none. files: open at a time. processes: of the user id, threads too; only as root.
    file: the largest that may be written, bytes."""

    memory: int = 0
    files: int = 1024
    processes: int = 1024
    file: int = 10**9


def confine(
    model: Path,
    scratch: Path,
    *,
    parent: int,
    user: int | None = None,
    limits: Limits | None = None,
    filters: bool = True,
) -> None:
    """Shut this process in, for good; call it before there is a second thread.

    model: the folder that it may still read, beside the system's and Python's; it becomes the current one. scratch: the only folder that it may
    write to. parent: the process that it ends with. user: as root the user and group id to change to; where others may not read the model, or come to
    Python and no way can be opened, it stays root without any capability, which Landlock then must confine. filters: false leaves Landlock, mounts
    and the filter of system calls out.
    Raises ResourceError with a cure: this kernel cannot do it.
    """
    os.umask(0o077)
    model = Path(os.path.realpath(model))
    other = user if user is not None and _reaches(user, model, scratch, filters) else None
    os.chdir(model)  # through the mounts that it has now
    version = landlock.abi() if filters else 0
    if filters and not version and other is None:
        raise ResourceError(NO_LANDLOCK)
    _limit(limits or Limits(), other is not None)
    rules = landlock.ruleset(_rules(model, scratch), version, tcp=False) if version else None
    _give_up(other, scratch)
    privileges.die_with(parent)  # after the change of user, which would undo it
    if filters:
        _filter_calls()
    if rules is not None:
        landlock.restrict(rules)


def _reaches(user: int, model: Path, scratch: Path, mounts: bool) -> bool:
    """Whether another user may read what it needs; a way there is opened, where that is possible."""
    python = python_folders()
    if not readable_by_all(model) or not all(folder.stat().st_mode & stat.S_IXOTH for folder in python):
        return False
    if mounts and namespace.enter():
        _own_mounts([*python, model, scratch], user)
        return True
    # the model is not among these: this process is in its folder already
    return all(namespace.closed(path, user, user) is None for path in (*python, scratch))


def _own_mounts(needed: Sequence[Path], user: int) -> None:
    try:
        namespace.own_shared_memory(SHARED_MEMORY)
        namespace.open_ways(needed, user, user)
    except OSError as error:
        raise ResourceError(f"no way for the user id {user} to Python and the model can be opened: {error.strerror or error}") from None


def readable_by_all(folder: Path) -> bool:
    """Whether the modes in a folder, and its own, let everybody read; those of the folders above it do not count."""
    return all(entry.stat().st_mode & (0o005 if entry.is_dir() else 0o004) for entry in (folder, *folder.rglob("*")))


def _rules(model: Path, scratch: Path) -> list[tuple[str, Access]]:
    libraries = [path for path in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if path]
    rules: list[tuple[str, Access]] = [(str(path), "run") for path in (*SYSTEM, *python_folders(), *libraries, model)]
    rules += [(path, "read") for path in FILES]
    rules += [(path, "device") for path in DEVICES]
    return [*rules, (str(scratch), "keep")]


def _limit(limits: Limits, other: bool) -> None:
    privileges.lower(resource.RLIMIT_CORE, 0)
    privileges.lower(resource.RLIMIT_NOFILE, limits.files)
    privileges.lower(resource.RLIMIT_FSIZE, limits.file)
    if limits.memory:
        privileges.lower(resource.RLIMIT_DATA, limits.memory)
    if other:
        privileges.lower(resource.RLIMIT_NPROC, limits.processes)


def _give_up(other: int | None, scratch: Path) -> None:
    """Change the user, drop the capabilities."""
    privileges.bound_capabilities()
    if other is not None:
        try:
            os.chown(scratch, other, other)
            privileges.become(other)
        except OSError as error:
            sentence = f"this process cannot change to the user id {other}: {error.strerror}"
            raise ResourceError(f"{sentence}; set MLAAS_JOB_UID_BASE to ids that exist here") from None
    privileges.no_new()
    kernel.drop_capabilities()


def _filter_calls() -> None:
    known = seccomp.calls()
    if known is not None:
        seccomp.install(seccomp.program(known, truncate=landlock.abi() < 3, alone=True))
