"""The keeper: starts, watches and ends the processes of isolated models for all workers of this machine.

    python -m mlaas.inference.keeper           started by the worker that first needs it (`mlaas.inference.hosts`), which writes the task to its input

It listens on <run>/inference/keeper.sock and lives as long as a worker is connected. Each line of a connection is a request, each answer a line:

    {"id", "op": "open", "key", "tenant", "folder"}     -> {"id", "socket", "record"} | {"id", "error", "status", "after"}
    {"id", "op": "probe", ...}                          -> {"id", "record"} | {"id", "error", ...}        a process for the occasion
    {"id", "op": "try", "key", ...}                     -> the same, but the process stays a while, so that `adopt` makes it that of a version
    {"id", "op": "adopt", "from", "key", "folder"}      -> {"id"}
    {"id", "op": "why", "key", "ended"}                 -> {"id", "reason"}        why the process ended last; ended: it has just done so
    {"op": "hung", "key"}   {"op": "touch", "keys"}   {"op": "release", "key"}

It holds no secrets, loads no model and reads nothing that users wrote.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from mlaas.inference.process import Options, Process, Refused, sweep

log = logging.getLogger("mlaas.inference.keeper")

LINGER = 2.0  # s without a worker
FIRST = 15.0  # s to wait for the first worker
WATCH = 0.25  # s between looks at memory and disk
SPARED = 5.0  # s; a process that was used so recently does not make room for another
LOADING = 2  # models that are loaded at a time
SOCKET = "keeper.sock"


class Keeper:
    """The processes by key, and who holds them."""

    def __init__(self, folder: Path, options: Options) -> None:
        self._folder = folder
        self._options = options
        self._processes: dict[str, Process] = {}
        self._workers: set[asyncio.Task[None]] = set()
        self._left = time.monotonic() + FIRST - LINGER
        self._loading = asyncio.Semaphore(LOADING)
        self._tenants: dict[str, asyncio.Lock] = {}
        self._probes: dict[str, asyncio.Task[dict[str, Any]]] = {}

    async def run(self) -> None:
        """Serve until no worker is left, then end every process."""
        place = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        (self._folder / SOCKET).unlink(missing_ok=True)
        # By the descriptor of the folder: the path of a socket may have 107 bytes only.
        server = await asyncio.start_unix_server(self._worker, path=f"/proc/self/fd/{place}/{SOCKET}", limit=2**20)
        try:
            while self._workers or time.monotonic() < self._left + LINGER:
                await asyncio.sleep(WATCH)
                self._watch()
        finally:
            server.close()
            (self._folder / SOCKET).unlink(missing_ok=True)
            await asyncio.gather(*(process.stop() for process in self._processes.values()))
            os.close(place)

    def _watch(self) -> None:
        unheld = time.monotonic() - self._options.idle
        for key, process in list(self._processes.items()):
            process.watch()
            if not process.holders and process.touched < unheld and not process.lock.locked():
                if process.running:
                    process.kill()
                elif process.forgotten:
                    del self._processes[key]

    async def _worker(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  it runs in one
        self._workers.add(task)
        held: set[str] = set()
        answers: set[asyncio.Task[None]] = set()
        try:
            while line := await reader.readline():
                answer = asyncio.ensure_future(self._answer(json.loads(line), held, writer))
                answers.add(answer)
                answer.add_done_callback(answers.discard)
        except (ConnectionError, ValueError):
            pass
        finally:
            for answer in answers:
                answer.cancel()
            self._workers.discard(task)
            self._left = time.monotonic()
            await self._release(held, id(held))
            writer.close()

    async def _answer(self, request: dict[str, Any], held: set[str], writer: asyncio.StreamWriter) -> None:
        try:
            found = await self._handle(request, held)
        except Refused as refusal:
            found = {"error": str(refusal), "status": refusal.status, "after": refusal.after}
        except Exception:
            log.exception("the keeper failed")
            found = {"error": "the keeper of the models' processes failed", "status": 503, "after": 1}
        if "id" in request:
            with contextlib.suppress(ConnectionError):
                writer.write(json.dumps({"id": request["id"], **found}).encode() + b"\n")
                await writer.drain()

    async def _handle(self, request: dict[str, Any], held: set[str]) -> dict[str, Any]:
        match request["op"]:
            case "open":
                held.add(request["key"])
                return await self._open(request, id(held))
            case "probe":
                return await self._once(request)
            case "try":
                await self._open(request, 0)
                self._processes[request["key"]].holders.clear()
                return {"record": self._processes[request["key"]].record}
            case "adopt":
                await self._adopt(request)
            case "why":
                known = self._processes.get(request["key"])
                if known is not None and request.get("ended"):
                    await known.settle()
                return {"reason": known.reason if known else ""}
            case "hung":
                if request["key"] in self._processes:
                    self._processes[request["key"]].hung()
            case "touch":
                for key in request["keys"]:
                    if key in self._processes:
                        self._processes[key].touched = time.monotonic()
            case "release":
                held.discard(request["key"])
                await self._release({request["key"]}, id(held))
        return {}

    async def _open(self, request: dict[str, Any], worker: int) -> dict[str, Any]:
        process = self._processes.get(request["key"])
        if process is None:
            process = self._processes[request["key"]] = Process(self._folder, request["folder"], self._options)
        process.holders.add(worker)
        async with process.lock:
            if not process.running:
                process.check()
                await self._start(process, request)
        return {"socket": process.socket, "record": process.record}

    async def _adopt(self, request: dict[str, Any]) -> None:
        """Let the process of a model that was tried out be that of the version that it became."""
        process = self._processes.pop(request["from"], None)
        if process is not None and request["key"] not in self._processes:
            process.move(request["folder"])
            self._processes[request["key"]] = process
        elif process is not None:
            await process.stop()

    async def _start(self, process: Process, request: dict[str, Any]) -> None:
        # A tenant loads one model at a time, so that who uploads a hundred does not keep the others waiting.
        async with self._tenants.setdefault(request["tenant"], asyncio.Lock()), self._loading:
            await self._make_room()
            await process.start()

    async def _make_room(self) -> None:
        running = [process for process in self._processes.values() if process.running]
        if len(running) < self._options.most:
            return
        oldest = min(running, key=lambda process: process.touched)
        if oldest.touched > time.monotonic() - SPARED:
            raise Refused(f"{self._options.most} models are in use, which is all that this service holds at a time; try again soon", after=5)
        await oldest.stop()

    async def _once(self, request: dict[str, Any]) -> dict[str, Any]:
        """One probe for all workers that ask for the same at the same time."""
        folder = request["folder"]
        if folder not in self._probes:
            self._probes[folder] = asyncio.ensure_future(self._probe(request))
            self._probes[folder].add_done_callback(lambda _: self._probes.pop(folder, None))
        return await asyncio.shield(self._probes[folder])

    async def _probe(self, request: dict[str, Any]) -> dict[str, Any]:
        process = Process(self._folder, request["folder"], self._options, probe=True)
        async with self._tenants.setdefault(request["tenant"], asyncio.Lock()), self._loading:
            try:
                await process.start()
            finally:
                await process.stop()
        return {"record": process.record}

    async def _release(self, keys: set[str], worker: int) -> None:
        for key in keys:
            process = self._processes.get(key)
            if process is not None:
                process.holders.discard(worker)
                if not process.holders:
                    await process.stop()  # its failures are remembered


def main() -> None:
    """Be the keeper, unless there is one already."""
    task = json.loads(sys.stdin.readline())
    if os.fork():  # the worker that started it is not its parent: it may end before the others
        os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends when the last worker has
    folder = Path(task.pop("folder"))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with (folder / "keeper.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        sweep(folder)
        asyncio.run(Keeper(folder, Options(**task)).run())


if __name__ == "__main__":
    main()
