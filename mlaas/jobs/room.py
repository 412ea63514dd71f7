"""Whether tenants and groups have disk left for another job. Measuring takes a while, so it is done beside the worker's loop, and not every time."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mlaas.jobs.limits import Rules, normal
from mlaas.sizes import write_size

FRESH = 30.0  # s


@dataclass
class Room:
    """What is known of the disk of those who wait. measure: bytes that a tenant takes; members: tenants and their groups, of everybody."""

    rules: Rules
    measure: Callable[[str], int]
    members: Callable[[], Mapping[str, Sequence[str]]]
    full: dict[str, str] = field(default_factory=dict)
    known: frozenset[str] = frozenset()
    _looked: float = -FRESH

    def due(self, waiting: Collection[str]) -> bool:
        """Whether it is time to `look`: the last look is old, or somebody waits who was not looked at."""
        return bool(waiting) and (time.monotonic() - self._looked >= FRESH or not self.known.issuperset(waiting))

    def look(self, tenants: Iterable[str]) -> None:
        """Measure anew. `full` (tenant -> the sentence that says whose disk is full) is replaced as a whole, then `known`."""
        used: dict[str, int] = {}
        waiting = set(tenants)
        found = {tenant: sentence for tenant in waiting if (sentence := self._own(tenant, used))}
        limited = {name: limits.disk for name, limits in self.rules.groups.items() if limits.disk < float("inf")}
        groups = {tenant: {normal(group) for group in theirs} for tenant, theirs in self.members().items()} if limited else {}
        for name, limit in limited.items():
            inside = [tenant for tenant, theirs in groups.items() if name in theirs]
            if waiting & set(inside) and (together := sum(self._used(tenant, used) for tenant in inside)) >= limit:
                found |= dict.fromkeys(waiting & set(inside), f"waits for disk: the group {name} takes {write_size(together)} of {write_size(limit)}")
        self.full, self._looked = found, time.monotonic()
        self.known = frozenset(waiting)

    def _own(self, tenant: str, used: dict[str, int]) -> str:
        limit = self.rules.user.disk
        if not limit < float("inf") or (taken := self._used(tenant, used)) < limit:
            return ""
        return f"waits for disk: your files take {write_size(taken)} of {write_size(limit)}; delete workspaces, jobs or models"

    def _used(self, tenant: str, used: dict[str, int]) -> int:
        if tenant not in used:
            used[tenant] = self.measure(tenant)
        return used[tenant]
