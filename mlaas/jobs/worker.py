"""The worker: starts queued jobs, follows those that run, takes over what they leave. It listens on no port.

There may be several on a data folder, each with a name, and a machine, of its own: a job belongs to the one that claimed it.
Whatever dies at whatever moment, the store says what was under way, and the next pass of this worker or of the next one goes on from there:
README.md has the table.
"""

from __future__ import annotations

import logging
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

from sqlalchemy import Engine

from mlaas.errors import MLaaSError
from mlaas.jobs import runners
from mlaas.jobs.attempts import Attempts
from mlaas.jobs.fellows import ABSENT, Fellows
from mlaas.jobs.limits import Rules
from mlaas.jobs.lock import alone
from mlaas.jobs.retention import Retention
from mlaas.jobs.room import Room
from mlaas.jobs.runners.base import Runner, RunnerError
from mlaas.jobs.scheduler import plan
from mlaas.jobs.states import State
from mlaas.places import Places
from mlaas.settings import Settings
from mlaas.store import StoreError, jobs, schedule
from mlaas.store.database import connect, migrate
from mlaas.store.records import JobRecord
from mlaas.store.schedule import Pulse, WaitingJob
from mlaas.web import logs
from mlaas.workspaces import Workspaces

log = logging.getLogger(__name__)
TURN = 0.2  # s between looks at the store and at what runs
LOOK = {"process": TURN}  # s between looks at what runs; for other engines:
SLOW_LOOK = 1.0
WHOLE = 5.0  # s after which everything is looked at, whether anything seems to have changed or not
SWEEP = 600.0  # s between the sweeps of retention
ORPHANS = 30.0  # s between searches for tasks that nobody knows
TROUBLE = 5.0  # s before an engine, a database or a disk that failed is tried again; then twice as long, up to:
LONGEST_TROUBLE = 60.0
THREADS = 6
PERIODIC = frozenset({"orphans", "retention"})
TOLD = 500  # reasons written per pass


def run(settings: Settings) -> int:
    """Work until SIGTERM or SIGINT; jobs that run then go on, and the next worker finds them. Returns the exit status, 0.

    Raises UserError when another worker of this name has the data folder or a setting is wrong, StoreError when the database is not one.
    """
    logs.configure(settings, "worker")
    places = Places.of(settings)
    stop = threading.Event()
    with alone(places, settings.worker_name), _signals(stop):
        engine = connect(settings)
        try:
            if _reachable(engine, stop):
                Worker(settings, places, engine, runners.of(settings, places), stop).run()
        finally:
            engine.dispose()
    log.info("the worker has ended; jobs that run go on")
    return 0


@contextmanager
def _signals(stop: threading.Event) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _reachable(engine: Engine, stop: threading.Event) -> bool:
    """Wait for the database; false when the worker is to stop before it is there."""
    pause = _Pause()
    while not stop.is_set():
        try:
            migrate(engine)
        except StoreError as error:
            log.warning("the worker waits for the database: %s", error)
            stop.wait(pause.longer())
        else:
            return True
    return False


class _Pause:
    """How long to wait for what is in trouble: longer each time."""

    def __init__(self) -> None:
        self._next = TROUBLE

    def longer(self) -> float:
        now, self._next = self._next, min(2 * self._next, LONGEST_TROUBLE)
        return now

    def over(self) -> None:
        self._next = TROUBLE


