"""The store on both databases, with real processes: nothing is lost, doubled or half-written, whoever writes at the same time or dies."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from hypothesis import settings as hypothesis_settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy import Engine, event, text

from mlaas.jobs.states import ACTIVE, State
from mlaas.settings import Settings
from mlaas.store import Conflict, QueueFull, QuotaError, StoreError, StoreFullError, database, jobs, schedule, tenants, workers, workspaces
from mlaas.store.database import connect, migrate, reading, ready, writing
from mlaas.store.records import WorkerRecord
from mlaas.store.schema import metadata
from tests.support.stores import StoreModel, end, new_job, python_environment

BOTH = ["sqlite", pytest.param("postgresql", marks=pytest.mark.needs("initdb"))]


@pytest.fixture(params=BOTH)
def empty(request, tmp_path) -> Settings:
    """Settings with a database that has no tables yet."""
    return Settings(data=tmp_path) if request.param == "sqlite" else request.getfixturevalue("postgres").settings(data=tmp_path)


@pytest.fixture
def engine(empty) -> Iterator[Engine]:
    found = connect(empty)
    migrate(found)
    yield found
    found.dispose()


def process(code: str, settings: Settings) -> subprocess.Popen[str]:
    """A Python process with `settings` and the store at hand."""
    begin = "import json, sys\nfrom mlaas.settings import settings\nfrom mlaas.store import jobs\nfrom mlaas.store.database import *\n"
    begin += "from tests.support.stores import new_job\nsettings = settings()\n"
    environment = python_environment() | {"MLAAS_DATA": str(settings.data), "MLAAS_DATABASE": settings.database}
    if settings.database_password_file:
        environment["MLAAS_DATABASE_PASSWORD_FILE"] = str(settings.database_password_file)
    return subprocess.Popen([sys.executable, "-c", begin + code], stdout=subprocess.PIPE, text=True, env=environment)


def at_once(action: Callable[[int], Any], times: int) -> list[Any]:
    """What an action returns, or raises, in several threads that begin together."""
    barrier = threading.Barrier(times)

    def one(number: int) -> Any:
        barrier.wait()
        try:
            return action(number)
        except StoreError as error:
            return error

    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(one, range(times)))


# --- migrations -----------------------------------------------------------------------------------------------------------------------------


def test_the_tables_and_the_migrations_agree(engine):
    with reading(engine) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_upgrading_from_each_revision(empty):
    revisions = [script.revision for script in ScriptDirectory.from_config(database.configuration()).walk_revisions()]
    assert revisions
    for revision in revisions:
        engine = connect(empty)
        with writing(engine) as connection:
            database._upgrade(connection, revision)
        migrate(engine)
        migrate(engine)
        ready(engine)
        with writing(engine) as connection:
            metadata.drop_all(connection)
            connection.execute(text("DROP TABLE alembic_version"))
        engine.dispose()


def test_jobs_of_before_there_were_several_workers_belong_to_the_one_without_a_name(empty):
    """And no number is given again that a deleted job had."""
    engine = connect(empty)
    with writing(engine) as connection:
        database._upgrade(connection, "0001")
        columns = "id, tenant, process_name, kind, model, request, groups, device, cpus, gpus, memory, time_limit, state, reason, attempt,"
        columns += " not_before, created, cpu_seconds, peak_memory, purged"
        values = "'train', 'm', '{}', '[]', 'cpu', 1, 0, 1, 1, 'running', '', 1, 0, 0, 0, 0, false"
        for name in ("kept", "gone"):
            connection.execute(text(f"INSERT INTO jobs ({columns}) VALUES ('{name}', 'alice', '{name}_1', {values})"))  # noqa: S608
        connection.execute(text("DELETE FROM jobs WHERE id = 'gone'"))
    migrate(engine)
    assert (jobs.get(engine, "kept").worker, jobs.held(engine)[0]) == ("", 0)
    assert jobs.create(engine, new_job(), now=1.0)[0].number == 3
    engine.dispose()


def test_processes_that_migrate_at_once(empty):
    started = [process("engine = connect(settings); migrate(engine); ready(engine); print('ready')", empty) for _ in range(3)]
    assert [one.communicate()[0] for one in started] == ["ready\n"] * 3


def test_threads_that_migrate_at_once(empty):
    engines = [connect(empty) for _ in range(6)]
    assert at_once(lambda number: migrate(engines[number]), 6) == [None] * 6
    for engine in engines:
        ready(engine)
        engine.dispose()


# --- jobs -----------------------------------------------------------------------------------------------------------------------------------


def test_a_job_has_what_it_was_given(engine):
    new = new_job("bob", "ttH", workspace="ttH", gpus=1, device="gpu", groups=("/cms", "/atlas"), model="net")
    job, fresh = jobs.create(engine, new, now=5.5)
    assert fresh
    assert jobs.get(engine, job.id) == jobs.by_process_name(engine, "bob", "ttH_1") == job
    assert (job.id, job.tenant, job.process_name, job.model, job.workspace, job.generation) == (new.id, "bob", "ttH_1", "net", "ttH", None)
    assert (job.request, job.groups, job.device, job.gpus, job.memory) == ({"kind": "train"}, ["/atlas", "/cms"], "gpu", 1, 10**9)
    assert (job.state, job.created, job.attempt, job.reason, job.purged) == (State.QUEUED, 5.5, 0, "", False)
    assert jobs.by_process_name(engine, "alice", "ttH_1") is None
    assert jobs.get(engine, "nothing") is None


def test_of_workers_that_decide_at_once_one_claims_and_the_others_look_again(engine):
    made = [jobs.create(engine, new_job(), now=1.0)[0] for _ in range(4)]
    seen, active = jobs.held(engine)
    assert (seen, active) == (0, [])
    attempts = {job.id: 1 for job in made[:3]}
    found = at_once(lambda number: jobs.claim(engine, attempts, f"w{number}", seen=seen, now=2.0), 6)
    (claimed,) = [one for one in found if one is not None]
    assert [job.id for job in claimed] == list(attempts)
    assert len({job.worker for job in claimed}) == 1
    seen, active = jobs.held(engine)
    assert (seen, active) == (1, claimed)
    assert [(job.state, job.attempt, job.started, job.reason) for job in claimed] == [(State.STARTING, 1, 2.0, "")] * 3
    jobs.ask_cancel(engine, made[3].id, 3.0)
    assert jobs.claim(engine, {made[3].id: 1, made[0].id: 2}, "a", seen=1, now=4.0) == []
    assert jobs.claim(engine, {made[3].id: 1}, "a", seen=1, now=4.0) is None
    assert jobs.held(engine)[0] == 2


def test_a_job_is_taken_over_from_the_worker_that_has_it_and_no_other(engine):
    job = jobs.create(engine, new_job(), now=1.0)[0]
    assert jobs.adopt(engine, job.id, "a", of="") is None, "it is queued"
    jobs.claim(engine, {job.id: 1}, "", seen=0, now=2.0)
    assert jobs.adopt(engine, job.id, "a", of="").worker == "a"
    assert jobs.adopt(engine, job.id, "b", of="") is None
    before = schedule.pulse(engine, 3.0, "a")
    assert (before.elsewhere, schedule.pulse(engine, 3.0, "b").elsewhere) == (0, 1)
    schedule.explain(engine, {job.id: "away"}, "b")
    assert jobs.get(engine, job.id).reason == ""
    schedule.explain(engine, {job.id: "away"}, "a")
    assert jobs.get(engine, job.id).reason == "away"


def test_workers_are_known_until_they_are_forgotten(engine):
    day = workers.FORGOTTEN
    first = WorkerRecord("a", 2.0, 10**9, 1, True, 100.0)
    assert workers.known(engine, 100.0) == []
    assert workers.seen(engine, first) == [first]
    assert workers.seen(engine, replace(first, usable=False, seen=200.0)) == [replace(first, usable=False, seen=200.0)]
    second = WorkerRecord("", 2.5, 10**12, 0, True, 300.0)
    assert [worker.name for worker in workers.seen(engine, second)] == ["", "a"]
    assert [worker.name for worker in workers.known(engine, 200.0 + day)] == ["", "a"]
    assert [worker.name for worker in workers.known(engine, 201.0 + day)] == [""]
    assert [worker.name for worker in workers.seen(engine, replace(second, seen=250.0 + day))] == [""]


def test_process_numbers_never_repeat(engine, empty):
    """Two processes of two threads each; then everything is deleted, and the service started again."""
    code = """
