"""A worker's side of the isolated models: the way to the keeper, and to the process of a model."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlaas.errors import DataError
from mlaas.inference import frames
from mlaas.inference.keeper import SOCKET
from mlaas.models.tensors import Array
from mlaas.places import Places
from mlaas.settings import Settings
from mlaas.web.problem import Problem

LOAD_TIMEOUT = 120.0  # s
START = 15.0  # s that the keeper gets to listen
LINE = 2**24
PENDING = 1024  # requests on their way to one process


class KeeperClient:
    """The connection of this worker to the keeper; it is made, and the keeper started, when it is first needed."""

    def __init__(self, settings: Settings, places: Places) -> None:
        self._settings = settings
        self.folder = places.run / "inference"
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._pending: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._ids = itertools.count(1)
        self._lock = asyncio.Lock()

    async def ask(self, op: str, **request: Any) -> dict[str, Any]:
        """Ask the keeper. Raises Problem with what it refuses."""
        writer = await self._connection()
        number = next(self._ids)
        answer = self._pending[number] = asyncio.get_running_loop().create_future()
        try:
            writer.write(json.dumps({"id": number, "op": op, **request}).encode() + b"\n")
            found: dict[str, Any] = await answer
        finally:
            self._pending.pop(number, None)
        if "error" in found:
            raise refused(found["error"], int(found.get("status", 503)), float(found.get("after", 0)))
        return found

    def tell(self, op: str, **request: Any) -> None:
        """Tell the keeper something that needs no answer; nothing when there is none."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(json.dumps({"op": op, **request}).encode() + b"\n")

    async def close(self) -> None:
        """Let go of the keeper: with its last worker it ends the processes and itself."""
        if self._reading is not None:
            self._reading.cancel()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    async def _connection(self) -> asyncio.StreamWriter:
        async with self._lock:
            if self._writer is None or self._writer.is_closing() or self._reading is None or self._reading.done():
                reader, self._writer = await self._connect()
                self._reading = asyncio.create_task(self._read(reader))
            return self._writer

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        until = time.monotonic() + START
        started = 0.0
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                return await connect(self.folder, SOCKET)
            if time.monotonic() > started + START / 3:  # one that ends just now does not listen any more, and holds its lock a moment longer
                await asyncio.to_thread(self._start)
                started = time.monotonic()
            await asyncio.sleep(0.05)
        raise Problem(503, "the keeper of the models' processes does not start", headers={"Retry-After": "5"})

    def _start(self) -> None:
        task = {"folder": str(self.folder), **options(self._settings)}
        plain = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH", "TMPDIR") if name in os.environ}
        subprocess.run(
            [sys.executable, "-m", "mlaas.inference.keeper"],
            input=json.dumps(task).encode() + b"\n",
            env=plain,
            cwd="/",
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            check=False,
        )

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                answer = json.loads(line)
                waiting = self._pending.get(answer.pop("id"))
                if waiting is not None and not waiting.done():
                    waiting.set_result(answer)
        except (ConnectionError, ValueError):
            pass
        finally:
            for waiting in self._pending.values():
                if not waiting.done():
                    waiting.set_result({"error": "the keeper of the models' processes was stopped; it is being started again", "after": 1})


@dataclass(slots=True, eq=False)
class Call:
    """A request on its way: `started` when its prediction begins, `done` with the outputs."""

    started: asyncio.Future[None]
    done: asyncio.Future[dict[str, Array]]


@dataclass(slots=True, eq=False)
class Line:
    """A connection to the process of a model."""

    writer: asyncio.StreamWriter
    reading: asyncio.Task[None] | None = None
    calls: dict[int, Call] = field(default_factory=dict)

    @property
    def open(self) -> bool:
        """Whether the process is still there, as far as this side knows."""
        return self.reading is not None and not self.reading.done() and not self.writer.is_closing()


