"""One process of an isolated model, as the keeper sees it: how it is started, watched and ended, and what its deaths mean."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlaas.errors import MLaaSError
from mlaas.inference import frames
from mlaas.sandbox.python import python_user_base
from mlaas.sizes import write_size

log = logging.getLogger("mlaas.inference.keeper")

DEATHS, WITHIN = 5, 600.0  # that many deaths within so many seconds put a model into quarantine
BACKOFF, LONGEST = 0.5, 30.0  # s before the second restart, and the longest wait
SLOTS = 512
SETTLE = 2.0  # s
TRIES = 2  # predictions that the model may take to be tried out
SCRATCH = "mlaas-model-"
_slots = itertools.count()


class Refused(MLaaSError):  # noqa: N818 - an answer
    """A process cannot be had (now): a sentence, an HTTP status, and the seconds after which to try again."""

    def __init__(self, sentence: str, status: int = 503, after: float = 0) -> None:
        super().__init__(sentence)
        self.status = status
        self.after = after


@dataclass(frozen=True, slots=True)
class Options:
    """What the settings say. memory, scratch: bytes. times in seconds; idle: how long a process is kept that no worker holds.

    user: the highest of the user ids, as root. most: processes at a time.
    """

    memory: int
    timeout: float
    load_timeout: float
    batch: int
    threads: int
    most: int
    user: int | None
    sandbox: bool
    idle: float
    scratch: int = 10**9


class Process:
    """A model's process, from its first start on, through its deaths. touched: when it was last used, by time.monotonic."""

    def __init__(self, folder: Path, model: str, options: Options, *, probe: bool = False) -> None:
        self._folder = folder
        self._model = model
        self._options = options
        self._probe = probe
        self._process: asyncio.subprocess.Process | None = None
        self._ended: asyncio.Task[None] | None = None
        self._deaths: deque[float] = deque()
        self._not_before = 0.0
        self._verified = False
        self._scratch = Path()
        self._asked = False
        self._counted = False
        self.lock = asyncio.Lock()
        self.holders: set[int] = set()
        self.touched = time.monotonic()
        self.reason = ""
        self.record: dict[str, Any] = {}
        self.socket = ""

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.returncode is None

    def check(self) -> None:
        """Raise Refused when the model died too often, or a moment ago."""
        now = time.monotonic()
        while self._deaths and self._deaths[0] < now - WITHIN:
            self._deaths.popleft()
        if len(self._deaths) >= DEATHS:
            wait = WITHIN - (now - self._deaths[0])
            sentence = f"the model is in quarantine after {len(self._deaths)} failures within {WITHIN / 60:.0f} minutes: {self.reason}"
            raise Refused(f"{sentence}; publish a version that works", after=wait)
        if now < self._not_before:
            raise Refused(f"the model is about to be started again after a failure: {self.reason}", after=self._not_before - now)

    async def start(self) -> None:
        """Start it and wait until the model is loaded. Raises Refused."""
        self._asked = self._counted = False
        self.touched = time.monotonic()
        ours, theirs = socket.socketpair()
        listener = None if self._probe else self._listen()
        try:
            await self._spawn(theirs, listener)
        finally:
            theirs.close()
            if listener is not None:
                listener.close()
        try:
            with ours:
                self.record = await self._ready(ours)
        except BaseException as error:
            if isinstance(error, Refused):
                self._died(str(error))
            await self.stop()
            raise
        self._verified = True

    @property
    def forgotten(self) -> bool:
        """Whether it is not there and its failures are so long ago that nothing need be remembered of it."""
        return not self.running and all(when < time.monotonic() - WITHIN for when in self._deaths)

    def move(self, model: str) -> None:
        """Take the model from another folder, with the same content, when it is started again."""
        self._model = model
        self._verified = False
        self.touched = time.monotonic()

    def kill(self) -> None:
        """End it, without waiting for the end."""
        self._asked = True
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def stop(self) -> None:
        """End it, now."""
        self.kill()
        if self._ended is not None:
            await asyncio.wait([self._ended])  # which, unlike awaiting it, does not cancel it when this task is cancelled

    def hung(self) -> None:
        """End it because a prediction takes too long."""
        self._end(f"a prediction took longer than {self._options.timeout:g} s")

    def watch(self) -> None:
        """End it when it has taken too much memory or disk."""
        if not self.running or self._process is None:
            return
        if _resident(self._process.pid) > self._options.memory:
            self._end(f"it took more than {write_size(self._options.memory)} of memory")
        elif _size(self._scratch) > self._options.scratch:
            self._end(f"it wrote more than {write_size(self._options.scratch)} of temporary files")

    def _end(self, reason: str) -> None:
        if self.running and self._process is not None:
            self._asked = True
            self._died(reason)
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def _listen(self) -> socket.socket:
        name = f"{os.urandom(8).hex()}.sock"
        place = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(f"/proc/self/fd/{place}/{name}")
            listener.listen(64)
        finally:
            os.close(place)
        self.socket = name
        return listener

    async def _spawn(self, report: socket.socket, listener: socket.socket | None) -> None:
        self._scratch = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}{os.getpid()}-"))
        passed = [report.fileno(), *([listener.fileno()] if listener else [])]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "mlaas.inference.host",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            pass_fds=passed,
            env=self._environment(),
            cwd="/",
            start_new_session=True,
        )
        self._ended = asyncio.ensure_future(self._wait(self._process, self._scratch, self.socket))
        assert self._process.stdin is not None  # noqa: S101  it is a pipe
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(json.dumps(self._task(passed)).encode() + b"\n")
            await self._process.stdin.drain()
        self._process.stdin.close()

    def _task(self, passed: list[int]) -> dict[str, Any]:
        options = self._options
        return {
            "keeper": os.getpid(),
            "folder": self._model,
            "report": passed[0],
            "listen": passed[1] if len(passed) > 1 else -1,
            "verify": not self._verified,
            "scratch": str(self._scratch),
            "memory": options.memory,
            "user": None if options.user is None else options.user - next(_slots) % SLOTS,
            "sandbox": options.sandbox,
            "threads": options.threads,
            "batch": options.batch,
        }

    def _environment(self) -> dict[str, str]:
        scratch = str(self._scratch)
        places = python_user_base() | dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR"), scratch)
        plain = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH") if name in os.environ}
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(self._options.threads))
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "KERAS_BACKEND": "tensorflow", "PYTHONDONTWRITEBYTECODE": "1"}
        return {**plain, **places, **threads, **quiet, "JOBLIB_MULTIPROCESSING": "0"}

    async def _ready(self, ours: socket.socket) -> dict[str, Any]:
        """Wait until the model is loaded, and then until it has been tried out, each for its time."""
        ours.setblocking(True)
        await self._report(ours, self._options.load_timeout, "to load")
        return dict((await self._report(ours, TRIES * self._options.timeout, "for a few rows of zeros")).get("ready", {}))

    async def _report(self, ours: socket.socket, timeout: float, what: str) -> dict[str, Any]:
        ours.settimeout(timeout)
        try:
            message = await asyncio.to_thread(frames.receive, ours)
        except TimeoutError:
            raise Refused(f"the model took longer than {timeout:g} s {what}") from None
        except (OSError, MLaaSError):
            message = None
        if message is None:
            await self.settle()
            raise Refused(f"the model's process ended before it was ready: {self.reason}")
        if "failed" in message.header:
            raise Refused(f"the model cannot be loaded: {message.header['failed']}")
        return message.header

    async def settle(self) -> None:
        """Wait a moment for the end of a process that has closed its connections, so that the reason is known."""
        if self._ended is not None:
            await asyncio.wait([self._ended], timeout=SETTLE)

    async def _wait(self, process: asyncio.subprocess.Process, scratch: Path, name: str) -> None:
        code = await process.wait()
        if name:
            (self._folder / name).unlink(missing_ok=True)
        shutil.rmtree(scratch, ignore_errors=True)
        if not self._asked:
            self._died(_cause(code))

    def _died(self, reason: str) -> None:
        if self._counted:
            return
        self._counted = True
        self.reason = reason
        self._deaths.append(time.monotonic())
        recent = sum(when > time.monotonic() - WITHIN for when in self._deaths)
        self._not_before = time.monotonic() + (0 if recent < 2 else min(LONGEST, BACKOFF * 2 ** (recent - 2)))
        log.warning("the process of the model %s ended: %s", self._model, reason)


def _cause(code: int) -> str:
    if code >= 0:
        return f"it ended by itself with status {code}"
    with contextlib.suppress(ValueError):
        return f"it was ended by {signal.Signals(-code).name}"
    return f"it was ended by signal {-code}"


def _resident(pid: int) -> int:
    """The memory of a process in bytes, 0 when it has gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _size(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(f"{root}/{name}").st_blocks * 512
    return total


def sweep(folder: Path) -> None:
    """Remove what keepers that were killed left: sockets in their folder, and temporary folders."""
    for path in folder.glob("*.sock"):
        path.unlink(missing_ok=True)
    for scratch in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"):
        keeper = scratch.name.removeprefix(SCRATCH).split("-")[0]
        if keeper.isdigit() and not Path(f"/proc/{keeper}").exists():
            shutil.rmtree(scratch, ignore_errors=True)