from concurrent.futures import ThreadPoolExecutor
engine = connect(settings)
with ThreadPoolExecutor(2) as pool:
    made = pool.map(lambda number: jobs.create(engine, new_job(), now=1.0)[0], range(30))
    print(json.dumps([(job.number, job.process_name) for job in made]))
"""
    started = [process(code, empty) for _ in range(2)]
    made = [tuple(pair) for one in started for pair in json.loads(one.communicate()[0])]
    assert sorted(name for _, name in made) == sorted(f"luca_{number}" for number in range(1, 61))
    assert len({number for number, _ in made}) == 60
    for job in jobs.listing(engine, "alice", limit=200):
        end(engine, job)
        assert jobs.delete(engine, job.id)
    engine.dispose()
    again = connect(empty)
    job, _ = jobs.create(again, new_job(), now=1.0)
    assert job.process_name == "luca_61"
    assert job.number > max(number for number, _ in made)
    again.dispose()


def test_of_two_claimers_one_wins(engine):
    made = [jobs.create(engine, new_job(), now=1.0)[0] for _ in range(10)]
    for job in made:
        moved = at_once(lambda number, job=job: jobs.move(engine, job.id, State.STARTING, expect=[State.QUEUED], attempt=1, reason=str(number)), 4)
        (winner,) = [found for found in moved if found is not None]
        assert jobs.get(engine, job.id) == winner


def test_an_attempt_is_never_started_twice(engine):
    """A claimer that was asleep while another one started, failed and queued the job again."""
    job, _ = jobs.create(engine, new_job(), now=1.0)
    assert jobs.move(engine, job.id, State.STARTING, expect=[State.QUEUED], attempt=job.attempt + 1)
    assert jobs.move(engine, job.id, State.QUEUED, expect=[State.STARTING], not_before=100.0)
    assert jobs.move(engine, job.id, State.STARTING, expect=[State.QUEUED], attempt=job.attempt + 1) is None
    assert [found.id for found in jobs.queued(engine, 99.0)] == []
    (again,) = jobs.queued(engine, 100.0)
    started = jobs.move(engine, job.id, State.STARTING, expect=[State.QUEUED], attempt=again.attempt + 1)
    assert started is not None
    assert started.task == f"{job.id}-2"


def test_a_start_and_a_cancel_at_once(engine):
    """Either the job never starts, or its worker is told to stop it."""
    for _ in range(10):
        job, _ = jobs.create(engine, new_job(), now=1.0)
        steps = [
            lambda job=job: jobs.move(engine, job.id, State.STARTING, expect=[State.QUEUED], attempt=1),
            lambda job=job: jobs.ask_cancel(engine, job.id, 2.0),
        ]
        started, asked = at_once(lambda number, steps=steps: steps[number](), 2)
        found = jobs.get(engine, job.id)
        assert found is not None
        assert found.cancel == 2.0
        assert found.state == (State.STARTING if started else State.CANCELLED) == asked.state or (asked.state, started.cancel) == (
            State.STARTING,
            2.0,
        )
        assert found.finished == (None if started else 2.0)


def test_a_cancelled_job_waits_for_nothing(engine):
    job, _ = jobs.create(engine, new_job(), now=1.0)
    jobs.update(engine, job.id, reason="waits for an earlier job")
    assert jobs.ask_cancel(engine, job.id, 2.0).reason == ""


def test_a_cancelled_job_does_not_queue_again(engine):
    job, _ = jobs.create(engine, new_job(), now=1.0)
    jobs.move(engine, job.id, State.STARTING, expect=[State.QUEUED], attempt=1)
    jobs.move(engine, job.id, State.RUNNING, expect=[State.STARTING], started=2.0)
    assert jobs.ask_cancel(engine, job.id, 3.0).state is State.RUNNING
    assert jobs.ask_cancel(engine, job.id, 4.0).cancel == 3.0
    found = jobs.move(engine, job.id, State.QUEUED, expect=ACTIVE - {State.PUBLISHING}, reason="it is tried again")
    assert (found.state, found.finished, found.reason) == (State.CANCELLED, 3.0, "")
    assert jobs.ask_cancel(engine, job.id, 5.0) == found
    assert jobs.ask_cancel(engine, "nothing", 5.0) is None


def test_the_same_key_at_once_makes_one_job(engine):
    answers = at_once(lambda number: jobs.create(engine, new_job(), key="k", digest="d", now=float(number)), 8)
    assert sum(fresh for _, fresh in answers) == 1
    assert len({job.id for job, _ in answers}) == 1
    with pytest.raises(Conflict, match="already used"):
        jobs.create(engine, new_job(), key="k", digest="other", now=9.0)
    assert jobs.create(engine, new_job("bob"), key="k", digest="other", now=9.0)[1]  # keys are the tenant's own
    assert jobs.forget_keys(engine, 100.0) == 2
    assert jobs.create(engine, new_job(), key="k", digest="other", now=9.0)[1]


def test_the_queue_is_not_overrun(engine):
    answers = at_once(lambda number: jobs.create(engine, new_job(process=f"w{number}"), queue_limit=3, now=1.0), 8)
    assert sum(isinstance(answer, QueueFull) for answer in answers) == 5
    assert jobs.counts(engine)[State.QUEUED] == 3
    assert "3 at most" in str(next(answer for answer in answers if isinstance(answer, QueueFull)))
    assert jobs.create(engine, new_job("bob"), queue_limit=3, now=1.0)[1]


def test_listing(engine):
    made = [jobs.create(engine, new_job(process=f"w{number % 2}", kind="train" if number % 3 else "predict"), now=1.0)[0] for number in range(9)]
    jobs.create(engine, new_job("bob"), now=1.0)
    end(engine, made[4])
    names = lambda **filters: [job.process_name for job in jobs.listing(engine, "alice", **filters)]  # noqa: E731
    assert names() == ["w0_5", "w1_4", "w0_4", "w1_3", "w0_3", "w1_2", "w0_2", "w1_1", "w0_1"]
    assert names(limit=2) == ["w0_5", "w1_4"]
    assert names(limit=2, before=made[7].number) == ["w0_4", "w1_3"]
    assert names(before=10**30, limit=1) == ["w0_5"]
    assert names(states=[State.CANCELLED]) == ["w0_3"]
    assert names(kind="predict") == ["w0_4", "w1_2", "w0_1"]
    assert names(model="w1_4") == ["w1_4"]
    assert names(model="\0", workspace="\ud800") == []
    assert len(jobs.listing(engine, None)) == 10


def test_totals_outlive_the_jobs(engine):
    first, second = (jobs.create(engine, new_job(), now=1.0)[0] for _ in range(2))
    end(engine, first, State.SUCCEEDED, finished=10.0, cpu_seconds=40.0, peak_memory=2**40)
    jobs.move(engine, second.id, State.STARTING, expect=[State.QUEUED], attempt=1)
    jobs.update(engine, second.id, cpu_seconds=2.5)
    jobs.create(engine, new_job(), now=1.0)
    totals = jobs.totals(engine, "alice")
    assert (totals.queued, totals.running, totals.cpus, totals.memory, totals.cpu_seconds) == (1, 1, 1.0, 10**9, 42.5)
    assert jobs.totals(engine, "nobody").cpu_seconds == 0
    assert [job.id for job in jobs.ended_before(engine, 11.0)] == [first.id]
    assert jobs.ended_before(engine, 10.0) == []
    assert not jobs.delete(engine, second.id)
    assert jobs.delete(engine, first.id)
    assert (jobs.totals(engine, "alice").cpu_seconds, jobs.cpu_seconds(engine)) == (42.5, 42.5)


def test_text_that_no_database_stores(engine):
    job, _ = jobs.create(engine, new_job(), now=1.0)
    found = jobs.update(engine, job.id, reason="a\0b\ud800c")
    assert found.reason == "a\ufffdb?c"
    assert jobs.by_process_name(engine, "alice", "x\0\udfff") is None
    assert jobs.get(engine, "\0") is None


def test_the_list_of_ten_thousand_jobs_goes_by_an_index(engine):
    """What makes it fast whatever the number of jobs; the time itself is measured by hand."""
    with writing(engine) as connection:
        columns = {column.name: None for column in metadata.tables["jobs"].columns}
        base = columns | {
            "tenant": "t",
            "kind": "train",
            "model": "m",
            "request": {},
            "groups": [],
            "device": "cpu",
            "state": "succeeded",
            "reason": "",
            "worker": "",
        }
        base |= dict.fromkeys(("cpus", "gpus", "memory", "time_limit", "attempt", "not_before", "created", "cpu_seconds", "peak_memory"), 0)
        rows = [
            base | {"number": n, "id": f"j{n}", "process_name": f"p_{n}", "purged": False, "tenant": "few" if n <= 60 else "many"}
            for n in range(1, 10_001)
        ]
        connection.execute(metadata.tables["jobs"].insert(), rows)
        if engine.dialect.name == "postgresql":
            connection.execute(text("ANALYZE jobs"))
    plans = []

    def explain(connection, _cursor, statement, parameters, _context, _many):
        if statement.startswith("SELECT jobs"):
            plans.append(
                connection.exec_driver_sql(f"EXPLAIN {'QUERY PLAN ' if engine.dialect.name == 'sqlite' else ''}{statement}", parameters).all()
            )

    event.listen(engine, "before_cursor_execute", explain)
    assert len(jobs.listing(engine, "few", limit=50)) == 50
    assert len(jobs.listing(engine, "many", limit=50, before=5000)) == 50
    assert len(jobs.listing(engine, None, limit=50)) == 50
    assert jobs.queued(engine, 0.0) == []
    for plan in plans:
        assert "ix_jobs" in str(plan) or "pk_jobs" in str(plan) or ("SCAN jobs" in str(plan) and "TEMP B-TREE" not in str(plan)), plan
        assert "Seq Scan" not in str(plan)
    assert "ix_jobs_tenant_number" in str(plans[0])
    assert "ix_jobs_state_number" in str(plans[3])


class OnPostgreSQL(StoreModel):
    """A store in a fresh database of the session's server for each run."""

    server: Any

    def fresh(self):
        self.settings_of_store = self.server.settings()
        engine = connect(self.settings_of_store)
        migrate(engine)
        engine.dispose()
        return self.settings_of_store


