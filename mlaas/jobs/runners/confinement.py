"""What a new process does to itself before it becomes the job: every step can only take away."""

from __future__ import annotations

import os
import resource
import signal
from contextlib import suppress
from pathlib import Path

from mlaas.jobs.runners.plan import Plan
from mlaas.jobs.runners.tree import threads_of
from mlaas.sandbox import kernel, landlock, namespace, privileges, seccomp
from mlaas.sandbox.privileges import lower

FILES = 65_536
LIKELY_VICTIM = 500  # of the kernel when the machine's memory ends: the job goes before the service


def confine(plan: Plan, parent: int) -> None:
    """Turn this process, just forked, into one that may do what the plan says and no more. Raises OSError."""
    os.setsid()
    _reset_signals()
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(LIKELY_VICTIM))
    os.sched_setaffinity(0, plan.cpus)
    _limit(plan)
    os.umask(0o077)
    _own_mounts(plan)
    rules = landlock.ruleset(plan.rules, landlock.abi()) if plan.confined and landlock.abi() else None
    os.chdir(plan.work)
    if plan.confined:
        privileges.bound_capabilities()
    if plan.user is not None:
        privileges.become(plan.user)
    privileges.no_new()
    privileges.die_with(parent)  # after the change of user, which would undo it
    if plan.confined:
        kernel.drop_capabilities()
        _filter_calls()
    if rules is not None:
        landlock.restrict(rules)


def _reset_signals() -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _limit(plan: Plan) -> None:
    user = os.getuid() if plan.user is None else plan.user
    # counted over all processes of the user, whose jobs may be several: the shim keeps each to its own number
    lower(resource.RLIMIT_NPROC, threads_of(user) + 2 * plan.processes + 256)
    lower(resource.RLIMIT_CORE, 0)
    lower(resource.RLIMIT_NOFILE, FILES)
    lower(resource.RLIMIT_FSIZE, plan.disk)


def _own_mounts(plan: Plan) -> None:
    """As root: other jobs' shared memory out of sight, and a way to the folders of the job."""
    if plan.user is None or not plan.confined:
        return
    if namespace.enter():
        namespace.own_shared_memory(plan.memory)
        namespace.open_ways(map(Path, plan.needed), plan.user, plan.user)
        return
    for path in plan.needed:
        shut = namespace.closed(Path(path), plan.user, plan.user)
        if shut is not None:
            raise PermissionError(13, f"user {plan.user} of the job cannot reach {path}, because {shut} is closed to it (chmod o+x {shut})")


def _filter_calls() -> None:
    known = seccomp.calls()
    if known is not None:
        seccomp.install(seccomp.program(known, truncate=landlock.abi() < 3))
