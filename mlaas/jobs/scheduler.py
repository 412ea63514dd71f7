"""Which queued jobs start now. Pure: what waits, what runs, the limits and the time go in, a plan comes out.

Tenants take turns: first the one whose running jobs have the smallest dominant share of the machine (the largest of its shares of CPUs, memory and
GPUs; Ghodsi et al., NSDI 2011), then the one that has waited longest; inside a tenant the oldest job comes first. A tenant that has waited longer
than PATIENCE comes before all others, so that nobody waits for ever.

A job that does not fit holds a reservation, and later jobs go past it only if they do not put off its start (EASY backfilling; Lifka, 1995): they
end, by their time limits, before what it waits for is free, or leave enough for it. So small jobs fill gaps, and a big one is not starved by them.

Where there are several workers each decides for its own machine. What the others run takes from the users' and groups' limits, not from the machine;
and room on a machine is kept for a job by one of the workers whose machines can hold it, not by all.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from mlaas.jobs.limits import Limits, Rules
from mlaas.sizes import write_size

PATIENCE = 6 * 3600.0  # s
RESERVATIONS = 16
LOOKAHEAD = 20  # jobs of one tenant behind its first that does not start
EVALUATED = 1000  # jobs looked at in one pass
SLACK = 1e-9  # sums of fractions of CPUs are not exact
BEHIND = "waits for an earlier job"
AGAIN = "the last attempt failed through no fault of the job; it is tried again in a moment"


class Wanted(Protocol):
    """What the scheduler must know of a job; a record of the store is one. `groups`: of its tenant. Times: seconds since 1970; limits: seconds."""

    @property
    def id(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def tenant(self) -> str: ...
    @property
    def groups(self) -> Sequence[str]: ...
    @property
    def cpus(self) -> float: ...
    @property
    def memory(self) -> int: ...
    @property
    def gpus(self) -> int: ...
    @property
    def time_limit(self) -> float: ...
    @property
    def created(self) -> float: ...
    @property
    def started(self) -> float | None: ...
    @property
    def not_before(self) -> float: ...


class Amount(NamedTuple):
    """What jobs take: their number, CPUs, bytes of memory, GPUs."""

    jobs: float
    cpus: float
    memory: float
    gpus: float


NOTHING = Amount(0, 0, 0, 0)


@dataclass(frozen=True)
class Others:
    """The other workers, as the one of this name sees them: the jobs that they hold, and what their machines have for jobs.

    away: of those that cannot start jobs now.
    """

    name: str = ""
    active: Sequence[Wanted] = ()
    machines: Mapping[str, Limits] = field(default_factory=dict)
    away: Mapping[str, Limits] = field(default_factory=dict)


NOBODY = Others()


@dataclass(frozen=True)
class Plan:
    """start: ids in the order in which they start. reasons: why the others wait."""

    start: list[str]
    reasons: dict[str, str]


def plan(
    queued: Iterable[Wanted],
    active: Iterable[Wanted],
    rules: Rules,
    now: float,
    *,
    served: Mapping[str, float] | None = None,
    disk: Mapping[str, str] | None = None,
    others: Others = NOBODY,
) -> Plan:
    """Decide what starts now.

    queued: by ascending number. active: starting, running or publishing here. served: when a job of the tenant was last started.
    disk: tenants that have no disk left -> the sentence that says so.
    """
    return _Pass(rules, active, now, served or {}, disk or {}, others).run(queued)


def demand(job: Wanted) -> Amount:
    """What a job takes."""
    return Amount(1, job.cpus, job.memory, job.gpus)


def impossible(job: Wanted, rules: Rules, machines: Collection[Limits] = ()) -> str:
    """Why a job could not start even if nothing else ran, or an empty string. machines: of other workers."""
    return next((sentence for _, sentence in exceeded(job.cpus, job.memory, job.gpus, job.groups, rules, machines)), "")


def exceeded(
    cpus: float, memory: int, gpus: int, groups: Iterable[str], rules: Rules, machines: Collection[Limits] = ()
) -> Iterator[tuple[str, str]]:
    """What of a job is more than any job of this user can get: the field, and the sentence without its subject.

    machines: of workers beside the one whose machine `rules` has the limits of.
    """
    asked = Amount(1, cpus, memory, gpus)
    for pool in ("t:", *(f"g:{group}" for group in rules.limited(groups))):
        yield from _beyond(asked, _bounds(pool, rules), f"{_whose(pool)} may have")
    if not machines:
        yield from _beyond(asked, _bounds("", rules), f"{_whose('')} may have")
    elif not any(_holds(machine, asked) for machine in (rules.total, *machines)):
        most = Amount(*map(max, zip(*(_amount(machine) for machine in (rules.total, *machines)), strict=True)))
        yield next(
            _beyond(asked, most, "the jobs of one machine may have"),
            ("cpus", "asks for more CPUs, memory and GPUs than any single machine has together"),
        )


def _beyond(asked: Amount, bounds: Amount, who: str) -> Iterator[tuple[str, str]]:
    for name, wanted, limit in zip(Amount._fields, asked, bounds, strict=True):
        if wanted > limit:
            yield name, f"asks for {_quantity(name, wanted)}, but {who} {_quantity(name, limit)} at most"


@dataclass
class _Reservation:
    """Room kept for a job in the pools that it waits for: from `shadow` on it can run, and `extra` is what it then leaves."""

    shadow: float
    extra: dict[str, Amount]

    def allows(self, pool: str, wanted: Amount, end: float) -> bool:
        return end <= self.shadow or _fits(wanted, self.extra[pool])

    def take(self, pool: str, wanted: Amount, end: float) -> None:
        if end > self.shadow:
            self.extra[pool] = _minus(self.extra[pool], wanted)


@dataclass
class _Pass:
    """One decision. Pools: "" is the machine, "t:..." a tenant, "g:..." a group; free: what is left in those that are in use."""

    rules: Rules
    running: Iterable[Wanted]
    now: float
    served: Mapping[str, float]
    disk: Mapping[str, str]
    others: Others = NOBODY
    free: dict[str, Amount] = field(default_factory=dict)
    ends: list[tuple[float, tuple[str, ...], Amount]] = field(default_factory=list)
    used: dict[str, Amount] = field(default_factory=dict)
    reserved: dict[str, list[_Reservation]] = field(default_factory=dict)
    start: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)

    def run(self, queued: Iterable[Wanted]) -> Plan:
        for job in self.running:
            self._occupy(job, (job.started or self.now) + job.time_limit)
        for job in self.others.active:
            self._occupy(job, (job.started or self.now) + job.time_limit, _pools(job, self.rules)[:-1])
        lines: dict[str, deque[Wanted]] = {}
        for job in queued:
            lines.setdefault(job.tenant, deque()).append(job)
        heap = [self._key(line[0]) for line in lines.values()]
        heapq.heapify(heap)
        waiting = dict.fromkeys(lines, 0)
        for _ in range(EVALUATED):
            if not heap or self._free("").cpus <= 0:
                break
            tenant = heapq.heappop(heap)[-1]
            line = lines[tenant]
            waiting[tenant] += not self._consider(line.popleft())
            if line and waiting[tenant] <= LOOKAHEAD and self._free(f"t:{tenant}").jobs >= 1:
                heapq.heappush(heap, self._key(line[0]))
        for line in lines.values():
            self._tell(line)
        return Plan(self.start, self.reasons)

    def _consider(self, job: Wanted) -> bool:
        """Start a job, or say why not and keep room for it."""
        pools, wanted, end = _pools(job, self.rules), demand(job), self.now + job.time_limit
        reason = AGAIN if job.not_before > self.now else self.disk.get(job.tenant, "") or self._never(job)
        if not reason and (reason := self._lack(job)):
            self._reserve([pool for pool in pools if (pool or self._keeps(job)) and not _fits(wanted, self._free(pool))], wanted)
        if not reason and not all(kept.allows(pool, wanted, end) for pool in pools for kept in self.reserved.get(pool, ())):
            reason = BEHIND
        if reason:
            self.reasons[job.id] = reason
            return False
        for pool in pools:
            for kept in self.reserved.get(pool, ()):
                kept.take(pool, wanted, end)
        self._occupy(job, end)
        self.start.append(job.id)
        return True

    def _never(self, job: Wanted) -> str:
        """Why no worker can start a job, be there as much room as there may, or an empty string."""
        machines, away = self.others.machines, self.others.away
        if reason := impossible(job, self.rules, [*machines.values(), *away.values()]):
            return reason
        if not away or any(_holds(machine, demand(job)) for machine in (self.rules.total, *machines.values())):
            return ""
        able = sorted(name for name, machine in away.items() if _holds(machine, demand(job)))
        return f"waits for a worker that is away: {', '.join(name or 'the one without a name' for name in able)}"

    def _keeps(self, job: Wanted) -> bool:
        """Whether this worker keeps room on its machine for a job: one of those whose machines can hold it does."""
        able = [name for name, machine in self.others.machines.items() if _holds(machine, demand(job))]
        if not able:
            return True
        if not _holds(self.rules.total, demand(job)):
            return False
        return sorted([*able, self.others.name])[job.number % (len(able) + 1)] == self.others.name

    def _lack(self, job: Wanted) -> str:
        """What a job waits for, or an empty string."""
        for pool in _pools(job, self.rules):
            for name, wanted, free, limit in zip(Amount._fields, demand(job), self._free(pool), _bounds(pool, self.rules), strict=True):
                if wanted > free + SLACK:
                    return _waits(name, wanted, pool, limit)
        return ""

    def _reserve(self, pools: Sequence[str], wanted: Amount) -> None:
        if not pools or any(len(self.reserved.get(pool, ())) >= RESERVATIONS for pool in pools):
            return
        left = {pool: self._free(pool) for pool in pools}
        shadow = self.now
        for end, theirs, amount in sorted(self.ends):
            if all(_fits(wanted, free) for free in left.values()):
                break
            shadow = max(end, self.now)
            left |= {pool: _plus(left[pool], amount) for pool in theirs if pool in left}
        kept = _Reservation(shadow, {pool: _minus(free, wanted) for pool, free in left.items()})
        for pool in pools:
            self.reserved.setdefault(pool, []).append(kept)

    def _occupy(self, job: Wanted, end: float, pools: tuple[str, ...] | None = None) -> None:
        wanted, pools = demand(job), _pools(job, self.rules) if pools is None else pools
        for pool in pools:
            self.free[pool] = _minus(self._free(pool), wanted)
        self.ends.append((end, pools, wanted))
        self.used[job.tenant] = _plus(self.used.get(job.tenant, NOTHING), wanted)

    def _free(self, pool: str) -> Amount:
        return self.free.get(pool) or _bounds(pool, self.rules)

    def _share(self, tenant: str) -> float:
        """The dominant share of a tenant's running jobs."""
        pairs = zip(self.used.get(tenant, NOTHING)[1:], _bounds("", self.rules)[1:], strict=True)
        return max((used / total for used, total in pairs if total), default=0.0)

    def _key(self, head: Wanted) -> tuple[bool, float, float, int, str]:
        since = max(head.created, self.served.get(head.tenant, 0.0))
        overdue = self.now - since > PATIENCE
        return not overdue, 0.0 if overdue else self._share(head.tenant), since, head.number, head.tenant

    def _tell(self, line: Iterable[Wanted]) -> None:
        """Why those wait that were not looked at: the machine is full, the tenant's number of jobs is reached, or earlier jobs wait."""
        for place, job in enumerate(line):
            self.reasons[job.id] = (not place and self._lack(job)) or BEHIND


