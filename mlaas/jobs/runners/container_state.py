"""What the engine tells of a container, as the status of a task."""

from __future__ import annotations

import datetime
import signal
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mlaas.jobs.runners.base import End, Status
from mlaas.jobs.runners.plan import Plan

if TYPE_CHECKING:
    from docker.models.containers import Container

TIMED_OUT = (124, 137)  # of `timeout`: after SIGTERM, after SIGKILL
LATE = 2.0  # s by which a busy engine may note a start too late
# not SIGINT, which `mlaas` itself answers with 130
SIGNALS = {128 + number for number in (signal.SIGKILL, signal.SIGTERM)}


def moment(text: str) -> float:
    """The engine's time as seconds since 1970; 0 for its zero."""
    if text.startswith("0001"):
        return 0.0
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return datetime.datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")


def started(state: Mapping[str, Any]) -> float:
    """When a container was started."""
    return moment(state["StartedAt"])


def final(state: Mapping[str, Any], plan: Plan, known: Status, stopped: End | None) -> Status:
    """The status of a container that has ended. stopped: why the runner ended it, if it did."""
    finished = moment(state["FinishedAt"])
    end = stopped or _end(state, plan, finished - started(state))
    began = min(started(state), finished)  # of a very short one the engine notes the start after the end
    return replace(known, end=end, exit_code=int(state["ExitCode"]) if end == "exit" else None, started=began, finished=finished)


def _end(state: Mapping[str, Any], plan: Plan, seconds: float) -> End:
    code = int(state["ExitCode"])
    if state["OOMKilled"] and code != 0:
        return "memory"
    if code in TIMED_OUT and seconds >= plan.time_limit - LATE:
        return "time_limit"
    return "signal" if code in SIGNALS else "exit"


def measured(container: Container, known: Status) -> Status:
    """The status of a running container with the CPU seconds and the most memory so far. Raises docker's and requests' errors."""
    figures: dict[str, Any] = container.stats(stream=False, one_shot=True)
    memory = figures.get("memory_stats", {})
    cpu = figures.get("cpu_stats", {}).get("cpu_usage", {}).get("total_usage", 0) / 1e9
    return replace(
        known, cpu_seconds=max(known.cpu_seconds, round(cpu, 3)), memory=max(known.memory, memory.get("max_usage", 0), memory.get("usage", 0))
    )
