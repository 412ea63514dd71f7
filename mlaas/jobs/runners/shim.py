"""The process beside a job: `python -m mlaas.jobs.runners.shim FOLDER` reads FOLDER/task.json, starts the job and watches it to its end.

It leaves the one that started it at once, so that the job survives the worker. On stdout it says one line: `started`, `known` (this task was
started before) or the sentence why not.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from mlaas.jobs.runners.base import Status
from mlaas.jobs.runners.confinement import confine
from mlaas.jobs.runners.output import Log
from mlaas.jobs.runners.plan import Plan
from mlaas.jobs.runners.supervisor import Supervisor
from mlaas.jobs.runners.taskfolder import TaskFolder
from mlaas.jobs.runners.tree import end_descendants
from mlaas.sandbox import kernel

STARTED, KNOWN = "started", "known"
LOCK_TIME = 5.0  # s; polls hold the lock for an instant
PIPE_SIZE = 1 << 20


def main(arguments: list[str]) -> int:
    """Run the task that FOLDER/task.json tells of. Returns 0."""
    if os.fork():
        return 0
    os.setsid()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    folder = TaskFolder(Path(arguments[0]))
    os.chdir("/")
    os.umask(0o077)
    plan = folder.plan()
    if plan is None:
        return _say("the task file cannot be read")
    deadline = time.monotonic() + LOCK_TIME
    while time.monotonic() < deadline:
        with folder.alone() as alone:
            if alone:
                return _say(KNOWN) if folder.status(plan.id) is not None else _supervise(plan, folder)
        if folder.status(plan.id) is not None:
            return _say(KNOWN)
        time.sleep(0.02)
    return _say(f"another task of the folder {folder.folder} still runs")


def _say(word: str) -> int:
    """Answer the one that waits, if it still does, and let go of it."""
    with suppress(OSError):
        os.write(1, f"{word}\n".encode())
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 1)
    os.close(nothing)
    return 0


def _supervise(plan: Plan, folder: TaskFolder) -> int:
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    started = time.time()
    try:
        log = Log(folder.log, plan.log_limit)
        folder.write_status(plan.id, Status(None, started=started))  # from now on it counts as started, whatever happens
        pid, pipe = start(plan)
    except OSError as error:
        folder.forget_status()
        folder.forget_plan()
        return _say(f"the job cannot be started: {error.strerror or error}")
    supervisor = Supervisor(plan, folder, pid, pipe, log, started)
    signal.signal(signal.SIGTERM, lambda *_: setattr(supervisor, "terminated", True))
    _say(STARTED)
    try:
        status = supervisor.run()
    except Exception:  # a fault of ours must not leave the job alone
        log.note("the job is ended: its supervision failed")
        (folder.folder / "shim.err").write_text(traceback.format_exc())
        end_descendants(supervisor.reap)
        status = Status("lost", started=started, finished=time.time())
    _insist(lambda: folder.write_status(plan.id, status))
    return 0


def _insist(write: Callable[[], None]) -> None:
    """Try for some minutes: the disk may be full."""
    for pause in (0.1, 1, 5, 30, 60, 120):
        try:
            return write()
        except OSError:
            time.sleep(pause)
    return None


def start(plan: Plan) -> tuple[int, int]:
    """Start the job's first process; gives its id and the end of the pipe that its output comes from. Raises OSError (also what it met itself)."""
    output, into = os.pipe2(os.O_CLOEXEC)
    trouble, tell = os.pipe2(os.O_CLOEXEC)
    with suppress(OSError):
        import fcntl

        fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become(plan, parent, into, tell)
    os.close(into)
    os.close(tell)
    with os.fdopen(trouble, "rb") as told:
        message = told.read().decode(errors="replace")
    if message:
        os.waitpid(pid, 0)
        os.close(output)
        raise OSError(0, message)
    return pid, output


def _become(plan: Plan, parent: int, output: int, tell: int) -> NoReturn:
    """In the child: confine it and turn it into the job; never returns."""
    try:
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        tell = os.dup2(tell, 3, inheritable=False) if tell != 3 else tell
        os.closerange(4, 1 << 20)
        confine(plan, parent)
        os.execvpe(plan.argv[0], plan.argv, plan.environment)  # noqa: S606  no shell is wanted
    except BaseException as error:
        message = getattr(error, "strerror", None) or str(error) or type(error).__name__
        name = getattr(error, "filename", None)
        with suppress(OSError):
            os.write(tell, (f"{message} ({name})" if name else message).encode())
    os._exit(127)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