@pytest.mark.needs("initdb")
def test_the_store_is_what_a_dictionary_would_be(postgres):
    machine = type("Machine", (OnPostgreSQL,), {"server": postgres})
    run_state_machine_as_test(machine, settings=hypothesis_settings(max_examples=5, stateful_step_count=30, deadline=None))


# --- workspaces and tenants -----------------------------------------------------------------------------------------------------------------


def add(engine: Engine, tenant: str = "alice", name: str = "luca", **more: Any) -> int:
    generation = workspaces.next_generation(engine, tenant, name)
    workspaces.add(engine, tenant, name, generation, 2, 100, 1.0, **more)
    return generation


def test_generations(engine):
    assert [add(engine) for _ in range(3)] == [1, 2, 3]
    assert workspaces.current(engine, "alice", "luca").generation == 3
    assert [record.generation for record in workspaces.unused(engine)] == [1, 2]
    assert workspaces.drop(engine, "alice", "luca")
    assert not workspaces.drop(engine, "alice", "luca")
    assert workspaces.current(engine, "alice", "luca") is None
    assert workspaces.disk(engine, "alice") == 3 * (100 + 2 * workspaces.BLOCK)
    assert [workspaces.forget(engine, "alice", "luca", generation) for generation in (1, 2, 3, 4)] == [True, True, True, False]
    assert workspaces.known(engine) == set()
    assert add(engine) == 4


