"""What a process gives up beside files and system calls: its user, capabilities, limits, and life after its parent."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

from mlaas.sandbox import kernel


def become(user: int) -> None:
    """Change to a user and group id with no other groups, for good; root only. Raises OSError."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def bound_capabilities() -> None:
    """Empty the bounding set, so that no program can give a capability back; root only, others have nothing to lose. Raises OSError."""
    for capability in range(int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1):
        try:
            kernel.prctl(kernel.PR_CAPBSET_DROP, capability)
        except PermissionError:
            return


def no_new() -> None:
    """Get no rights from programs any more (setuid, file capabilities); Landlock and the filter ask for it. Raises OSError."""
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)


def lower(kind: int, most: int) -> None:
    """Set a limit (resource.RLIMIT_*), soft and hard; one that is lower already stays. Raises OSError."""
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def die_with(parent: int) -> None:
    """Be killed when the parent's thread that started this process ends, or now if the parent has. A change of user undoes it: ask again then."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
