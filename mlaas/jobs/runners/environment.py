"""The environment of a job: made from nothing, so that nothing of the service's own gets into it."""

from __future__ import annotations

import math
from pathlib import Path

from mlaas.jobs.runners.base import Task
from mlaas.jobs.runners.tree import MARKER

THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)


def environment(task: Task, path: str, *, temporary: Path, gpus: list[int] | None = None) -> dict[str, str]:
    """The variables of a task; what `task.environment` names wins, but for the marker. gpus: indices to show; None leaves it to the engine."""
    work = task.folder / "work"
    libraries = task.cache / "libraries"
    made = {
        "PATH": path,
        "HOME": str(work),
        "USER": "mlaas",
        "LOGNAME": "mlaas",
        "LANG": "C.UTF-8",
        "TMPDIR": str(temporary),
        "PYTHONUNBUFFERED": "1",
        "MLAAS_CACHE": str(task.cache),
        "MLAAS_PROGRESS": "true",
        "MLAAS_MEMORY_LIMIT": str(max(1, task.memory // 2)),
        "NUMBA_CACHE_DIR": str(libraries / "numba"),
        "MPLCONFIGDIR": str(libraries / "matplotlib"),
        "XDG_CACHE_HOME": str(libraries),
        "XDG_CONFIG_HOME": str(temporary),
    }
    made |= dict.fromkeys(THREADS, str(math.ceil(task.cpus)))
    if gpus is not None:
        made["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
    return made | task.environment | {MARKER: task.id}