def test_uploads_at_once_leave_one_current(engine):
    at_once(lambda number: add(engine), 6)
    with reading(engine) as connection:
        assert connection.execute(text("SELECT count(*) FROM workspaces WHERE current")).scalar_one() == 1
        assert connection.execute(text("SELECT count(DISTINCT generation) FROM workspaces")).scalar_one() == 6


def test_uploads_at_once_keep_to_the_quota(engine):
    each = 100 + 2 * workspaces.BLOCK
    answers = at_once(lambda number: add(engine, name=f"w{number}", room=3 * each), 8)
    assert sum(isinstance(answer, QuotaError) for answer in answers) == 5
    assert workspaces.disk(engine, "alice") == 3 * each


def test_names_in_pages(engine):
    for name in ("b", "a", "C"):
        add(engine, name=name)
    add(engine, tenant="bob", name="aa")
    first = workspaces.listing(engine, "alice", limit=2)
    rest = workspaces.listing(engine, "alice", limit=2, after=first[-1].name)
    assert sorted(record.name for record in first + rest) == ["C", "a", "b"]
    assert len(first) == 2


def test_a_generation_goes_when_no_job_needs_it(engine):
    old = add(engine)
    job, _ = jobs.create(engine, new_job(workspace="luca", generation=old), now=1.0)
    add(engine)
    assert workspaces.unused(engine) == []
    assert not workspaces.forget(engine, "alice", "luca", old)
    end(engine, job)
    assert [record.generation for record in workspaces.unused(engine)] == [old]
    assert workspaces.forget(engine, "alice", "luca", old)
    with pytest.raises(Conflict, match="replaced or deleted"):
        jobs.create(engine, new_job(workspace="luca", generation=old), now=1.0)
    assert jobs.counts(engine)[State.QUEUED] == 0


