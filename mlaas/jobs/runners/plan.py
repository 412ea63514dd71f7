"""What a shim is told to do: a task, worked out by the runner into plain values, as a file in the job's folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from mlaas.sandbox.landlock import Access


@dataclass(frozen=True)
class Plan:
    """One task, ready to be started.

    argv, environment: of the job. work: where it starts. user: the user and group id to change to, or None. confined: put it under Landlock and the
    filter of system calls. rules: (path, access) for Landlock. needed: paths that the user must be able to reach. cpus: the CPUs that it may run on.
    gpus: the indices of its GPUs. memory, disk, log_limit: bytes. processes: processes and threads of the tree. time_limit: seconds.
    worker: the name of the one that has the task; a worker without one writes none, so that earlier versions can read the plan.
    """

    id: str
    argv: list[str]
    environment: dict[str, str]
    work: str
    user: int | None
    confined: bool
    rules: list[tuple[str, Access]]
    needed: list[str]
    cpus: list[int]
    gpus: list[int]
    memory: int
    disk: int
    processes: int
    time_limit: float
    log_limit: int
    worker: str = ""

    def text(self) -> str:
        """As JSON."""
        return json.dumps({name: value for name, value in asdict(self).items() if value or name != "worker"})


def read(text: str | bytes) -> Plan:
    """A plan from JSON. Raises ValueError, TypeError (another version's)."""
    document = json.loads(text)
    document["rules"] = [(path, access) for path, access in document["rules"]]
    return Plan(**document)
