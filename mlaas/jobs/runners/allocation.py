"""Which CPUs and GPUs a task gets: those that the running ones use least."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from mlaas.jobs.runners.base import RunnerError


def least_used(available: Iterable[int], used: Iterable[Sequence[int]], count: int) -> list[int]:
    """`count` of `available` (all, when there are not as many), the least used first; sorted."""
    load = Counter(item for items in used for item in items)
    return sorted(sorted(available, key=lambda item: (load[item], item))[:count])


def free(total: int, used: Iterable[Sequence[int]], count: int) -> list[int]:
    """`count` GPUs of `total` that nobody uses. Raises RunnerError when there are too few."""
    taken = {item for items in used for item in items}
    left = [item for item in range(total) if item not in taken][:count]
    if len(left) < count:
        raise RunnerError(f"the job asks for {count} GPUs, but of the {total} that MLAAS_TOTAL_GPUS allows only {len(left)} are free")
    return left
