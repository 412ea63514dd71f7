"""What tests of the store share: new jobs, and a model of the store that a real one must agree with whatever is done to it."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule
from sqlalchemy import Engine

from mlaas.jobs.states import ACTIVE, ENDED, NEXT, State
from mlaas.settings import Settings
from mlaas.store import Conflict, JobRecord, NewJob, QueueFull, jobs
from mlaas.store.database import connect

TENANTS = ["alice", "bob"]
WORKSPACES = ["luca", "ttH", "luca_1"]
QUEUE = 6


def new_job(tenant: str = "alice", process: str = "luca", **more: Any) -> NewJob:
    """A training that asks for little."""
    kind = more.pop("kind", "train")
    return NewJob(tenant=tenant, process=process, kind=kind, request={"kind": kind}, cpus=1.0, memory=10**9, time_limit=60.0, **more)


def end(engine: Engine, job: JobRecord, state: State = State.CANCELLED, **columns: Any) -> JobRecord:
    """Bring a queued job to its end."""
    for step in {State.CANCELLED: [], State.FAILED: []}.get(state, [State.STARTING, State.RUNNING, State.PUBLISHING]):
        assert jobs.move(engine, job.id, step, expect=[before for before in State if step in NEXT[before]])
    ended = jobs.move(engine, job.id, state, expect=[before for before in State if state in NEXT[before]], **columns)
    assert ended is not None
    return ended


class StoreModel(RuleBasedStateMachine):
    """Jobs as a plain dictionary would have them, beside a real store. A subclass gives it an engine."""

    made = Bundle("made")
    tenants, workspaces = st.sampled_from(TENANTS), st.sampled_from(WORKSPACES)
    settings_of_store: Settings

    def __init__(self) -> None:
        super().__init__()
        self.engine = connect(self.fresh())
        self.state: dict[str, State] = {}
        self.tenant: dict[str, str] = {}
        self.names: set[tuple[str, str]] = set()
        self.numbers: set[int] = set()
        self.keys: dict[tuple[str, str], tuple[str, str]] = {}
        self.last: Counter[tuple[str, str]] = Counter()
        self.cancelled: set[str] = set()
        self.clock = 0.0

    def fresh(self) -> Settings:
        """Settings of an empty, migrated database."""
        raise NotImplementedError

    def teardown(self) -> None:
        self.engine.dispose()

    def queue_of(self, tenant: str) -> int:
        return sum(state is State.QUEUED for job, state in self.state.items() if self.tenant[job] == tenant)

    @rule(target=made, tenant=tenants, workspace=workspaces, key=st.sampled_from(["", "", "k1", "k2"]), digest=st.sampled_from(["d1", "d2"]))
    def create(self, tenant, workspace, key, digest):
        self.clock += 1
        known = self.keys.get((tenant, key)) if key else None
        try:
            job, fresh = jobs.create(self.engine, new_job(tenant, workspace), key=key, digest=digest, queue_limit=QUEUE, now=self.clock)
        except Conflict:
            assert known is not None
            assert known[0] != digest
            return multiple()
        except QueueFull:
            assert known is None
            assert self.queue_of(tenant) == QUEUE
            return multiple()
        if known is not None:
            assert (known, fresh) == ((digest, job.id), False)
            return multiple()
        assert fresh
        self.last[tenant, workspace] += 1
        assert job.process_name == job.model == f"{workspace}_{self.last[tenant, workspace]}"
        assert (tenant, job.process_name) not in self.names
        assert job.number not in self.numbers
        self.names.add((tenant, job.process_name))
        self.numbers.add(job.number)
        self.state[job.id], self.tenant[job.id] = State.QUEUED, tenant
        if key:
            self.keys[tenant, key] = (digest, job.id)
        return job.id

    @rule(job=made, to=st.sampled_from([state for state in State if any(state in after for after in NEXT.values())]))
    def move(self, job, to):
        expect = [state for state in State if to in NEXT[state]]
        moved = jobs.move(self.engine, job, to, expect=expect, reason=f"now {to}")
        if self.state.get(job) not in expect:
            assert moved is None
            return
        assert moved is not None
        self.state[job] = State.CANCELLED if to is State.QUEUED and job in self.cancelled else to
        assert (moved.state, moved.reason) == (self.state[job], f"now {to}")

    @rule(job=made)
    def cancel(self, job):
        self.clock += 1
        found = jobs.ask_cancel(self.engine, job, self.clock)
        if job not in self.state:
            assert found is None
            return
        assert found is not None
        if self.state[job] is State.QUEUED:
            self.state[job] = State.CANCELLED
        elif self.state[job] in ACTIVE:
            self.cancelled.add(job)
            assert found.cancel is not None
        assert found.state == self.state[job]

    @rule(job=consumes(made))
    def delete(self, job):
        ended = self.state.get(job) in ENDED
        assert jobs.delete(self.engine, job) == ended
        if ended:
            del self.state[job]
            self.keys = {key: value for key, value in self.keys.items() if value[1] != job}

    @rule()
    def restart(self):
        url = self.engine.url
        self.engine.dispose()
        self.engine = connect(self.settings_of_store)
        assert self.engine.url == url

    @invariant()
    def agrees(self):
        found = jobs.listing(self.engine, None, limit=1000)
        assert {job.id: job.state for job in found} == self.state
        assert [job.number for job in found] == sorted((job.number for job in found), reverse=True)
        assert jobs.counts(self.engine) == {state: list(self.state.values()).count(state) for state in State}
        for tenant in TENANTS:
            totals = jobs.totals(self.engine, tenant)
            held = [job for job, state in self.state.items() if self.tenant[job] == tenant and state in ACTIVE]
            assert (totals.queued, totals.running) == (self.queue_of(tenant), len(held))
            assert (totals.cpus, totals.memory) == (len(held), len(held) * 10**9)


def python_environment() -> dict[str, str]:
    """For processes that tests start: nothing of the settings of this machine."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MLAAS_")}
