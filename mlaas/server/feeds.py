"""What happens to a job, as it happens: one look at it per interval, however many watch, and server-sent events for each of them."""

from __future__ import annotations

import asyncio
import codecs
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi.concurrency import run_in_threadpool
from sse_starlette import ServerSentEvent

from mlaas.errors import MLaaSError
from mlaas.jobs.states import ENDED, State
from mlaas.store.records import JobRecord
from mlaas.web import stopping

log = logging.getLogger(__name__)
INTERVAL = 0.5
SPARING = 10
"""Times as long as a look took there is none: a job may write so many figures that looking at them would keep a processor busy."""
PIECE = 2**16
"""Most bytes of the log in one event."""


@dataclass(frozen=True)
class View:
    """What a look at a job found: its record (None when it was deleted), the bytes of its log, and the epochs so far."""

    job: JobRecord | None
    size: int = 0
    epochs: tuple[dict[str, Any], ...] = ()

    @property
    def over(self) -> bool:
        """Whether nothing will change any more."""
        return self.job is None or State(self.job.state) in ENDED


class Feed:
    """The newest view of one job; those who watch wait for it to change."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.watchers = 0
        self.closed = False
        self._changed = asyncio.Event()

    def show(self, view: View) -> None:
        """Take a newer view, and wake those who wait if it differs."""
        if view != self.view:
            self.view = view
            self._changed.set()
            self._changed = asyncio.Event()

    def close(self) -> None:
        """Wake those who wait: nothing more will be seen, as this process stops."""
        self.closed = True
        self._changed.set()

    async def after(self, seen: View, timeout: float | None) -> View:
        """The view once it differs from what was seen. Raises TimeoutError."""
        async with asyncio.timeout(timeout):
            while self.view == seen and not self.closed:
                await self._changed.wait()
        return self.view


class Feeds:
    """The jobs that are being watched. `look` is called from a thread, once per interval and job."""

    def __init__(self, look: Callable[[str], View], interval: float = INTERVAL) -> None:
        self._look, self._interval = look, interval
        self._feeds: dict[str, Feed] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def watching(self, job: str) -> AsyncIterator[Feed]:
        """The feed of a job while it is watched."""
        view = await run_in_threadpool(self._look, job)
        feed = self._feeds.get(job)
        if feed is None:
            feed = self._feeds[job] = Feed(view)
            task = asyncio.create_task(self._follow(job, feed))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        feed.watchers += 1
        try:
            yield feed
        finally:
            feed.watchers -= 1

    async def _follow(self, job: str, feed: Feed) -> None:
        took = 0.0
        try:
            while feed.watchers >= 0 and not feed.view.over:
                if not await stopping.pause(max(self._interval, SPARING * took)):
                    feed.close()
                if not feed.watchers or feed.closed:
                    break
                began = time.monotonic()
                try:
                    feed.show(await run_in_threadpool(self._look, job))
                except MLaaSError as error:  # the database may come back
                    log.warning("job %s cannot be watched at the moment: %s", job, error)
                except Exception:
                    log.exception("job %s cannot be watched at the moment", job)
                took = time.monotonic() - began
        finally:
            del self._feeds[job]


async def events(
    feeds: Feeds, job: str, read: Callable[[str, int], bytes], document: Callable[[JobRecord], str], *, offset: int, until: float = 0
) -> AsyncIterator[ServerSentEvent]:
    """The events of a job from a byte offset of its log on: state, metric, log, and end when the job has ended or is gone.

    read: bytes of the log from an offset, at most PIECE. until: seconds since 1970 when the caller's token ends; they come again with a new one.
    """
    async with feeds.watching(job) as feed:
        view, state, epochs = feed.view, "", 0
        while True:
            if view.job is not None and (now := document(view.job)) != state:
                state = now
                yield ServerSentEvent(event="state", data=state, id=str(offset))
            for epoch in view.epochs[epochs:]:
                yield ServerSentEvent(event="metric", data=json.dumps(epoch), id=str(offset))
            epochs = len(view.epochs)
            while text := _lines(await run_in_threadpool(read, job, offset), ended=view.over):
                offset += len(text)
                yield ServerSentEvent(event="log", data=text.decode(errors="replace"), id=str(offset))
            if view.over:
                yield ServerSentEvent(event="end", data=state or "{}", id=str(offset))
                return
            try:
                view = await feed.after(view, max(until - time.time(), 0) if until else None)
            except TimeoutError:
                return
            if feed.closed and not view.over:
                return


def _lines(data: bytes, *, ended: bool) -> bytes:
    """What can be told of the log: whole lines, unless the last line will not grow any more or is too long to wait for."""
    if ended and len(data) < PIECE:
        return data
    return data[: data.rfind(b"\n") + 1] or (_characters(data) if len(data) >= PIECE else b"")


def _characters(data: bytes) -> bytes:
    """The bytes without the beginning of a character at their end."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(data)
    return data[: len(data) - len(decoder.getstate()[0])]
