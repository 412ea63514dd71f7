"""The scheduler: limits hold, turns are fair, nobody waits for ever, and a long queue costs little."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlaas.errors import UserError
from mlaas.jobs import scheduler
from mlaas.jobs.limits import Limits, Rules
from mlaas.jobs.scheduler import Others, impossible, plan
from mlaas.settings import Settings

GB = 10**9
DAY = 86_400.0


@dataclass(frozen=True)
class Job:
    """What the scheduler knows of a job."""

    number: int
    tenant: str = "ann"
    groups: tuple[str, ...] = ()
    cpus: float = 1.0
    memory: int = GB
    gpus: int = 0
    time_limit: float = DAY
    created: float = 0.0
    started: float | None = None
    not_before: float = 0.0

    @property
    def id(self) -> str:
        return f"job{self.number}"


def rules(cpus: float = 4, memory: float = 16 * GB, gpus: float = 0, user: Limits | None = None, **groups: Limits) -> Rules:
    return Rules(Limits(cpus=cpus, memory=memory, gpus=gpus), user or Limits(), {f"/{name}": limits for name, limits in groups.items()})


amounts = st.tuples(st.sampled_from([0.5, 1, 2, 4, 7]), st.integers(1, 12), st.integers(0, 2), st.floats(1, 5000))
people = st.tuples(st.sampled_from("abcd"), st.sets(st.sampled_from(["/cms", "atlas", "/lhcb"]), max_size=2))


@st.composite
def jobs(draw, most: int = 25, running: bool = False):
    made = []
    groups: dict[str, tuple[str, ...]] = {}
    for number in range(draw(st.integers(0, most))):
        cpus, memory, gpus, limit = draw(amounts)
        tenant, found = draw(people)
        member = groups.setdefault(tenant, tuple(sorted(found)))
        started = draw(st.floats(0, 1000)) if running else None
        made.append(Job(number, tenant, member, cpus, memory * GB, gpus, limit, float(number), started))
    return made


limits = st.builds(Limits, st.integers(1, 5), st.sampled_from([2.0, 4.0, math.inf]), st.sampled_from([8.0 * GB, math.inf]), st.just(math.inf))
some_rules = st.builds(
    lambda user, cms, atlas, cpus, gpus: Rules(Limits(cpus=cpus, memory=24 * GB, gpus=gpus), user, {"/cms": cms, "/atlas": atlas}),
    limits, limits, limits, st.sampled_from([1.0, 4.0, 8.0]), st.integers(0, 2),
)  # fmt: skip


def within(running, rule: Rules) -> bool:
    """Whether a set of running jobs keeps to every limit."""

    def fits(of, bound: Limits) -> bool:
        return (
            len(of) <= bound.jobs
            and sum(job.cpus for job in of) <= bound.cpus + 1e-6
            and sum(job.memory for job in of) <= bound.memory
            and sum(job.gpus for job in of) <= bound.gpus
        )

    mine = all(fits([job for job in running if job.tenant == tenant], rule.user) for tenant in {job.tenant for job in running})
    ours = all(fits([job for job in running if name in rule.limited(job.groups)], bound) for name, bound in rule.groups.items())
    return mine and ours and fits(running, rule.total)


@given(jobs(), some_rules)
def test_no_limit_is_ever_passed(queued, rule):
    found = plan(queued, [], rule, 100.0)
    started = [job for job in queued if job.id in found.start]
    assert within(started, rule)
    assert len(found.start) == len(set(found.start))
    assert set(found.start) | set(found.reasons) == {job.id for job in queued}
    assert not set(found.start) & set(found.reasons)
    assert all(found.reasons.values())


@given(jobs(), jobs(8, running=True), some_rules)
def test_what_runs_counts(queued, running, rule):
    running = [replace(job, number=job.number + 1000) for job in running]
    if not within(running, rule):  # limits that were lowered meanwhile: then nothing new starts where they are passed
        running = []
    found = plan(queued, running, rule, 1000.0)
    assert within(running + [job for job in queued if job.id in found.start], rule)


machine_sizes = st.builds(Limits, st.just(math.inf), st.sampled_from([1.0, 4.0, 8.0]), st.just(24.0 * GB), st.integers(0, 2))


def seen_by(name: str, machines: dict[str, Limits], running: dict[str, list[Job]]) -> Others:
    """What a worker knows of the others."""
    active = [job for worker, held in running.items() if worker != name for job in held]
    return Others(name, active, {worker: machine for worker, machine in machines.items() if worker != name})


@settings(deadline=None)
@given(jobs(), some_rules, st.lists(machine_sizes, min_size=2, max_size=3), st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=12))
def test_limits_hold_for_several_workers_that_decide_in_turn(queued, rule, sizes, turns):
    machines = {f"w{number}": size for number, size in enumerate(sizes)}
    running: dict[str, list[Job]] = {name: [] for name in machines}
    waiting = list(queued)
    for number, (turn, ends) in enumerate(turns):
        name = f"w{turn % len(sizes)}"
        if ends and running[name]:
            running[name].pop(0)
        own = replace(rule, total=machines[name])
        found = plan(waiting, running[name], own, 100.0 + number, others=seen_by(name, machines, running))
        assert set(found.start) | set(found.reasons) == {job.id for job in waiting}
        running[name] += [replace(job, started=100.0 + number) for job in waiting if job.id in found.start]
        waiting = [job for job in waiting if job.id not in found.start]
        everything = replace(rule, total=Limits())
        assert within([job for held in running.values() for job in held], everything)
        assert all(within(held, Rules(machines[worker], Limits(), {})) for worker, held in running.items())


@settings(deadline=None, max_examples=60)
@given(jobs(14), some_rules, st.lists(machine_sizes, min_size=2, max_size=3))
def test_every_job_that_some_machine_can_hold_does_run_in_the_end(queued, rule, sizes):
    machines = {f"w{number}": size for number, size in enumerate(sizes)}
    running: dict[str, list[Job]] = {name: [] for name in machines}
    waiting, now, number = list(queued), 20.0, itertools.count(10_000)
    hoped = {job.id for job in queued if not impossible(job, replace(rule, total=sizes[0]), sizes[1:])}
    started: set[str] = set()
    served: dict[str, float] = {}
    for _ in range(1500):
        for name, machine in machines.items():
            waiting += [Job(next(number), "crowd", (), 0.5, GB, 0, 900.0, now)] * (len(waiting) < 60)
            others = seen_by(name, machines, running)
            waiting.sort(key=lambda job: job.number)
            found = plan(waiting, running[name], replace(rule, total=machine), now, served=served, others=others)
            running[name] += [replace(job, started=now) for job in waiting if job.id in found.start]
            served |= {job.tenant: now for job in waiting if job.id in found.start}
            started |= set(found.start)
            waiting = [job for job in waiting if job.id not in found.start]
        if started >= hoped:
            return
        now = min(job.started + job.time_limit for held in running.values() for job in held)
        running = {name: [job for job in held if job.started + job.time_limit > now] for name, held in running.items()}
    raise AssertionError(f"{hoped - started} never started")


def test_what_others_run_takes_from_the_users_limits_and_not_from_the_machine():
    others = Others("a", [Job(100, "ann", started=0.0), Job(101, "ann", started=0.0), Job(102, "bob", ("/cms",), cpus=2, started=0.0)])
    mine = rules(cpus=4, user=Limits(jobs=3), cms=Limits(cpus=3))
    queued = [Job(1, "ann"), Job(2, "ann"), Job(3, "bob", ("/cms",), cpus=2), Job(4, "cat", cpus=3)]
    found = plan(queued, [], mine, 10.0, others=others)
    assert found.start == ["job4", "job1"]
    assert found.reasons["job2"] == "waits for another job to end: your jobs together may have 3 running jobs"
    assert found.reasons["job3"] == "waits for 2 CPUs: the group /cms may have 3 CPUs"


def test_room_for_a_job_is_kept_on_one_machine_and_not_on_all():
    """Job 1 waits for a whole machine. Two have one; the long job behind it starts where no room is kept."""
    machine = Limits(cpus=4, memory=16 * GB, gpus=0)
    busy = Job(100, "cat", cpus=3, time_limit=1000, started=0.0)
    queued = [Job(1, "ann", cpus=4, created=1.0), Job(2, "bob", created=2.0, time_limit=2000)]
    found = {name: plan(queued, [busy], rules(cpus=4), 100.0, others=Others(name, [], {other: machine})) for name, other in ("ab", "ba")}
    assert sorted(len(one.start) for one in found.values()) == [0, 1]
    assert {one.reasons["job1"] for one in found.values()} == {"waits for 4 CPUs"}
    small = {"b": Limits(cpus=2, memory=16 * GB, gpus=0)}
    assert plan(queued, [busy], rules(cpus=4), 100.0, others=Others("a", [], small)).start == [], "only this machine can hold it"


def test_what_no_machine_can_hold_is_told_apart_from_what_another_can():
    large, gpus = Limits(cpus=8, memory=16 * GB, gpus=0), Limits(cpus=1, memory=16 * GB, gpus=2)
    queued = [Job(1, cpus=6), Job(2, cpus=9), Job(3, cpus=2, gpus=1), Job(4, gpus=2)]
    found = plan(queued, [], rules(cpus=4), 0.0, others=Others("a", [], {"b": large}, {"c": gpus}))
    assert found.start == []
    assert found.reasons == {
        "job1": "waits for 6 CPUs",
        "job2": "asks for 9 CPUs, but the jobs of one machine may have 8 CPUs at most",
        "job3": "asks for more CPUs, memory and GPUs than any single machine has together",
        "job4": "waits for a worker that is away: c",
    }


@given(jobs(), some_rules)
def test_an_idle_machine_always_takes_something_that_fits(queued, rule):
    possible = [job for job in queued if not impossible(job, rule)]
    assert bool(plan(queued, [], rule, 100.0).start) == bool(possible)


@settings(deadline=None, max_examples=60)
@given(jobs(18), some_rules)
def test_every_job_that_can_run_does_run_in_the_end(queued, rule):
    """Jobs end at their time limits; small new ones keep coming from somebody else; each job of the beginning still gets its turn."""
    waiting, running, now = list(queued), [], 20.0
    number = itertools.count(10_000)
    hoped = {job.id for job in queued if not impossible(job, rule)}
    served: dict[str, float] = {}
    started = set()
    for _ in range(1500):
        waiting += [Job(next(number), "crowd", (), 0.5, GB, 0, 900.0, now)] * (len(waiting) < 60)
        found = plan(sorted(waiting, key=lambda job: job.number), running, rule, now, served=served)
        chosen = [replace(job, started=now) for job in waiting if job.id in found.start]
        served |= {job.tenant: now for job in chosen}
        started |= set(found.start)
        running += chosen
        waiting = [job for job in waiting if job.id not in found.start]
        if started >= hoped:
            return
        now = min(job.started + job.time_limit for job in running)
        running = [job for job in running if job.started + job.time_limit > now]
    raise AssertionError(f"{hoped - started} never started")


@given(st.lists(st.sampled_from("ab"), min_size=1, max_size=30))
def test_jobs_of_one_kind_keep_their_order_inside_a_tenant(owners):
    queued = [Job(number, owner, created=float(number)) for number, owner in enumerate(owners)]
    started = plan(queued, [], rules(cpus=5), 100.0).start
    for owner in "ab":
        own = [job.id for job in queued if job.tenant == owner]
        mine = [name for name in started if name in own]
        assert mine == own[: len(mine)]


def test_a_flood_of_one_user_does_not_hold_up_another():
    queued = [Job(number, "flood", created=0.0) for number in range(1000)] + [Job(1000, "late", created=50.0)]
    assert plan(queued, [], rules(cpus=2), 60.0).start == ["job0", "job1000"]


def test_turns_follow_what_each_has_running_already():
    running = [Job(number, "big", started=0.0) for number in range(100, 103)]
    queued = [Job(1, "big", created=0.0), Job(2, "small", created=10.0), Job(3, "small", created=10.0)]
    assert plan(queued, running, rules(cpus=5), 20.0).start == ["job2", "job3"]


def test_equal_shares_go_to_who_was_served_longest_ago():
    queued = [Job(1, "ann", created=0.0), Job(2, "bob", created=0.0)]
    assert plan(queued, [], rules(cpus=1), 100.0, served={"ann": 50.0, "bob": 10.0}).start == ["job2"]
    assert plan(queued, [], rules(cpus=1), 100.0, served={"ann": 5.0, "bob": 10.0}).start == ["job1"]


def test_small_jobs_do_not_starve_a_big_one_but_fill_the_gap_before_it():
    running = [Job(100, "cat", cpus=3, time_limit=1000, started=0.0)]
    big = Job(1, "ann", cpus=4, created=1.0)
    long, short = Job(2, "bob", created=2.0, time_limit=2000), Job(3, "dan", created=3.0, time_limit=500)
    found = plan([big, long, short], running, rules(cpus=4), 100.0)
    assert found.start == ["job3"]
    assert found.reasons == {"job1": "waits for 4 CPUs", "job2": scheduler.BEHIND}


def test_what_waits_for_a_gpu_does_not_hold_up_what_needs_none():
    running = [Job(100, "cat", gpus=1, started=0.0)]
    queued = [Job(1, gpus=1), Job(2)]
    found = plan(queued, running, rules(gpus=1), 10.0)
    assert found.start == ["job2"]
    assert found.reasons["job1"] == "waits for 1 GPU"


def test_who_has_waited_for_hours_comes_before_smaller_shares():
    running = [Job(100, "ann", cpus=3, started=0.0)]
    queued = [Job(1, "ann", created=0.0), Job(2, "new", created=scheduler.PATIENCE)]
    assert plan(queued, running, rules(), scheduler.PATIENCE).start == ["job2"]
    assert plan(queued, running, rules(), scheduler.PATIENCE + 1).start == ["job1"]


def test_limits_of_a_user_and_of_a_group_are_told():
    mine = rules(cpus=8, user=Limits(jobs=2, memory=4 * GB))
    found = plan([Job(number) for number in range(4)], [], mine, 0.0)
    assert found.start == ["job0", "job1"]
    assert found.reasons["job2"] == "waits for another job to end: your jobs together may have 2 running jobs"
    found = plan([Job(1, memory=3 * GB), Job(2, memory=2 * GB)], [], mine, 0.0)
    assert found.reasons == {"job2": "waits for 2 GB of memory: your jobs together may have 4 GB of memory"}
    ours = rules(cpus=8, cms=Limits(cpus=2))
    queued = [Job(1, "ann", ("cms",), cpus=2), Job(2, "bob", ("/cms", "/other")), Job(3, "eve", ("/other",))]
    found = plan(queued, [], ours, 0.0)
    assert found.start == ["job1", "job3"]
    assert found.reasons == {"job2": "waits for 1 CPU: the group /cms may have 2 CPUs"}


def test_what_can_never_run_says_so_and_holds_up_nobody():
    found = plan([Job(1, cpus=9), Job(2, "bob", cpus=4)], [], rules(cpus=4), 0.0)
    assert found.start == ["job2"]
    assert found.reasons["job1"] == "asks for 9 CPUs, but all jobs together may have 4 CPUs at most"


def test_another_attempt_waits_for_its_time_and_a_full_disk_for_room():
    again = Job(1, not_before=50.0)
    assert plan([again, Job(2)], [], rules(), 49.0).start == ["job2"]
    assert plan([again], [], rules(), 50.0).start == ["job1"]
    found = plan([Job(1)], [], rules(), 0.0, disk={"ann": "your files take 2 GB of 1 GB"})
    assert found.reasons == {"job1": "your files take 2 GB of 1 GB"}


def test_a_long_queue_is_not_looked_at_job_by_job(monkeypatch):
    """10,000 jobs of 200 tenants: what is looked at is bounded, whatever waits."""
    looked = Counter()
    consider = scheduler._Pass._consider
    monkeypatch.setattr(scheduler._Pass, "_consider", lambda self, job: looked.update(["job"]) or consider(self, job))
    queued = [Job(number, f"t{number % 200}", cpus=3, created=float(number)) for number in range(10_000)]
    found = plan(queued, [Job(20_000, "x", started=0.0)], rules(cpus=6, user=Limits(jobs=2)), 20_000.0)
    assert len(found.start) == 1
    assert looked["job"] <= scheduler.EVALUATED
    assert len(found.reasons) == 9_999


def test_the_rules_come_from_the_settings():
    made = Rules.of(Settings(total_cpus=4, total_memory=8 * GB, user_jobs=3, group_limits={"cms": {"jobs": 2, "memory": "4GB"}}))
    assert made.total == Limits(cpus=4, memory=8 * GB, gpus=0)
    assert made.user == Limits(jobs=3, disk=100 * GB)
    assert made.groups == {"/cms": Limits(jobs=2, memory=4 * GB)}
    assert made.limited(["/cms", "cms", "atlas"]) == ("/cms",)


def test_machine_limits_are_found_when_not_given():
    made = Rules.of(Settings())
    assert made.total.cpus >= 1
    assert GB / 10 < made.total.memory < 1e14


@pytest.mark.parametrize(
    ("given", "message"),
    [({"/cms": {"jobs": "many"}}, "/cms.jobs"), ({"/cms": {"memory": "4 boxes"}}, "/cms.memory"), ({"/cms": {"cores": 2}}, "/cms.cores")],
)
def test_wrong_group_limits_are_named(given, message):
    with pytest.raises(UserError, match=f"MLAAS_GROUP_LIMITS: {message}: "):
        Rules.of(Settings(group_limits=given))
