"""The requests that wait for a model, predicted together.

There is no timer. The first request of a turn of the event loop asks for a flush at the turn's end; by then every request that was read from the
sockets in the same turn waits, too. As long as the batch grows the flush waits for another turn or two, which take no time when nothing arrives;
then one run serves them all. The busier the process, the larger the batches.
Requests of many events go in pieces between those flushes, one piece of one request at a time, so that small requests never wait for them.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

import numpy as np

from mlaas.errors import MLaaSError
from mlaas.inference.matrices import Row, matrix_of
from mlaas.inference.served import Served
from mlaas.models.scores import Matrix, Scores
from mlaas.web.problem import Problem

SMALL = 64  # rows: a request of more goes in pieces
PIECE = 0.004  # s that one piece may take in the event loop
LOOKS = 2  # further turns of the event loop in which a batch may grow
FLIGHTS = 2  # batches of one model on their way to a process of its own


@dataclass(slots=True)
class Load:
    """All requests that wait in this process, and when they are too many or too old.

    most: requests. age: seconds. rows: in one batch. together: whether to predict them together at all. batch: told the size of each batch.
    """

    most: int = 4096
    age: float = 1.0
    rows: int = 1024
    together: bool = True
    batch: Callable[[int], None] = lambda rows: None
    clock: Callable[[], float] = time.monotonic
    waiting: int = 0
    _turn: float = 0.0
    _before: float = 0.0
    _asked: bool = False
    _ticking: bool = False

    def enter(self) -> float:
        """One request more; returns since when it may wait. Raises Problem 503 when there are too many, or it has waited too long."""
        since = self.since()
        if self.waiting >= self.most:
            raise busy("more requests wait than this service takes")
        self.waiting += 1
        return since

    def since(self) -> float:
        """Since when the request at hand may wait. Raises Problem 503 when that is too long.

        What is read from the sockets in one turn of the event loop came after they were read in the turn before, for all are read in each turn.
        """
        self._asked = True
        if not self._ticking:
            self._ticking = True
            self._turn = self._before = self.clock()
            asyncio.get_running_loop().call_soon(self._tick)
        elif self.clock() - self._before > self.age:
            raise busy(f"the request has waited longer than {self.age:g} s")
        return self._before

    def _tick(self) -> None:
        """Once in each turn of the event loop, as long as there are requests in each."""
        if self._asked:
            self._asked = False
            self._before, self._turn = self._turn, self.clock()
            asyncio.get_running_loop().call_soon(self._tick)
        else:
            self._ticking = False

    def leave(self, _: object = None) -> None:
        """One request less."""
        self.waiting -= 1


def busy(reason: str) -> Problem:
    """The answer to a request that cannot be served now."""
    return Problem(503, f"the inference service is busy: {reason}; try again in a second", headers={"Retry-After": "1"})


@dataclass(slots=True, eq=False)
class _Waiting:
    """A request: its rows, its answer to be, and since when it waits. done: how many of its rows have scores; only those that go in pieces."""

    rows: Row | Matrix
    mask: Matrix | None
    count: int
    answer: asyncio.Future[Scores]
    since: float
    scores: Scores | None = None
    done: int = 0


@dataclass(slots=True, eq=False)
class Queue:
    """The requests that wait for one model; used by the event loop's thread only."""

    served: Served
    load: Load
    _small: deque[_Waiting] = field(default_factory=deque)
    _large: deque[_Waiting] = field(default_factory=deque)
    _scheduled: bool = False
    _looks: int = 0
    _seen: int = 0
    _flights: int = 0
    _seconds: float = 1e-5  # per row, as measured
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def row(self, values: Row) -> asyncio.Future[Scores]:
        """The scores of one event, shape (1,) or (1, K).

        values: `width` numbers; NaN (or None) is 0 for the model, and padding where it takes a mask. Raises Problem 503.
        """
        return self._add(self._small, values, None, 1)

    def matrix(self, x: Matrix, mask: Matrix | None = None) -> asyncio.Future[Scores]:
        """The scores of a matrix (n, width), float32; mask as the model takes it, or None where NaN marks padding. Raises Problem 503."""
        return self._add(self._small if len(x) <= SMALL else self._large, x, mask, len(x))

    def _add(self, queue: deque[_Waiting], rows: Row | Matrix, mask: Matrix | None, count: int) -> asyncio.Future[Scores]:
        since = self.load.enter()
        answer: asyncio.Future[Scores] = self._loop.create_future()
        queue.append(_Waiting(rows, mask, count, answer, since))
        self._schedule()
        return answer

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._looks < LOOKS and len(self._small) > self._seen:
            self._looks += 1
            self._seen = len(self._small)
            self._loop.call_soon(self._flush)
            return
        self._looks = self._seen = 0
        self._scheduled = False
        now = self.load.clock()
        if self.served.inline:
            if batch := self._take(now):
                self._answer_inline(batch)
            if piece := self._next_large(now):
                self._piece_inline(piece)
            if self._small or self._large:
                self._schedule()
            return
        while self._flights < FLIGHTS:
            work = self._remote_work(now)
            if work is None:
                return
            self._flights += 1
            self._loop.create_task(work).add_done_callback(self._landed)

    # ---- what goes next

    def _take(self, now: float) -> list[_Waiting]:
        """The requests of the next batch: the oldest that are not too old."""
        batch: list[_Waiting] = []
        rows, limit = 0, self.load.rows if self.load.together else 1
        while self._small and (not batch or rows + self._small[0].count <= limit):
            waiting = self._small.popleft()
            if self._still(waiting, now):
                batch.append(waiting)
                rows += waiting.count
        return batch

    def _next_large(self, now: float) -> _Waiting | None:
        while self._large:
            waiting = self._large.popleft()
            if waiting.done or self._still(waiting, now):
                return waiting
        return None

    def _still(self, waiting: _Waiting, now: float) -> bool:
        """Whether somebody waits for the answer and has not waited too long."""
        if waiting.answer.done():
            self.load.leave()
            return False
        if now - waiting.since > self.load.age:
            self._fail(waiting, busy(f"the request has waited longer than {self.load.age:g} s"))
            return False
        return True

    # ---- in the event loop

    def _answer_inline(self, batch: list[_Waiting]) -> None:
        try:
            scores = self._timed(*self._joined(batch))
        except Exception as error:
            if len(batch) == 1:
                self._fail(batch[0], error)
                return
            for waiting in batch:  # one may have spoilt it for all
                self._answer_inline([waiting])
        else:
            self._settle(batch, scores)

    def _piece_inline(self, waiting: _Waiting) -> None:
        rows = max(SMALL, min(self.load.rows, int(PIECE / self._seconds)))
        try:
            scores = self._timed(*self._piece(waiting, rows))
        except Exception as error:
            self._fail(waiting, error)
        else:
            self._fill(waiting, scores)

    def _timed(self, x: Matrix, mask: Matrix | None) -> Scores:
        begin = time.perf_counter()
        scores = self.served.run(x, mask)
        self.load.batch(len(x))
        if len(x) >= SMALL:
            self._seconds += 0.2 * ((time.perf_counter() - begin) / len(x) - self._seconds)
        return scores

    # ---- in a process of its own

    def _remote_work(self, now: float) -> Coroutine[object, object, None] | None:
        if batch := self._take(now):
            return self._answer_remotely(batch)
        piece = self._next_large(now)
        return self._piece_remotely(piece) if piece else None

    async def _answer_remotely(self, batch: list[_Waiting]) -> None:
        try:
            x, mask = self._joined(batch)
        except Exception as error:
            if len(batch) == 1:
                self._fail(batch[0], error)
                return
            for waiting in batch:
                await self._answer_remotely([waiting])
            return
        self.load.batch(len(x))
        try:
            scores = await self.served.infer(x, mask)
        except Exception as error:
            for waiting in batch:
                self._fail(waiting, error)
        else:
            self._settle(batch, scores)

    async def _piece_remotely(self, waiting: _Waiting) -> None:
        try:
            x, mask = self._piece(waiting, self.load.rows)
            self.load.batch(len(x))
            scores = await self.served.infer(x, mask)
        except Exception as error:
            self._fail(waiting, error)
        else:
            self._fill(waiting, scores)

    def _landed(self, _: object) -> None:
        self._flights -= 1
        if self._small or self._large:
            self._schedule()

    # ---- matrices

    def _joined(self, batch: list[_Waiting]) -> tuple[Matrix, Matrix | None]:
        return matrix_of([waiting.rows for waiting in batch], [waiting.mask for waiting in batch], self.served.mask)

    def _piece(self, waiting: _Waiting, rows: int) -> tuple[Matrix, Matrix | None]:
        part = slice(waiting.done, waiting.done + rows)
        x: Matrix = waiting.rows[part]  # type: ignore[assignment]
        return matrix_of([x], [None if waiting.mask is None else waiting.mask[part]], self.served.mask)

    # ---- answers

    def _settle(self, batch: list[_Waiting], scores: Scores) -> None:
        start = 0
        for waiting in batch:
            end = start + waiting.count
            self.load.waiting -= 1
            if not waiting.answer.done():
                waiting.answer.set_result(scores[start:end])
            start = end

    def _fill(self, waiting: _Waiting, scores: Scores) -> None:
        if waiting.scores is None:
            waiting.scores = np.empty((waiting.count, *scores.shape[1:]), np.float32)
        waiting.scores[waiting.done : waiting.done + len(scores)] = scores
        waiting.done += len(scores)
        if waiting.done == waiting.count:
            self._settle([waiting], waiting.scores)
        elif waiting.answer.done():
            self.load.leave()
        else:
            self._large.append(waiting)

    def _fail(self, waiting: _Waiting, error: Exception) -> None:
        self.load.waiting -= 1
        if not waiting.answer.done():
            waiting.answer.set_exception(self._told(error))

    def _told(self, error: Exception) -> Exception:
        """An error of its own for each request: one object raised in many tasks would string their tracebacks together."""
        if isinstance(error, Problem):
            return Problem(error.status, error.detail, field=error.field, headers=error.headers)
        if isinstance(error, MLaaSError):
            return Problem(500, f"the model {self.served.reference} failed: {error}")
        return error