class Worker:
    """The loop. Only this thread decides; slow steps (starts, publishing, sweeps) are taken by others, one per job at a time."""

    def __init__(self, settings: Settings, places: Places, engine: Engine, runner: Runner, stop: threading.Event) -> None:
        self._settings, self._places, self._engine, self._runner, self._stop = settings, places, engine, runner, stop
        self._name = settings.worker_name
        self._rules = Rules.of(settings)
        self._fellows = Fellows(engine, self._name, self._rules.total)
        self._attempts = Attempts(settings, places, engine, runner)
        workspaces = Workspaces(places, engine, settings)
        self._retention = Retention(settings, places, engine, runner, workspaces)
        self._room = Room(self._rules, workspaces.usage, lambda: schedule.members(engine))
        self._pool = ThreadPoolExecutor(THREADS, "worker")
        self._busy: dict[str, Future[None]] = {}  # job id, or what is done beside -> the step that is being taken
        self._later: dict[str, float] = {}  # the same -> not again before (monotonic)
        self._pauses: dict[str, _Pause] = {}
        self._held: list[JobRecord] = []
        self._elsewhere: list[JobRecord] = []  # held by other workers
        self._seen = 0  # how often workers had claimed jobs then
        self._pulse: Pulse | None = None
        self._dirty = True
        self._looked = self._passed = float("-inf")
        self._served: dict[str, float] | None = None
        self._usable = False  # the runner was checked and has not failed since
        self._trouble = "jobs are about to be started"

    def run(self) -> None:
        """Work until `stop` is set; then let the steps end that are being taken."""
        called = f" {self._name}" if self._name else ""
        log.info("the worker%s starts: runner %s, %s", called, self._runner.name, _capacity(self._rules))
        try:
            while not self._stop.is_set():
                self._turn()
                self._stop.wait(0.0 if self._dirty else TURN)
        finally:
            _done, late = wait(self._busy.values(), self._settings.shutdown_timeout)
            self._pool.shutdown(wait=False, cancel_futures=True)
            if late:
                log.warning("%d steps are broken off; the next worker takes them again", len(late))

    def _turn(self) -> None:
        try:
            self._reap()
            self._fellows.meet(self._usable)
            self._beside()
            now = time.monotonic()
            pulse = schedule.pulse(self._engine, time.time(), self._name)
            if self._dirty or pulse != self._pulse or now - self._passed >= WHOLE:
                self._dirty, self._pulse, self._passed = False, pulse, now
                self._pass()
            elif now - self._looked >= LOOK.get(self._runner.name, SLOW_LOOK):
                self._look_at([job for job in self._held if job.state == State.RUNNING])
            self._pauses.pop("store", None)
        except StoreError as error:
            pause = self._pauses.setdefault("store", _Pause()).longer()
            log.warning("the worker waits %g s for the database (jobs that run go on): %s", pause, error)
            self._dirty = True
            self._stop.wait(pause)

    def _pass(self) -> None:
        """Look at everything."""
        self._seen, active = jobs.held(self._engine)
        self._held = [job for job in active if job.worker == self._name]
        self._elsewhere = [job for job in active if job.worker != self._name]
        self._explain()
        for job in self._held:
            if job.state == State.STARTING:
                self._step(job.id, self._attempts.start, job)
            elif job.state == State.PUBLISHING:
                self._step(job.id, self._attempts.publish, job)
        self._look_at([job for job in self._held if job.state == State.RUNNING])
        self._schedule()

    def _look_at(self, running: list[JobRecord]) -> None:
        self._looked = time.monotonic()
        for job in running:
            if job.id in self._busy:
                continue
            try:
                if (status := self._attempts.look(job)) is not None:
                    self._step(job.id, self._attempts.finish, job, status)
            except RunnerError as error:
                log.warning("it cannot be told how the job %s does: %s", job.id, error, extra={"fields": {"job": job.id, "tenant": job.tenant}})

    def _explain(self) -> None:
        """Say of jobs whose worker is away that it is; of this worker's own it is said no more."""
        back = {job.id: "" for job in self._held if job.reason.startswith(ABSENT)}
        if back:
            schedule.explain(self._engine, back, self._name)
        if self._elsewhere and self._fellows.leads():
            running = [job for job in self._elsewhere if job.state != State.PUBLISHING]
            for worker, reasons in self._fellows.absent(running).items():
                schedule.explain(self._engine, reasons, worker)

    def _schedule(self) -> None:
        now = time.time()
        waiting = schedule.waiting(self._engine, now)
        if not waiting:
            return
        sentence = self._hindrance()
        if sentence:
            self._tell(waiting, dict.fromkeys((job.id for job in waiting), sentence))
            return
        if self._served is None:
            self._served = schedule.last_started(self._engine)
        tenants = {job.tenant for job in waiting}
        if self._room.due(tenants):
            self._step("room", self._room.look, tenants)
        known = self._room.known
        waiting = [job for job in waiting if job.tenant in known]
        for job in self._elsewhere:
            self._served[job.tenant] = max(self._served.get(job.tenant, 0.0), job.started or 0.0)
        others = self._fellows.others(self._elsewhere)
        found = plan(waiting, self._held, self._rules, now, served=self._served, disk=self._room.full, others=others)
        if found.start:
            attempts = {job.id: job.attempt + 1 for job in waiting}
            claimed = jobs.claim(self._engine, {id: attempts[id] for id in found.start}, self._name, seen=self._seen, now=now)
            if claimed is None:  # another worker was first, and limits hold for all together: look again
                self._dirty = True
                return
            for job in claimed:
                self._served[job.tenant] = now
                self._held.append(job)
                self._step(job.id, self._attempts.start, job)
        self._tell(waiting, found.reasons)

    def _hindrance(self) -> str:
        """Why no job can start now, or an empty string."""
        if not self._usable:
            return f"waits: {self._trouble}"
        if shutil.disk_usage(self._places.data).free < self._settings.free_disk:
            return "waits: the disk of the service is full; its administrator must make room"
        return ""

    def _tell(self, waiting: list[WaitingJob], reasons: dict[str, str]) -> None:
        if not self._fellows.leads():
            return
        new = [(job.id, reasons[job.id]) for job in waiting if job.id in reasons and reasons[job.id] != job.reason]
        if new:
            schedule.tell(self._engine, dict(new[:TOLD]))
            self._dirty |= len(new) > TOLD

    # ---- what is done beside the loop

    def _beside(self) -> None:
        if not self._usable:
            self._step("runner", self._check)
        else:
            self._step("orphans", self._retention.orphans, every=ORPHANS)
        if self._fellows.leads():
            self._step("retention", self._retention.run, every=SWEEP)

    def _check(self) -> None:
        self._runner.check()
        if self._name:
            self._retention.adopt()
        self._usable, self._dirty = True, True

    def _step(self, key: str, step: Callable[..., None], *arguments: object, every: float = 0.0) -> None:
        """Take a step in another thread, unless it is being taken, or it is not its time yet."""
        if key not in self._busy and time.monotonic() >= self._later.get(key, 0.0) and not self._stop.is_set():
            if every:
                self._later[key] = time.monotonic() + every
            self._busy[key] = self._pool.submit(step, *arguments)

    def _reap(self) -> None:
        """See which steps have ended, and how."""
        for key in [key for key, step in self._busy.items() if step.done()]:
            error = self._busy.pop(key).exception()
            self._dirty |= key not in PERIODIC
            if error is None:
                self._pauses.pop(key, None)
                if key not in PERIODIC:
                    self._later.pop(key, None)
                continue
            if isinstance(error, RunnerError):
                self._usable, self._trouble = False, f"jobs cannot be run at the moment ({error})"
            pause = self._pauses.setdefault(key, _Pause()).longer()
            self._later[key] = max(self._later.get(key, 0.0), time.monotonic() + pause)
            expected = isinstance(error, MLaaSError | OSError)
            log.log(logging.WARNING if expected else logging.ERROR, "%s: %s", key, error, exc_info=None if expected else error)


def _capacity(rules: Rules) -> str:
    return f"{rules.total.cpus:g} CPUs, {rules.total.memory / 1e9:.3g} GB of memory, {rules.total.gpus:g} GPUs"