def test_a_job_and_the_end_of_its_workspace_at_once(engine):
    """Either the job is there and so is its generation, or neither."""
    for number in range(10):
        name = f"w{number}"
        generation = add(engine, name=name)
        workspaces.drop(engine, "alice", name)
        steps = [
            lambda name=name, generation=generation: jobs.create(engine, new_job(process=name, workspace=name, generation=generation), now=1.0)[0],
            lambda name=name, generation=generation: workspaces.forget(engine, "alice", name, generation),
        ]
        job, forgotten = at_once(lambda number, steps=steps: steps[number](), 2)
        assert isinstance(job, Conflict) == forgotten == (not workspaces.recorded(engine, "alice", name, generation))


def test_tenants_keep_their_number(engine):
    seen = lambda tenant, now=0.0, **more: tenants.seen(engine, tenant, issuer="https://i", subject=tenant, now=now, **more)  # noqa: E731
    records = at_once(lambda number: seen(f"t{number % 2}", groups={"/b", "/a"}), 6)
    assert {(record.tenant, record.number) for record in records} == {(record.tenant, record.number) for record in records[:2]}
    assert len({record.number for record in records}) == 2
    assert tenants.get(engine, "t0").groups == ["/a", "/b"]
    assert tenants.get(engine, "nobody") is None
    written = []
    event.listen(engine, "before_cursor_execute", lambda *call: written.append(call[2]) if "INSERT" in call[2] else None)
    assert seen("t0", 59.0, groups={"/a", "/b"}).last_seen == 0.0
    assert written == []
    assert seen("t0", 60.0, groups={"/a", "/b"}).last_seen == 60.0
    assert seen("t0", 61.0, groups={"/a"}).groups == ["/a"]
    assert seen("t0", 62.0, groups={"/a"}, name="Alice").name == "Alice"
    assert len(written) == 3
    assert {record.first_seen for record in (tenants.get(engine, "t0"), tenants.get(engine, "t1"))} == {0.0}


