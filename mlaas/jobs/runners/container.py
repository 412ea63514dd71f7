"""How a task's container is made: what it may see, do and take."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from docker.types import DeviceRequest, LogConfig, Mount, Ulimit

from mlaas.jobs.runners.base import Task
from mlaas.jobs.runners.plan import Plan
from mlaas.settings import Settings

TASK, FOLDER, INSTALLATION = "mlaas.task", "mlaas.folder", "mlaas.installation"  # labels
FILES = 16_384
LOG_FILE = 10_000_000  # bytes; the engine reads whole files to give the last lines
KILL_AFTER = 10  # s after SIGTERM when the time limit is over

# one stream, so that the order of output is kept; the limit holds also while no worker lives
ENTRY = ["/bin/sh", "-c", 'after=$1 limit=$2; shift 2; exec timeout -s TERM -k "$after" "$limit" "$@" 2>&1', "mlaas"]


def options(task: Task, plan: Plan, settings: Settings, *, user: int, processors: int) -> dict[str, Any]:
    """Arguments of docker's `containers.create`, but for name and labels. user: its user and group id. processors: of the engine's machine."""
    return {
        "image": settings.docker_gpu_image or settings.docker_image if task.gpus else settings.docker_image,
        "entrypoint": ENTRY,
        "command": [str(KILL_AFTER), str(max(1, math.ceil(task.time_limit))), *task.argv],
        "environment": plan.environment,
        "working_dir": plan.work,
        "user": f"{user}:{user}",
        "detach": True,
        "init": True,
        "stdin_open": False,
        **_sandbox(task, settings),
        **_limits(task, processors),
        "mounts": mounts(task),
        "log_config": LogConfig(type="json-file", config={"max-size": str(LOG_FILE), "max-file": str(2 + 2 * task.log_limit // LOG_FILE)}),
        "device_requests": [DeviceRequest(device_ids=list(map(str, plan.gpus)), capabilities=[["gpu"]])] if plan.gpus else [],
    }


def _sandbox(task: Task, settings: Settings) -> dict[str, Any]:
    return {
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "read_only": True,
        "tmpfs": {"/tmp": f"rw,nosuid,nodev,mode=1777,size={task.memory // 2}"},  # noqa: S108  the container's own
        "shm_size": task.memory // 2,
        "ipc_mode": "private",
        "network_mode": settings.docker_network,
        # the engine asks this resolver for names that are no container's: none answers there, so that no name carries data out (CVE-2024-29018)
        "dns": None if settings.docker_network == "none" else ["127.0.0.1"],
    }


def _limits(task: Task, processors: int) -> dict[str, Any]:
    return {
        "mem_limit": task.memory,
        "memswap_limit": task.memory,  # the same number: no swap
        "nano_cpus": int(min(task.cpus, processors) * 1e9),
        "pids_limit": task.processes,
        "oom_score_adj": 500,
        "ulimits": [
            Ulimit(name="core", soft=0, hard=0),
            Ulimit(name="nofile", soft=FILES, hard=FILES),
            Ulimit(name="fsize", soft=task.disk, hard=task.disk),
        ],
    }


def mounts(task: Task) -> list[Mount]:
    """The folders of a task, where they are outside; nothing else of the machine."""
    writable = {task.folder / "work", task.cache}
    folders: dict[Path, bool] = {path: path not in writable for path in (task.folder / "input", *task.readable, *writable)}
    return [Mount(str(path), str(path), type="bind", read_only=read_only) for path, read_only in folders.items()]