def _pools(job: Wanted, rules: Rules) -> tuple[str, ...]:
    """The pools that a job takes from."""
    return f"t:{job.tenant}", *(f"g:{group}" for group in rules.limited(job.groups)), ""


def _bounds(pool: str, rules: Rules) -> Amount:
    limits = rules.total if not pool else rules.user if pool.startswith("t:") else rules.groups[pool[2:]]
    return _amount(limits)


def _amount(limits: Limits) -> Amount:
    return Amount(limits.jobs, limits.cpus, limits.memory, limits.gpus)


def _holds(machine: Limits, asked: Amount) -> bool:
    return all(wanted <= limit for wanted, limit in zip(asked, _amount(machine), strict=True))


def _fits(wanted: Amount, free: Amount) -> bool:
    return all(amount <= left + SLACK for amount, left in zip(wanted, free, strict=True))


def _minus(left: Amount, amount: Amount) -> Amount:
    return Amount(left.jobs - amount.jobs, left.cpus - amount.cpus, left.memory - amount.memory, left.gpus - amount.gpus)


def _plus(left: Amount, amount: Amount) -> Amount:
    return Amount(left.jobs + amount.jobs, left.cpus + amount.cpus, left.memory + amount.memory, left.gpus + amount.gpus)


def _whose(pool: str) -> str:
    return "all jobs together" if not pool else "your jobs together" if pool.startswith("t:") else f"the group {pool[2:]}"


def _waits(name: str, wanted: float, pool: str, limit: float) -> str:
    """A sentence about what a job waits for."""
    what = f"waits for {_quantity(name, wanted)}" if name != "jobs" else "waits for another job to end"
    return what if not pool else f"{what}: {_whose(pool)} may have {_quantity(name, limit)}"


def _quantity(name: str, amount: float) -> str:
    match name:
        case "memory":
            return f"{write_size(amount)} of memory"
        case "jobs":
            return f"{amount:g} running job{'s' if amount != 1 else ''}"
        case _:
            return f"{amount:g} {name[:-1].upper()}{'s' if amount != 1 else ''}"