# --- death and trouble ----------------------------------------------------------------------------------------------------------------------

WRITER = """
engine = connect(settings)
for number in range(100_000):
    job, _ = jobs.create(engine, new_job(process='w'), key=str(number), digest='d', queue_limit=10**9, now=1.0)
    print(job.id, job.process_name, flush=True)
"""


def test_a_writer_that_is_killed(engine, empty):
    """kill -9 at any moment: what was answered is there, nothing is half there, and others write on."""
    answered: list[tuple[str, str]] = []
    for _ in range(2):
        writer = process(WRITER.replace("str(number)", f"'{len(answered)}-' + str(number)"), empty)
        with writer:
            answered += [tuple(writer.stdout.readline().split()) for _ in range(20)]
            time.sleep(random.uniform(0, 0.02))
            writer.send_signal(signal.SIGKILL)
            answered += [tuple(line.split()) for line in writer.stdout.read().splitlines()]
    found = {(job.id, job.process_name) for job in jobs.listing(engine, "alice", limit=100_000)}
    assert set(answered) <= found
    assert len(found) - len(answered) <= 2  # written, but killed before it could say so
    assert {name for _, name in found} == {f"w_{number}" for number in range(1, len(found) + 1)}
    if engine.dialect.name == "sqlite":
        with reading(engine) as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
    assert jobs.create(engine, new_job(process="w"), queue_limit=10**9, now=1.0)[0].process_name == f"w_{len(found) + 1}"