class Remote:
    """A model in a process of its own. key: of the model's version. record: its inputs and outputs, timings, once `open` has returned.
    used: when it was last asked, by time.monotonic."""

    def __init__(self, keeper: KeeperClient, settings: Settings, key: str, tenant: str, folder: Path) -> None:
        self._keeper = keeper
        self._settings = settings
        self.key = key
        self.used = time.monotonic()
        self._left = False
        self._tenant = tenant
        self._folder = folder
        self._line: Line | None = None
        self._lock = asyncio.Lock()
        self._ids = itertools.count(1)
        self.record: dict[str, Any] = {}

    async def open(self) -> Line:
        """The connection to the process, which is started where needed. Raises Problem 503."""
        line = self._line
        if line is not None and line.open:
            return line
        async with self._lock:
            if self._line is None or not self._line.open:
                found = await self._keeper.ask("open", key=self.key, tenant=self._tenant, folder=str(self._folder))
                self.record = found["record"]
                try:
                    reader, writer = await connect(self._keeper.folder, found["socket"])
                except OSError:
                    raise await self._gone() from None
                self._line = Line(writer)
                self._line.reading = asyncio.create_task(self._read(self._line, reader))
            return self._line

    async def call(self, tensors: Mapping[str, Array], outputs: Collection[str] = ()) -> dict[str, Array]:
        """The outputs of a model for some tensors. Raises Problem: 400 (it refuses them), 503 (busy, or its process ended), 504 (too slow)."""
        line = await self.open()
        if len(line.calls) >= PENDING:
            raise refused("the model is busy", 503, 1)
        wait = self._settings.inference_queue_age
        number = next(self._ids)
        self.used = time.monotonic()
        loop = asyncio.get_running_loop()
        call = line.calls[number] = Call(loop.create_future(), loop.create_future())
        try:
            line.writer.writelines(frames.pack({"id": number, "outputs": list(outputs), "until": time.monotonic() + wait}, tensors))
            return await self._answer(call, wait)
        finally:
            line.calls.pop(number, None)
            if self._left:
                self.close()

    def close(self) -> None:
        """Let go of the process when no request is under way any more; the keeper ends it when no worker holds it."""
        self._left = True
        if self._line is not None and self._line.calls:
            return
        if self._line is not None:
            self._line.writer.close()
        self._keeper.tell("release", key=self.key)

    async def _answer(self, call: Call, wait: float) -> dict[str, Array]:
        begun: set[asyncio.Future[Any]] = {call.started, call.done}
        await asyncio.wait(begun, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
        if not call.started.done() and not call.done.done():
            raise refused("the model is busy: the request waited too long", 503, 1)
        await asyncio.wait([call.done], timeout=self._settings.inference_timeout)
        if not call.done.done():
            self._keeper.tell("hung", key=self.key)
            raise Problem(504, f"the model took longer than {self._settings.inference_timeout:g} s for the prediction and was stopped")
        try:
            return call.done.result()
        except ConnectionError:
            raise await self._gone() from None

    async def _gone(self) -> Problem:
        reason = (await self._keeper.ask("why", key=self.key, ended=True)).get("reason") or "it was stopped"
        return refused(f"the model's process ended: {reason}; it is started again for the next request", 503, 1)

    async def _read(self, line: Line, reader: asyncio.StreamReader) -> None:
        try:
            async for message in _messages(reader):
                call = line.calls.get(message.header.get("id", 0))
                if call is not None:
                    _settle(call, message)
        except (OSError, DataError, asyncio.IncompleteReadError):
            pass
        finally:
            line.writer.close()
            for call in line.calls.values():
                if not call.done.done():
                    call.done.set_exception(ConnectionError())
                    call.done.exception()  # whoever waits has perhaps gone


def _settle(call: Call, message: frames.Message) -> None:
    if "started" in message.header and not call.started.done():
        call.started.set_result(None)
    elif "error" in message.header and not call.done.done():
        call.done.set_exception(refused(str(message.header["error"])[:1000], _status(message.header.get("status")), 1))
        call.done.exception()
    elif "done" in message.header and not call.done.done():
        call.done.set_result(message.tensors)


def _status(status: Any) -> int:
    return status if status in (400, 413, 500, 503) else 500


async def _messages(reader: asyncio.StreamReader) -> AsyncIterator[frames.Message]:
    while True:
        sizes = frames.lengths(await reader.readexactly(frames.PREFIX.size))
        yield frames.unpack(*[await reader.readexactly(size) for size in sizes])


async def connect(folder: Path, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a socket by the descriptor of its folder: the path of a socket may have 107 bytes only. Raises OSError."""
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return await asyncio.open_unix_connection(f"/proc/self/fd/{place}/{name}", limit=LINE)
    finally:
        os.close(place)


def refused(sentence: str, status: int, after: float = 0) -> Problem:
    """A Problem; with Retry-After where the same may work later."""
    return Problem(status, sentence, headers={"Retry-After": str(max(1, round(after)))} if status == 503 else {})


def options(settings: Settings, cpus: Callable[[], int | None] = os.cpu_count) -> dict[str, Any]:
    """What the keeper must know of the settings."""
    return {
        "memory": settings.inference_memory,
        "timeout": settings.inference_timeout,
        "load_timeout": LOAD_TIMEOUT,
        "batch": settings.inference_batch,
        "threads": max(1, min(4, cpus() or 1)),
        "most": settings.inference_processes,
        "user": settings.job_uid_base - 1 if os.geteuid() == 0 else None,
        "sandbox": settings.sandbox == "auto",
        "idle": settings.inference_idle,
    }