def test_a_transaction_that_fails_leaves_nothing(engine):
    def fail():
        with writing(engine) as connection:
            connection.execute(text("INSERT INTO counters VALUES ('a', 'b', 'c', 1)"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with reading(engine) as connection:
        assert connection.execute(text("SELECT count(*) FROM counters")).scalar_one() == 0


def test_a_reader_sees_one_state(engine):
    with reading(engine) as connection:
        count = [connection.execute(text("SELECT count(*) FROM jobs")).scalar_one()]
        jobs.create(engine, new_job(), now=1.0)
        count.append(connection.execute(text("SELECT count(*) FROM jobs")).scalar_one())
    assert count == [0, 0]


@pytest.mark.needs("initdb")
def test_a_database_that_goes_away_and_comes_back(postgres):
    engine = connect(postgres.settings())
    migrate(engine)
    job, _ = jobs.create(engine, new_job(), now=1.0)
    postgres.stop()
    try:
        for ask in (ready, migrate, lambda engine: jobs.get(engine, job.id)):
            with pytest.raises(StoreError, match="cannot be reached") as caught:
                ask(engine)
            assert caught.value.status == 503
    finally:
        postgres.start()
    ready(engine)
    assert jobs.get(engine, job.id) == job
    engine.dispose()


@pytest.mark.needs("initdb")
def test_a_disk_of_postgresql_that_is_full(postgres):
    engine = connect(postgres.settings())
    with pytest.raises(StoreFullError, match="disk of the database is full") as caught, writing(engine) as connection:
        connection.execute(text("DO $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$"))
    assert caught.value.status == 507
    engine.dispose()


@pytest.mark.needs("initdb")
def test_passwords_come_from_a_file(postgres, tmp_path, caplog):
    good = postgres.settings()
    secret = tmp_path / "password"
    engine = connect(good.model_copy(update={"database_password_file": secret}))
    with pytest.raises(StoreError, match="MLAAS_DATABASE_PASSWORD_FILE"):
        migrate(engine)
    secret.write_text("wrong-password")
    with pytest.raises(StoreError, match="does not let the service in") as caught:
        migrate(engine)
    assert "wrong-password" not in f"{caught.value} {caplog.text}"
    secret.write_text(postgres.password_file.read_text())
    migrate(engine)
    ready(engine)
    engine.dispose()
